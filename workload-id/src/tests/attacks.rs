//! Identity matching as an attacker would like it to work.
use crate::{IdError, IdPattern, WorkloadId};

#[test]
fn attack_registers_prefix_sibling_identity() {
    let sibling: WorkloadId = "spiffe://td/service/payroll-attacker".parse().unwrap();
    for pattern in
        ["spiffe://td/service/pay", "spiffe://td/service/pay/*", "spiffe://td/service/pay/**"]
    {
        assert!(!IdPattern::parse(pattern).unwrap().matches(&sibling), "{pattern}");
    }
    assert_eq!(IdPattern::parse("spiffe://td/service/pay*"), Err(IdError::WildcardInSegment));
}

#[test]
fn attack_escapes_identity_path_with_dots() {
    for id in [
        "spiffe://td/ns/shop/../admin",
        "spiffe://td/..",
        "spiffe://td/ns/./admin",
        "spiffe://td/../other/ns/admin",
    ] {
        assert_eq!(WorkloadId::parse(id), Err(IdError::DotSegment), "{id}");
    }
}

#[test]
fn attack_percent_encodes_identity() {
    for id in ["spiffe://td/%2e%2e/admin", "spiffe://td/ns%2fadmin", "spiffe://td/%61dmin"] {
        assert_eq!(WorkloadId::parse(id), Err(IdError::BadPathCharacter), "{id}");
    }
}

#[test]
fn attack_reuses_path_in_other_domain() {
    let ours = IdPattern::parse("spiffe://prod.example.com/ns/**").unwrap();
    for id in [
        "spiffe://test.example.com/ns/shop/sa/orders",
        "spiffe://prod.example.com.evil/ns/shop/sa/orders",
        "spiffe://evil.prod.example.com/ns/shop/sa/orders",
    ] {
        assert!(!ours.matches(&id.parse().unwrap()), "{id}");
    }
}

#[test]
fn attack_changes_case_of_identity() {
    let pattern = IdPattern::parse("spiffe://td/ns/shop/sa/orders").unwrap();
    assert!(!pattern.matches(&"spiffe://td/ns/shop/sa/Orders".parse().unwrap()));
    assert!(WorkloadId::parse("spiffe://TD/ns/shop/sa/orders").is_err());
    assert!(WorkloadId::parse("Spiffe://td/ns/shop/sa/orders").is_err());
}
