//! Hours and days, in a named time zone.
//!
//! An instant is converted to local wall time, so a repeated hour counts twice and a skipped hour
//! never. Windows are half-open, `[from, to)`; one that ends at or before its start crosses
//! midnight and belongs to the day it starts. Zone data is compiled in.

use std::hash::{Hash, Hasher};

use jiff::{civil::Date, tz::TimeZone};

/// The `time` atom.
#[derive(Clone, Debug)]
pub struct TimeAtom {
    /// IANA name.
    pub zone_name: String,
    pub(crate) zone: TimeZone,
    /// Inside at least one of them.
    pub windows: Vec<Window>,
    /// Windows that start on one of these local dates do not count. Sorted.
    pub except: Vec<Date>,
    /// Which instant.
    pub evaluate_at: EvaluateAt,
}

/// Which instant a `time` atom looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvaluateAt {
    /// This proxy's clock.
    Now,
    /// When the request entered the mesh (`iat` of the token).
    Entry,
}

/// Minutes of some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Bit 0 is Monday.
    pub days: u8,
    /// First minute of the day.
    pub from_min: u16,
    /// First minute after; at or before `from_min`: on the next day. 1440 is midnight.
    pub to_min: u16,
}

impl PartialEq for TimeAtom {
    fn eq(&self, other: &Self) -> bool {
        self.zone_name == other.zone_name
            && self.windows == other.windows
            && self.except == other.except
            && self.evaluate_at == other.evaluate_at
    }
}

impl Eq for TimeAtom {}

impl Hash for TimeAtom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.zone_name.hash(state);
        self.windows.hash(state);
        self.evaluate_at.hash(state);
    }
}
