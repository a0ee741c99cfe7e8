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
        let micros = at.nanosecond() / 1_000;
        // digit by digit: a template of six numbers takes longer than the rest of a line
        let mut digits = *b"0000-00-00T00:00:00.000000Z";
        let parts = [(4, at.month()), (7, at.day()), (10, at.hour()), (13, at.minute()), (16, at.second())];
        match u32::try_from(at.year()) {
            Ok(year @ 0..=9_999) => fill(&mut digits[..4], year),
            _ => write!(f, "{}", at.year())?,
        }
        let start = if (0..=9_999).contains(&at.year()) { 0 } else { 4 };
        parts.iter().for_each(|&(separator, number)| fill(&mut digits[separator + 1..separator + 3], number));
        fill(&mut digits[20..26], micros);
        f.write_str(std::str::from_utf8(&digits[start..]).unwrap_or_default())
    }
}

fn fill(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
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
        assert_eq!(written(300_000_000_000_000_000), "11506-08-16T05:20:00.000000Z");
        assert_eq!((written(i64::MIN), written(i64::MAX)), ("-infinity".to_owned(), "infinity".to_owned()));
    }
}
