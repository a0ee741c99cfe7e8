//! The training file: lines of a frozen dataset in a file that has no name, in Postgres' own folder for temporary files.
//! Only this process can open it, and it is gone with the process, whatever ends it.

use std::fs::{DirBuilder, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::dataset::export::Format;
use crate::core::dataset::Split;
use crate::pg::dataset_lines::Lines;
use crate::pg::session::{Failure, Session};
use crate::providers::fault::{Fault, Refusal};
use crate::providers::protocol::{Caps, FileView};

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

/// A file that is being written.
pub struct Writing {
    lines: Lines,
    out: BufWriter<File>,
    written: FileView,
    caps: Caps,
}

/// A file that is complete.
#[derive(Clone)]
pub struct Written {
    pub file: Arc<File>,
    pub view: FileView,
}

impl Writing {
    pub fn begin(session: &Session, dataset: &str, format: &str, caps: Caps) -> Result<Self, Trouble> {
        let format: Format = format.parse().map_err(|_| unknown_format(format))?;
        let lines = session
            .transaction(AssertUnwindSafe(|| Lines::open(dataset, format, Split::Train, "default")))?
            .map_err(|error| Trouble::Failed(error.failure()))?;
        let out = BufWriter::with_capacity(1 << 16, nameless().map_err(|e| disk(&e))?);
        Ok(Self { lines, out, written: FileView::default(), caps })
    }

    /// Writes for a moment, in one transaction; Some when the file is complete.
    pub fn advance(&mut self, session: &Session) -> Result<Option<Written>, Trouble> {
        let until = Instant::now() + BATCH;
        let lines = &mut self.lines;
        let (out, written, limit) = (&mut self.out, &mut self.written, self.caps.max_file);
        let step = session.transaction(AssertUnwindSafe(|| -> Result<bool, Trouble> {
            while let Some(batch) = lines.batch().map_err(|error| Trouble::Failed(error.failure()))? {
                for line in batch {
                    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(|e| disk(&e))?;
                    written.bytes += line.len() as u64 + 1;
                    written.rows += 1;
                }
                if written.bytes > limit {
                    return Err(too_large(limit));
                }
                if Instant::now() > until {
                    return Ok(false);
                }
            }
            Ok(true)
        }))?;
        if !step? {
            return Ok(None);
        }
        self.out.flush().map_err(|e| disk(&e))?;
        let file = self.out.get_ref().try_clone().map_err(|e| disk(&e))?;
        self.check_rows()?;
        Ok(Some(Written { file: Arc::new(file), view: self.written }))
    }

    fn check_rows(&self) -> Result<(), Trouble> {
        let (rows, caps) = (self.written.rows, &self.caps);
        if rows >= caps.min_rows && rows <= caps.max_rows {
            return Ok(());
        }
        Err(Trouble::Refused(Refusal::of(
            "training_file",
            format!("the training file has {rows} rows, the provider takes {} to {}", caps.min_rows, caps.max_rows),
            "Freeze a dataset of another size: create_dataset(..., since => ...).",
        )))
    }
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
