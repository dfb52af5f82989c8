//! A wrapper for values that must not appear in any output.
//!
//! Invariant: there is no `Display`, no `Serialize` and no conversion into text; whoever needs the
//! value writes [`Redacted::expose`], which a reviewer can search for.

use std::fmt;

/// A secret or personal value. `Debug` prints `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Redacted<T> {
        Redacted(value)
    }

    /// The value itself. Never pass it to a log, a metric or an error text.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// Takes the value out.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
