//! Where the vectors of all items lie: in memory, or in files where they would be more than the limit. Whoever works on
//! some asks for them to be near. The numbers, and all that follows from them, are the same either way.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use super::progress::Watch;
use super::vectors::{Rows, BLOCK};

const NUMBER: usize = size_of::<f32>();
/// Rows that one read takes at most: interrupts are looked at in between.
const RUN: usize = 1024;

/// Vectors on their way into a file that has no name and is gone with the process.
pub struct Spilling {
    out: BufWriter<File>,
    folder: PathBuf,
    limit: usize,
    numbers: usize,
}

/// The vectors of an input, as they were read, in a file.
#[derive(Debug, Clone)]
pub struct Spilled {
    file: Arc<File>,
    folder: PathBuf,
    /// Bytes of vectors that may be in memory at one time.
    limit: usize,
    numbers: usize,
}

impl Spilling {
    /// # Errors
    /// When the folder takes no file.
    pub fn begin(folder: &Path, limit: usize) -> io::Result<Self> {
        let out = BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder)?);
        Ok(Self { out, folder: folder.to_owned(), limit, numbers: 0 })
    }

    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, vector: &[f32]) -> io::Result<()> {
        self.numbers += vector.len();
        vector.iter().try_for_each(|number| self.out.write_all(&number.to_ne_bytes()))
    }

    /// # Errors
    /// When the disk is full.
    pub fn done(self) -> io::Result<Spilled> {
        let Self { out, folder, limit, numbers } = self;
        let file = Arc::new(out.into_inner().map_err(io::IntoInnerError::into_error)?);
        Ok(Spilled { file, folder, limit, numbers })
    }
}

impl PartialEq for Spilled {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Spilled {
    pub fn numbers(&self) -> usize {
        self.numbers
    }

    /// An empty one of the same kind.
    fn another(&self) -> Result<Spilling, Error> {
        Ok(Spilling::begin(&self.folder, self.limit)?)
    }

    fn read(&self, first: usize, out: &mut Vec<f32>, count: usize) -> Result<(), Error> {
        let mut bytes = vec![0; count * NUMBER];
        self.file.read_exact_at(&mut bytes, (first * NUMBER) as u64)?;
        out.extend(bytes.as_chunks::<NUMBER>().0.iter().map(|&number| f32::from_ne_bytes(number)));
        Ok(())
    }
}

/// Rows of one length, wherever they are.
pub(super) enum Store {
    Memory(Rows),
    File { dim: usize, rows: Spilled },
}

impl Store {
    pub fn dim(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.dim,
            Self::File { dim, .. } => *dim,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.len(),
            Self::File { dim, rows } => rows.numbers / dim,
        }
    }

    /// Rows that may be near at one time.
    pub fn window(&self) -> usize {
        match self {
            Self::Memory(_) => usize::MAX,
            Self::File { dim, rows } => (rows.limit / (dim * NUMBER)).max(1),
        }
    }

    /// The rows of these indices, in their order.
    pub fn gather(&self, indices: &[u32], watch: &mut Watch<'_>) -> Result<Rows, Error> {
        let (dim, rows) = match self {
            Self::Memory(rows) => return Ok(rows.gather(indices.iter().copied())),
            Self::File { dim, rows } => (*dim, rows),
        };
        let mut data = Vec::with_capacity(indices.len() * dim);
        for (count, run) in indices.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(RUN)).enumerate() {
            if count.is_multiple_of(BLOCK) || run.len() == RUN {
                watch.check()?;
            }
            rows.read(run[0] as usize * dim, &mut data, run.len() * dim)?;
        }
        Ok(Rows { dim, data })
    }

    /// The rows of these indices, in any order and with repetitions, for as long as they are worked on.
    pub fn near(&self, indices: impl IntoIterator<Item = u32>, watch: &mut Watch<'_>) -> Result<Near<'_>, Error> {
        if let Self::Memory(rows) = self {
            return Ok(Near::All(rows));
        }
        let mut wanted: Vec<u32> = indices.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let rows = self.gather(&wanted, watch)?;
        Ok(Near::Some(wanted, rows))
    }

    /// As many rows that `fill` makes, of another length perhaps, from blocks of these.
    pub fn map(
        &self,
        dim: usize,
        watch: &mut Watch<'_>,
        mut fill: impl FnMut(&[f32], &mut [f32], &mut Watch<'_>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        match self {
            Self::Memory(rows) => {
                let mut out = Rows::zeros(rows.len(), dim);
                let blocks = rows.data.chunks(BLOCK * rows.dim).zip(out.data.chunks_mut(BLOCK * dim));
                blocks.into_iter().try_for_each(|(input, output)| fill(input, output, watch))?;
                Ok(Self::Memory(out))
            }
            Self::File { .. } => {
                let blocks: Vec<u32> = (0..self.len() as u32).collect();
                self.make(dim, blocks.chunks(BLOCK), |block, output| {
                    let input = self.gather(block, watch)?;
                    fill(&input.data, output, watch)
                })
            }
        }
    }

    /// A row for every index of the blocks, in memory or in a file as these are.
    pub fn make<'b>(
        &self,
        dim: usize,
        blocks: impl Iterator<Item = &'b [u32]>,
        mut fill: impl FnMut(&[u32], &mut [f32]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut row = Vec::new();
        let mut block_of = |block: &[u32]| {
            row.clear();
            row.resize(block.len() * dim, 0.0);
            fill(block, &mut row).map(|()| std::mem::take(&mut row))
        };
        match self {
            Self::Memory(_) => {
                let mut data = Vec::new();
                for block in blocks {
                    let made = block_of(block)?;
                    data.extend_from_slice(&made);
                }
                Ok(Self::Memory(Rows { dim, data }))
            }
            Self::File { rows, .. } => {
                let mut out = rows.another()?;
                for block in blocks {
                    out.push(&block_of(block)?)?;
                }
                Ok(Self::File { dim, rows: out.done()? })
            }
        }
    }
}

/// Rows at hand.
pub(super) enum Near<'a> {
    All(&'a Rows),
    /// Ascending indices and the row of each.
    Some(Vec<u32>, Rows),
}

impl Near<'_> {
    /// Panics for a row that was not asked for.
    #[inline(always)]
    pub fn row(&self, index: u32) -> &[f32] {
        match self {
            Self::All(rows) => rows.row(index as usize),
            Self::Some(known, rows) => rows.row(known.binary_search(&index).expect("a row that is near")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::*;

    /// The same rows in memory and in a file.
    pub fn both(rows: Rows, limit: usize) -> [Store; 2] {
        let mut out = Spilling::begin(&std::env::temp_dir(), limit).unwrap();
        rows.data.chunks(rows.dim).for_each(|row| out.push(row).unwrap());
        let file = Store::File { dim: rows.dim, rows: out.done().unwrap() };
        [Store::Memory(rows), file]
    }

    #[test]
    fn a_file_holds_the_same_rows_as_memory() {
        let mut observer = Unobserved;
        let watch = &mut Watch::new(&mut observer, None);
        let rows = Rows { dim: 3, data: (0..3 * 3000).map(|i| i as f32 / 7.0).collect() };
        let stores = both(rows, 120);
        assert_eq!([stores[0].window(), stores[1].window()], [usize::MAX, 10]);
        let wanted = [2999u32, 5, 6, 7, 0];
        let gathered = stores.each_ref().map(|store| store.gather(&wanted, watch).unwrap());
        assert_eq!(gathered[0], gathered[1]);
        for store in &stores {
            let near = store.near([7, 2999, 7, 0], watch).unwrap();
            assert_eq!((near.row(2999)[0], near.row(0)[1]), (8997.0 / 7.0, 1.0 / 7.0));
            let twice = store
                .map(1, watch, |input, output, _| {
                    input.chunks(3).zip(output).for_each(|(row, out)| *out = row[2]);
                    Ok(())
                })
                .unwrap();
            assert_eq!((twice.len(), twice.near([4], watch).unwrap().row(4)[0]), (3000, 14.0 / 7.0));
        }
    }
}
