//! What patterns match, compared with a slow and obvious matcher.
use proptest::prelude::*;

use crate::{IdError, IdPattern, WorkloadId};

fn matches(pattern: &str, id: &str) -> bool {
    IdPattern::parse(pattern).unwrap().matches(&WorkloadId::parse(id).unwrap())
}

#[test]
fn patterns_match_whole_segments() {
    for (pattern, id, expected) in [
        ("spiffe://td/a/b", "spiffe://td/a/b", true),
        ("spiffe://td/a/b", "spiffe://td/a", false),
        ("spiffe://td/a", "spiffe://td/a/b", false),
        ("spiffe://td/a/*", "spiffe://td/a/b", true),
        ("spiffe://td/a/*", "spiffe://td/a", false),
        ("spiffe://td/a/*", "spiffe://td/a/b/c", false),
        ("spiffe://td/*/b", "spiffe://td/a/b", true),
        ("spiffe://td/a/**", "spiffe://td/a/b", true),
        ("spiffe://td/a/**", "spiffe://td/a/b/c", true),
        ("spiffe://td/a/**", "spiffe://td/a", false),
        ("spiffe://td/**", "spiffe://td/a", true),
        ("spiffe://td/**", "spiffe://other/a", false),
        ("spiffe://td/ns/*/sa/**", "spiffe://td/ns/x/sa/y", true),
    ] {
        assert_eq!(matches(pattern, id), expected, "{pattern} on {id}");
    }
}

#[test]
fn refuses_patterns_that_would_surprise() {
    use IdError::*;
    for (pattern, error) in [
        ("/ns/shop/**", WrongScheme),
        ("**", WrongScheme),
        ("spiffe://*/a", WildcardInSegment),
        ("spiffe://*.example.com/a", WildcardInSegment),
        ("spiffe://td/pay*", WildcardInSegment),
        ("spiffe://td/a/***", WildcardInSegment),
        ("spiffe://td/**/a", RestNotLast),
        ("spiffe://td/**/**", RestNotLast),
        ("spiffe://td", NoPath),
        ("spiffe://td/", TrailingSlash),
        ("spiffe://td/a/**/", TrailingSlash),
        ("spiffe://td//**", EmptySegment),
        ("spiffe://td/../**", DotSegment),
    ] {
        assert_eq!(IdPattern::parse(pattern), Err(error), "{pattern}");
    }
}

#[test]
fn knows_whether_it_names_one_id() {
    let exact = |p| IdPattern::parse(p).unwrap().is_exact();
    assert!(exact("spiffe://td/a/b"));
    assert!(!exact("spiffe://td/a/*"));
    assert!(!exact("spiffe://td/a/**"));
}

/// The obvious matcher: recursion over two lists of segments.
fn reference(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**"], [_, ..]) => true,
        (["*", p @ ..], [_, s @ ..]) => reference(p, s),
        ([a, p @ ..], [b, s @ ..]) => a == b && reference(p, s),
        _ => false,
    }
}

proptest! {
    #[test]
    fn agrees_with_the_obvious_matcher(
        mut pattern in prop::collection::vec("a|b|aa|\\*", 0..5),
        rest in any::<bool>(),
        path in prop::collection::vec("a|b|aa", 1..6),
    ) {
        if rest || pattern.is_empty() {
            pattern.push("**".to_owned());
        }
        let segments: Vec<&str> = pattern.iter().map(String::as_str).collect();
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let got = matches(
            &format!("spiffe://td/{}", pattern.join("/")),
            &format!("spiffe://td/{}", path.join("/")),
        );
        prop_assert_eq!(got, reference(&segments, &names));
    }

    #[test]
    fn exact_patterns_match_themselves(path in "[a-z]{1,5}(/[a-z]{1,5}){0,4}") {
        let text = format!("spiffe://td/{path}");
        prop_assert!(matches(&text, &text));
    }
}
