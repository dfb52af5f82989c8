//! Properties of hop lists: whatever is changed in one is noticed by somebody who relies on it.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::{prelude::*, sample::Index};

use super::{hops_world::*, world::*};
use crate::*;

const NAMES: [&str; 4] = [
    ORDERS,
    POD,
    "spiffe://prod.example.com/ns/shop/sa/billing",
    "spiffe://prod.example.com/ns/shop/sa/ledger",
];

/// The way over these workloads, from `orders`.
fn list_over(way: &[usize], token: &str) -> (HopList, &'static str, &'static str) {
    let mut list = None;
    let (mut from, mut to) = (ORDERS, ORDERS);
    for next in way {
        (from, to) = (to, NAMES[*next]);
        list = Some(passed_on(list.as_ref(), from, to, token, None));
    }
    (list.expect("a way of one step"), from, to)
}

/// The list without when its last record was made, and without that one's signature.
fn untimed(list: &HopList) -> Option<(String, serde_json::Value)> {
    let (signed, _signature) = list.text().rsplit_once('.')?;
    let (before, claims) = signed.rsplit_once('.')?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let mut claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims.as_object_mut()?.remove("iat")?;
    Some((before.to_owned(), claims))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// An honest path is accepted at its end, from the one before, and nowhere else.
    #[test]
    fn an_honest_path_leads_to_its_end(way in prop::collection::vec(0..4usize, 1..=8)) {
        let world = World::new();
        let text = world.token(&base_claims());
        let token = world.verify(&text).unwrap();
        let (list, from, to) = list_over(&way, &text);
        prop_assert_eq!(&read(list.text()), &list);
        let keys = Leaves::of(&NAMES);
        for peer in NAMES {
            for me in NAMES {
                let shown = custody_by(&token, peer, me, Some(&list), &keys);
                prop_assert_eq!(shown.is_ok(), peer == from && me == to, "{} to {}", peer, me);
                if let Ok(shown) = shown {
                    prop_assert_eq!(shown.holders.len(), way.len());
                    prop_assert!(shown.proven && shown.may_pass_on);
                }
            }
        }
    }

    /// One byte changed, anywhere before the peer's own signature: refused. There, and where the
    /// peer may have said another time, the next hop refuses it.
    #[test]
    fn a_changed_byte_is_noticed(
        way in prop::collection::vec(0..4usize, 1..=4),
        place in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let world = World::new();
        let text = world.token(&base_claims());
        let token = world.verify(&text).unwrap();
        let (list, from, to) = list_over(&way, &text);
        let keys = Leaves::of(&NAMES);
        let mut field = list.text().as_bytes().to_vec();
        let at = place.index(field.len());
        prop_assume!(field[at] != byte);
        field[at] = byte;
        let Ok(changed) = HopList::parse(&field, &Limits::default()) else { return Ok(()) };
        if changed == list {
            // Another spelling of the space between two records.
            return Ok(());
        }
        let own_signature = list.text().rfind('.').unwrap();
        let here = custody_by(&token, from, to, Some(&changed), &keys);
        if at > own_signature || untimed(&changed) != untimed(&list) {
            prop_assert_eq!(here.is_ok(), at > own_signature, "at {}", at);
        }
        if here.is_ok() {
            let on = passed_on(Some(&changed), to, POD, &text, None);
            prop_assert!(custody_by(&token, to, POD, Some(&on), &keys).is_err());
        }
    }

    /// No bytes make the reader panic, and what it reads it reads again from its own text.
    #[test]
    fn bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(list) = HopList::parse(&bytes, &Limits::default()) {
            prop_assert_eq!(&read(list.text()), &list);
        }
    }
}
