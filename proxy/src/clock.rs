//! The one clock. Everything that needs the time takes it as an argument that was read here.
//! Invariant: no other module of the data path reads the system clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// An instant of wall-clock time, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    micros: u64,
}

impl Now {
    /// Reads the system clock.
    pub fn read() -> Now {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { micros: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
    }

    /// An instant given in microseconds since the Unix epoch, for tests and replays.
    pub const fn from_micros(micros: u64) -> Now {
        Now { micros }
    }

    /// Whole seconds since the Unix epoch.
    pub fn secs(self) -> u64 {
        self.micros / 1_000_000
    }

    /// Whole milliseconds since the Unix epoch.
    pub fn millis(self) -> u64 {
        self.micros / 1_000
    }

    /// Microseconds since the Unix epoch.
    pub fn micros(self) -> u64 {
        self.micros
    }
}
