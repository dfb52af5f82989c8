//! Types that carry a token and cannot print it. A log line, a span or a panic text that holds
//! one of these shows a hash prefix at most.

use std::fmt;

/// A value that must not be printed: no `Display`, and `Debug` writes `Redacted(..)`.
///
/// ```
/// let secret = countersign_ctxtoken::Redacted::new("eyJ…".to_owned());
/// assert_eq!(format!("{secret:?}"), "Redacted(..)");
/// assert_eq!(secret.expose(), "eyJ…");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it. Grep for this name.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself, for the one place that needs it. Grep for this name.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redacted(..)")
    }
}

/// The text of a minted token. `Debug` shows the first 12 hex digits of its SHA-256, which is how
/// logs name a token.
#[derive(Clone, PartialEq, Eq)]
pub struct ContextToken {
    text: Redacted<String>,
    sha256: [u8; 32],
}

impl ContextToken {
    /// A token, by the hash of its text.
    pub(crate) fn new(text: String, sha256: [u8; 32]) -> Self {
        Self { text: Redacted::new(text), sha256 }
    }

    /// SHA-256 of the text.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The token as it goes into the header field. Grep for this name.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// The text itself, for a header value that takes ownership. Grep for this name.
    pub fn into_exposed(self) -> String {
        self.text.into_exposed()
    }
}

impl fmt::Debug for ContextToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContextToken(")?;
        for byte in self.sha256.iter().take(6) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}
