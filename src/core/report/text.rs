//! Numbers and names as a page shows them.

/// Safe inside elements and quoted attributes.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

const UNDEFINED: &str = "–";

pub fn percent(share: Option<f64>) -> String {
    share.map_or(UNDEFINED.into(), |s| format!("{:.1} %", 100.0 * s))
}

/// With its sign: a change.
pub fn change(share: Option<f64>) -> String {
    share.map_or(UNDEFINED.into(), |s| format!("{:+.1} %", 100.0 * s))
}

pub fn points(share: Option<f64>) -> String {
    share.map_or(UNDEFINED.into(), |s| format!("{:+.2}", 100.0 * s))
}

pub fn decimal(number: Option<f64>, digits: usize) -> String {
    number.map_or(UNDEFINED.into(), |n| format!("{n:.digits$}"))
}

/// A p value.
pub fn chance(p: Option<f64>) -> String {
    match p {
        Some(p) if p < 0.0001 => "&lt; 0.0001".into(),
        p => decimal(p, 4),
    }
}

/// Thousands apart.
pub fn count(number: i64) -> String {
    let digits = number.abs().to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    format!("{}{}", if number < 0 { "−" } else { "" }, groups.join(","))
}

/// A wait in the unit that fits.
pub fn wait(seconds: Option<f64>) -> String {
    match seconds {
        None => UNDEFINED.into(),
        Some(s) if s < 120.0 => format!("{s:.0} s"),
        Some(s) if s < 7200.0 => format!("{:.0} min", s / 60.0),
        Some(s) if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        Some(s) => format!("{:.1} days", s / 86_400.0),
    }
}

/// "false_suggestion_rate" as people say it.
pub fn metric(name: &str) -> String {
    match name {
        "false_suggestion_rate" => "false suggestions".into(),
        other => other.replace('_', " "),
    }
}
