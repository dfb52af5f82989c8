//! Hours and days, in a named time zone.
//!
//! An instant is converted to local wall time, so a repeated hour counts twice and a skipped hour
//! never. Windows are half-open, `[from, to)`; one that ends at or before its start crosses
//! midnight and belongs to the day it starts. Zone data is compiled in.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

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

/// What a clock says about a `time` atom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hours {
    /// Inside a window; it ends then (Unix milliseconds, exclusive).
    Inside { until_ms: i64 },
    /// Outside all of them.
    Outside,
    /// The instant has no local time: outside the years a calendar knows.
    OutOfRange,
}

/// Days that `next_opening` looks ahead: windows may be weekly, calendars may remove some weeks.
const OPENING_DAYS_MAX: i32 = 400;

impl TimeAtom {
    /// Looks at an instant, in Unix milliseconds.
    pub(crate) fn at(&self, instant_ms: i64) -> Hours {
        let Some(instant) = Timestamp::from_millisecond(instant_ms).ok() else {
            return Hours::OutOfRange;
        };
        let local = self.zone.to_datetime(instant);
        let Some(mut end) = self.end_of_window(local) else { return Hours::Outside };
        // Windows that touch are one; more than a few that do are a week without an end.
        for _ in 0..8 {
            match self.end_of_window(end) {
                Some(later) if later > end => end = later,
                _ => break,
            }
        }
        Hours::Inside { until_ms: self.instant_after(end, instant) }
    }

    /// When the latest of the windows around this local time ends.
    fn end_of_window(&self, local: DateTime) -> Option<DateTime> {
        let today = local.date();
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        let yesterday = today.yesterday().ok();
        let mut latest = None;
        for window in &self.windows {
            let (from, to) = (i32::from(window.from_min), i32::from(window.to_min));
            let crosses = to <= from;
            let started_today = minute >= from && (crosses || minute < to);
            if started_today && self.starts_on(window, today) {
                let day = if crosses { today.tomorrow().ok() } else { Some(today) };
                latest = latest.max(day.and_then(|day| at_minute(day, to)));
            }
            let since_yesterday = crosses && minute < to;
            if since_yesterday && yesterday.is_some_and(|day| self.starts_on(window, day)) {
                latest = latest.max(at_minute(today, to));
            }
        }
        latest
    }

    fn starts_on(&self, window: &Window, day: Date) -> bool {
        let bit = 1u8 << day.weekday().to_monday_zero_offset();
        window.days & bit != 0 && self.except.binary_search(&day).is_err()
    }

    /// The first instant after `now` at which the local clock shows `end` or has jumped over it.
    fn instant_after(&self, end: DateTime, now: Timestamp) -> i64 {
        let ambiguous = self.zone.to_ambiguous_timestamp(end);
        let jumps = ambiguous.is_ambiguous() && self.skips(end);
        let found = if jumps {
            self.zone.following(now).next().map(|change| change.timestamp())
        } else {
            let earlier = ambiguous.earlier().ok().filter(|instant| *instant > now);
            earlier.or_else(|| self.zone.to_ambiguous_timestamp(end).later().ok())
        };
        found.map_or(now.as_millisecond(), Timestamp::as_millisecond)
    }

    /// Whether no instant has this local time.
    fn skips(&self, local: DateTime) -> bool {
        let compatible = self.zone.to_ambiguous_timestamp(local).compatible();
        compatible.is_ok_and(|instant| self.zone.to_datetime(instant) != local)
    }

    /// The local time at which the next window opens.
    pub(crate) fn next_opening(&self, instant_ms: i64) -> Option<DateTime> {
        let instant = Timestamp::from_millisecond(instant_ms).ok()?;
        let local = self.zone.to_datetime(instant);
        let mut day = local.date();
        for _ in 0..OPENING_DAYS_MAX {
            let starts = self
                .windows
                .iter()
                .filter(|window| self.starts_on(window, day))
                .filter_map(|window| at_minute(day, i32::from(window.from_min)))
                .filter(|start| *start > local)
                .min();
            if starts.is_some() {
                return starts;
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// The local time of an instant.
    pub(crate) fn local(&self, instant_ms: i64) -> Option<DateTime> {
        let instant = Timestamp::from_millisecond(instant_ms).ok()?;
        Some(self.zone.to_datetime(instant))
    }
}

/// A minute of a day; 1440 is the next midnight.
fn at_minute(day: Date, minute: i32) -> Option<DateTime> {
    if minute == 1440 {
        return Some(day.tomorrow().ok()?.at(0, 0, 0, 0));
    }
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    Some(day.at(hour, minute, 0, 0))
}

/// Short names of days, Monday first.
pub(crate) const DAY_NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl fmt::Display for Window {
    /// As in `Mon-Fri 17:00-21:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |day: usize| self.days & (1 << day) != 0;
        let mut first = true;
        let mut day = 0;
        while day < 7 {
            if !has(day) {
                day += 1;
                continue;
            }
            let start = day;
            while day < 7 && has(day) {
                day += 1;
            }
            let separator = if first { "" } else { "," };
            first = false;
            match day - start {
                1 => write!(f, "{separator}{}", DAY_NAMES[start])?,
                _ => write!(f, "{separator}{}-{}", DAY_NAMES[start], DAY_NAMES[day - 1])?,
            }
        }
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, " {}-{}", clock(self.from_min), clock(self.to_min))
    }
}

#[cfg(test)]
mod tests;
