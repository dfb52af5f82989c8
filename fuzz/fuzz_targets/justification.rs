//! The justification as a client states it: one kind, one reference, nothing that could be more.
#![no_main]

use countersign_proxy::gateway::capture::{KindMatch, justification};
use countersign_proxy::http::hygiene::Field;
use http::HeaderValue;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let field = Field::One(value);
    let mut asked = None;
    let asked_for = std::cell::RefCell::new(&mut asked);
    let stated = justification(&field, |kind, reference| {
        **asked_for.borrow_mut() = Some((kind.to_owned(), reference.to_owned()));
        KindMatch::Fits
    });
    if let Ok(Some(stated)) = stated {
        let text = format!("{}={}", stated.kind, stated.reference);
        assert_eq!(text.as_bytes(), bytes, "what is taken is what was written");
        assert!(!text.contains([',', ' ', '\t']));
        assert_eq!(asked, Some((stated.kind, stated.reference)));
    }
    assert!(justification(&Field::Repeated, |_, _| KindMatch::Fits).is_err());
});
