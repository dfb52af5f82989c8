//! Paths as clients spell them, kindly and otherwise.

use proptest::prelude::*;

use super::*;

fn canonical(target: &str) -> Result<String, PathError> {
    CanonicalPath::parse(target, CanonicalOptions::default()).map(|path| path.target().to_owned())
}

fn normalized(target: &str) -> Result<String, PathError> {
    let options =
        CanonicalOptions { normalization: Normalization::Normalize, ..CanonicalOptions::default() };
    CanonicalPath::parse(target, options).map(|path| path.target().to_owned())
}

fn keeping(target: &str) -> Result<String, PathError> {
    let options = CanonicalOptions { params: PathParams::Keep, ..CanonicalOptions::default() };
    CanonicalPath::parse(target, options).map(|path| path.target().to_owned())
}

#[test]
fn equivalent_spellings_become_one() {
    for (written, expected) in [
        ("/", "/"),
        ("/a/b/", "/a/b/"),
        ("/%61%2D%5f%7E/b", "/a-_~/b"),
        ("/a%c3%a4", "/a%C3%A4"),
        ("/a%21b", "/a%21b"),
        ("/100%25", "/100%25"),
        ("/100%25zz", "/100%25zz"),
        ("/a?b=%2F%2e//..;c", "/a?b=%2F%2e//..;c"),
        ("/a??b", "/a??b"),
        ("/...", "/..."),
        ("/a.b/..c", "/a.b/..c"),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
    ] {
        assert_eq!(canonical(written).as_deref(), Ok(expected), "{written}");
    }
}

#[test]
fn attack_hides_separator_in_path() {
    for (written, why) in [
        ("", PathError::Form),
        ("a", PathError::Form),
        ("*", PathError::Form),
        ("http://a/b", PathError::Form),
        ("/a b", PathError::Byte),
        ("/a#b", PathError::Byte),
        ("/a?b#c", PathError::Byte),
        ("/\u{e4}", PathError::Byte),
        ("/a\\b", PathError::Byte),
        ("/a{b", PathError::Byte),
        ("/a|b", PathError::Byte),
        ("/%", PathError::Escape),
        ("/%2", PathError::Escape),
        ("/%zz", PathError::Escape),
        ("/%00", PathError::Escape),
        ("/%0a", PathError::Escape),
        ("/%7f", PathError::Escape),
        ("/a%2fb", PathError::HiddenSeparator),
        ("/a%5Cb", PathError::HiddenSeparator),
        ("/a%252fb", PathError::HiddenSeparator),
        ("/a%2541", PathError::HiddenSeparator),
        ("/a%c0%af", PathError::Utf8),
        ("/a%ff", PathError::Utf8),
        ("/a%c3/%a4", PathError::Utf8),
        ("//", PathError::Segments),
        ("/a//b", PathError::Segments),
        ("/a/./b", PathError::Segments),
        ("/a/../b", PathError::Segments),
        ("/a/..", PathError::Segments),
        ("/a/%2e%2E/b", PathError::Segments),
        ("/a;b", PathError::PathParams),
        ("/a%3bb", PathError::PathParams),
        ("/..;/b", PathError::PathParams),
    ] {
        assert_eq!(canonical(written), Err(why), "{written}");
    }
    let long = format!("/{}", "a".repeat(CanonicalOptions::default().bytes_max));
    assert_eq!(canonical(&long), Err(PathError::TooLong));
}

#[test]
fn normalizing_resolves_but_never_leaves_the_root() {
    for (written, expected) in [
        ("//", Ok("/")),
        ("/a//b", Ok("/a/b")),
        ("/a/./b/", Ok("/a/b/")),
        ("/a/../b", Ok("/b")),
        ("/a/b/..", Ok("/a/")),
        ("/a/..", Ok("/")),
        ("/a/%2e%2e/b?x", Ok("/b?x")),
        ("/..", Err(PathError::Segments)),
        ("/a/../../b", Err(PathError::Segments)),
    ] {
        assert_eq!(normalized(written).as_deref(), expected.as_deref(), "{written}");
    }
}

#[test]
fn attack_hides_dots_before_a_path_parameter() {
    assert_eq!(keeping("/a;v=1/b").as_deref(), Ok("/a;v=1/b"));
    for written in ["/..;/b", "/.;x/b", "/;x/b", "/a/..%3b/b", "/%2e%2e;/"] {
        assert_eq!(keeping(written), Err(PathError::Segments), "{written}");
    }
}

#[test]
fn attack_uses_absolute_form_with_other_host() {
    let parse = |method: &str, target: &str| {
        CanonicalPath::from_target(method, target, "a.b", CanonicalOptions::default())
            .map(|path| path.target().to_owned())
    };
    assert_eq!(parse("GET", "http://A.b:80/x?y").as_deref(), Ok("/x?y"));
    assert_eq!(parse("GET", "http://a.b").as_deref(), Ok("/"));
    assert_eq!(parse("GET", "http://a.b?q").as_deref(), Ok("/?q"));
    assert_eq!(parse("OPTIONS", "*").as_deref(), Ok("*"));
    for target in ["http://c.d/x", "http://u@a.b/x", "ftp://a.b/x", "a.b:80", "*"] {
        assert_eq!(parse("GET", target), Err(PathError::Form), "{target}");
    }
}

fn template(text: &str) -> PathTemplate {
    PathTemplate::parse(text).unwrap()
}

fn path(target: &str) -> CanonicalPath {
    CanonicalPath::parse(target, CanonicalOptions::default()).unwrap()
}

#[test]
fn templates_match_whole_segments() {
    let orders = template("/v1/users/{user}/orders");
    let all = template("/v1/users/{user}/**");
    for (target, exact, open) in [
        ("/v1/users/42/orders", true, true),
        ("/v1/users/42/orders?all", true, true),
        ("/v1/users/42/orders/", false, true),
        ("/v1/users/42", false, true),
        ("/v1/users/42/", false, true),
        ("/v1/users/", false, false),
        ("/v1/users//".trim_end_matches('/'), false, false),
        ("/V1/users/42/orders", false, false),
        ("/v1/users/42/orders/1", false, true),
    ] {
        assert_eq!(orders.matches(&path(target)), exact, "{target}");
        assert_eq!(all.matches(&path(target)), open, "{target}");
    }
    assert!(template("/**").matches(&path("/")));
    assert!(!template("/").matches(&path("/a")));
    assert_eq!(orders.capture("user", &path("/v1/users/j%C3%B6/orders")).as_deref(), Some("jö"));
    assert_eq!(orders.capture("user", &path("/v1/users/42")), None);
    assert_eq!(all.captures(&path("/v1/users/42")), Some(vec![("user", "42".into())]));
}

#[test]
fn templates_that_could_mislead_are_refused() {
    let canonical = |text: &str| TemplateError::NotCanonical { canonical: Some(text.to_owned()) };
    for (text, why) in [
        ("/a/{b", TemplateError::Param("{b".to_owned())),
        ("/a/x{b}", TemplateError::Param("x{b}".to_owned())),
        ("/a/{}", TemplateError::Param("{}".to_owned())),
        ("/a/{1}", TemplateError::Param("{1}".to_owned())),
        ("/{a}/{a}", TemplateError::Repeated("a".to_owned())),
        ("/**/a", TemplateError::Wildcard),
        ("/a*", TemplateError::Wildcard),
        ("/%61", canonical("/a")),
        ("/a?b", canonical("/a")),
        ("/a//b", TemplateError::NotCanonical { canonical: None }),
        ("a", TemplateError::NotCanonical { canonical: None }),
    ] {
        assert_eq!(PathTemplate::parse(text), Err(why), "{text}");
    }
}

proptest! {
    /// What comes out goes in again unchanged: the next proxy sees what we decided on.
    #[test]
    fn canonical_is_a_fixed_point(target in "/[a-zA-Z0-9%/.;?~!{é -]{0,24}", mode in 0..4) {
        let options = CanonicalOptions {
            normalization: if mode & 1 == 0 { Normalization::Reject } else { Normalization::Normalize },
            params: if mode & 2 == 0 { PathParams::Reject } else { PathParams::Keep },
            ..CanonicalOptions::default()
        };
        if let Ok(first) = CanonicalPath::parse(&target, options) {
            let second = CanonicalPath::parse(first.target(), options).unwrap();
            prop_assert_eq!(&first, &second);
            prop_assert!(!first.path().contains("//"));
            prop_assert!(first.segments().all(|s| s != "." && s != ".."));
            prop_assert!(!first.path().to_ascii_uppercase().contains("%2F"));
        }
    }

    #[test]
    fn parsing_never_panics(target in any::<String>()) {
        let _ = CanonicalPath::parse(&target, CanonicalOptions::default());
        let _ = CanonicalPath::from_target("GET", &target, "a", CanonicalOptions::default());
        let _ = PathTemplate::parse(&target);
    }
}

/// The short cut for paths that are canonical as they come says what the long way says.
#[test]
fn what_is_plain_has_one_spelling() {
    const PARTS: [&str; 16] =
        ["/", "a", "Z", ".", "..", "~", "%41", "%2f", ";", "*", "-", "_", "\\", "|", "=@:", "+,!"];
    let mut plain = 0;
    for seed in 0..PARTS.len().pow(4) {
        let parts = (0..4).map(|at| PARTS[seed / PARTS.len().pow(at) % PARTS.len()]);
        let path: String = std::iter::once("/").chain(parts).collect();
        if !is_plain(&path) {
            continue;
        }
        plain += 1;
        let options = CanonicalOptions::default();
        let spelled = CanonicalPath::spelled(&path, Some("q"), options);
        assert_eq!(spelled.as_ref().map(CanonicalPath::path), Ok(path.as_str()));
        assert_eq!(CanonicalPath::parse(&format!("{path}?q"), options), spelled, "{path}");
    }
    assert!(plain > 1_000, "{plain}");
}

/// Every pair of bytes that a target may have.
#[test]
fn what_is_plain_is_what_the_long_way_leaves_alone() {
    let options = CanonicalOptions::default();
    let mut plain = 0;
    for (one, other) in (0x21..0x7f_u8).flat_map(|one| (0x21..0x7f_u8).map(move |b| (one, b))) {
        let path = format!("/{}{}", char::from(one), char::from(other));
        if path.contains(['#', '?']) || !is_plain(&path) {
            continue;
        }
        plain += 1;
        let spelled = CanonicalPath::spelled(&path, None, options);
        assert_eq!(spelled.as_ref().map(CanonicalPath::target), Ok(path.as_str()));
    }
    assert!(plain > 1_000, "{plain}");
}
