//! The files of a job, for training and for validation: lines of a frozen dataset in files that have no name, in Postgres' own folder for temporary files.
//! Only this process can open them, and they are gone with the process, whatever ends it.

use std::fs::{DirBuilder, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::dataset::export::Format;
use crate::core::dataset::Part;
use crate::pg::dataset_lines::Lines;
use crate::pg::session::{Failure, Session};
use crate::providers::fault::{Fault, Refusal};
use crate::providers::protocol::{Caps, FileView};
use crate::providers::wire::Which;

/// Where Postgres keeps temporary files: left out of base backups, emptied when the server starts.
const FOLDER: &str = "base/pgsql_tmp";
/// How long one transaction reads.
const BATCH: Duration = Duration::from_millis(100);

/// What could not be written, and whose fault that is.
pub enum Trouble {
    /// The job's: it ends.
    Refused(Fault),
    /// Ours, or the machine's: may pass.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a job's files are made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub dataset: String,
    /// Name of the export format.
    pub format: &'static str,
    pub caps: Caps,
    /// Share of the texts that go into a validation file; None: no such file.
    pub held_back: Option<f64>,
}

/// A file that is being written.
struct Open {
    which: Which,
    lines: Lines,
    out: BufWriter<File>,
    written: FileView,
    max_rows: u64,
}

/// The files of a job, one after the other.
pub struct Writing {
    plan: Plan,
    open: Open,
    train: Option<Written>,
}

/// A file that is complete.
#[derive(Clone)]
pub struct Written {
    pub file: Arc<File>,
    pub view: FileView,
}

/// All files of a job, complete.
#[derive(Clone)]
pub struct Files {
    pub train: Written,
    pub validation: Option<Written>,
}

impl Files {
    pub fn get(&self, which: Which) -> Option<&Arc<File>> {
        match which {
            Which::Train => Some(&self.train.file),
            Which::Validation => self.validation.as_ref().map(|written| &written.file),
        }
    }
}

impl Writing {
    pub fn begin(session: &Session, plan: Plan) -> Result<Self, Trouble> {
        let open = Open::begin(session, &plan, Which::Train, plan.caps.max_rows)?;
        Ok(Self { plan, open, train: None })
    }

    /// Writes for a moment, in one transaction; Some when the files are complete.
    pub fn advance(&mut self, session: &Session) -> Result<Option<Files>, Trouble> {
        if !self.open.advance(session, self.plan.caps.max_file)? {
            return Ok(None);
        }
        let written = self.open.complete()?;
        let rows = written.view.rows;
        match (self.open.which, self.plan.held_back) {
            (Which::Train, None) => {
                check_rows(rows, &self.plan.caps)?;
                return Ok(Some(Files { train: written, validation: None }));
            }
            // Too few to hold any back.
            (Which::Train, Some(_)) if rows < self.plan.caps.min_rows => return self.begin_again(session),
            (Which::Train, Some(_)) => {
                check_rows(rows, &self.plan.caps)?;
                let left = self.plan.caps.max_rows.saturating_sub(rows).min(self.plan.caps.max_validation_rows);
                self.train = Some(written);
                self.open = Open::begin(session, &self.plan, Which::Validation, left)?;
            }
            (Which::Validation, _) if rows == 0 => return self.begin_again(session),
            (Which::Validation, _) => {
                let Some(train) = self.train.take() else { return self.begin_again(session) };
                return Ok(Some(Files { train, validation: Some(written) }));
            }
        }
        Ok(None)
    }

    /// Without a validation file.
    fn begin_again(&mut self, session: &Session) -> Result<Option<Files>, Trouble> {
        *self = Self::begin(session, Plan { held_back: None, ..self.plan.clone() })?;
        Ok(None)
    }
}

impl Open {
    fn begin(session: &Session, plan: &Plan, which: Which, max_rows: u64) -> Result<Self, Trouble> {
        let format: Format = plan.format.parse().map_err(|_| unknown_format(plan.format))?;
        let part = match (which, plan.held_back) {
            (_, None) => Part::Whole,
            (Which::Train, Some(share)) => Part::Kept { share },
            (Which::Validation, Some(share)) => Part::HeldBack { share },
        };
        let lines = session
            .transaction(AssertUnwindSafe(|| Lines::open_part(&plan.dataset, format, part)))?
            .map_err(|error| Trouble::Failed(error.failure()))?;
        let out = BufWriter::with_capacity(1 << 16, nameless().map_err(|e| disk(&e))?);
        Ok(Self { which, lines, out, written: FileView::default(), max_rows })
    }

    /// True when it has its last line. A validation file ends where the provider takes no more rows; a training file is refused then.
    fn advance(&mut self, session: &Session, max_file: u64) -> Result<bool, Trouble> {
        let until = Instant::now() + BATCH;
        let Self { which, lines, out, written, max_rows } = self;
        session.transaction(AssertUnwindSafe(|| -> Result<bool, Trouble> {
            while let Some(batch) = lines.batch().map_err(|error| Trouble::Failed(error.failure()))? {
                for line in batch {
                    if *which == Which::Validation && written.rows >= *max_rows {
                        return Ok(true);
                    }
                    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(|e| disk(&e))?;
                    written.bytes += line.len() as u64 + 1;
                    written.rows += 1;
                }
                if written.bytes > max_file {
                    return Err(too_large(max_file));
                }
                if Instant::now() > until {
                    return Ok(false);
                }
            }
            Ok(true)
        }))?
    }

    fn complete(&mut self) -> Result<Written, Trouble> {
        self.out.flush().map_err(|e| disk(&e))?;
        let file = self.out.get_ref().try_clone().map_err(|e| disk(&e))?;
        Ok(Written { file: Arc::new(file), view: self.written })
    }
}

fn check_rows(rows: u64, caps: &Caps) -> Result<(), Trouble> {
    if (caps.min_rows..=caps.max_rows).contains(&rows) {
        return Ok(());
    }
    Err(Trouble::Refused(Refusal::of(
        "training_file",
        format!("the training file has {rows} rows, the provider takes {} to {}", caps.min_rows, caps.max_rows),
        "Freeze a dataset of another size: create_dataset(..., since => ...).",
    )))
}

fn too_large(limit: u64) -> Trouble {
    Trouble::Refused(Refusal::of(
        "training_file",
        format!("the training file is larger than the {} MB that the provider takes", limit >> 20),
        "Freeze a smaller dataset: create_dataset(..., since => ...).",
    ))
}

fn unknown_format(name: &str) -> Trouble {
    Trouble::Refused(Refusal::of("", format!("there is no export format \"{name}\""), "Use another method."))
}

fn disk(error: &std::io::Error) -> Trouble {
    Trouble::Failed(Failure {
        code: "58030".into(),
        message: format!("the training file could not be written: {error}"),
        detail: None,
        hint: Some(format!("Look at the space and the rights of {FOLDER} in the data directory.")),
    })
}

/// A new file without a name, readable by this process only.
fn nameless() -> std::io::Result<File> {
    tempfile::tempfile_in(folder()?)
}

/// Postgres' own folder for temporary files, which is made when it is first needed.
pub fn folder() -> std::io::Result<&'static Path> {
    let folder = Path::new(FOLDER);
    match std::fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(std::io::Error::other("the folder for temporary files is no folder")),
        Err(_) => DirBuilder::new().mode(0o700).create(folder)?,
    }
    Ok(folder)
}
