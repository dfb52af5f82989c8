//! Request targets and hosts, as a client may write them.
#![no_main]

use countersign_policy::{
    host::canonical_host,
    path::{CanonicalOptions, CanonicalPath, Normalization, PathParams, PathTemplate},
};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = canonical_host(text).map(|host| assert_eq!(canonical_host(&host), Ok(host.clone())));
    let template = PathTemplate::parse("/v1/{user}/**").expect("a template");
    for normalization in [Normalization::Reject, Normalization::Normalize] {
        for params in [PathParams::Reject, PathParams::Keep] {
            let options = CanonicalOptions { normalization, params, bytes_max: 4096 };
            let _ = CanonicalPath::from_target("GET", text, "a.b", options);
            let Ok(path) = CanonicalPath::parse(text, options) else { continue };
            assert_eq!(CanonicalPath::parse(path.target(), options).as_ref(), Ok(&path));
            assert!(path.segments().all(|segment| segment != "." && segment != ".."));
            assert!(!path.path().contains("//") && !path.path().contains("%2F"));
            let _ = template.captures(&path);
        }
    }
    let _ = PathTemplate::parse(text);
});
