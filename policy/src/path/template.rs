//! Path templates: `/v1/users/{user}/**`.
//!
//! `{name}` stands for one non-empty segment, a final `**` for any number of segments. There are
//! no regular expressions. Literal segments must be canonical, so that what an author reads is
//! what is compared.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use super::{CanonicalOptions, CanonicalPath, PathParams, percent_decoded};

/// A path with named segments.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    text: Arc<str>,
    segments: Arc<[Segment]>,
    open: bool,
}

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// One non-empty segment of this name.
    Param(Box<str>),
}

/// Why a template is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Braces inside a segment, or a name that is not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error("`{0}` is not a parameter; write a whole segment such as `{{user}}`")]
    Param(String),
    /// One name twice.
    #[error("`{{{0}}}` stands in the template twice")]
    Repeated(String),
    /// `**` before the end, or `*`.
    #[error("`**` may only be the last segment, and `*` inside a segment has no meaning")]
    Wildcard,
    /// A literal part has another canonical spelling.
    #[error("not canonical")]
    NotCanonical {
        /// The spelling to use, if there is one.
        canonical: Option<String>,
    },
}

impl PathTemplate {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let not_canonical = TemplateError::NotCanonical { canonical: None };
        let rest = text.strip_prefix('/').ok_or(not_canonical)?;
        let mut segments: Vec<Segment> = Vec::new();
        let mut open = false;
        for part in rest.split('/') {
            if open {
                return Err(TemplateError::Wildcard);
            }
            if part == "**" {
                open = true;
                continue;
            }
            segments.push(segment(part, &segments)?);
        }
        let template = Self { text: text.into(), segments: segments.into(), open };
        template.check_literals()?;
        Ok(template)
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As written, shared.
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The segments before a final `**`.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends with `**`.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether there is a `{name}`.
    pub fn has_param(&self, name: &str) -> bool {
        self.index_of(name).is_some()
    }

    /// Whether a path has this form.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        if !path.path().starts_with('/') {
            return false;
        }
        let mut given = path.segments();
        for segment in &*self.segments {
            let Some(text) = given.next() else { return false };
            let same = match segment {
                Segment::Literal(literal) => **literal == *text,
                Segment::Param(_) => !text.is_empty(),
            };
            if !same {
                return false;
            }
        }
        self.open || given.next().is_none()
    }

    /// The value of `{name}`, percent-decoded once, if the path has this form.
    pub fn capture<'p>(&self, name: &str, path: &'p CanonicalPath) -> Option<Cow<'p, str>> {
        let index = self.index_of(name)?;
        if !self.matches(path) {
            return None;
        }
        let raw = path.segments().nth(index)?;
        if !raw.contains('%') {
            return Some(Cow::Borrowed(raw));
        }
        String::from_utf8(percent_decoded(raw).collect()).ok().map(Cow::Owned)
    }

    /// All values, by name, in the order of the template.
    pub fn captures<'p>(&self, path: &'p CanonicalPath) -> Option<Vec<(&str, Cow<'p, str>)>> {
        let names = self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(&**name),
            Segment::Literal(_) => None,
        });
        if !self.matches(path) {
            return None;
        }
        names.map(|name| Some((name, self.capture(name, path)?))).collect()
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.segments
            .iter()
            .position(|segment| matches!(segment, Segment::Param(own) if **own == *name))
    }

    /// With harmless names in place of parameters the text must be its own canonical form.
    fn check_literals(&self) -> Result<(), TemplateError> {
        let mut plain = String::new();
        for segment in &*self.segments {
            plain.push('/');
            match segment {
                Segment::Literal(text) => plain.push_str(text),
                Segment::Param(_) => plain.push('x'),
            }
        }
        if plain.is_empty() {
            return Ok(());
        }
        match canonical_pattern(&plain) {
            Ok(()) => Ok(()),
            Err(_) if self.segments.iter().any(|s| matches!(s, Segment::Param(_))) => {
                Err(TemplateError::NotCanonical { canonical: None })
            }
            Err(canonical) => Err(TemplateError::NotCanonical { canonical }),
        }
    }
}

/// Whether a pattern is its own canonical form; else the form it should have, if there is one.
/// `;` is accepted here: whether it can be requested is the mesh's setting.
pub(crate) fn canonical_pattern(text: &str) -> Result<(), Option<String>> {
    let options = CanonicalOptions { params: PathParams::Keep, ..CanonicalOptions::default() };
    match CanonicalPath::parse(text, options) {
        Ok(path) if path.target() == text && path.query().is_none() => Ok(()),
        Ok(path) => Err(Some(path.path().to_owned())),
        Err(_) => Err(None),
    }
}

fn segment(part: &str, before: &[Segment]) -> Result<Segment, TemplateError> {
    if part.contains('*') {
        return Err(TemplateError::Wildcard);
    }
    if !part.contains(['{', '}']) {
        return Ok(Segment::Literal(part.into()));
    }
    let name = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !name.bytes().all(word) || name.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
        return Err(TemplateError::Param(part.to_owned()));
    }
    if before.iter().any(|own| matches!(own, Segment::Param(other) if **other == *name)) {
        return Err(TemplateError::Repeated(name.to_owned()));
    }
    Ok(Segment::Param(name.into()))
}

impl FromStr for PathTemplate {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathTemplate({})", self.text)
    }
}
