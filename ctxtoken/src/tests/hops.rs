//! Reading and adding hop records.
use serde_json::json;

use super::{hops_world::*, world::*};
use crate::*;

const LONG: &str = "spiffe://prod.example.com/ns/a-namespace-with-quite-a-long-name/sa/and-an-account-of-the-same-kind-with-a-name-that-does-not-end-before-the-eighth-record-of-its-list-is-too-long";

#[test]
fn what_is_appended_is_read_again() {
    let token = World::new().token(&base_claims());
    let list = Path::from(ORDERS).to(POD).to(GATEWAY).list(&token);
    assert_eq!(list.len(), 2);
    assert_eq!(read(list.text()), list);
    let path: Vec<_> = list.path().map(|(sub, aud)| (sub.as_str(), aud.as_str())).collect();
    assert_eq!(path, [(ORDERS, POD), (POD, GATEWAY)]);
    assert_eq!(list.thumbprints().collect::<Vec<_>>(), [&leaf_of(ORDERS), &leaf_of(POD)]);
    assert_eq!((list.newest(), list.scope()), (NOW, None));
}

#[test]
fn known_ids_read_the_same() {
    let token = World::new().token(&base_claims());
    let list = Path::from(ORDERS).to(POD).to(GATEWAY).to(ORDERS).list(&token);
    let (orders, pod, other) = (id(ORDERS), id(POD), id(FOREIGN));
    for near in [&[][..], &[&orders], &[&other, &pod, &orders]] {
        let again = HopList::parse_near(list.text().as_bytes(), &Limits::default(), near);
        assert_eq!(again.as_ref(), Ok(&list));
    }
}

/// Text that names nobody's secret: a list is worth something beside its token.
#[test]
fn a_list_is_shown_by_whom_it_names() {
    let list = Path::from(ORDERS).to(POD).list(&World::new().token(&base_claims()));
    let shown = format!("{list:?}");
    assert!(shown.contains(ORDERS) && shown.contains(POD), "{shown}");
    assert!(list.text().split('.').all(|part| !shown.contains(part)), "{shown}");
}

#[test]
fn eight_records_are_the_most() {
    let token = World::new().token(&base_claims());
    let mut path = Path::from(ORDERS);
    for at in 0..8 {
        path = path.to([POD, ORDERS][at % 2]);
    }
    let list = path.list(&token);
    assert_eq!(list.len(), 8);
    let (sub, aud, tth) = (id(ORDERS), id(POD), [0; 32]);
    let hop = NewHop { sub: &sub, aud: &aud, iat: NOW, token_sha256: &tth, scope: None };
    let ninth = append(Some(&list), &hop, &*signer_of(ORDERS), &leaf_of(ORDERS));
    assert_eq!(ninth, Err(HopError::TooMany { limit: 8 }));
    let nine = format!("{}, {}", list.text(), list.text().split(", ").next().unwrap());
    let refused = HopList::parse(nine.as_bytes(), &Limits::default()).unwrap_err();
    assert_eq!(refused, VerifyError::HopsMalformed("too many records"));
}

/// Eight records with long identities do not fit; the call that would not fit is refused here,
/// not at the other end.
#[test]
fn a_list_over_its_limit_is_not_made() {
    let token = World::new().token(&base_claims());
    let mut list: Option<HopList> = None;
    let (sub, tth) = (id(LONG), verify::sha256(token.as_bytes()));
    let refused = loop {
        let hop = NewHop { sub: &sub, aud: &sub, iat: NOW, token_sha256: &tth, scope: None };
        match append(list.as_ref(), &hop, &*signer_of(LONG), &leaf_of(LONG)) {
            Ok(field) => list = Some(read(&field)),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, HopError::TooLarge { limit: 6144, .. }), "{refused}");
    assert!(list.is_some_and(|list| list.len() >= 6 && list.text().len() <= 6144));
}

/// A workload adds nothing to a list that does not lead to it.
#[test]
fn only_the_last_holder_appends() {
    let token = World::new().token(&base_claims());
    let list = Path::from(ORDERS).to(POD).list(&token);
    let (sub, aud, tth) = (id(ORDERS), id(GATEWAY), [0; 32]);
    let hop = NewHop { sub: &sub, aud: &aud, iat: NOW, token_sha256: &tth, scope: None };
    let refused = append(Some(&list), &hop, &*signer_of(ORDERS), &leaf_of(ORDERS));
    assert_eq!(refused, Err(HopError::NotTheHolder));
    for scope in [vec![], vec!["a b".to_owned()], vec!["a".to_owned(), "a".to_owned()]] {
        let hop =
            NewHop { sub: &sub, aud: &aud, iat: NOW, token_sha256: &tth, scope: Some(&scope) };
        let refused = append(None, &hop, &*signer_of(ORDERS), &leaf_of(ORDERS));
        assert_eq!(refused, Err(HopError::ScopeInvalid));
    }
}

#[test]
fn lists_that_lead_alike_differ_in_bytes_only() {
    let token = World::new().token(&base_claims());
    let one = Path::from(ORDERS).to(POD).list(&token);
    let mut payload = hop_payload(ORDERS, POD, &token);
    payload["iat"] = json!(NOW.0 + 1);
    let two = read(&record(&hop_header(ORDERS), &payload, ORDERS));
    assert!(one != two && one.leads_as(&two));
    assert!(two.newest() > one.newest());
    payload["scope"] = json!("orders.read");
    assert!(!one.leads_as(&read(&record(&hop_header(ORDERS), &payload, ORDERS))));
    assert!(!one.leads_as(&Path::from(ORDERS).to(GATEWAY).list(&token)));
    assert!(!one.leads_as(&Path::from(ORDERS).to(POD).to(POD).list(&token)));
}

#[test]
fn only_a_list_of_bare_tokens_is_read() {
    let sound = Path::from(ORDERS).to(POD).list(&World::new().token(&base_claims()));
    let text = sound.text();
    for same in [format!("  {text} "), format!("{text}\t"), text.to_owned()] {
        assert_eq!(HopList::parse(same.as_bytes(), &Limits::default()).as_ref(), Ok(&sound));
    }
    for bad in [
        String::new(),
        " ".to_owned(),
        ",".to_owned(),
        format!("{text},"),
        format!(",{text}"),
        format!("{text},,{text}"),
        format!("{text};a=1"),
        format!("{text};a"),
        format!("\"{text}\""),
        format!("({text})"),
        format!(":{text}:"),
        format!("{text} {text}"),
        format!("{text}\u{e9}"),
        text.replacen('e', "1", 1),
        text.replace('.', ".."),
        text.rsplit_once('.').unwrap().0.to_owned(),
        format!("{text}.AAAA"),
        format!("{text}="),
    ] {
        let refused = HopList::parse(bad.as_bytes(), &Limits::default()).map(|_| ()).unwrap_err();
        assert_eq!(refused.reason(), "hops_malformed", "{bad:?}");
    }
    assert!(HopList::parse(b"\xff.a.b", &Limits::default()).is_err());
}

/// Members are known, each there once, of their type; nothing is skipped.
#[test]
fn records_say_exactly_what_the_profile_has() {
    let token = World::new().token(&base_claims());
    let payload = hop_payload(ORDERS, POD, &token);
    let parse = |header: &str, payload: &str| {
        let record = signed(header, payload, &signer_of(ORDERS));
        HopList::parse(record.as_bytes(), &Limits::default()).map(|_| ())
    };
    let header = hop_header(ORDERS).to_string();
    assert_eq!(parse(&header, &payload.to_string()), Ok(()));
    let changes = [
        ("sub", json!(null)),
        ("sub", json!("orders")),
        ("aud", json!([POD])),
        ("aud", json!("spiffe://prod.example.com/a/../b")),
        ("iat", json!("1")),
        ("iat", json!(-1)),
        ("iat", json!(1.5)),
        ("iat", json!(1_u64 << 54)),
        ("n", json!(true)),
        ("tth", json!("AAAA")),
        ("tth", json!("A".repeat(43) + "=")),
        ("prev", json!("B".repeat(43))),
        ("scope", json!("")),
        ("scope", json!("a  b")),
        ("scope", json!(["a"])),
        ("exp", json!(1)),
        ("crit", json!([])),
    ];
    for (name, value) in changes {
        let mut changed = payload.clone();
        changed[name] = value.clone();
        let refused = parse(&header, &changed.to_string()).map_err(|error| error.reason());
        assert_eq!(refused, Err("hops_malformed"), "{name}: {value}");
    }
    for name in ["sub", "aud", "iat", "n", "tth"] {
        let mut changed = payload.clone();
        changed.as_object_mut().unwrap().remove(name);
        assert!(parse(&header, &changed.to_string()).is_err(), "without {name}");
    }
    let twice = payload.to_string().replacen('{', &format!(r#"{{"sub":"{POD}","#), 1);
    assert!(parse(&header, &twice).is_err());
    for (name, value) in [
        ("typ", json!("txntoken+jwt")),
        ("typ", json!("application/csign-hop+jwt")),
        ("typ", json!("JWT")),
        ("kid", json!("-cpTiXlS4UDu-JSb")),
        ("x5c", json!(["MAA="])),
        ("crit", json!(["exp"])),
        ("jwk", json!({})),
    ] {
        let mut changed = hop_header(ORDERS);
        changed[name] = value;
        assert!(parse(&changed.to_string(), &payload.to_string()).is_err(), "{name}");
    }
    for name in ["alg", "typ", "kid"] {
        let mut changed = hop_header(ORDERS);
        changed.as_object_mut().unwrap().remove(name);
        assert!(parse(&changed.to_string(), &payload.to_string()).is_err(), "without {name}");
    }
}

/// What was verified once is not verified again, and only what was verified is remembered.
#[test]
fn verified_records_are_remembered() {
    let world = World::new();
    let text = world.token(&base_claims());
    let token = world.verify(&text).unwrap();
    let seen = VerifiedHops::new(64);
    let (pod, gateway) = (id(POD), id(GATEWAY));
    let keys = Leaves::of(&[ORDERS]);
    let check = |list: &HopList| {
        let with = CustodyWith {
            peer: &pod,
            peer_leaf_sha256: leaf_of(POD),
            me: &gateway,
            hops: Some(list),
            keys: &keys,
            seen: Some(&seen),
            now: NOW,
            skew_s: 30,
            required: true,
        };
        check_custody(&token, &with)
    };
    let list = Path::from(ORDERS).to(POD).to(GATEWAY).list(&text);
    let forged = record(&hop_header(ORDERS), &hop_payload(ORDERS, POD, &text), POD);
    let forged = passed_on(Some(&read(&forged)), POD, GATEWAY, &text, None);
    assert!(check(&forged).is_err());
    assert!(seen.is_empty());
    assert!(check(&list).is_ok() && check(&list).is_ok());
    assert_eq!(seen.len(), 1);
    assert!(check(&forged).is_err());
}

#[test]
fn without_custody_everything_passes_and_nothing_is_proven() {
    let world = World::new();
    let text = world.changed(|claims| claims["scope"] = json!("orders.read orders.write"));
    let token = world.verify(&text).unwrap();
    let (pod, gateway) = (id(POD), id(GATEWAY));
    let off = |hops| CustodyWith {
        peer: &pod,
        peer_leaf_sha256: leaf_of(POD),
        me: &gateway,
        hops,
        keys: &NO_LEAVES,
        seen: None,
        now: NOW,
        skew_s: 30,
        required: false,
    };
    let shown = check_custody(&token, &off(None)).unwrap();
    assert!(!shown.proven && shown.holders.is_empty() && shown.may_pass_on);
    assert_eq!(shown.scope, ["orders.read", "orders.write"]);
    // What a record took from the scope stays taken, whoever signed it.
    let narrow = passed_on(None, ORDERS, POD, &text, Some(&["orders.read".to_owned()]));
    let list = passed_on(Some(&narrow), POD, GATEWAY, &text, None);
    let shown = check_custody(&token, &off(Some(&list))).unwrap();
    assert!(!shown.proven);
    assert_eq!(shown.scope, ["orders.read"]);
}

static NO_LEAVES: Leaves = Leaves(std::collections::BTreeMap::new());
