//! Decision ids: 26 characters that name one decision of one proxy.
//!
//! 48 bits of time in milliseconds, 16 bits that tell the proxy, 64 random bits, in Crockford's
//! base32. An id sorts by time and says nothing about the request.

use std::fmt;
use std::str::FromStr;

use crate::clock::Now;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// What each byte stands for; `NO_DIGIT`: nothing.
const DIGITS: [u8; 256] = digits();
const NO_DIGIT: u8 = 0xff;
/// Characters of an id.
pub const ID_LEN: usize = 26;

/// The id of one decision.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionId(u128);

/// The text is not a decision id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decision id has 26 characters of 0-9 and A-Z without I, L, O and U")]
pub struct NotADecisionId;

impl DecisionId {
    /// An id made at `now` by the proxy with this tag; `random` must be unpredictable.
    pub fn new(now: Now, tag: u16, random: u64) -> DecisionId {
        let time = u128::from(now.millis()) & 0xffff_ffff_ffff;
        DecisionId(time << 80 | u128::from(tag) << 64 | u128::from(random))
    }

    /// The tag of the proxy that made the id.
    pub fn tag(self) -> u16 {
        u16::try_from(self.0 >> 64 & 0xffff).unwrap_or(0)
    }

    /// The 26 characters, without allocating.
    pub fn encode(self) -> IdText {
        let mut text = [b'0'; ID_LEN];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or(0);
            *place = ALPHABET.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        IdText(text)
    }

    /// Does a header value have the form of an id? For ids that others made.
    pub fn is_id(value: &[u8]) -> bool {
        std::str::from_utf8(value).is_ok_and(|text| text.parse::<DecisionId>().is_ok())
    }
}

/// The text of an id, on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdText([u8; ID_LEN]);

impl IdText {
    /// The text.
    pub fn as_str(&self) -> &str {
        // The alphabet is ASCII, so this is always UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Ids are read for each response that comes back, so a digit is looked up, in either case.
const fn digits() -> [u8; 256] {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        let letter = ALPHABET[value];
        digits[letter as usize] = value as u8;
        digits[letter.to_ascii_lowercase() as usize] = value as u8;
        value += 1;
    }
    digits
}

impl FromStr for DecisionId {
    type Err = NotADecisionId;

    fn from_str(text: &str) -> Result<DecisionId, NotADecisionId> {
        if text.len() != ID_LEN {
            return Err(NotADecisionId);
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let digit = DIGITS.get(usize::from(byte)).copied().unwrap_or(NO_DIGIT);
            if digit == NO_DIGIT {
                return Err(NotADecisionId);
            }
            if value >> 123 != 0 {
                return Err(NotADecisionId);
            }
            value = value << 5 | u128::from(digit);
        }
        Ok(DecisionId(value))
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode().as_str())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_written_and_read() {
        let now = Now::from_micros(1_795_000_000_123_456);
        let id = DecisionId::new(now, 0xbeef, u64::MAX - 7);
        let text = id.to_string();
        assert_eq!(text.len(), ID_LEN);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_lowercase().parse(), Ok(id));
        assert_eq!(id.tag(), 0xbeef);
        assert!(DecisionId::is_id(text.as_bytes()));
    }

    #[test]
    fn ids_sort_by_time() {
        let earlier = DecisionId::new(Now::from_micros(1_000_000), 9, u64::MAX).to_string();
        let later = DecisionId::new(Now::from_micros(1_001_000), 0, 0).to_string();
        assert!(earlier < later);
    }

    #[test]
    fn other_texts_are_not_ids() {
        let id = DecisionId::new(Now::from_micros(0), 0, 0).to_string();
        for text in ["", "7q2mx1", &format!("{id}0"), &id.replacen('0', "U", 1), &"Z".repeat(26)] {
            assert_eq!(text.parse::<DecisionId>(), Err(NotADecisionId), "{text}");
        }
        assert!(!DecisionId::is_id(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"));
    }
}
