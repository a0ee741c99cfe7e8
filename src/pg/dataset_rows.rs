//! Reads a frozen dataset user by user.
//!
//! Keyset queries instead of a cursor: an SRF that is not read to its end leaves nothing open.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::rc::Rc;

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

/// Examples read at once (one user may have more).
const EXAMPLES: usize = 1_000;
/// A user with all examples.
type Whole = (String, Vec<Example>);

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

    /// The next examples after a user and id, on both sides and grouped by user, and how many they are.
    fn examples_after(&self, after: (&str, &str), vectors: bool) -> Result<(VecDeque<Whole>, usize), UserError> {
        let query = format!(
            "SELECT e.user_id, e.id, e.chunk_content, e.content_hash, CASE WHEN $4 THEN e.embedding END, e.user_action, \
                    e.label, e.split, e.surface, e.context, e.reason, e.actioned_at \
             FROM {}.dataset_example e \
             WHERE e.dataset_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid AND ROW(e.user_id, e.id) OPERATOR(pg_catalog.>) ROW($2, $3) \
             ORDER BY e.user_id, e.id LIMIT {EXAMPLES}",
            self.schema
        );
        let types = [plans::text(), plans::text(), plans::text(), PgBuiltInOids::BOOLOID.oid()];
        let args = [self.dataset.as_str().into(), after.0.into(), after.1.into(), vectors.into()];
        let (mut users, mut rows, mut kinds) = (VecDeque::<Whole>::new(), 0, Kinds::default());
        let mut read = |row: &Row<'_>| {
            rows += 1;
            let user = row.text(1).unwrap_or_default();
            match users.back_mut().filter(|(last, _)| last == user) {
                Some((_, examples)) => examples.push(example(row, &mut kinds)),
                None => users.push_back((user.to_owned(), vec![example(row, &mut kinds)])),
            }
        };
        self.in_order(&query, &types, &args, &mut read)?;
        Ok((users, rows))
    }

    /// The next lines of the raw format after a user and id, and the user and id of the last of them.
    pub fn raw_lines(&self, after: Option<&(String, String)>) -> Result<RawLines, UserError> {
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
        self.in_order(&query, &[plans::text(); 4], &args, &mut read)?;
        Ok((lines, last))
    }

    /// Reads rows in the order of an index: a plan that sorts would sort all that is left, for every part anew. One
    /// plan does for all parts.
    fn in_order(
        &self,
        query: &str,
        types: &[PgOid],
        args: &[pgrx::datum::DatumWithOid],
        read: &mut dyn FnMut(&Row<'_>),
    ) -> Result<(), UserError> {
        const IN_ORDER: [(&CStr, &CStr); 4] = [
            (c"enable_seqscan", c"off"),
            (c"enable_bitmapscan", c"off"),
            (c"enable_sort", c"off"),
            (c"plan_cache_mode", c"force_generic_plan"),
        ];
        with_local(&IN_ORDER, || {
            plans::select(query, types, args, |table| {
                read_all::<(), ()>(table, read);
                Ok(())
            })
        })
        .map_err(UserError::from)
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

/// Texts of few kinds, of which every row has one.
#[derive(Default)]
struct Kinds(Vec<Rc<str>>);

impl Kinds {
    fn of(&mut self, text: &str) -> Rc<str> {
        const MANY: usize = 16;
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == text) {
            return known.clone();
        }
        if self.0.len() == MANY {
            self.0.clear();
        }
        let new: Rc<str> = text.into();
        self.0.push(new.clone());
        new
    }
}

fn example(row: &Row<'_>, kinds: &mut Kinds) -> Example {
    let text = |column| row.text(column).map(str::to_owned);
    Example {
        id: row.text(2).unwrap_or_default().into(),
        text: row.text(3).unwrap_or_default().into(),
        content_hash: row.bytes(4).unwrap_or_default().try_into().unwrap_or_default(),
        vector: unit_vector(row.vector(5)),
        action: kinds.of(row.text(6).unwrap_or_default()),
        label: row.truth(7).unwrap_or_default(),
        split: row.text(8).and_then(|split| split.parse().ok()).unwrap_or_default(),
        surface: row.text(9).map(|surface| kinds.of(surface)),
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
    /// The last of them may go on.
    loaded: VecDeque<Whole>,
    ended: bool,
}

impl Users {
    pub fn with_vectors(source: Source) -> Self {
        Self { source, vectors: true, loaded: VecDeque::new(), ended: false }
    }

    pub fn without_vectors(source: Source) -> Self {
        Self { vectors: false, ..Self::with_vectors(source) }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn advance(&mut self) -> Result<Option<Whole>, UserError> {
        loop {
            while self.loaded.len() < 2 && !self.ended {
                self.load()?;
            }
            let Some((user, mut examples)) = self.loaded.pop_front() else { return Ok(None) };
            if examples.iter().any(|example| example.split == self.source.split) {
                examples.retain(|e| e.split != Split::Train || self.source.shows(&e.content_hash));
                return Ok(Some((user, examples)));
            }
        }
    }

    fn load(&mut self) -> Result<(), UserError> {
        let last = self.loaded.back().and_then(|(user, examples)| Some((user.as_str(), &*examples.last()?.id)));
        let (mut more, rows) = self.source.examples_after(last.unwrap_or_default(), self.vectors)?; // nobody's id is empty
        self.ended = rows < EXAMPLES;
        if let Some((user, examples)) = self.loaded.back_mut() {
            if let Some((_, going_on)) = more.pop_front_if(|(next, _)| next == user) {
                examples.extend(going_on);
            }
        }
        self.loaded.append(&mut more);
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
