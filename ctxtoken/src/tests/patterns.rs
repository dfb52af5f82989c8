//! Subject and scope patterns of issuer entries.
use crate::{ScopePattern, SubPattern, Subject};

#[test]
fn subject_patterns_end_at_separators() {
    let orders = "svc:spiffe://td/ns/shop/sa/orders";
    for (pattern, subject, expected) in [
        ("user:*", "user:alice", true),
        ("user:*", "user:corp/alice", true),
        ("user:*", "anon", false),
        ("user:*", orders, false),
        ("user:corp/*", "user:corp/alice", true),
        ("user:corp/*", "user:corporate/alice", false),
        ("user:corp/*", "user:corp", false),
        ("user:alice", "user:alice", true),
        ("user:alice", "user:alice2", false),
        ("anon", "anon", true),
        ("anon", "user:anon", false),
        ("svc:*", orders, true),
        ("svc:*", "user:alice", false),
        (orders, orders, true),
        ("svc:spiffe://td/ns/shop/**", orders, true),
        ("svc:spiffe://td/ns/sh/**", orders, false),
        ("svc:spiffe://other/ns/shop/**", orders, false),
        ("foreign:other.example|*", "foreign:other.example|user:bob", true),
        ("foreign:other.example|*", "foreign:another.example|user:bob", false),
        ("foreign:other.example|*", "user:bob", false),
    ] {
        let matches =
            SubPattern::parse(pattern).unwrap().matches(&Subject::parse(subject).unwrap());
        assert_eq!(matches, expected, "{pattern} on {subject}");
    }
    for bad in [
        "*",
        "",
        "user",
        "user:",
        "user:a*",
        "user:*/x",
        "user:a/b/*",
        "user:/*",
        "svc:a",
        "svc:spiffe://td/pay*",
        "svc:spiffe://*/a",
        "foreign:*",
        "foreign:|*",
        "anon*",
        "x:*",
    ] {
        assert!(SubPattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn scope_patterns_end_at_separators() {
    for (pattern, scope, expected) in [
        ("*", "anything", true),
        ("orders.read", "orders.read", true),
        ("orders.read", "orders.read.all", false),
        ("orders.*", "orders.read", true),
        ("orders.*", "orders.read.all", true),
        ("orders.*", "orders.", false),
        ("orders.*", "orders", false),
        ("orders.*", "ordersxread", false),
        ("orders:*", "orders:read", true),
        ("orders/*", "orders/read", true),
    ] {
        let parsed = ScopePattern::parse(pattern).unwrap();
        assert_eq!(parsed.matches(scope), expected, "{pattern} on {scope}");
        assert_eq!(parsed.to_string(), pattern);
    }
    for bad in ["", "ord*", "*.read", "a.*.b", "**", "a b", "a\"", ".*", "orders-*"] {
        assert!(ScopePattern::parse(bad).is_err(), "{bad}");
    }
}
