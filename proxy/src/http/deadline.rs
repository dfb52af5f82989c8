//! The deadline a gRPC call brings along (`grpc-timeout`): read, counted from the arrival of the
//! call, and handed on reduced by the time already spent. Pure.
//!
//! Invariant: a call never gets more time than its caller gave it, and what is handed on is never
//! more than what is left.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// `grpc-timeout`.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A `grpc-timeout` that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout is not up to 8 digits and a unit")]
pub struct Malformed;

/// The time the caller gives, if it says so.
///
/// # Errors
/// [`Malformed`]; two lines are malformed too, because two servers may read two values.
pub fn read(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let mut lines = headers.get_all(GRPC_TIMEOUT).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => parse(only.as_bytes()).map(Some).ok_or(Malformed),
        (Some(_), Some(_)) => Err(Malformed),
    }
}

/// What is left after `spent`, which the head says from now on.
///
/// # Errors
/// As [`read`].
pub fn reduce(headers: &mut HeaderMap, spent: Duration) -> Result<Option<Duration>, Malformed> {
    let left = read(headers)?.map(|given| given.saturating_sub(spent));
    if let Some(left) = left {
        write(headers, left);
    }
    Ok(left)
}

/// gRPC over HTTP/2, "Requests": `TimeoutValue` is 1 to 8 digits, `TimeoutUnit` one of six letters.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(value * 3_600)),
        b'M' => Some(Duration::from_secs(value * 60)),
        b'S' => Some(Duration::from_secs(value)),
        b'm' => Some(Duration::from_millis(value)),
        b'u' => Some(Duration::from_micros(value)),
        b'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// States the time that is left, in the finest unit that fits 8 digits, rounded down.
pub fn write(headers: &mut HeaderMap, left: Duration) {
    const MAX: u128 = 99_999_999;
    let (nanos, micros, millis) = (left.as_nanos(), left.as_micros(), left.as_millis());
    let (value, unit) = match () {
        () if nanos <= MAX => (nanos, 'n'),
        () if micros <= MAX => (micros, 'u'),
        () if millis <= MAX => (millis, 'm'),
        () if u128::from(left.as_secs()) <= MAX => (u128::from(left.as_secs()), 'S'),
        () => (u128::from(left.as_secs() / 3_600).min(MAX), 'H'),
    };
    if let Ok(text) = HeaderValue::from_str(&format!("{value}{unit}")) {
        headers.insert(GRPC_TIMEOUT, text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<Option<Duration>, Malformed> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, text.parse().expect("a value"));
        read(&headers)
    }

    #[test]
    fn every_unit_is_read() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("500m", Duration::from_millis(500)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(of(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(read(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in ["", "S", "5", "123456789S", "-1S", "+1S", "1 S", "1s", "1SS", "0x1S", "1.5S"] {
            assert_eq!(of(text), Err(Malformed), "{text}");
        }
        let mut twice = HeaderMap::new();
        twice.append(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        twice.append(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        assert_eq!(read(&twice), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_never_more(secs in 0_u64..500_000_000_000, nanos in 0_u32..1_000_000_000) {
            let left = Duration::new(secs, nanos);
            let mut headers = HeaderMap::new();
            write(&mut headers, left);
            let back = read(&headers).expect("well-formed").expect("present");
            prop_assert!(back <= left);
            // Rounding loses less than the ten-millionth part, but for hours.
            prop_assert!(back.as_secs_f64() * 1.0002 + 3_600.0 >= left.as_secs_f64() || secs > 99_999_999 * 3_600);
        }
    }
}
