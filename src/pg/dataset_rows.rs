//! Reads a frozen dataset user by user.
//!
//! Keyset queries instead of a cursor: an SRF that is not read to its end leaves nothing open, and every query names
//! its users first, so that a distributed Postgres can route it.

use std::collections::VecDeque;
use std::ffi::CStr;

use pgrx::prelude::*;

use crate::core::dataset::export::RawLine;
use crate::core::dataset::moment::Moment;
use crate::core::dataset::template::Template;
use crate::core::dataset::triplets::normalise;
use crate::core::dataset::{DatasetError, Example, Part, Split};
use crate::pg::errors::UserError;
use crate::pg::plans;
use crate::pg::row::{read_all, Row};
use crate::pg::settings::with_local;
use crate::pg::spi::own_schema;

/// Users looked up at once, and examples read at once (one user may have more).
const USERS: i64 = 500;
const EXAMPLES: i64 = 1_000;

/// Lines, and where they end: user and id, empty where nothing is left.
pub type RawLines = (Vec<String>, (String, String));
/// Lines read at once: so few that their memory is reused and not given back to the system.
const LINES: usize = 250;

/// One side of one dataset.
pub struct Source {
    pub schema: String,
    pub dataset: String,
    pub dimensions: usize,
    seed: i64,
    split: Split,
    part: Part,
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
            dimensions: dimensions.unwrap_or(1) as usize,
            seed: seed.unwrap_or_default(),
            split,
            part: Part::Whole,
        })
    }

    /// Only this part of the train side.
    pub fn only(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// Whether an example has lines of its own.
    pub fn takes(&self, example: &Example) -> bool {
        self.part.takes(self.seed, &example.content_hash)
    }

    /// Whether a text may stand in the lines of others.
    pub fn shows(&self, content_hash: &[u8]) -> bool {
        self.part.shows(self.seed, content_hash)
    }

    /// The seed that the dataset was made with.
    pub fn seed(&self) -> i64 {
        self.seed
    }

    pub fn split(&self) -> Split {
        self.split
    }

    /// The words of the chat formats under this name; 'default' is there without a row, too.
    pub fn template(&self, name: &str) -> Result<Template, UserError> {
        let query = format!(
            "SELECT t.system_message, t.user_message, t.saved_answer, t.skipped_answer \
             FROM {}.export_template t WHERE t.name OPERATOR(pg_catalog.=) $1",
            self.schema
        );
        let found: Vec<Template> = self.rows(&query, &[name.into()], |row| {
            let [system, user, saved, skipped] = [1, 2, 3, 4].map(|n| row.text(n).unwrap_or_default().to_owned());
            Template { system, user, saved, skipped }
        })?;
        match found.into_iter().next() {
            Some(words) => Ok(words),
            None if name == "default" => Ok(Template::default()),
            None => Err(UserError::unknown(format!("export template \"{name}\" does not exist"))
                .detail("Templates stand in export_template; 'default' is always there.")
                .hint(format!("SELECT set_export_template('{name}', user_message => '...');"))),
        }
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
            (row.text(1).unwrap_or_default().to_owned(), row.count(2).unwrap_or_default())
        })
    }

    /// All examples of some users, on both sides, user after user in the order asked for.
    fn examples_of(&self, users: &[String], vectors: bool) -> Result<VecDeque<(String, Example)>, UserError> {
        let query = format!(
            "SELECT e.user_id, e.id, e.chunk_content, e.content_hash, CASE WHEN $3 THEN e.embedding END, e.user_action, \
                    e.label, e.split, e.surface, e.context, e.reason, e.actioned_at \
             FROM {}.dataset_example e \
             WHERE e.user_id OPERATOR(pg_catalog.=) ANY ($2) AND e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid \
             ORDER BY e.user_id, e.id",
            self.schema
        );
        let args = [self.dataset.as_str().into(), users.to_vec().into(), vectors.into()];
        self.rows(&query, &args, |row| (row.text(1).unwrap_or_default().to_owned(), example(row)))
    }

    /// The next lines of the raw format after a user and id, and the user and id of the last of them. They come in the
    /// order of an index: a plan that sorts would sort all that is left, for every part anew.
    pub fn raw_lines(&self, after: Option<&(String, String)>) -> Result<RawLines, UserError> {
        const IN_ORDER: [(&CStr, &CStr); 3] =
            [(c"enable_seqscan", c"off"), (c"enable_bitmapscan", c"off"), (c"enable_sort", c"off")];
        let query = format!(
            "SELECT e.user_id, e.id, e.chunk_id, e.chunk_content, e.context, e.user_action, e.label, e.reason, e.evidence, \
                    e.weight, e.split, e.relevance_score, e.surface, e.session_id, e.actioned_at, e.content_hash \
             FROM {}.dataset_example e \
             WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid AND e.split OPERATOR(pg_catalog.=) $2 \
               AND ROW(e.user_id, e.id) OPERATOR(pg_catalog.>) ROW($3, $4) \
             ORDER BY e.user_id, e.id LIMIT {LINES}",
            self.schema
        );
        let (user, id) = after.map_or(("", ""), |(user, id)| (user.as_str(), id.as_str())); // nobody's id is empty
        let args = [self.dataset.as_str().into(), self.split.name().into(), user.into(), id.into()];
        let (mut lines, mut last, mut rows) = (Vec::with_capacity(LINES), (String::new(), String::new()), 0);
        let mut read = |row: &Row<'_>| {
            let example = raw(row);
            if self.part.takes(self.seed, row.bytes(16).unwrap_or_default()) {
                lines.push(example.line());
            }
            rows += 1;
            if rows == LINES {
                last = (example.user_id.to_owned(), example.id.to_owned());
            }
        };
        with_local(&IN_ORDER, || {
            plans::select(&query, &[plans::text(); 4], &args, |table| {
                read_all::<(), ()>(table, &mut read);
                Ok(())
            })
        })
        .map_err(UserError::from)?;
        Ok((lines, last))
    }

    pub fn rows<T, Rows: FromIterator<T>>(
        &self,
        query: &str,
        args: &[pgrx::datum::DatumWithOid],
        read: impl FnMut(&Row<'_>) -> T,
    ) -> Result<Rows, UserError> {
        Spi::connect(|client| Ok::<_, pgrx::spi::Error>(read_all(client.select(query, None, args)?, read)))
            .map_err(UserError::from)
    }
}

fn example(row: &Row<'_>) -> Example {
    let text = |column| row.text(column).map(str::to_owned);
    Example {
        id: text(2).unwrap_or_default(),
        text: text(3).unwrap_or_default(),
        content_hash: row.bytes(4).unwrap_or_default().to_vec(),
        vector: unit_vector(row.vector(5)),
        action: text(6).unwrap_or_default(),
        label: row.truth(7).unwrap_or_default(),
        split: text(8).unwrap_or_default(),
        surface: text(9),
        context: text(10),
        reason: text(11),
        actioned_at: moment(row, 12),
    }
}

fn raw<'a>(row: &Row<'a>) -> RawLine<'a> {
    let text = |column| row.text(column).unwrap_or_default();
    RawLine {
        user_id: text(1),
        id: text(2),
        chunk_id: row.text(3),
        text: text(4),
        context: row.text(5),
        action: text(6),
        label: row.truth(7).unwrap_or_default(),
        reason: row.text(8),
        evidence: text(9),
        weight: row.number(10).unwrap_or(1.0),
        split: text(11),
        relevance_score: row.number(12),
        surface: row.text(13),
        session_id: row.text(14),
        actioned_at: moment(row, 15),
    }
}

fn moment(row: &Row<'_>, column: usize) -> Moment {
    Moment::since_2000(row.moment(column).unwrap_or_default())
}

pub fn unit_vector(vector: Option<&[f32]>) -> Vec<f32> {
    let mut vector = vector.unwrap_or_default().to_vec();
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

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn advance(&mut self) -> Result<Option<(String, Vec<Example>)>, UserError> {
        if self.loaded.is_empty() {
            self.load()?;
        }
        let Some((user, _)) = self.loaded.front() else { return Ok(None) };
        let user = user.clone();
        let mut examples = Vec::new();
        while let Some((_, example)) = self.loaded.pop_front_if(|(owner, _)| *owner == user) {
            if example.split != Split::Train.name() || self.source.shows(&example.content_hash) {
                examples.push(example);
            }
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

pub fn user_error(error: DatasetError) -> UserError {
    let code = match error {
        DatasetError::EmptyText { .. } => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
    };
    UserError::new(code, error.to_string()).detail(error.detail()).hint(error.hint())
}
