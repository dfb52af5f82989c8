//! Strict JSON: what `serde_json` accepts and we do not, and the other way round nothing.
use proptest::prelude::*;

use crate::json::{check, peek};

#[test]
fn shapes_have_limits() {
    let array = |n: usize| format!(r#"{{"a":[{}]}}"#, vec!["1"; n].join(","));
    assert!(check(array(64).as_bytes()).is_ok());
    assert_eq!(check(array(65).as_bytes()), Err("an array with more than 64 items"));
    let members = |n: usize| {
        let members: Vec<String> = (0..n).map(|n| format!(r#""m{n}":1"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(check(members(64).as_bytes()).is_ok());
    assert_eq!(check(members(65).as_bytes()), Err("an object with more than 64 members"));
    let nested = |n: usize| format!("{}1{}", r#"{"a":"#.repeat(n), "}".repeat(n));
    assert!(check(nested(8).as_bytes()).is_ok());
    assert_eq!(check(nested(9).as_bytes()), Err("JSON nested deeper than 8"));
    assert_eq!(check(nested(4000).as_bytes()), Err("JSON nested deeper than 8"));
}

#[test]
fn only_one_object_is_taken() {
    for (json, error) in [
        ("", "not one JSON object"),
        ("[]", "not one JSON object"),
        ("1", "not one JSON object"),
        ("null", "not one JSON object"),
        ("{", "not one JSON object"),
        (r#"{"a":1,}"#, "not one JSON object"),
        (r#"{"a":01}"#, "not one JSON object"),
        (r#"{"a":NaN}"#, "not one JSON object"),
        (r#"{"a":"\ud800"}"#, "not one JSON object"),
        ("{\"a\":\"\n\"}", "not one JSON object"),
        (r#"{'a':1}"#, "not one JSON object"),
        (r#"{"a":1}/**/"#, "bytes after the JSON object"),
        ("{}{}", "bytes after the JSON object"),
        ("{}\0", "bytes after the JSON object"),
        (r#"{"a":1,"a":1}"#, "a name twice in one JSON object"),
        (r#"{"a":1,"\u0061":1}"#, "a name twice in one JSON object"),
        (r#"{"":1,"":1}"#, "a name twice in one JSON object"),
        (r#"{"a":9007199254740993}"#, "a number over 2^53"),
        (r#"{"a":1e400}"#, "not one JSON object"),
    ] {
        assert_eq!(check(json.as_bytes()), Err(error), "{json}");
    }
    assert_eq!(check(b"{\"a\":\"\xff\"}"), Err("text that is not UTF-8"));
    assert!(check(b" { \"a\" : [ ] } \n").is_ok());
}

#[test]
fn peeking_takes_only_what_fits() {
    let (_, seen) = peek(br#"{"iss":"i","aud":["a"],"exp":7,"rctx":{"iss":"x"}}"#).unwrap();
    assert_eq!((seen.iss.as_deref(), seen.aud.as_deref(), seen.exp), (Some("i"), None, Some(7)));
    let (_, seen) = peek(br#"{"\u0069ss":"\u0069","exp":7.0}"#).unwrap();
    assert_eq!((seen.iss.as_deref(), seen.exp), (Some("i"), None));
}

proptest! {
    #[test]
    fn never_panics_and_never_widens(text in "[{}\\[\\]\",:0-9a-c\\\\u. -]{0,80}") {
        let strict = check(text.as_bytes());
        if strict.is_ok() {
            let value: Result<serde_json::Value, _> = serde_json::from_str(&text);
            prop_assert!(value.is_ok_and(|value| value.is_object()));
        }
    }

    #[test]
    fn every_small_object_without_repeats_passes(
        names in prop::collection::hash_set("[a-z\\PC]{0,6}", 0..12),
        numbers in prop::collection::vec(-1000..1000_i64, 0..8),
    ) {
        let members: serde_json::Map<_, _> =
            names.into_iter().map(|name| (name, serde_json::json!(numbers))).collect();
        let text = serde_json::Value::Object(members).to_string();
        prop_assert_eq!(check(text.as_bytes()), Ok(text.as_str()));
    }
}
