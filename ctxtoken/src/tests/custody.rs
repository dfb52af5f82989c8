//! Custody and presenters, as tables.
use super::{hops_world::*, world::*};
use crate::*;

#[test]
fn custody_follows_the_first_holder() {
    let world = World::new();
    let context = world.verify(&world.token(&base_claims())).unwrap();
    let billing = "spiffe://prod.example.com/ns/shop/sa/billing";
    for (peer, me, holds) in [
        // The issuer hands over to the first holder.
        (GATEWAY, ORDERS, true),
        // The first holder calls anybody, itself included.
        (ORDERS, billing, true),
        (ORDERS, GATEWAY, true),
        (ORDERS, ORDERS, true),
        // Everybody else has no path to show.
        (GATEWAY, billing, false),
        (billing, ORDERS, false),
        (billing, GATEWAY, false),
        (FOREIGN, ORDERS, false),
    ] {
        let checked = custody(&context, peer, me, None);
        assert_eq!(checked.is_ok(), holds, "{peer} to {me}");
    }
}

#[test]
fn custody_follows_the_records() {
    let world = World::new();
    let text = world.token(&base_claims());
    let token = world.verify(&text).unwrap();
    let list = Path::from(ORDERS).to(POD).to(GATEWAY).list(&text);
    let keys = Leaves::of(&[ORDERS]);
    let shown = custody_by(&token, POD, GATEWAY, Some(&list), &keys).unwrap();
    assert_eq!(shown.holders, [id(ORDERS), id(POD)]);
    assert!(shown.proven && shown.may_pass_on);
    assert_eq!(shown.scope, ["orders.read"]);
    // The same list is worth nothing to anybody else, and to nobody else.
    for (peer, me) in [(GATEWAY, POD), (ORDERS, GATEWAY), (POD, ORDERS), (POD, POD)] {
        let refused = custody_by(&token, peer, me, Some(&list), &keys).unwrap_err();
        assert_eq!(refused.reason(), "custody_broken", "{peer} to {me}");
    }
}

#[test]
fn without_a_list_any_peer_of_the_domain_may_present() {
    let ours = trust_domain();
    assert_eq!(check_presenter(&Presenters::any(), &ours, &id(POD), "/anything"), Ok(()));
    let nobody = Presenters::only(Vec::new());
    let refused = check_presenter(&nobody, &ours, &id(POD), "/anything");
    assert_eq!(refused, Err(VerifyError::PresenterRefused));
}

#[test]
fn path_patterns_match_whole_segments() {
    for (pattern, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a/", false),
        ("/a/*", "/a/b/c", false),
        ("/a/*/c", "/a/b/c", true),
        ("/a/**", "/a", true),
        ("/a/**", "/a/", true),
        ("/a/**", "/ab", false),
        ("/a/**", "a/b", false),
    ] {
        let matches = PathPattern::parse(pattern).unwrap().matches(path);
        assert_eq!(matches, expected, "{pattern} on {path}");
    }
    for bad in ["", "a", "**", "/a*", "/a/**/b", "/a**", "/*x/b"] {
        assert!(PathPattern::parse(bad).is_err(), "{bad}");
    }
}
