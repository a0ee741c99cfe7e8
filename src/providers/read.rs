//! Reading JSON that others wrote: what is missing, null or of another type is None, never an error.

use serde_json::Value;

/// Longest text of a provider that is kept.
const LONGEST: usize = 2000;

pub fn text(value: &Value, pointer: &str) -> Option<String> {
    let text = value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())?;
    Some(text.chars().filter(|c| !c.is_control() || c.is_whitespace()).take(LONGEST).collect())
}

pub fn number(value: &Value, pointer: &str) -> Option<f64> {
    match value.pointer(pointer)? {
        Value::Number(number) => number.as_f64(),
        // protojson writes 64-bit integers as text.
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

pub fn count(value: &Value, pointer: &str) -> Option<u64> {
    number(value, pointer).filter(|n| (0.0..9e15).contains(n)).map(|n| n as u64)
}

/// Seconds since 1970, from a number or an ISO date.
pub fn time(value: &Value, pointer: &str) -> Option<i64> {
    match value.pointer(pointer)? {
        Value::Number(_) => number(value, pointer).filter(|n| n.abs() < 1e11).map(|n| n as i64),
        Value::String(text) => date(text),
        _ => None,
    }
}

fn date(text: &str) -> Option<i64> {
    let with_zone = chrono::DateTime::parse_from_rfc3339(text).map(|date| date.timestamp());
    let bare = || chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").map(|d| d.and_utc().timestamp());
    with_zone.or_else(|_| bare()).ok()
}

pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A date as YYYY-MM-DD, or None.
pub fn day(value: &Value, pointer: &str) -> Option<String> {
    let text = text(value, pointer)?;
    let day = text.get(..10)?;
    chrono::NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?;
    Some(day.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn odd_values_are_nothing() {
        let odd = json!({"a": null, "b": [], "c": -1, "d": "12", "e": 1e300, "f": "2026-01-02T03:04:05Z", "g": "2026-01-02 03:04:05"});
        assert_eq!(text(&odd, "/a"), None);
        assert_eq!(count(&odd, "/c"), None);
        assert_eq!(count(&odd, "/d"), Some(12));
        assert_eq!(count(&odd, "/e"), None);
        assert_eq!(time(&odd, "/e"), None);
        assert_eq!(time(&odd, "/f"), time(&odd, "/g"));
        assert_eq!(day(&odd, "/f"), Some("2026-01-02".into()));
        assert_eq!(day(&odd, "/d"), None);
        assert!(list(&odd, "/c").is_empty());
    }
}
