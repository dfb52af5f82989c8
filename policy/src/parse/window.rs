//! Reads the `time` atom: a zone by its IANA name, days, quoted hours.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::known::Known;
use crate::{
    time::{EvaluateAt, TimeAtom, Window},
    yaml::{Fields, Findings, Node, Value, did_you_mean, read},
};

const DAYS: &[(&str, u8)] =
    &[("Mon", 0), ("Tue", 1), ("Wed", 2), ("Thu", 3), ("Fri", 4), ("Sat", 5), ("Sun", 6)];

pub(super) fn time(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<TimeAtom> {
    let mut fields = Fields::of(node, "time", findings)?;
    let zone = match fields.optional("timeZone") {
        Some(node) => zone(node, findings),
        None => {
            findings
                .error("E006", fields.span(), "`time` needs `timeZone`: there is no default zone")
                .hint("write an IANA name, such as `timeZone: America/New_York`, or `UTC`");
            None
        }
    };
    let items = read::filled_list(fields.required("windows", findings), findings);
    let windows: Vec<Option<Window>> = items.iter().map(|node| window(node, findings)).collect();
    let except = except(fields.optional("exceptCalendars"), known, findings);
    let instants = [("now", EvaluateAt::Now), ("entry", EvaluateAt::Entry)];
    let evaluate_at = match fields.optional("evaluateAt") {
        Some(node) => read::one_of(node, &instants, findings),
        None => Some(EvaluateAt::Now),
    };
    fields.finish(findings);
    let (zone_name, zone) = zone?;
    let windows = windows.into_iter().collect::<Option<Vec<_>>>()?;
    Some(TimeAtom { zone_name, zone, windows, except, evaluate_at: evaluate_at? })
}

/// An IANA name with a region, or `UTC`. Abbreviations mean different things in different places.
fn zone(node: &Node, findings: &mut Findings<'_>) -> Option<(String, TimeZone)> {
    let name = read::string(node, findings)?;
    let found = TimeZone::get(&name).ok().filter(|_| name.contains('/') || name == "UTC");
    let exact = found.filter(|zone| zone.iana_name() == Some(&*name));
    if let Some(zone) = exact {
        return Some((name, zone));
    }
    let names: Vec<String> =
        jiff::tz::db().available().map(|known| known.as_str().to_owned()).collect();
    let near = did_you_mean(&name, names.iter().map(String::as_str).filter(|n| n.contains('/')));
    let hint = near
        .unwrap_or_else(|| "write an IANA name, such as `America/New_York`, or `UTC`".to_owned());
    findings.error("E006", node.span, format!("`{name}` is not a time zone")).hint(hint);
    None
}

fn window(node: &Node, findings: &mut Findings<'_>) -> Option<Window> {
    let mut fields = Fields::of(node, "a window", findings)?;
    let days = days(fields.required("days", findings), findings);
    let from = fields.required("from", findings).and_then(|node| minute(node, false, findings));
    let to = fields.required("to", findings).and_then(|node| minute(node, true, findings));
    fields.finish(findings);
    Some(Window { days: days?, from_min: from?, to_min: to? })
}

/// `[Mon-Fri, Sun]`, as bits.
fn days(node: Option<&Node>, findings: &mut Findings<'_>) -> Option<u8> {
    let mut bits = 0u8;
    let mut good = true;
    let items = read::filled_list(node, findings);
    for item in items {
        let text = item.text().unwrap_or_default();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let index = |name: &str| DAYS.iter().find(|(own, _)| *own == name).map(|(_, at)| *at);
        let (Some(first), Some(last)) = (index(first), index(last)) else {
            findings
                .error("E006", item.span, format!("{} is not a day", item.describe()))
                .hint("days are Mon, Tue, Wed, Thu, Fri, Sat, Sun, and ranges such as Mon-Fri");
            good = false;
            continue;
        };
        let mut day = first;
        bits |= 1 << day;
        while day != last {
            day = (day + 1) % 7;
            bits |= 1 << day;
        }
    }
    (good && bits != 0).then_some(bits)
}

/// `"HH:MM"` as minutes; `"24:00"` only as an end.
fn minute(node: &Node, end: bool, findings: &mut Findings<'_>) -> Option<u16> {
    if let Value::Scalar { text, plain: true } = &node.value
        && text.bytes().all(|b| b.is_ascii_digit())
    {
        let message = format!("{} is not a time of day", node.describe());
        findings.error("E006", node.span, message).hint("write \"HH:MM\", in quotes");
        return None;
    }
    let text = read::string(node, findings)?;
    let parsed = match text.as_bytes() {
        [a, b, b':', c, d] if [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Some((digit(a) * 10 + digit(b), digit(c) * 10 + digit(d)))
        }
        _ => None,
    };
    let minutes = parsed.filter(|(h, m)| *m < 60 && (*h < 24 || (end && *h == 24 && *m == 0)));
    if minutes.is_none() {
        let message = format!("`{text}` is not a time of day");
        findings
            .error("E006", node.span, message)
            .hint("write \"HH:MM\", from \"00:00\" to \"23:59\"; an end may be \"24:00\"");
    }
    minutes.map(|(hours, minutes)| hours * 60 + minutes)
}

fn except(node: Option<&Node>, known: &Known, findings: &mut Findings<'_>) -> Vec<Date> {
    let mut dates = BTreeSet::new();
    for item in read::filled_list(node, findings) {
        let Some(name) = read::string(item, findings) else { continue };
        let place = |(span, _): &(crate::yaml::Span, Vec<Date>)| *span;
        if Known::check(item, &name, "calendar", &known.calendars, place, findings)
            && let Some((_, calendar)) = known.calendars.get(&name)
        {
            dates.extend(calendar.iter().copied());
        }
    }
    dates.into_iter().collect()
}

/// An RFC 3339 instant, as Unix milliseconds.
pub(crate) fn instant(node: &Node, findings: &mut Findings<'_>) -> Option<i64> {
    let text = read::string(node, findings)?;
    match text.parse::<Timestamp>() {
        Ok(instant) => Some(instant.as_millisecond()),
        Err(_) => {
            findings
                .error("E006", node.span, format!("`{text}` is not an instant"))
                .hint("write it with an offset: \"2026-11-20T18:00:00-05:00\"");
            None
        }
    }
}
