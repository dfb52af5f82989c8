//! Forged paths (T14). Every record is properly signed wherever the attacker has a key, and every
//! certificate is known, so that what refuses is the rule that is broken.
use serde_json::json;

use super::{hops_world::*, world::*};
use crate::*;

const BILLING: &str = "spiffe://prod.example.com/ns/shop/sa/billing";
const LEDGER: &str = "spiffe://prod.example.com/ns/shop/sa/ledger";
const ALL: [&str; 5] = [GATEWAY, ORDERS, BILLING, LEDGER, POD];

fn sound() -> (String, Verified<RequestContext>) {
    let world = World::new();
    let text = world.token(&base_claims());
    let token = world.verify(&text).unwrap();
    (text, token)
}

fn shown(
    token: &Verified<RequestContext>,
    peer: &str,
    me: &str,
    list: &HopList,
) -> Result<Custody, VerifyError> {
    custody_by(token, peer, me, Some(list), &Leaves::of(&ALL))
}

#[track_caller]
fn broken(result: Result<Custody, VerifyError>, why: &str) {
    let error = result.expect_err("custody was accepted");
    assert_eq!(error.reason(), "custody_broken", "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

/// Records in a row, as a field.
fn joined(records: &[&str]) -> HopList {
    read(&records.join(", "))
}

fn records(list: &HopList) -> Vec<&str> {
    list.text().split(", ").collect()
}

#[test]
fn attack_invents_a_previous_hop() {
    let (text, token) = sound();
    // `pod` got hold of the token and says that `orders` called it.
    let first = record(&hop_header(POD), &hop_payload(ORDERS, POD, &text), POD);
    broken(shown(&token, POD, BILLING, &continued(&first, POD, BILLING, &text)), "somebody else");
    // Under the name of the certificate of `orders`, which does not have that key.
    let first = record(&hop_header(ORDERS), &hop_payload(ORDERS, POD, &text), POD);
    broken(shown(&token, POD, BILLING, &continued(&first, POD, BILLING, &text)), "signature");
    // It begins with itself.
    let own = record(&hop_header(POD), &hop_payload(POD, BILLING, &text), POD);
    broken(shown(&token, POD, BILLING, &read(&own)), "do not begin at");
}

/// A list of one record, and the peer's own after it.
fn continued(first: &str, peer: &str, me: &str, token: &str) -> HopList {
    passed_on(Some(&read(first)), peer, me, token, None)
}

#[test]
fn attack_drops_the_first_hop() {
    let (text, token) = sound();
    let list = Path::from(ORDERS).to(BILLING).to(LEDGER).to(POD).list(&text);
    assert!(shown(&token, LEDGER, POD, &list).is_ok());
    let parts = records(&list);
    broken(shown(&token, LEDGER, POD, &joined(&parts[1..])), "do not begin at");
    broken(shown(&token, LEDGER, POD, &joined(&parts[2..])), "do not begin at");
    // One in the middle.
    broken(shown(&token, LEDGER, POD, &joined(&[parts[0], parts[2]])), "does not follow");
    // The own one: then the list ends at the peer, and nothing is addressed to us.
    broken(shown(&token, LEDGER, POD, &joined(&parts[..2])), "nothing shows how it got there");
    // All of it.
    let refused = custody_by(&token, LEDGER, POD, None, &Leaves::of(&ALL));
    broken(refused, "nothing shows how it got there");
}

#[test]
fn attack_reorders_hops() {
    let (text, token) = sound();
    // A path that comes back, so that links alone would fit in another order.
    let list = Path::from(ORDERS).to(BILLING).to(ORDERS).to(BILLING).to(LEDGER).list(&text);
    assert!(shown(&token, BILLING, LEDGER, &list).is_ok());
    let [a, b, c, d] = records(&list)[..] else { panic!() };
    for (order, why) in [
        ([c, b, a, d], "number"),
        ([a, d, c, b], "addressed to another"),
        ([b, a, c, d], "do not begin at"),
        ([a, b, a, d], "number"),
    ] {
        broken(shown(&token, BILLING, LEDGER, &joined(&order)), why);
    }
    broken(shown(&token, BILLING, LEDGER, &joined(&[a, d])), "number");
}

#[test]
fn attack_moves_hop_record_to_another_token() {
    let (text, token) = sound();
    let world = World::new();
    let other = world.changed(|claims| claims["sub"] = json!("user:mallory"));
    let first = Path::from(ORDERS).to(BILLING).list(&other);
    // `billing` was given mallory's token, and uses the record for alice's.
    let list = passed_on(Some(&first), BILLING, LEDGER, &text, None);
    broken(shown(&token, BILLING, LEDGER, &list), "another token");
    let list = Path::from(ORDERS).to(BILLING).list(&other);
    broken(shown(&token, ORDERS, BILLING, &list), "another token");
}

#[test]
fn attack_presents_hop_record_meant_for_another_callee() {
    let (text, token) = sound();
    let list = Path::from(ORDERS).to(BILLING).list(&text);
    broken(shown(&token, ORDERS, LEDGER, &list), "addressed to another");
    // Whoever sees it on its way to `billing` is not `billing`.
    let list = Path::from(ORDERS).to(BILLING).to(LEDGER).list(&text);
    for thief in [POD, ORDERS, LEDGER, GATEWAY] {
        broken(shown(&token, thief, LEDGER, &list), "nothing shows how it got there");
    }
}

#[test]
fn attack_signs_hop_record_with_certificate_of_another() {
    let (text, token) = sound();
    // The key of `pod` was stolen; its certificate is as good as any.
    let mut payload = hop_payload(ORDERS, BILLING, &text);
    let first = record(&hop_header(POD), &payload, POD);
    broken(shown(&token, BILLING, LEDGER, &continued(&first, BILLING, LEDGER, &text)), "else");
    // As a member of its own, which nobody reads.
    payload["act"] = json!({"sub": POD});
    let first = record(&hop_header(ORDERS), &payload, ORDERS);
    let refused = HopList::parse(first.as_bytes(), &Limits::default()).unwrap_err();
    assert_eq!(refused.reason(), "hops_malformed");
    // The peer's own record under a certificate that is not the connection's: it could not be
    // held to it later.
    let own = record(&hop_header(POD), &hop_payload(ORDERS, BILLING, &text), POD);
    broken(shown(&token, ORDERS, BILLING, &read(&own)), "another certificate");
}

#[test]
fn attack_sends_hop_certificate_of_other_domain() {
    let (text, token) = sound();
    let twin = "spiffe://evil.example.net/ns/shop/sa/orders";
    let mut keys = Leaves::of(&ALL);
    keys.add(leaf_of(twin), twin, twin, NOW.plus(3600));
    // A record of our workload under the certificate of its twin.
    let first = record(&hop_header(twin), &hop_payload(ORDERS, POD, &text), twin);
    let list = continued(&first, POD, BILLING, &text);
    broken(custody_by(&token, POD, BILLING, Some(&list), &keys), "somebody else");
    // A path that leads through the other domain.
    let list = Path::from(ORDERS).to(twin).to(BILLING).list(&text);
    broken(custody_by(&token, twin, BILLING, Some(&list), &keys), "another trust domain");
}

#[test]
fn attack_uses_hop_certificate_after_its_end() {
    let (text, token) = sound();
    let list = Path::from(ORDERS).to(BILLING).to(LEDGER).list(&text);
    let mut keys = Leaves::of(&ALL);
    keys.add(leaf_of(ORDERS), ORDERS, ORDERS, NOW);
    assert!(custody_by(&token, BILLING, LEDGER, Some(&list), &keys).is_ok());
    keys.add(leaf_of(ORDERS), ORDERS, ORDERS, UnixTime(NOW.0 - 1));
    broken(custody_by(&token, BILLING, LEDGER, Some(&list), &keys), "has ended");
    // Revoked or unknown: it is asked for, each once, and never taken on trust.
    keys.0.remove(&leaf_of(ORDERS));
    let refused = custody_by(&token, BILLING, LEDGER, Some(&list), &keys).unwrap_err();
    assert_eq!(refused, VerifyError::HopCertUnknown { thumbprints: vec![leaf_of(ORDERS)] });
    let long = Path::from(ORDERS).to(BILLING).to(ORDERS).to(POD).to(LEDGER).list(&text);
    let refused = custody(&token, POD, LEDGER, Some(&long)).unwrap_err();
    let thumbprints = vec![leaf_of(ORDERS), leaf_of(BILLING)];
    assert_eq!(refused, VerifyError::HopCertUnknown { thumbprints });
}

#[test]
fn attack_hands_on_a_bad_own_record() {
    let (text, token) = sound();
    let first = Path::from(ORDERS).to(BILLING).list(&text);
    let (signed, _) = first.text().rsplit_once('.').unwrap();
    let bad = read(&format!("{signed}.{}", jws::encode(&[7; 64])));
    // The callee has the channel, and accepts.
    assert!(shown(&token, ORDERS, BILLING, &bad).is_ok());
    // Who relies on the record does not.
    let list = passed_on(Some(&bad), BILLING, LEDGER, &text, None);
    broken(shown(&token, BILLING, LEDGER, &list), "false signature");
}

/// The stated limit: a path that returns to a workload can be cut back to its earlier stay there.
/// It shows nobody that was not on the path.
#[test]
fn attack_cuts_hops_back_to_its_earlier_stay() {
    let (text, token) = sound();
    let path = Path::from(ORDERS).to(BILLING).to(LEDGER).to(BILLING).list(&text);
    let early = joined(&records(&path)[..1]);
    let cut = passed_on(Some(&early), BILLING, POD, &text, None);
    let shown = shown(&token, BILLING, POD, &cut).unwrap();
    assert_eq!(shown.holders, [id(ORDERS), id(BILLING)]);
}

#[test]
fn attack_widens_the_scope_on_the_way() {
    let world = World::new();
    let text = world.changed(|claims| claims["scope"] = json!("orders.read orders.write"));
    let token = world.verify(&text).unwrap();
    let read_only = ["orders.read".to_owned()];
    let narrow = passed_on(None, ORDERS, BILLING, &text, Some(&read_only));
    assert_eq!(shown(&token, ORDERS, BILLING, &narrow).unwrap().scope, read_only);
    // It stays narrow without being said again.
    let on = passed_on(Some(&narrow), BILLING, LEDGER, &text, None);
    assert_eq!(shown(&token, BILLING, LEDGER, &on).unwrap().scope, read_only);
    // `append` does not widen it, and a record that does is refused.
    let wide = ["orders.read".to_owned(), "orders.write".to_owned()];
    let (sub, aud, tth) = (id(BILLING), id(LEDGER), [0; 32]);
    let hop = NewHop { sub: &sub, aud: &aud, iat: NOW, token_sha256: &tth, scope: Some(&wide) };
    let refused = append(Some(&narrow), &hop, &*signer_of(BILLING), &leaf_of(BILLING));
    assert_eq!(refused, Err(HopError::ScopeInvalid));
    for scope in ["orders.read orders.write", "orders.write", "admin"] {
        let mut payload = hop_payload(BILLING, LEDGER, &text);
        payload["n"] = json!(1);
        payload["prev"] = json!(jws::encode(&verify::sha256(narrow.text().as_bytes())));
        payload["scope"] = json!(scope);
        let own = record(&hop_header(BILLING), &payload, BILLING);
        let list = joined(&[narrow.text(), &own]);
        broken(shown(&token, BILLING, LEDGER, &list), "adds to the scope");
    }
}

#[test]
fn attack_sends_records_of_another_time() {
    let (text, token) = sound();
    let at = |iat: u64| {
        let mut payload = hop_payload(ORDERS, BILLING, &text);
        payload["iat"] = json!(iat);
        read(&record(&hop_header(ORDERS), &payload, ORDERS))
    };
    // The token lives from NOW - 10 to NOW + 50; clocks may differ by 30 s.
    for (iat, sound) in
        [(NOW.0 - 40, true), (NOW.0 - 41, false), (NOW.0 + 80, true), (NOW.0 + 81, false)]
    {
        assert_eq!(shown(&token, ORDERS, BILLING, &at(iat)).is_ok(), sound, "{iat}");
    }
    for (second, sound) in [(NOW.0 - 30, true), (NOW.0 - 31, false)] {
        let first = at(NOW.0);
        let mut payload = hop_payload(BILLING, LEDGER, &text);
        payload["n"] = json!(1);
        payload["iat"] = json!(second);
        payload["prev"] = json!(jws::encode(&verify::sha256(first.text().as_bytes())));
        let own = record(&hop_header(BILLING), &payload, BILLING);
        let list = joined(&[first.text(), &own]);
        assert_eq!(shown(&token, BILLING, LEDGER, &list).is_ok(), sound, "{second}");
    }
}

#[test]
fn attack_names_another_alg_in_a_hop_record() {
    let (text, token) = sound();
    for alg in ["none", "HS256", "RS256", "EdDSA", "es256", ""] {
        let mut header = hop_header(ORDERS);
        header["alg"] = json!(alg);
        let first = record(&header, &hop_payload(ORDERS, BILLING, &text), ORDERS);
        let refused = HopList::parse(first.as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!(refused.reason(), "hops_malformed", "{alg}");
    }
    // One that exists, for a key of the other kind.
    let mut header = hop_header(ORDERS);
    header["alg"] = json!("ES256");
    let first = record(&header, &hop_payload(ORDERS, BILLING, &text), ORDERS);
    broken(shown(&token, BILLING, LEDGER, &continued(&first, BILLING, LEDGER, &text)), "algorithm");
}
