//! Reads scalars: each function says what it wanted, what it saw, and what to type.
//!
//! `None` means that a problem was reported.

use super::{
    Findings, Node, Value,
    suggest::{did_you_mean, listed},
};

/// Words that some YAML readers take for a boolean or for nothing.
const LOADED_WORDS: &[&str] =
    &["true", "false", "yes", "no", "on", "off", "y", "n", "null", "~", ".nan", ".inf", "-.inf"];

/// A text. A bare word that some YAML reader would take for something else must be quoted.
pub fn string(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let Value::Scalar { text, plain } = &node.value else {
        findings.error("E013", node.span, format!("a text was expected, not {}", node.describe()));
        return None;
    };
    if text.is_empty() {
        findings.error("E013", node.span, "a text was expected, not nothing");
        return None;
    }
    if *plain && is_loaded(text) {
        let code = if is_clock(text) { "E006" } else { "E013" };
        let message = match (is_clock(text), sexagesimal(text)) {
            (true, Some(number)) => {
                format!("`{text}` is not a text; YAML 1.1 readers turn it into {number}")
            }
            _ => format!("`{text}` is not a text: YAML readers take it for something else"),
        };
        findings.error(code, node.span, message).hint(format!("write \"{text}\""));
        return None;
    }
    Some(text.clone())
}

/// A text that may not contain control characters and has a maximum length.
pub fn short_string(node: &Node, max: usize, findings: &mut Findings<'_>) -> Option<String> {
    let text = string(node, findings)?;
    if text.len() > max {
        findings.error("E017", node.span, format!("longer than {max} bytes"));
        return None;
    }
    if text.chars().any(char::is_control) {
        findings.error("E013", node.span, "control characters are not accepted");
        return None;
    }
    Some(text)
}

fn is_loaded(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let number = lower.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && (text.replace('_', "").parse::<f64>().is_ok()
            || lower.starts_with("0x")
            || lower.starts_with("0o"));
    LOADED_WORDS.contains(&&*lower) || number || is_clock(text) || is_date(text)
}

/// `17:00`, `1:2:3`.
fn is_clock(text: &str) -> bool {
    text.contains(':')
        && text
            .split(':')
            .all(|part| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
}

fn sexagesimal(text: &str) -> Option<u64> {
    text.split(':').try_fold(0u64, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))
}

/// `2026-11-26`.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8
        && bytes.iter().take(4).all(u8::is_ascii_digit)
        && bytes.get(4) == Some(&b'-')
        && bytes.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'T' | b'Z'))
}

/// `true` or `false`.
pub fn boolean(node: &Node, findings: &mut Findings<'_>) -> Option<bool> {
    let Value::Scalar { text, plain: true } = &node.value else {
        let message = format!("`true` or `false` was expected, not {}", node.describe());
        findings.error("E013", node.span, message);
        return None;
    };
    match text.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let hint = match other.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" | "true" => Some("write `true`"),
                "no" | "off" | "n" | "false" => Some("write `false`"),
                _ => None,
            };
            let message = format!("`true` or `false` was expected, not `{other}`");
            findings.error("E013", node.span, message).maybe_hint(hint.map(str::to_owned));
            None
        }
    }
}

/// A flag that is written only to say `true`.
pub fn only_true(node: &Node, name: &str, findings: &mut Findings<'_>) -> Option<()> {
    if boolean(node, findings)? {
        return Some(());
    }
    let message = format!("`{name}: false` has no meaning");
    findings.error("E013", node.span, message).hint(format!("leave `{name}` out"));
    None
}

/// A decimal integer between two bounds.
pub fn integer(node: &Node, min: u64, max: u64, findings: &mut Findings<'_>) -> Option<u64> {
    let number = match &node.value {
        Value::Scalar { text, plain: true } if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse::<u64>().ok().filter(|n| *n == 0 || !text.starts_with('0'))
        }
        _ => None,
    };
    let found = number.filter(|n| (min..=max).contains(n));
    if found.is_none() {
        let message =
            format!("a whole number from {min} to {max} was expected, not {}", node.describe());
        findings.error("E013", node.span, message);
    }
    found
}

/// A port number other than 0.
pub fn port(node: &Node, findings: &mut Findings<'_>) -> Option<u16> {
    integer(node, 1, 65_535, findings).and_then(|n| u16::try_from(n).ok())
}

/// A duration such as `300ms`, `60s`, `15m`, `12h` or `7d`, in milliseconds.
pub fn duration_ms(node: &Node, findings: &mut Findings<'_>) -> Option<u64> {
    let parsed = match &node.value {
        Value::Scalar { text, .. } => parse_duration_ms(text),
        Value::List(_) | Value::Map(_) => None,
    };
    if parsed.is_none() {
        let message = format!("a duration was expected, not {}", node.describe());
        findings
            .error("E013", node.span, message)
            .hint("write a number and a unit: `60s`, `15m`, `12h`, `7d`");
    }
    parsed
}

/// A duration of whole seconds, at least one.
pub fn duration_s(node: &Node, findings: &mut Findings<'_>) -> Option<u64> {
    let ms = duration_ms(node, findings)?;
    if ms == 0 || ms % 1000 != 0 {
        let message = format!("{} is not a whole number of seconds", node.describe());
        findings.error("E013", node.span, message);
        return None;
    }
    Some(ms / 1000)
}

fn parse_duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // LIMIT: a hundred years, so that arithmetic on it never overflows.
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|ms| *ms <= 3_153_600_000_000)
}

/// One of a closed set of words.
pub fn one_of<T: Copy>(
    node: &Node,
    choices: &[(&'static str, T)],
    findings: &mut Findings<'_>,
) -> Option<T> {
    let written = node.text().unwrap_or_default();
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == written) {
        return Some(*value);
    }
    let names = choices.iter().map(|(name, _)| *name);
    let hint = did_you_mean(written, names.clone()).unwrap_or_else(|| {
        if choices.len() == 1 {
            format!("only {} is accepted", listed(names))
        } else {
            format!("choose one of {}", listed(names))
        }
    });
    let message = format!("unknown value {}", node.describe());
    findings.error("E013", node.span, message).hint(hint);
    None
}

/// The items of a list; a list that is not there is empty.
pub fn list<'n>(node: Option<&'n Node>, findings: &mut Findings<'_>) -> &'n [Node] {
    match node {
        None => &[],
        Some(Node { value: Value::List(items), .. }) => items,
        Some(other) => {
            let message = format!("a list was expected, not {}", other.describe());
            findings.error("E013", other.span, message).hint("write it as `[a, b]`");
            &[]
        }
    }
}

/// A list that must not be empty where it is written.
pub fn filled_list<'n>(node: Option<&'n Node>, findings: &mut Findings<'_>) -> &'n [Node] {
    let items = list(node, findings);
    if let Some(Node { value: Value::List(all), span }) = node
        && all.is_empty()
    {
        findings
            .error("E001", *span, "an empty list matches nothing")
            .hint("name at least one entry, or leave the field out");
    }
    items
}

/// A list of texts, each at most `max` bytes, without repetition.
pub fn strings(node: Option<&Node>, max: usize, findings: &mut Findings<'_>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for item in filled_list(node, findings) {
        let Some(text) = short_string(item, max, findings) else { continue };
        if out.contains(&text) {
            findings.error("E019", item.span, format!("`{text}` stands in the list twice"));
        } else {
            out.push(text);
        }
    }
    out
}
