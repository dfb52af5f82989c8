//! Canonical request paths: the one form that is compared *and* forwarded, byte for byte.
//!
//! [`CanonicalPath::parse`] is the only way to make one. Whatever two programs could read in two
//! ways (hidden separators, dot segments, double encoding, path parameters) is refused with a
//! stable sub-reason of `path_not_canonical`; equivalent spellings become one.

mod template;

pub(crate) use template::canonical_pattern;
pub use template::{PathTemplate, Segment, TemplateError};

use std::fmt;
use std::sync::Arc;

/// What is done about spellings that are legal but risky.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanonicalOptions {
    /// `//`, `.` and `..`.
    pub normalization: Normalization,
    /// `;` and `%3B`.
    pub params: PathParams,
    /// Longest request target, bytes.
    pub bytes_max: usize,
}

impl Default for CanonicalOptions {
    fn default() -> Self {
        Self {
            normalization: Normalization::Reject,
            params: PathParams::Reject,
            bytes_max: 16 * 1024,
        }
    }
}

/// What happens to empty and dot segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// 400.
    Reject,
    /// Merged, and resolved as RFC 3986 §5.2.4 says; above the root: 400.
    Normalize,
}

/// What happens to `;`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathParams {
    /// 400.
    Reject,
    /// An ordinary character.
    Keep,
}

/// Why a request target has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// A byte that may not stand there.
    #[error("a byte that is not allowed in a request target")]
    Byte,
    /// `%` without two hex digits, or an escaped control character.
    #[error("`%` without two hex digits, or an escaped control character")]
    Escape,
    /// Not origin-form, nor absolute-form of this host, nor `OPTIONS *`.
    #[error("not a path of this host")]
    Form,
    /// `%2F`, `%5C` or a double escape.
    #[error("an escaped separator or a double escape")]
    HiddenSeparator,
    /// `;`.
    #[error("`;` path parameters are not accepted")]
    PathParams,
    /// An empty, `.` or `..` segment.
    #[error("an empty, `.` or `..` segment")]
    Segments,
    /// Longer than the limit: 414.
    #[error("the request target is too long")]
    TooLong,
    /// A decoded segment is not UTF-8.
    #[error("a decoded segment is not UTF-8")]
    Utf8,
}

impl PathError {
    /// Stable sub-reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Byte => "byte",
            Self::Escape => "escape",
            Self::Form => "form",
            Self::HiddenSeparator => "hidden_separator",
            Self::PathParams => "path_params",
            Self::Segments => "segments",
            Self::TooLong => "too_long",
            Self::Utf8 => "utf8",
        }
    }
}

/// A request target in canonical form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalPath {
    /// Shared: who records or remembers a request keeps its path too.
    target: Arc<str>,
    path_len: usize,
}

impl CanonicalPath {
    /// Parses an origin-form target: a path, then perhaps `?` and a query.
    ///
    /// ```
    /// use countersign_policy::path::{CanonicalPath, PathError};
    /// let path = CanonicalPath::parse("/%61/b?q=%2f", Default::default()).unwrap();
    /// assert_eq!((path.path(), path.query()), ("/a/b", Some("q=%2f")));
    /// let hidden = CanonicalPath::parse("/a%2Fb", Default::default());
    /// assert_eq!(hidden, Err(PathError::HiddenSeparator));
    /// ```
    pub fn parse(target: &str, options: CanonicalOptions) -> Result<Self, PathError> {
        if !target.starts_with('/') {
            return Err(PathError::Form);
        }
        if target.len() > options.bytes_max {
            return Err(PathError::TooLong);
        }
        if !target.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#') {
            return Err(PathError::Byte);
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        if is_plain(path) {
            return Ok(Self { target: target.into(), path_len: path.len() });
        }
        Self::spelled(path, query, options)
    }

    /// The canonical form of a path in any spelling.
    fn spelled(
        path: &str,
        query: Option<&str>,
        options: CanonicalOptions,
    ) -> Result<Self, PathError> {
        check_bytes(path)?;
        check_escapes(path)?;
        check_separators(path)?;
        check_utf8(path)?;
        let mut canonical = String::with_capacity(path.len());
        respell(path, &mut canonical);
        canonical = resolve_segments(canonical, options.normalization)?;
        check_params(&canonical, options.params)?;
        let path_len = canonical.len();
        if let Some(query) = query {
            canonical.push('?');
            canonical.push_str(query);
        }
        Ok(Self { target: canonical.into(), path_len })
    }

    /// Parses a request target in any form a request line may have. `host` is the canonical host
    /// of the request; an absolute-form target must name the same one.
    pub fn from_target(
        method: &str,
        target: &str,
        host: &str,
        options: CanonicalOptions,
    ) -> Result<Self, PathError> {
        if target == "*" {
            let asterisk = Self { target: "*".into(), path_len: 1 };
            return if method == "OPTIONS" { Ok(asterisk) } else { Err(PathError::Form) };
        }
        if target.starts_with('/') {
            return Self::parse(target, options);
        }
        if target.len() > options.bytes_max {
            return Err(PathError::TooLong);
        }
        let (scheme, rest) = target.split_once("://").ok_or(PathError::Form)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(PathError::Form);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let named = crate::host::canonical_host(authority).map_err(|_| PathError::Form)?;
        if named != host {
            return Err(PathError::Form);
        }
        if path.starts_with('/') {
            return Self::parse(path, options);
        }
        Self::parse(&format!("/{path}"), options)
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.get(..self.path_len).unwrap_or_default()
    }

    /// The query, without the `?`.
    pub fn query(&self) -> Option<&str> {
        self.target.get(self.path_len + 1..)
    }

    /// Path and query: what is forwarded.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The segments after the leading slash; a trailing slash gives a last, empty one.
    pub fn segments(&self) -> std::str::Split<'_, char> {
        let path = self.path();
        path.strip_prefix('/').unwrap_or(path).split('/')
    }
}

/// Shows the path only: a query may hold what nobody should log.
impl fmt::Debug for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CanonicalPath").field(&self.path()).finish()
    }
}

/// Whether a path is canonical as it came, as most are, because nothing in it has two readings:
/// no `%`, no `;`, no segment that is empty or begins with a dot, no byte that is refused.
fn is_plain(path: &str) -> bool {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'/' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'')
            || matches!(b, b'(' | b')' | b'*' | b'+' | b',' | b':' | b'=' | b'@')
    };
    let mut before = 0;
    path.bytes().all(|b| {
        let risky = before == b'/' && (b == b'/' || b == b'.');
        before = b;
        plain(b) && !risky
    })
}

fn check_bytes(path: &str) -> Result<(), PathError> {
    const REFUSED: &[u8] = b"\\\"<>^`{}|";
    if path.bytes().any(|b| REFUSED.contains(&b)) { Err(PathError::Byte) } else { Ok(()) }
}

fn check_escapes(path: &str) -> Result<(), PathError> {
    for after in after_percent(path) {
        match decoded(after) {
            None | Some(0x00..=0x1f | 0x7f) => return Err(PathError::Escape),
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_separators(path: &str) -> Result<(), PathError> {
    for after in after_percent(path) {
        let hidden = match decoded(after) {
            Some(b'/' | b'\\') => true,
            Some(b'%') => after.get(2..).is_some_and(|next| decoded(next).is_some()),
            _ => false,
        };
        if hidden {
            return Err(PathError::HiddenSeparator);
        }
    }
    Ok(())
}

fn check_utf8(path: &str) -> Result<(), PathError> {
    for segment in path.split('/').filter(|segment| segment.contains('%')) {
        String::from_utf8(percent_decoded(segment).collect()).map_err(|_| PathError::Utf8)?;
    }
    Ok(())
}

/// What follows each `%`.
fn after_percent(path: &str) -> impl Iterator<Item = &[u8]> {
    let bytes = path.as_bytes();
    let percents = bytes.iter().enumerate().filter(|(_, b)| **b == b'%');
    percents.filter_map(move |(at, _)| bytes.get(at + 1..))
}

/// The byte that two leading hex digits spell.
fn decoded(hex: &[u8]) -> Option<u8> {
    let [high, low, ..] = hex else { return None };
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

/// The bytes of a segment with its escapes resolved once.
pub(crate) fn percent_decoded(segment: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = segment.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        match decoded(after).filter(|_| *first == b'%') {
            Some(byte) => {
                rest = after.get(2..).unwrap_or_default();
                Some(byte)
            }
            None => {
                rest = after;
                Some(*first)
            }
        }
    })
}

/// Decodes escaped unreserved characters, writes other escapes with upper-case digits.
fn respell(path: &str, out: &mut String) {
    let mut rest = path;
    while let Some((plain, escaped)) = rest.split_once('%') {
        out.push_str(plain);
        match decoded(escaped.as_bytes()) {
            Some(b) if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(b));
            }
            _ => {
                out.push('%');
                out.push_str(&escaped.get(..2).unwrap_or_default().to_ascii_uppercase());
            }
        }
        rest = escaped.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
}

fn resolve_segments(path: String, mode: Normalization) -> Result<String, PathError> {
    let risky = path.contains("//") || path.split('/').any(|s| s == "." || s == "..");
    match (risky, mode) {
        (false, _) => return Ok(path),
        (true, Normalization::Reject) => return Err(PathError::Segments),
        (true, Normalization::Normalize) => {}
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in path.split('/') {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(PathError::Segments)?;
            }
            name => kept.push(name),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if folder || kept.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
}

/// Some applications cut a segment at `;`, so what stands before it must be a plain name even
/// where `;` is kept: `/..;/` must not become `/../` behind us.
fn check_params(path: &str, mode: PathParams) -> Result<(), PathError> {
    let semicolon = |segment: &str| match (segment.find(';'), segment.find("%3B")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    for segment in path.split('/').skip(1) {
        let Some(at) = semicolon(segment) else { continue };
        if mode == PathParams::Reject {
            return Err(PathError::PathParams);
        }
        if matches!(segment.get(..at), Some("" | "." | "..")) {
            return Err(PathError::Segments);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
