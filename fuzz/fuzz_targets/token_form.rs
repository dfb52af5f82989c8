//! The form of a request to the token service: what is taken has one reading.
#![no_main]

use countersign_proxy::tokens::{Request, Requested, SubjectKind};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = Request::parse(bytes) else { return };
    assert!((1..=16).contains(&request.scope.len()));
    for (at, name) in request.scope.iter().enumerate() {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!request.scope[..at].contains(name), "a name twice");
    }
    assert!(!request.subject_token.expose().is_empty());
    if request.act_for.is_some() {
        assert_eq!(request.subject_kind, SubjectKind::SelfSigned);
    }
    if request.requested == Requested::Context && request.subject_kind != SubjectKind::Deferred {
        assert_eq!(request.deferred, Default::default());
    }
});
