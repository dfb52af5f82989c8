//! Windows at their edges, across midnight, and where clocks are changed.

use proptest::prelude::*;

use super::*;

fn atom(zone: &str, windows: &[(u8, u16, u16)]) -> TimeAtom {
    TimeAtom {
        zone_name: zone.to_owned(),
        zone: TimeZone::get(zone).unwrap(),
        windows: windows
            .iter()
            .map(|(days, from_min, to_min)| Window {
                days: *days,
                from_min: *from_min,
                to_min: *to_min,
            })
            .collect(),
        except: Vec::new(),
        evaluate_at: EvaluateAt::Now,
    }
}

fn ms(instant: &str) -> i64 {
    instant.parse::<Timestamp>().unwrap().as_millisecond()
}

fn until(atom: &TimeAtom, instant: &str) -> Option<String> {
    match atom.at(ms(instant)) {
        Hours::Inside { until_ms } => {
            Some(Timestamp::from_millisecond(until_ms).unwrap().to_string())
        }
        Hours::Outside => None,
        Hours::OutOfRange => Some("out of range".to_owned()),
    }
}

const WEEKDAYS: u8 = 0b001_1111;
const EVERY_DAY: u8 = 0b111_1111;

#[test]
fn windows_are_half_open() {
    let evening = atom("America/New_York", &[(WEEKDAYS, 17 * 60, 21 * 60)]);
    for (instant, end) in [
        ("2026-11-20T16:59:59.999-05:00", None),
        ("2026-11-20T17:00:00-05:00", Some("2026-11-21T02:00:00Z")),
        ("2026-11-20T20:59:59.999-05:00", Some("2026-11-21T02:00:00Z")),
        ("2026-11-20T21:00:00-05:00", None),
        ("2026-11-21T18:00:00-05:00", None),
    ] {
        assert_eq!(until(&evening, instant).as_deref(), end, "{instant}");
    }
    let next = evening.next_opening(ms("2026-11-20T22:14:00-05:00")).unwrap();
    assert_eq!(next.to_string(), "2026-11-23T17:00:00");
}

#[test]
fn a_window_across_midnight_belongs_to_the_day_it_starts() {
    let night = atom("UTC", &[(0b000_0001, 22 * 60, 6 * 60)]);
    for (instant, inside) in [
        ("2026-11-23T05:00:00Z", false),
        ("2026-11-23T22:00:00Z", true),
        ("2026-11-24T05:59:59Z", true),
        ("2026-11-24T06:00:00Z", false),
        ("2026-11-24T22:30:00Z", false),
    ] {
        assert_eq!(until(&night, instant).is_some(), inside, "{instant}");
    }
    let mut holiday = night.clone();
    holiday.except = vec!["2026-11-23".parse().unwrap()];
    assert_eq!(until(&holiday, "2026-11-24T05:00:00Z"), None);
    let mut morning_after = night;
    morning_after.except = vec!["2026-11-24".parse().unwrap()];
    assert!(until(&morning_after, "2026-11-24T05:00:00Z").is_some());
}

#[test]
fn midnight_may_be_written_as_the_end() {
    let late = atom("UTC", &[(EVERY_DAY, 20 * 60, 1440)]);
    assert_eq!(until(&late, "2026-11-23T23:59:59Z").as_deref(), Some("2026-11-24T00:00:00Z"));
    assert_eq!(until(&late, "2026-11-24T00:00:00Z"), None);
    let both = atom("UTC", &[(EVERY_DAY, 20 * 60, 1440), (EVERY_DAY, 0, 60)]);
    assert_eq!(until(&both, "2026-11-23T23:00:00Z").as_deref(), Some("2026-11-24T01:00:00Z"));
}

#[test]
fn a_repeated_hour_counts_twice_and_a_skipped_hour_never() {
    // Clocks go back at 2026-11-01T06:00Z: 01:00 to 02:00 local happens twice.
    let one_to_two = atom("America/New_York", &[(EVERY_DAY, 60, 120)]);
    assert_eq!(until(&one_to_two, "2026-11-01T05:30:00Z").as_deref(), Some("2026-11-01T07:00:00Z"));
    assert!(until(&one_to_two, "2026-11-01T06:30:00Z").is_some());
    assert_eq!(until(&one_to_two, "2026-11-01T07:00:00Z"), None);
    let half = atom("America/New_York", &[(EVERY_DAY, 60, 90)]);
    assert_eq!(until(&half, "2026-11-01T05:10:00Z").as_deref(), Some("2026-11-01T05:30:00Z"));
    assert_eq!(until(&half, "2026-11-01T05:40:00Z"), None);
    assert_eq!(until(&half, "2026-11-01T06:10:00Z").as_deref(), Some("2026-11-01T06:30:00Z"));
    // Clocks go forward at 2026-03-08T07:00Z: 02:00 to 03:00 local does not happen.
    let skipped = atom("America/New_York", &[(EVERY_DAY, 120, 180)]);
    for minute in 0..180 {
        let instant = ms("2026-03-08T06:00:00Z") + minute * 60_000;
        assert_eq!(skipped.at(instant), Hours::Outside);
    }
    let into_gap = atom("America/New_York", &[(EVERY_DAY, 60, 150)]);
    assert_eq!(until(&into_gap, "2026-03-08T06:30:00Z").as_deref(), Some("2026-03-08T07:00:00Z"));
}

#[test]
fn instants_without_a_date_are_out_of_range() {
    let always = atom("UTC", &[(EVERY_DAY, 0, 1440)]);
    assert_eq!(always.at(i64::MAX), Hours::OutOfRange);
    assert_eq!(always.at(i64::MIN), Hours::OutOfRange);
}

#[test]
fn windows_print_as_people_write_them() {
    let print = |days, from_min, to_min| Window { days, from_min, to_min }.to_string();
    assert_eq!(print(WEEKDAYS, 17 * 60, 21 * 60), "Mon-Fri 17:00-21:00");
    assert_eq!(print(0b101_0001, 0, 1440), "Mon,Fri,Sun 00:00-24:00");
}

proptest! {
    /// Inside holds up to the last millisecond and no longer, whatever the zone does.
    #[test]
    fn inside_ends_exactly_when_it_says(
        days in 1u8..=EVERY_DAY,
        from in 0u16..1440,
        to in 0u16..=1440,
        zone in prop::sample::select(vec!["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
        hour in 0i64..24 * 370,
        minute in 0i64..60,
    ) {
        let atom = atom(zone, &[(days, from, to)]);
        let now = ms("2026-01-01T00:00:00Z") + (hour * 60 + minute) * 60_000;
        if let Hours::Inside { until_ms } = atom.at(now) {
            prop_assert!(until_ms > now);
            let mut step = now;
            while step < until_ms && step < now + 36 * 3_600_000 {
                let inside = matches!(atom.at(step), Hours::Inside { .. });
                prop_assert!(inside);
                step += 15 * 60_000;
            }
        }
    }
}
