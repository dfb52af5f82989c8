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
    /// The source line of the place, for the excerpt.
    pub excerpt: String,
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
        if self.excerpt.trim().is_empty() {
            return if hint.is_empty() { Ok(()) } else { write!(f, "\n  help: {hint}") };
        }
        let (shown, indent, carets) = self.window();
        let gutter = line.to_string();
        let blank = " ".repeat(gutter.len());
        write!(f, "\n{gutter} | {shown}")?;
        let space = if hint.is_empty() { "" } else { " " };
        write!(f, "\n{blank} | {}{}{space}{hint}", " ".repeat(indent), "^".repeat(carets))
    }
}

/// Longest excerpt, in characters.
const EXCERPT_CHARS_MAX: usize = 120;
/// Most carets: enough for a word, and for seeing that more is meant.
const CARETS_MAX: usize = 60;

impl Diagnostic {
    /// The part of the line to show, where the carets begin in it, and how many there are.
    fn window(&self) -> (String, usize, usize) {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let line: Vec<char> = self.excerpt.trim_end().chars().map(plain).collect();
        let column = usize::try_from(self.column).unwrap_or(1).saturating_sub(1).min(line.len());
        let skip = if line.len() <= EXCERPT_CHARS_MAX { 0 } else { column.saturating_sub(40) };
        let shown: String = line.iter().skip(skip).take(EXCERPT_CHARS_MAX).collect();
        let covered = shown.chars().skip(column - skip).scan(0, |bytes, c| {
            let inside = *bytes < self.span.len();
            *bytes += c.len_utf8();
            inside.then_some(c)
        });
        let carets = covered.count().clamp(1, CARETS_MAX);
        (shown, column - skip, carets)
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
