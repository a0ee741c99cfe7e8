//! Reads a frozen dataset user by user.
//!
//! Keyset queries instead of a cursor: an SRF that is not read to its end leaves nothing open, and every query names
//! its users first, so that a distributed Postgres can route it.

use std::collections::VecDeque;

use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;

use crate::core::dataset::export::{group_lines, Format, Listener};
use crate::core::dataset::triplets::{normalise, Group, Mining, Options, PoolText, User};
use crate::core::dataset::{DatasetError, Example, Split};
use crate::pg::errors::UserError;
use crate::pg::memory::in_own_context;
use crate::pg::spi::own_schema;

/// Users looked up at once, and examples read at once (one user may have more).
const USERS: i64 = 500;
const EXAMPLES: i64 = 1_000;
/// Bounds of the texts that mining chooses from; larger datasets are sampled.
const POOL_TEXTS: i64 = 20_000;
const POOL_BYTES: i64 = 64 << 20;
const TYPICAL_TEXT_BYTES: i64 = 1_000;

/// One side of one dataset.
pub struct Source {
    schema: String,
    dataset: String,
    dimensions: i64,
    seed: i64,
    split: Split,
}

impl Source {
    pub fn open(dataset: &str, split: Split) -> Result<Self, UserError> {
        let schema = own_schema().ok_or_else(|| {
            UserError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                "extension pg_finetune is not installed in this database",
            )
            .hint("CREATE EXTENSION pg_finetune CASCADE;")
        })?;
        let query = format!(
            "SELECT d.id::pg_catalog.text, d.dimensions::pg_catalog.int8, d.seed \
             FROM {schema}.dataset d WHERE d.id OPERATOR(pg_catalog.=) {schema}._dataset_id($1)"
        );
        let (id, dimensions, seed) = Spi::get_three_with_args::<String, i64, i64>(&query, &[dataset.into()])?;
        Ok(Self {
            schema,
            dataset: id.unwrap_or_default(),
            dimensions: dimensions.unwrap_or(1),
            seed: seed.unwrap_or_default(),
            split,
        })
    }

    /// The seed that the dataset was made with.
    pub fn seed(&self) -> i64 {
        self.seed
    }

    pub fn split(&self) -> Split {
        self.split
    }

    /// The next users who have examples on this side, with their numbers of examples.
    fn users_after(&self, last: Option<&str>) -> Result<VecDeque<(String, i64)>, UserError> {
        let query = format!(
            "SELECT e.user_id, pg_catalog.count(*) FROM {}.dataset_example e \
             WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid AND e.split OPERATOR(pg_catalog.=) $2 \
               AND ($3 IS NULL OR e.user_id OPERATOR(pg_catalog.>) $3) \
             GROUP BY e.user_id ORDER BY e.user_id LIMIT $4",
            self.schema
        );
        self.rows(&query, &[self.dataset.as_str().into(), self.split.name().into(), last.into(), USERS.into()], |row| {
            Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default()))
        })
    }

    /// All examples of some users, on both sides, user after user in the order asked for.
    fn examples_of(&self, users: &[String], vectors: bool) -> Result<VecDeque<(String, Example)>, UserError> {
        let query = format!(
            "SELECT e.user_id, e.id, e.chunk_id, e.chunk_content, e.content_hash, \
                    CASE WHEN $3 THEN e.embedding::pg_catalog.float4[] END, e.user_action, e.label, e.evidence, e.weight, e.split, \
                    e.relevance_score, e.surface, e.session_id, e.context, \
                    pg_catalog.to_char(pg_catalog.timezone('UTC', e.actioned_at), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
             FROM {}.dataset_example e \
             WHERE e.user_id OPERATOR(pg_catalog.=) ANY ($2) AND e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid \
             ORDER BY e.user_id, e.id",
            self.schema
        );
        let args = [self.dataset.as_str().into(), users.to_vec().into(), vectors.into()];
        self.rows(&query, &args, |row| Ok((row.get(1)?.unwrap_or_default(), example(row)?)))
    }

    /// Texts to mine: one copy of each, a sample drawn by the seed where there are too many.
    fn pool(&self, seed: i64) -> Result<Vec<PoolText>, UserError> {
        let query = format!(
            "SELECT e.id, e.chunk_content, e.content_hash, e.embedding::pg_catalog.float4[] \
             FROM (SELECT c.content_hash, pg_catalog.min(c.user_id) AS user_id, \
                          pg_catalog.sha256(pg_catalog.int8send($3) OPERATOR(pg_catalog.||) c.content_hash) AS draw \
                   FROM {0}.dataset_example c \
                   WHERE c.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid AND c.split OPERATOR(pg_catalog.=) $2 \
                     AND c.chunk_content OPERATOR(pg_catalog.~) '\\S' \
                   GROUP BY c.content_hash ORDER BY draw LIMIT $4) t \
             JOIN {0}.dataset_example e ON e.user_id OPERATOR(pg_catalog.=) t.user_id AND e.content_hash OPERATOR(pg_catalog.=) t.content_hash \
             WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid AND e.split OPERATOR(pg_catalog.=) $2 ORDER BY t.draw",
            self.schema
        );
        let limit = POOL_TEXTS.min(POOL_BYTES / (4 * self.dimensions + TYPICAL_TEXT_BYTES));
        let args = [self.dataset.as_str().into(), self.split.name().into(), seed.into(), limit.into()];
        self.rows(&query, &args, |row| {
            Ok(PoolText {
                id: row.get(1)?.unwrap_or_default(),
                text: row.get(2)?.unwrap_or_default(),
                content_hash: row.get(3)?.unwrap_or_default(),
                vector: unit_vector(row.get(4)?),
            })
        })
    }

    fn rows<Row, Rows: FromIterator<Row>>(
        &self,
        query: &str,
        args: &[pgrx::datum::DatumWithOid],
        read: impl Fn(&SpiHeapTupleData) -> Result<Row, pgrx::spi::Error>,
    ) -> Result<Rows, UserError> {
        Spi::connect(|client| {
            let table = client.select(query, None, args)?;
            in_own_context("dataset rows", || table.map(|row| read(&row)).collect::<Result<Rows, _>>())
        })
        .map_err(UserError::from)
    }
}

fn example(row: &SpiHeapTupleData) -> Result<Example, pgrx::spi::Error> {
    Ok(Example {
        id: row.get(2)?.unwrap_or_default(),
        chunk_id: row.get(3)?,
        text: row.get(4)?.unwrap_or_default(),
        content_hash: row.get(5)?.unwrap_or_default(),
        vector: unit_vector(row.get(6)?),
        action: row.get(7)?.unwrap_or_default(),
        label: row.get(8)?.unwrap_or_default(),
        evidence: row.get(9)?.unwrap_or_default(),
        weight: row.get(10)?.unwrap_or(1.0),
        split: row.get(11)?.unwrap_or_default(),
        relevance_score: row.get(12)?,
        surface: row.get(13)?,
        session_id: row.get(14)?,
        context: row.get(15)?,
        actioned_at: row.get(16)?.unwrap_or_default(),
    })
}

fn unit_vector(vector: Option<Vec<f32>>) -> Vec<f32> {
    let mut vector = vector.unwrap_or_default();
    normalise(&mut vector);
    vector
}

/// The users of one side, each with all examples.
pub struct Users {
    source: Source,
    vectors: bool,
    last: Option<String>,
    counted: VecDeque<(String, i64)>,
    loaded: VecDeque<(String, Example)>,
}

impl Users {
    pub fn with_vectors(source: Source) -> Self {
        Self { source, vectors: true, last: None, counted: VecDeque::new(), loaded: VecDeque::new() }
    }

    pub fn without_vectors(source: Source) -> Self {
        Self { vectors: false, ..Self::with_vectors(source) }
    }

    pub fn advance(&mut self) -> Result<Option<(String, Vec<Example>)>, UserError> {
        if self.loaded.is_empty() {
            self.load()?;
        }
        let Some((user, _)) = self.loaded.front() else { return Ok(None) };
        let user = user.clone();
        let mut examples = Vec::new();
        while let Some((_, example)) = self.loaded.pop_front_if(|(owner, _)| *owner == user) {
            examples.push(example);
        }
        Ok(Some((user, examples)))
    }

    /// Reads the next users, as many as have about `EXAMPLES` examples together.
    fn load(&mut self) -> Result<(), UserError> {
        if self.counted.is_empty() {
            self.counted = self.source.users_after(self.last.as_deref())?;
        }
        let mut users = Vec::new();
        let mut examples = 0;
        while let Some((user, n)) = self.counted.pop_front_if(|(_, n)| examples == 0 || examples + *n <= EXAMPLES) {
            examples += n;
            users.push(user);
        }
        if let Some(last) = users.last() {
            self.last = Some(last.clone());
            self.loaded = self.source.examples_of(&users, self.vectors)?;
        }
        Ok(())
    }
}

/// The triplets of one side, one positive at a time.
pub struct Groups {
    users: Users,
    options: Options,
    pool: Option<Vec<PoolText>>,
    current: User,
    next: usize,
}

impl Groups {
    pub fn new(source: Source, options: Options) -> Self {
        let nobody = User::new(String::new(), Vec::new(), source.split, &mut || {});
        Self { users: Users::with_vectors(source), options, pool: None, current: nobody, next: 0 }
    }

    /// The user of the group returned last.
    pub fn user(&self) -> &User {
        &self.current
    }

    pub fn pool(&self) -> &[PoolText] {
        self.pool.as_deref().unwrap_or_default()
    }

    pub fn advance(&mut self) -> Result<Option<Group>, UserError> {
        while self.next >= self.current.positives().len() {
            let Some((user, examples)) = self.users.advance()? else { return Ok(None) };
            self.current = User::new(user, examples, self.users.source.split, &mut || {
                check_for_interrupts!();
            });
            self.next = 0;
            // read when the first user runs out of skips: most datasets never need it
            if self.pool.is_none() && self.current.wants_pool(&self.options) {
                self.pool = Some(self.users.source.pool(self.options.seed)?);
            }
        }
        let positive = self.current.positives()[self.next];
        self.next += 1;
        Ok(Some(self.current.group(positive, self.pool(), &self.options)))
    }
}

/// Negatives per positive in the lines of formats made of triplets.
const EXPORT_PER_POSITIVE: i32 = 4;

/// Lines of an export, in batches of which each may be read in a transaction of its own.
pub struct Lines {
    format: Format,
    from: From,
}

enum From {
    Groups(Box<Groups>),
    Users { users: Users, split: Split, current: Option<(Listener, usize)> },
}

impl Lines {
    pub fn open(dataset: &str, format: Format, split: Split) -> Result<Self, UserError> {
        let source = Source::open(dataset, split)?;
        let from = if format.of_triplets() {
            let options = Options::new(EXPORT_PER_POSITIVE, Mining::Hard, source.seed()).map_err(user_error)?;
            From::Groups(Box::new(Groups::new(source, options)))
        } else {
            From::Users { split: source.split(), users: Users::without_vectors(source), current: None }
        };
        Ok(Self { format, from })
    }

    /// Some lines, or none yet; None at the end.
    pub fn batch(&mut self) -> Result<Option<Vec<String>>, UserError> {
        match &mut self.from {
            From::Groups(groups) => {
                let Some(group) = groups.advance()? else { return Ok(None) };
                let lines = group_lines(self.format, groups.user(), groups.pool(), &group);
                lines.map(Some).map_err(user_error)
            }
            From::Users { users, split, current } => {
                if current.as_ref().is_none_or(|(listener, next)| *next == listener.lines()) {
                    let Some((user_id, examples)) = users.advance()? else { return Ok(None) };
                    *current = Some((Listener::new(user_id, examples, *split), 0));
                }
                let Some((listener, next)) = current.as_mut().filter(|(listener, next)| *next < listener.lines())
                else {
                    return Ok(Some(Vec::new()));
                };
                *next += 1;
                Ok(Some(vec![listener.line(self.format, *next - 1).map_err(user_error)?]))
            }
        }
    }
}

pub fn user_error(error: DatasetError) -> UserError {
    let code = match error {
        DatasetError::Unknown { .. } | DatasetError::PerPositive(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        DatasetError::EmptyText { .. } => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
    };
    UserError::new(code, error.to_string()).detail(error.detail()).hint(error.hint())
}
