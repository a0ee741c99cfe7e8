//! When a retraining is due: cron text (five fields) in a time zone, by the croner crate.

use std::fmt;

use chrono::{TimeZone, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds};
use croner::Cron;

/// A parsed schedule.
pub struct Schedule {
    cron: Cron,
    zone: Tz,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    Cron { text: String, reason: String },
    TimeZone { name: String },
}

impl Error {
    /// The fact behind the message.
    pub fn detail(&self) -> String {
        match self {
            Self::Cron { reason, .. } => format!("The parser says: {reason}."),
            Self::TimeZone { .. } => "Time zones are those of the IANA database, by full name.".to_owned(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron { text, .. } => write!(f, "\"{text}\" is not a cron schedule"),
            Self::TimeZone { name } => write!(f, "time zone \"{name}\" is not known"),
        }
    }
}

impl std::error::Error for Error {}

impl Schedule {
    /// Parses five-field cron text and the name of an IANA time zone.
    ///
    /// # Errors
    /// `Cron` or `TimeZone`, naming what was given.
    pub fn parse(text: &str, zone: &str) -> Result<Self, Error> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let cron = parser.parse(text).map_err(|e| Error::Cron { text: text.to_owned(), reason: e.to_string() })?;
        let zone = zone.parse().map_err(|_| Error::TimeZone { name: zone.to_owned() })?;
        Ok(Self { cron, zone })
    }

    /// The first tick strictly after an instant, both in seconds since 1970; None when there is none.
    ///
    /// A local time that does not exist (clocks put forward) runs when the gap ends; one that exists twice runs once.
    pub fn next_after(&self, unix_seconds: i64) -> Option<i64> {
        let local = Utc.timestamp_opt(unix_seconds, 0).single()?.with_timezone(&self.zone);
        self.cron.find_next_occurrence(&local, false).ok().map(|at| at.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, zone: &str, after: &str) -> String {
        let after = chrono::DateTime::parse_from_rfc3339(after).unwrap().timestamp();
        let tick = Schedule::parse(cron, zone).unwrap().next_after(after).unwrap();
        Utc.timestamp_opt(tick, 0).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    #[test]
    fn ticks_are_strictly_later() {
        assert_eq!(next("0 0 * * 0", "UTC", "2026-11-22T00:00:00Z"), "2026-11-29T00:00:00Z");
        assert_eq!(next("0 0 * * 0", "UTC", "2026-11-21T23:59:59Z"), "2026-11-22T00:00:00Z");
        assert_eq!(next("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z"), "2028-02-29T00:00:00Z");
    }

    #[test]
    fn daylight_saving_neither_skips_nor_doubles_a_day() {
        // Berlin, 29 March 2026: 02:30 does not exist; 25 October 2026: 02:30 exists twice.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        let first = next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z");
        assert_eq!(first, "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", &first), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["", "every sunday", "61 * * * *", "* * * *", "* * * * * *", "0 0 0 * *"] {
            assert!(matches!(Schedule::parse(text, "UTC"), Err(Error::Cron { .. })), "{text:?}");
        }
        assert!(matches!(Schedule::parse("0 0 * * *", "Mars/Olympus"), Err(Error::TimeZone { .. })));
    }

    #[test]
    fn a_day_that_never_comes_has_no_tick() {
        assert_eq!(Schedule::parse("0 0 31 2 *", "UTC").unwrap().next_after(0), None);
    }
}
