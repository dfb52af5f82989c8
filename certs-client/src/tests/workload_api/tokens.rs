//! What concerns tokens: the stream of their keys, and the certificate that signs ours.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::JwtBundles;

fn jwks(kid: &str) -> Vec<u8> {
    let key = format!(r#"{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"AA","y":"BB"}}"#);
    format!(r#"{{"keys":[{key}]}}"#).into_bytes()
}

fn keys(by_domain: &[(&str, &str)]) -> JwtBundlesResponse {
    let entry = |(domain, kid): &(&str, &str)| (format!("spiffe://{domain}"), jwks(kid));
    JwtBundlesResponse { bundles: by_domain.iter().map(entry).collect() }
}

fn broken(name: &str, set: &[u8]) -> JwtBundlesResponse {
    JwtBundlesResponse { bundles: HashMap::from([(name.to_owned(), set.to_vec())]) }
}

/// Domains and the names of their keys.
fn held(bundles: &JwtBundles) -> BTreeMap<String, Vec<String>> {
    let kids = |domain| bundles.get(domain).unwrap().kids().to_vec();
    bundles.domains().map(|domain| (domain.as_str().to_owned(), kids(domain))).collect()
}

fn named(by_domain: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    by_domain.iter().map(|(domain, kid)| ((*domain).to_owned(), vec![(*kid).to_owned()])).collect()
}

struct Followed {
    api: Running,
    handle: CertsHandle,
    leaf: Leaf,
}

impl Followed {
    /// A source with a good identity, whose stream of token keys says this.
    fn saying(answers: Vec<Answer<JwtBundlesResponse>>) -> Followed {
        let ca = TestCa::new("demo.test");
        let leaf = ca.leaf(ORDERS, |_| {});
        let api = Running::new(vec![vec![Ok(svids(&[&leaf], &ca))]], no_bundles());
        api.server.jwt_bundles.lock().unwrap().0 = answers.into();
        let endpoint = Endpoint::Unix(api.socket());
        let source = CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Follow };
        let handle = source::spawn(source, None, clock().0);
        Followed { api, handle, leaf }
    }

    async fn until(&self, wanted: &[(&str, &str)]) -> Arc<Certs> {
        let wanted = named(wanted);
        until(&mut self.handle.certs(), |certs| held(&certs.jwt_bundles) == wanted).await
    }
}

#[tokio::test]
async fn w5_w13_token_keys_come_by_a_stream_of_their_own() {
    let both = [("demo.test", "a"), ("other.test", "b")];
    let followed = Followed::saying(vec![vec![Ok(keys(&both))]]);
    let certs = followed.until(&both).await;
    // W-12: keys of tokens are none of certificates, and the reverse.
    assert!(certs.bundles.get(&domain("other.test")).is_none());
    holds(&followed.handle, &followed.leaf).await;
}

#[tokio::test]
async fn w5_token_keys_are_asked_for_only_where_somebody_needs_them() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let api = Running::new(vec![vec![Ok(svids(&[&leaf], &ca))]], no_bundles());
    let handle = api.start(None);
    holds(&handle, &leaf).await;
    assert_eq!(api.calls_of(FETCH_JWT_BUNDLES), 0);
}

#[tokio::test]
async fn w6_token_keys_are_replaced_not_merged() {
    let (first, second) = ([("demo.test", "a"), ("other.test", "b")], [("demo.test", "c")]);
    let followed = Followed::saying(vec![vec![Ok(keys(&first)), Ok(keys(&second))]]);
    followed.until(&second).await;
}

#[tokio::test]
async fn w8_token_keys_withdrawn_are_gone_and_the_identity_stays() {
    let keys = || Ok(keys(&[("demo.test", "a")]));
    let denied = || Err(Status::permission_denied("no longer"));
    let followed = Followed::saying(vec![vec![keys(), denied()], vec![denied()]]);
    // Seen or not before they went: in the end there are none.
    until(&mut followed.handle.status(), |status| {
        status.last_failure.as_ref().is_some_and(|failure| failure.call == "FetchJWTBundles")
    })
    .await;
    let certs = followed.until(&[]).await;
    assert!(certs.identity.is_some());
}

#[tokio::test]
async fn w8_token_keys_that_are_not_offered_are_no_failure() {
    let followed = Followed::saying(vec![vec![Err(Status::unimplemented("not here"))]]);
    holds(&followed.handle, &followed.leaf).await;
    tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while followed.api.calls_of(FETCH_JWT_BUNDLES) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(followed.api.calls_of(FETCH_JWT_BUNDLES), 1);
    assert_eq!(followed.handle.status().borrow().last_failure, None);
}

#[tokio::test]
async fn w9_token_keys_that_do_not_parse_change_nothing() {
    for (message, said) in [
        (JwtBundlesResponse::default(), "bundles is empty"),
        (broken("spiffe://demo.test", b""), "bundles is empty"),
        (broken("spiffe://demo.test", b"{}"), "not a JWK set"),
        (broken("spiffe://demo.test", &jwks("")), "has no kid"),
        (broken("spiffe://Demo.Test", &jwks("b")), "bundles: "),
    ] {
        let good = [("demo.test", "a")];
        let followed = Followed::saying(vec![vec![Ok(keys(&good)), Ok(message)]]);
        until(&mut followed.handle.status(), |status| {
            status.last_failure.as_ref().is_some_and(|failure| failure.answer.contains(said))
        })
        .await;
        followed.until(&good).await;
    }
}

/// SVIDs of one message with these hints.
fn hinted(leaves: &[(&Leaf, &str)], ca: &TestCa) -> X509SvidResponse {
    let mut message = svids(&leaves.iter().map(|(leaf, _)| *leaf).collect::<Vec<_>>(), ca);
    for (svid, (_, hint)) in message.svids.iter_mut().zip(leaves) {
        (*hint).clone_into(&mut svid.hint);
    }
    message
}

#[tokio::test]
async fn w11_the_hint_selects_what_signs_tokens() {
    let ca = TestCa::new("demo.test");
    let [default, marked, again] = [(); 3].map(|()| ca.leaf(ORDERS, |_| {}));
    let sha256 = |leaf: &Leaf| crate::bundle::sha256(&leaf.certificate);
    let other = ca.leaf("spiffe://demo.test/ns/shop/sa/payments", |_| {});
    for (offered, signs) in [
        (vec![(&default, ""), (&marked, "countersign"), (&again, "countersign")], &marked),
        (vec![(&default, "external"), (&marked, "internal")], &default),
        (vec![(&default, "countersign"), (&marked, "")], &default),
        // Of another workload: nobody would take what it issued from us.
        (vec![(&default, ""), (&other, "countersign")], &default),
    ] {
        let api = Running::new(vec![vec![Ok(hinted(&offered, &ca))]], no_bundles());
        let certs = holds(&api.start(None), &default).await;
        assert_eq!(certs.token_signer().unwrap().leaf_sha256, sha256(signs));
    }
}

#[tokio::test]
async fn w11_a_token_certificate_rotates_and_goes_by_itself() {
    let ca = TestCa::new("demo.test");
    let [default, first, second] = [(); 3].map(|()| ca.leaf(ORDERS, |_| {}));
    let marked = |leaf| Ok(hinted(&[(&default, ""), (leaf, "countersign")], &ca));
    let alone = || Ok(svids(&[&default], &ca));
    for (last, signs) in [(marked(&second), &second), (alone(), &default)] {
        let api = Running::new(vec![vec![marked(&first), last]], no_bundles());
        let handle = api.start(None);
        let wanted = crate::bundle::sha256(&signs.certificate);
        until(&mut handle.certs(), |certs| {
            certs.token_signer().is_some_and(|signer| signer.leaf_sha256 == wanted)
        })
        .await;
    }
}

/// Two spellings of one trust domain: which of them counts would be chance.
#[test]
fn w13_a_trust_domain_that_is_there_twice_refuses_the_message() {
    use crate::source::workload_api::read;
    let twice = [("demo.test", "a"), ("spiffe://demo.test", "b")];
    let twice = twice.map(|(name, kid)| (name.to_owned(), jwks(kid)));
    let error = read::jwt_bundles(JwtBundlesResponse { bundles: twice.into() }).unwrap_err();
    assert!(error.to_string().contains("demo.test is there twice"), "{error}");
}
