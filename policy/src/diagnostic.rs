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
        if !self.excerpt.is_empty() {
            let gutter = line.to_string();
            write!(f, "\n{gutter} | {}", self.excerpt)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
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
