use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use countersign_ctxtoken::LocalSigner;

use super::*;

const PACE: Pace = Pace { publish_s: 10, overlap_s: 100 };

fn key(ends: Option<u64>) -> OwnKey {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let signer = LocalSigner::from_pkcs8_der(pkcs8.as_ref()).unwrap();
    OwnKey::new(signer.verifying_key().clone(), Arc::new(signer), ends)
}

/// Whenever in a second it is published.
#[test]
fn a_key_signs_when_everybody_had_time_to_fetch_it_twice() {
    let (key, pace) = (key(None), Pace::of(1, 330, true));
    for published_ms in (10_000..11_000).step_by(100) {
        let mut ring = Keyring::default();
        assert!(ring.offer(&key, published_ms / 1_000));
        let mut times = (published_ms..).step_by(100);
        let signs = |ms: &u64| ring.advance(ms / 1_000, pace, false, |_| true);
        let waited_ms = times.find(signs).unwrap() - published_ms;
        assert!((2_000..=3_100).contains(&waited_ms), "{published_ms}: {waited_ms}");
    }
    assert_eq!(Pace::of(1, 330, false).publish_s, 0);
}

fn kids(ring: &Keyring) -> Vec<String> {
    ring.published().iter().map(|key| key.key.kid()).collect()
}

fn signs(ring: &Keyring, now: u64) -> Option<String> {
    ring.in_use(now).map(|key| key.kid.to_string())
}

#[test]
fn a_key_signs_once_it_is_seen_and_everybody_had_time_to_fetch_it() {
    let (mut ring, first) = (Keyring::default(), key(None));
    assert!(ring.offer(&first, 1_000));
    assert_eq!(kids(&ring), [&*first.kid]);
    assert!(!ring.advance(1_000, PACE, false, |_| true), "seen, too early");
    assert!(!ring.advance(1_010, PACE, false, |_| false), "late enough, not seen");
    assert_eq!(signs(&ring, 1_010), None);
    assert!(ring.advance(1_011, PACE, false, |kid| kid == &*first.kid));
    assert_eq!(signs(&ring, 1_011).as_deref(), Some(&*first.kid));
    assert!(!ring.offer(&first, 1_012), "it is in use");
    assert!(!ring.advance(1_030, PACE, false, |_| true), "nothing new");
}

#[test]
fn a_set_that_is_made_by_hand_is_waited_for_once_only() {
    let (mut ring, first, second) = (Keyring::default(), key(None), key(None));
    ring.offer(&first, 1_000);
    assert!(ring.advance(1_000, PACE, true, |_| true));
    ring.offer(&second, 1_001);
    assert!(!ring.advance(1_001, PACE, true, |_| true), "others may still read the old file");
    assert!(ring.advance(1_011, PACE, true, |_| true));
}

#[test]
fn the_old_key_stays_published_for_the_overlap() {
    let (mut ring, first, second) = (Keyring::default(), key(None), key(None));
    ring.offer(&first, 0);
    ring.advance(10, PACE, false, |_| true);
    ring.offer(&second, 50);
    assert_eq!(kids(&ring), [&*first.kid, &*second.kid], "published before its use");
    assert_eq!(signs(&ring, 50).as_deref(), Some(&*first.kid));
    ring.advance(60, PACE, false, |_| true);
    assert_eq!(signs(&ring, 60).as_deref(), Some(&*second.kid));
    assert_eq!(kids(&ring), [&*second.kid, &*first.kid]);
    assert_eq!(ring.published()[1].expires, Some(UnixTime(160)));
    ring.advance(159, PACE, false, |_| true);
    assert_eq!(kids(&ring).len(), 2);
    ring.advance(160, PACE, false, |_| true);
    assert_eq!(kids(&ring), [&*second.kid]);
}

/// Certificates that are renewed faster than a key can be published must not starve each other.
#[test]
fn a_pending_key_is_used_before_the_next_one_is_taken() {
    let (mut ring, first, second) = (Keyring::default(), key(Some(1_000)), key(Some(2_000)));
    assert!(ring.offer(&first, 0));
    assert!(!ring.offer(&second, 5));
    ring.advance(10, PACE, false, |_| true);
    assert_eq!(signs(&ring, 10).as_deref(), Some(&*first.kid));
    assert!(ring.offer(&second, 11));
}

#[test]
fn a_key_ends_with_its_certificate() {
    let (mut ring, short, next) = (Keyring::default(), key(Some(100)), key(Some(500)));
    ring.offer(&short, 0);
    ring.advance(10, PACE, false, |_| true);
    assert!(signs(&ring, 99).is_some());
    assert_eq!(signs(&ring, 100), None);
    assert!(!ring.offer(&short, 100), "it has ended");
    // One that ended while it waited makes room.
    let waiting = key(Some(120));
    assert!(ring.offer(&waiting, 115));
    assert!(!ring.advance(126, PACE, false, |_| true));
    assert!(ring.offer(&next, 126));
    assert!(ring.advance(136, PACE, false, |_| true));
    assert_eq!(signs(&ring, 136).as_deref(), Some(&*next.kid));
}

#[test]
fn keys_of_before_a_restart_stay_published() {
    let (mut ring, old, again) = (Keyring::default(), key(None), key(None));
    ring.remember([old.public.clone(), again.public.clone()], 1_000, PACE);
    assert_eq!(kids(&ring).len(), 2);
    assert_eq!(signs(&ring, 1_000), None, "public halves sign nothing");
    // A key that is back, such as that of a certificate, is no retired one.
    ring.offer(&again, 1_000);
    assert_eq!(ring.published().iter().filter(|key| key.key == again.public).count(), 1);
    assert_eq!(ring.published()[0].expires, None);
    ring.advance(1_100, PACE, false, |_| true);
    assert_eq!(kids(&ring), [&*again.kid]);
}

#[test]
fn a_clock_that_was_set_back_does_not_stretch_the_wait() {
    let (mut ring, first) = (Keyring::default(), key(None));
    ring.offer(&first, 100_000);
    assert!(ring.advance(5, PACE, false, |_| true));
}

/// However keys come and go, what signs is published, and what signed is published long enough.
#[test]
fn what_signs_is_always_published() {
    let (mut ring, mut signed) = (Keyring::default(), Vec::<(String, u64)>::new());
    for now in 0..2_000 {
        if now % 7 == 0 {
            ring.offer(&key(Some(now + 40)), now);
        }
        ring.advance(now, PACE, false, |kid| kid.as_bytes()[0] % 3 != 0 || now % 5 == 0);
        let published = kids(&ring);
        assert!(published.len() <= RETIRED_MAX + 2);
        if let Some(kid) = signs(&ring, now) {
            assert!(published.contains(&kid));
            signed.retain(|(old, _)| *old != kid);
            signed.push((kid, now));
        }
        for (kid, last) in &signed {
            assert!(now >= last + PACE.overlap_s || published.contains(kid), "{kid} at {now}");
        }
    }
    assert!(signed.len() > 20, "{}", signed.len());
}
