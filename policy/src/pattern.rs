//! Regular expressions of documents, anchored at both ends and compiled once.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// Compiled size that a pattern may have.
const COMPILED_BYTES_MAX: usize = 64 * 1024;

/// A regular expression that must match a whole text.
#[derive(Clone)]
pub struct AnchoredPattern {
    text: String,
    regex: Regex,
}

impl AnchoredPattern {
    /// Compiles a pattern; the error is a sentence for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        Regex::new(text).map_err(|error| reason(&error))?;
        let regex = RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| reason(&error))?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Whether the whole value has this form.
    pub fn matches(&self, value: &str) -> bool {
        !value.ends_with('\n') && self.regex.is_match(value)
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The last line of a message of `regex` says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl PartialEq for AnchoredPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for AnchoredPattern {}

impl fmt::Debug for AnchoredPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnchoredPattern({})", self.text)
    }
}
