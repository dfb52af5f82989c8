use http::Response;

use super::*;

fn answer(status: u16, headers: &[(&'static str, &str)]) -> Response<()> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(()).unwrap()
}

#[test]
fn only_a_refusal_that_names_certificates_asks_for_them() {
    let named = format!("\"{}\"", "A".repeat(43));
    let certs = ("countersign-certs", named.as_str());
    assert_eq!(asked(&answer(401, &[certs])), Some(vec![[0; 32]]));
    assert_eq!(asked(&answer(200, &[certs, ("grpc-status", "16")])), Some(vec![[0; 32]]));
    for other in [
        answer(401, &[]),
        answer(200, &[certs]),
        answer(403, &[certs]),
        answer(200, &[certs, ("grpc-status", "0")]),
        answer(401, &[certs, certs]),
        answer(401, &[("countersign-certs", "(:YQ==:)")]),
    ] {
        assert_eq!(asked(&other), None, "{other:?}");
    }
}

#[test]
fn whoever_refuses_early_has_not_looked_at_certificates() {
    for (status, looked) in [(200, true), (204, true), (302, true), (404, true), (409, true)]
        .into_iter()
        .chain([400, 401, 403, 408, 413, 414, 429, 431, 499, 502, 503, 504].map(|it| (it, false)))
    {
        assert_eq!(has_looked(&answer(status, &[])), looked, "{status}");
    }
    assert!(has_looked(&answer(200, &[("grpc-status", "0")])));
    assert!(!has_looked(&answer(200, &[("grpc-status", "16")])));
}

#[test]
fn no_context_is_written_without_a_proven_callee() {
    let token = HeaderValue::from_static("a.b.c");
    let held = Held {
        token: token.clone(),
        exp: 1,
        may_pass_on: true,
        hops: None,
        scope: None,
        signers: Arc::default(),
        context: None,
    };
    for carries in [Carries::Minted(token), Carries::Held(Arc::new(held))] {
        let mut headers = HeaderMap::new();
        let refused = attach(&mut headers, &carries, None, Bring::Unshown).unwrap_err();
        assert_eq!(refused.refusal, Refusal::UpstreamFailed);
        assert!(headers.is_empty());
    }
}

#[test]
fn what_stood_there_for_another_callee_goes() {
    let mut headers = HeaderMap::new();
    for name in [TXN_TOKEN, HOPS, CERTS] {
        headers.insert(name, HeaderValue::from_static("old"));
    }
    attach(&mut headers, &Carries::Nothing, None, Bring::Unshown).unwrap();
    assert!(headers.is_empty());
}
