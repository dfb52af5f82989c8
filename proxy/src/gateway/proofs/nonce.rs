//! Nonces for DPoP proofs (RFC 9449 §8, §9): made from the time and a key of this process, so that
//! none has to be remembered. A proof that repeats one was made lately and for this process; at
//! another replica, or after a restart, the client is told a new one.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Now;

/// How often the nonce changes.
const PERIOD_S: u64 = 60;
/// Earlier periods whose nonces still count.
const PERIODS_MAX: u64 = 4;
/// Bytes of the tag that travel.
const TAG_BYTES: usize = 16;

/// Makes and recognises nonces.
pub(super) struct Nonces {
    key: hmac::Key,
}

/// How old a nonce is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Of this period.
    Fresh,
    /// Of an earlier one; the client should be told another.
    Ages,
    /// Not ours, too old, or none.
    Stale,
}

impl Nonces {
    pub(super) fn new(key: &[u8; 32]) -> Nonces {
        Nonces { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The nonce of this period.
    pub(super) fn issue(&self, now: Now) -> String {
        let period = (now.secs() / PERIOD_S).to_be_bytes();
        let tag = hmac::sign(&self.key, &period);
        let tag = tag.as_ref().get(..TAG_BYTES).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([&period[..], tag].concat())
    }

    /// How old a nonce is that a proof repeats.
    pub(super) fn judge(&self, nonce: Option<&str>, now: Now) -> Freshness {
        let current = now.secs() / PERIOD_S;
        let Some(period) = nonce.and_then(|nonce| self.period(nonce)) else {
            return Freshness::Stale;
        };
        match current.checked_sub(period) {
            Some(0) => Freshness::Fresh,
            Some(1..=PERIODS_MAX) => Freshness::Ages,
            Some(_) | None => Freshness::Stale,
        }
    }

    /// The period a nonce of ours is of.
    fn period(&self, nonce: &str) -> Option<u64> {
        if nonce.len() > 2 * (8 + TAG_BYTES) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (period, tag) = bytes.split_first_chunk::<8>()?;
        let made = hmac::sign(&self.key, period);
        let made = made.as_ref().get(..TAG_BYTES)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(made, tag).ok()?;
        Some(u64::from_be_bytes(*period))
    }
}
