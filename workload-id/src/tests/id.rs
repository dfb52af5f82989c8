//! What is and what is not an ID, as tables, and a round trip over random valid IDs.
use std::collections::HashMap;

use proptest::prelude::*;

use crate::{ID_BYTES_MAX, IdError, TrustDomain, WorkloadId};

#[test]
fn accepts_the_forms_the_standard_allows() {
    for id in [
        "spiffe://example.org/a",
        "spiffe://example.org/ns/shop/sa/orders",
        "spiffe://staging.example.com/payments/mysql",
        "spiffe://k8s-west.example.com/ns/staging/sa/default",
        "spiffe://10.0.0.1/9eebccd2-12bf-40a6-b262-65fe0487d453",
        "spiffe://under_score-and.dots/A.b_c-D/...",
    ] {
        assert_eq!(WorkloadId::parse(id).map(|v| v.to_string()), Ok(id.to_owned()));
    }
}

#[test]
fn refuses_everything_else_with_its_reason() {
    use IdError::*;
    for (id, error) in [
        ("", WrongScheme),
        ("spiffe:/td/a", WrongScheme),
        ("http://td/a", WrongScheme),
        ("SPIFFE://td/a", WrongScheme),
        (" spiffe://td/a", WrongScheme),
        ("spiffe:///a", EmptyTrustDomain),
        ("spiffe://", EmptyTrustDomain),
        ("spiffe://td", NoPath),
        ("spiffe://td/", TrailingSlash),
        ("spiffe://td/a/", TrailingSlash),
        ("spiffe://td//a", EmptySegment),
        ("spiffe://td/a//b", EmptySegment),
        ("spiffe://td/./a", DotSegment),
        ("spiffe://td/a/..", DotSegment),
        ("spiffe://td/a?b", BadPathCharacter),
        ("spiffe://td/a#b", BadPathCharacter),
        ("spiffe://td/a%20b", BadPathCharacter),
        ("spiffe://td/a b", BadPathCharacter),
        ("spiffe://td/ä", BadPathCharacter),
        ("spiffe://td/a\0", BadPathCharacter),
        ("spiffe://td?x/a", BadTrustDomainCharacter),
        ("spiffe://Td/a", BadTrustDomainCharacter),
        ("spiffe://td:443/a", BadTrustDomainCharacter),
        ("spiffe://user@td/a", BadTrustDomainCharacter),
        ("spiffe://t%64/a", BadTrustDomainCharacter),
        ("spiffe://[::1]/a", BadTrustDomainCharacter),
    ] {
        assert_eq!(WorkloadId::parse(id), Err(error), "{id}");
        let near = TrustDomain::parse("td").unwrap();
        assert_eq!(WorkloadId::parse_near(id, &near), Err(error), "near: {id}");
    }
}

#[test]
fn limits_are_exact() {
    let prefix = "spiffe://td/";
    let longest = format!("{prefix}{}", "a".repeat(ID_BYTES_MAX - prefix.len()));
    assert!(WorkloadId::parse(&longest).is_ok());
    let too_long = longest + "a";
    assert_eq!(WorkloadId::parse(&too_long), Err(IdError::TooLong { limit: 2048 }));
    assert!(TrustDomain::parse(&"d".repeat(255)).is_ok());
    assert_eq!(TrustDomain::parse(&"d".repeat(256)), Err(IdError::TooLong { limit: 255 }));
}

#[test]
fn layout_accessors_speak_only_for_the_default_layout() {
    let id: WorkloadId = "spiffe://td/ns/shop/sa/orders".parse().unwrap();
    assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("orders")));
    for other in ["ns/shop", "ns/shop/sa", "ns/shop/sa/orders/eu", "sa/orders/ns/shop", "NS/a/sa/b"]
    {
        let id: WorkloadId = format!("spiffe://td/{other}").parse().unwrap();
        assert_eq!((id.namespace(), id.service_account()), (None, None), "{other}");
        assert_eq!(id.short(), other);
    }
}

#[test]
fn trust_domain_ids_have_no_path() {
    assert_eq!(TrustDomain::parse_id("spiffe://td").unwrap().id(), "spiffe://td");
    assert_eq!(TrustDomain::parse_id("spiffe://td/"), Err(IdError::PathNotAllowed));
    assert_eq!(TrustDomain::parse_id("td"), Err(IdError::WrongScheme));
}

#[test]
fn ids_are_found_in_maps_by_text() {
    let id: WorkloadId = "spiffe://td/a".parse().unwrap();
    let map = HashMap::from([(id.clone(), 7)]);
    assert_eq!(map.get("spiffe://td/a"), Some(&7));
    assert_eq!(format!("{id:?} {id}"), "WorkloadId(spiffe://td/a) spiffe://td/a");
}

proptest! {
    #[test]
    fn valid_ids_round_trip(
        td in "[a-z0-9._-]{1,40}",
        path in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}", 1..6),
    ) {
        let text = format!("spiffe://{td}/{}", path.join("/"));
        let id = WorkloadId::parse(&text).unwrap();
        prop_assert_eq!(id.as_str(), &text);
        prop_assert_eq!(id.trust_domain().as_str(), &td);
        prop_assert_eq!(id.short(), path.join("/"));
        let near = WorkloadId::parse_near(&text, id.trust_domain()).unwrap();
        prop_assert_eq!(&near, &id);
    }

    #[test]
    fn what_parses_is_canonical(text in "\\PC{0,60}") {
        if let Ok(id) = WorkloadId::parse(&text) {
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn near_misses_never_panic(text in "(spiffe://)?[a-zA-Z0-9./_%?#*:@-]{0,40}") {
        let near = TrustDomain::parse("td").unwrap();
        prop_assert_eq!(WorkloadId::parse(&text), WorkloadId::parse_near(&text, &near));
    }
}
