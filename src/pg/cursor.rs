//! A query read in parts, each in an SPI session of its own: what a part allocated is gone before the next one.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::Error;

use super::row::{read_all, Row};

pub struct Cursor {
    name: String,
}

impl Cursor {
    pub fn open(query: &str, args: &[DatumWithOid]) -> Result<Self, Error> {
        let name = Spi::connect(|client| Ok::<_, Error>(client.try_open_cursor(query, args)?.detach_into_name()))?;
        Ok(Self { name })
    }

    /// The next rows; none at the end.
    pub fn fetch<T>(&mut self, count: usize, read: impl FnMut(&Row<'_>) -> T) -> Result<Vec<T>, Error> {
        Spi::connect(|client| {
            let mut cursor = client.find_cursor(&self.name)?;
            let rows = cursor.fetch(count as i64).map(|table| read_all(table, read));
            cursor.detach_into_name();
            rows
        })
    }

    /// Not done on drop: after an error the transaction's end closes it, and SPI must not be called any more.
    pub fn close(self) -> Result<(), Error> {
        Spi::connect(|client| client.find_cursor(&self.name).map(drop))
    }
}
