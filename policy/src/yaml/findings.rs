//! The list every check adds to.

use std::{mem, sync::Arc};

use crate::{
    diagnostic::{Diagnostic, Excerpt, Problems, Severity, Source},
    doc::Place,
    pace::Pace,
};

/// Most problems of one run.
const PROBLEMS_MAX: usize = 50;

/// A place in one of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the source.
    pub source: usize,
    /// First byte.
    pub start: usize,
    /// First byte after.
    pub end: usize,
    /// 1-based line.
    pub line: u32,
    /// 1-based column.
    pub column: u32,
}

impl Span {
    /// From the start of this to the end of another.
    pub fn to(self, end: Self) -> Self {
        Self { end: end.end.max(self.start), ..self }
    }
}

/// Collects what is wrong with a set of sources.
#[derive(Debug)]
pub struct Findings<'s> {
    sources: &'s [Source<'s>],
    files: Vec<Arc<str>>,
    list: Vec<Diagnostic>,
    pace: Pace<'s>,
}

impl<'s> Findings<'s> {
    /// Nothing found yet.
    pub fn new(sources: &'s [Source<'s>]) -> Self {
        let files = sources.iter().map(|source| source.name.into()).collect();
        Self { sources, files, list: Vec::new(), pace: Pace::default() }
    }

    /// Reading goes on at this pace.
    pub(crate) fn paced(self, pace: Pace<'s>) -> Self {
        Self { pace, ..self }
    }

    /// A step of reading has ended that took about so many microseconds.
    pub(crate) fn step(&self, cost: u32) {
        self.pace.step(cost);
    }

    /// The text of a source.
    pub fn text(&self, source: usize) -> &'s str {
        self.sources.get(source).map(|source| source.text).unwrap_or_default()
    }

    /// The name of a source.
    pub fn file(&self, source: usize) -> Arc<str> {
        self.files.get(source).cloned().unwrap_or_else(|| "".into())
    }

    /// A span as people count.
    pub fn place(&self, span: Span) -> Place {
        Place { file: self.file(span.source), line: span.line, column: span.column }
    }

    /// Adds an error.
    pub fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, code, span, message.into())
    }

    /// Adds a warning.
    pub fn warn(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Warning, code, span, message.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: Span,
        message: String,
    ) -> &mut Diagnostic {
        let at = self.list.len();
        self.list.push(Diagnostic {
            code,
            severity,
            file: self.file(span.source),
            line: span.line,
            column: span.column,
            span: span.start..span.end,
            message,
            hint: None,
            excerpt: Excerpt::at(self.text(span.source), span.start),
        });
        &mut self.list[at]
    }

    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|found| found.severity == Severity::Error)
    }

    /// `Ok` with the warnings, or everything that was found.
    pub fn finish(mut self) -> Result<Vec<Diagnostic>, Problems> {
        let failed = self.has_errors();
        let mut list = mem::take(&mut self.list);
        list.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.file.clone(), d.line, d.column, d.severity);
            key(a).cmp(&key(b))
        });
        list.dedup();
        if !failed {
            return Ok(list);
        }
        let errors_first = |d: &Diagnostic| d.severity == Severity::Error;
        if list.len() > PROBLEMS_MAX {
            list.sort_by_key(|d| !errors_first(d));
            list.truncate(PROBLEMS_MAX);
        }
        Err(Problems(list))
    }
}

impl Diagnostic {
    /// Adds the one thing to do about it.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint if there is one.
    pub fn maybe_hint(&mut self, hint: Option<String>) -> &mut Self {
        self.hint = hint;
        self
    }
}
