//! What is wrong with a document, where, and what to type instead.
//!
//! Every check of every document adds a [`Diagnostic`]; one [`Problems`] carries all of one run,
//! sorted by file and place, and prints them with an excerpt of the source. Codes are stable:
//! `E0xx` for errors, `W1xx` for warnings (`docs/policy.md` lists them).

use std::{fmt, ops::Range, sync::Arc};

/// One text to load. `name` is what messages call it: a path, or `ConfigMap ns/name key`.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The name shown in messages and used to resolve relative paths.
    pub name: &'a str,
    /// The YAML text, one or more documents.
    pub text: &'a str,
}

/// Whether a diagnostic rejects the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The documents are rejected.
    Error,
    /// The documents are accepted; somebody should look.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code, such as `E013`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// Name of the [`Source`].
    pub file: Arc<str>,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, counted in characters.
    pub column: u32,
    /// Byte range in the source text.
    pub span: Range<usize>,
    /// What is wrong, in one sentence.
    pub message: String,
    /// One concrete thing to do about it.
    pub hint: Option<String>,
    /// What the source says there.
    pub excerpt: Excerpt,
}

/// Everything wrong with one run, sorted by file, line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Diagnostic>);

impl Problems {
    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.severity == Severity::Error).count()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, file, line, column, message, .. } = self;
        writeln!(f, "{}[{code}]: {message}", self.severity.as_str())?;
        write!(f, "  --> {file}:{line}:{column}")?;
        let hint = self.hint.as_deref().unwrap_or_default();
        let Excerpt { text: shown, before } = &self.excerpt;
        if shown.trim().is_empty() {
            return if hint.is_empty() { Ok(()) } else { write!(f, "\n  help: {hint}") };
        }
        let gutter = line.to_string();
        let blank = " ".repeat(gutter.len());
        write!(f, "\n{gutter} | {shown}")?;
        let space = if hint.is_empty() { "" } else { " " };
        write!(f, "\n{blank} | {}{}{space}{hint}", " ".repeat(*before), "^".repeat(self.carets()))
    }
}

/// Longest excerpt, in characters.
const EXCERPT_CHARS_MAX: usize = 120;
/// How many of them are before the place, where the line is longer.
const HEAD_CHARS: usize = 40;
/// Most carets: enough for a word, and for seeing that more is meant.
const CARETS_MAX: usize = 60;

impl Diagnostic {
    /// How many characters of the excerpt it is about.
    fn carets(&self) -> usize {
        let covered = self.excerpt.text.chars().skip(self.excerpt.before).scan(0, |bytes, c| {
            let inside = *bytes < self.span.len();
            *bytes += c.len_utf8();
            inside.then_some(c)
        });
        covered.count().clamp(1, CARETS_MAX)
    }
}

/// What is seen of the line around a place. Bounded, because each of ten thousand rules may have its
/// finding, and all of them may stand in one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    text: String,
    /// Characters of it before the place.
    before: usize,
}

impl Excerpt {
    /// Of the line of `text` that holds the byte at `start`.
    pub fn at(text: &str, start: usize) -> Excerpt {
        let (before, after) = text.split_at(text.floor_char_boundary(start));
        let head = before.chars().rev().take_while(|c| *c != '\n').take(EXCERPT_CHARS_MAX + 1);
        let mut line: Vec<char> = head.collect();
        line.reverse();
        let head = line.len();
        let tail = after.chars().take_while(|c| !matches!(c, '\n' | '\r'));
        line.extend(tail.take(EXCERPT_CHARS_MAX + 1));
        while line.pop_if(|last| last.is_whitespace()).is_some() {}
        let skip =
            if line.len() <= EXCERPT_CHARS_MAX { 0 } else { head.saturating_sub(HEAD_CHARS) };
        let plain = |c: &char| if c.is_control() { ' ' } else { *c };
        let before = head.min(line.len()).saturating_sub(skip);
        let text = line.iter().skip(skip).take(EXCERPT_CHARS_MAX).map(plain).collect();
        Excerpt { text, before }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, diagnostic) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_of_the_line_and_as_short_for_a_line_of_any_length() {
        let long = format!("first\n{}here {}\r\nlast", "a".repeat(9_000), "é".repeat(9_000));
        let at = Excerpt::at(&long, 6 + 9_000);
        let shown = format!("{}here {}", "a".repeat(40), "é".repeat(75));
        assert_eq!(at, Excerpt { text: shown, before: 40 });
        let inside = long.find('é').unwrap() + 1;
        assert_eq!(Excerpt::at(&long, inside), Excerpt::at(&long, inside - 1), "whole characters");
        let short = "first\nsecond\tline  \n";
        let at = Excerpt::at(short, short.find("line").unwrap());
        assert_eq!(at, Excerpt { text: "second line".to_owned(), before: 7 });
        assert_eq!(Excerpt::at(short, short.len() + 9), Excerpt::default());
    }
}
