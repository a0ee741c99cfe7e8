//! A moment as the exports write it.

use std::fmt;

use chrono::{DateTime, Datelike, Timelike};
use serde::{Serialize, Serializer};

/// Microseconds since 1970, UTC; Postgres' two infinities are the first and the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

const TO_2000: i64 = 946_684_800_000_000;

impl Moment {
    /// From microseconds since 2000, as Postgres counts.
    pub fn since_2000(micros: i64) -> Self {
        Self(if micros == i64::MIN { micros } else { micros.saturating_add(TO_2000) })
    }
}

impl fmt::Display for Moment {
    /// ISO 8601, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = DateTime::from_timestamp_micros(self.0) else {
            return f.write_str(if self.0 < 0 { "-infinity" } else { "infinity" });
        };
        let (year, month, day, micro) = (at.year(), at.month(), at.day(), at.nanosecond() / 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micro:06}Z", at.hour(), at.minute(), at.second())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        let written = |micros| Moment::since_2000(micros).to_string();
        assert_eq!(written(0), "2000-01-01T00:00:00.000000Z");
        assert_eq!(written(849_312_000_000_000 + 123), "2026-11-30T00:00:00.000123Z");
        assert_eq!(written(-1), "1999-12-31T23:59:59.999999Z");
        assert_eq!((written(i64::MIN), written(i64::MAX)), ("-infinity".to_owned(), "infinity".to_owned()));
    }
}
