//! Minting: what comes out verifies and says what went in; what nobody accepts is not signed.
use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;
use serde_json::json;

use super::world::*;
use crate::*;

fn by_kid(world: &World) -> Minter {
    world.minter(KeyRef::Kid(world.gateway.verifying_key().kid()))
}

fn by_chain(world: &World) -> Minter {
    world.minter(KeyRef::X5c(vec![certificate("gateway")]))
}

/// The worked example of the profile.
fn example() -> NewContext {
    let mut context = base_context();
    let rctx = &mut context.rctx;
    rctx.req_ip = Some("203.0.113.7".parse().unwrap());
    rctx.ip_src = Some(IpSource::XForwardedFor(1));
    rctx.idp = Some("corp".into());
    rctx.client_id = Some("webshop".into());
    rctx.authn = Some("mfa".into());
    rctx.amr = Some(["pwd", "otp", "mfa"].map(String::from).into());
    rctx.auth_time = Some(UnixTime(1_795_193_188));
    rctx.groups = Some(vec!["support".into()]);
    rctx.dev = Some(Device {
        id: "d-7f3a".into(),
        tier: Some("2".into()),
        managed: Some(true),
        src: DeviceSource::Mtls,
        at: None,
    });
    rctx.tls =
        Some(TlsFacts { v: Some("1.3".into()), sni: Some("shop.example.com".into()), cert: None });
    rctx.just = Some(Justification {
        kind: "ticket".into(),
        reference: "SUP-1234".into(),
        by: Some("tickets".into()),
        checked: true,
        at: None,
        facts: None,
    });
    context.tctx = Tctx {
        m: Some("GET".into()),
        h: Some("shop.example.com".into()),
        p: Some("/v1/users/{user}/orders".into()),
        params: json!({"user": "42"}).as_object().cloned(),
        ..Tctx::default()
    };
    context
}

const EXAMPLE_PAYLOAD: &str = concat!(
    r#"{"iss":"spiffe://prod.example.com/ns/edge/sa/gateway","aud":"prod.example.com","iat":1795194000,"exp":1795194060,"#,
    r#""txn":"01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2","jti":"sUBCq5r81Enqa632cABTLw","sub":"user:alice","scope":"orders.read","#,
    r#""req_wl":"spiffe://prod.example.com/ns/edge/sa/gateway","#,
    r#""rctx":{"v":1,"origin":"user","to":"spiffe://prod.example.com/ns/shop/sa/orders","req_ip":"203.0.113.7","ip_src":"xff:1","#,
    r#""idp":"corp","client_id":"webshop","authn":"mfa","amr":["pwd","otp","mfa"],"auth_time":1795193188,"groups":["support"],"#,
    r#""dev":{"id":"d-7f3a","managed":true,"tier":"2","src":"mtls"},"tls":{"v":"1.3","sni":"shop.example.com"},"#,
    r#""just":{"kind":"ticket","ref":"SUP-1234","by":"tickets","checked":true}},"#,
    r#""tctx":{"m":"GET","h":"shop.example.com","p":"/v1/users/{user}/orders","params":{"user":"42"}}}"#,
);

fn example_ids() -> TokenIds {
    let jti = jws::decode(b"sUBCq5r81Enqa632cABTLw").unwrap();
    TokenIds { txn: "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2".into(), jti: jti.try_into().unwrap() }
}

#[test]
fn the_worked_example_comes_out_byte_for_byte() {
    let mut world = World::new();
    let minted_at = UnixTime(1_795_194_000);
    let token = by_kid(&world).mint(&example(), example_ids(), minted_at, 60).unwrap();
    let shown = Unverified::parse(token.expose().as_bytes(), &world.limits).unwrap();
    assert_eq!(shown.payload_json(), EXAMPLE_PAYLOAD);
    assert_eq!(
        shown.header_json(),
        format!(
            r#"{{"alg":"ES256","typ":"txntoken+jwt","kid":"{}"}}"#,
            world.gateway.verifying_key().kid()
        )
    );
    assert_eq!(token.expose().len(), 1234);
    let by_chain = by_chain(&world).mint(&example(), example_ids(), minted_at, 60).unwrap();
    assert_eq!(by_chain.expose().len(), 1994);

    world.now = minted_at;
    let verified = world.verify(token.expose()).unwrap();
    assert_eq!(verified.rctx, example().rctx);
    assert_eq!(verified.tctx, example().tctx);
    assert_eq!(verified.exp, UnixTime(1_795_194_060));
}

#[test]
fn sizes_of_the_profile_hold() {
    let world = World::new();
    let mut context = base_context();
    context.rctx.claims = json!({"a": ["x".repeat(255), "x".repeat(255), "x".repeat(255)],
        "b": ["x".repeat(255), "x".repeat(255), "x".repeat(255)]})
    .as_object()
    .cloned();
    let error = by_kid(&world).mint(&context, ids(), NOW, 60).unwrap_err();
    assert!(matches!(error, MintError::TooLarge { limit: 2048, .. }), "{error}");
    let chain = vec![certificate("gateway"), certificate("intermediate")];
    let minter = world.minter(KeyRef::X5c(chain));
    assert_eq!(minter.mint(&example(), ids(), NOW, 60).unwrap().expose().len(), 2776);
    let error = minter.mint(&context, ids(), NOW, 60).unwrap_err();
    assert!(matches!(error, MintError::TooLarge { limit: 3072, .. }), "{error}");
}

#[test]
fn nothing_outside_the_own_constraints_is_signed() {
    let world = World::new();
    let minter = by_kid(&world);
    let refused = |change: fn(&mut NewContext)| {
        let mut context = base_context();
        change(&mut context);
        minter.mint(&context, ids(), NOW, 60).unwrap_err().to_string()
    };
    let texts = [
        refused(|c| c.scope = vec!["billing.write".into()]),
        refused(|c| c.sub = Subject::Service(id(ORDERS))),
        refused(|c| c.rctx.origin = Origin::Batch),
    ];
    for text in texts {
        assert!(text.starts_with("the issuer's own constraints"), "{text}");
    }
    let error = minter.mint(&base_context(), ids(), NOW, 61).unwrap_err();
    let constraint = Constraint::TimeToLive { secs: 61, limit: 60 };
    assert!(matches!(error, MintError::ConstraintViolated(c) if c == constraint), "{error}");
}

#[test]
fn nothing_a_verifier_refuses_is_signed() {
    let world = World::new();
    let minter = by_kid(&world);
    for (claim, change) in [
        ("scope", (|c| c.scope.clear()) as fn(&mut NewContext)),
        ("scope", |c| c.scope = vec!["orders.a b".into()]),
        ("rctx.to", |c| c.rctx.to = id(FOREIGN)),
        ("act", |c| c.act = Some(id(ORDERS))),
        ("rctx.idp", |c| c.rctx.idp = Some("x".repeat(65))),
        ("rctx.req_ip", |c| c.rctx.req_ip = Some("::ffff:1.2.3.4".parse().unwrap())),
        ("rctx.ip_src", |c| c.rctx.ip_src = Some(IpSource::Forwarded(0))),
        ("rctx.groups", |c| c.rctx.groups = Some(vec!["\u{7}".into()])),
        ("rctx.auth_time", |c| c.rctx.auth_time = Some(UnixTime(u64::MAX))),
        ("sub", |c| {
            c.sub = Subject::Foreign { trust_domain: trust_domain(), subject: String::new() };
        }),
    ] {
        let mut context = base_context();
        change(&mut context);
        match minter.mint(&context, ids(), NOW, 60) {
            Err(MintError::Context(invalid)) => assert_eq!(invalid.claim, claim),
            other => panic!("{claim}: {other:?}"),
        }
    }
    let bad_txn = TokenIds { txn: "short".into(), jti: [0; 16] };
    assert!(matches!(minter.mint(&base_context(), bad_txn, NOW, 60), Err(MintError::Context(_))));
}

#[test]
fn a_token_never_outlives_the_certificate() {
    let world = World::new();
    let minter = by_chain(&world);
    let end = NOW.plus(3600);
    let token = minter.mint(&base_context(), ids(), UnixTime(end.0 - 20), 60).unwrap();
    let shown = Unverified::parse(token.expose().as_bytes(), &world.limits).unwrap();
    assert_eq!(shown.claims(&trust_domain()).unwrap().exp, end);
    let late = minter.mint(&base_context(), ids(), end, 60);
    assert!(matches!(late, Err(MintError::SignerExpired)));
    for ttl in [0, 301] {
        let error = minter.mint(&base_context(), ids(), NOW, ttl).unwrap_err();
        assert!(matches!(error, MintError::TtlInvalid { .. }), "{error}");
    }
}

#[test]
fn unusable_keys_are_refused_at_the_start() {
    let world = World::new();
    let new = |key| {
        let limits = Limits::default();
        let signer = world.gateway.clone();
        Minter::new(id(GATEWAY), trust_domain(), user_constraints(), key, signer, None, &limits)
    };
    for kid in ["", "k7", "AAAAAAAAAAAAAAA\"", "AAAAAAAAAAAAAAAAA"] {
        assert!(matches!(new(KeyRef::Kid(kid.into())), Err(MintError::KeyNameInvalid)), "{kid}");
    }
    for chain in [vec![], vec![vec![]], vec![vec![1]; 4], vec![vec![1; 1600]]] {
        assert!(matches!(new(KeyRef::X5c(chain)), Err(MintError::ChainUnusable(_))));
    }
}

#[test]
fn a_signer_that_fails_gives_no_token() {
    struct Broken;
    impl TokenSigner for Broken {
        fn algorithm(&self) -> Algorithm {
            Algorithm::Es256
        }
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
            Err(SignError)
        }
    }
    let limits = Limits::default();
    let kid = KeyRef::Kid("AAAAAAAAAAAAAAAA".into());
    let minter = Minter::new(
        id(GATEWAY),
        trust_domain(),
        user_constraints(),
        kid,
        Arc::new(Broken),
        None,
        &limits,
    );
    let error = minter.unwrap().mint(&base_context(), ids(), NOW, 60).unwrap_err();
    assert!(matches!(error, MintError::Sign(SignError)));
}

#[test]
fn transaction_ids_are_uuid_v7() {
    assert_eq!(txn_id(0, [0; 10]), "00000000-0000-7000-8000-000000000000");
    assert_eq!(txn_id((1 << 48) - 1, [0xff; 10]), "ffffffff-ffff-7fff-bfff-ffffffffffff");
    let made: BTreeSet<String> = (0..10)
        .map(|at| {
            let mut rand = [0; 10];
            rand[at] = 0x01;
            txn_id(1_795_194_000_217, rand)
        })
        .collect();
    assert_eq!(made.len(), 10, "every random byte is used");
    assert!(made.iter().all(|id| id.len() == 36 && id.starts_with("01a1f9e6-9359-7")));
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 \"\\\\/{}<>\u{e9}\u{4e2d}\u{1f600}_.:-]{1,14}"
}

fn scalars() -> impl Strategy<Value = Option<JsonMap>> {
    let value = prop_oneof![
        text().prop_map(|text| json!(text)),
        any::<i32>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(|flag| json!(flag)),
        prop::collection::vec(text(), 0..3).prop_map(|list| json!(list)),
    ];
    prop::option::of(
        prop::collection::btree_map(text(), value, 0..4).prop_map(|map| map.into_iter().collect()),
    )
}

prop_compose! {
    fn user_facts()(
        idp in prop::option::of(text()),
        acr in prop::option::of(text()),
        auth_time in prop::option::of(0..(1_u64 << 53)),
        amr in prop::option::of(prop::collection::vec(text(), 0..4)),
        groups in prop::option::of(prop::collection::vec(text(), 0..4)),
        claims in scalars(),
        ip in prop::option::of(any::<std::net::IpAddr>()),
        hops in 1..=255_u8,
    ) -> Rctx {
        let mut rctx = Rctx::new(Origin::User, id(ORDERS));
        rctx.idp = idp;
        rctx.acr = acr;
        rctx.auth_time = auth_time.map(UnixTime);
        rctx.amr = amr;
        rctx.groups_src = groups.as_ref().map(|_| "dir:staff".to_owned());
        rctx.groups = groups;
        rctx.claims = claims;
        rctx.req_ip = ip.map(|ip| ip.to_canonical());
        rctx.ip_src = ip.map(|_| IpSource::Forwarded(hops));
        rctx
    }
}

prop_compose! {
    fn surroundings()(
        mut rctx in user_facts(),
        dev in prop::option::of((text(), prop::option::of(any::<bool>()), text())),
        just in prop::option::of((text(), text(), any::<bool>())),
        facts in scalars(),
        level in prop::option::of(0..=4_u64),
        approvals in prop::option::of(prop::collection::vec((text(), 0..99_u64), 0..3)),
        bg in prop::option::of(any::<bool>()),
    ) -> Rctx {
        rctx.dev = dev.map(|(id, managed, proxy)| Device {
            id, tier: None, managed, src: DeviceSource::Header(proxy), at: Some(UnixTime(5)),
        });
        rctx.just = just.map(|(kind, reference, checked)| Justification {
            kind, reference, by: None, checked, at: None, facts: facts.filter(|_| checked),
        });
        rctx.wl = level.map(|slsa| IngressWorkload { slsa: Some(slsa), ..Default::default() });
        rctx.appr = approvals.map(|list| {
            list.into_iter().map(|(sub, at)| Approval { sub, at: UnixTime(at) }).collect()
        });
        rctx.bg = bg;
        rctx.sc = bg.map(|_| SenderConstraint::Dpop);
        rctx
    }
}

prop_compose! {
    fn contexts()(
        user in text(),
        provider in prop::option::of("[a-z]{1,8}"),
        scope in prop::collection::btree_set("orders\\.[a-z]{1,6}", 1..5),
        rctx in surroundings(),
        path in prop::option::of(text()),
        params in scalars(),
        chain in prop::option::of(0..3_usize),
    ) -> NewContext {
        NewContext {
            sub: Subject::User(UserName::new(provider.as_deref(), &user).unwrap()),
            scope: scope.into_iter().collect(),
            req_wl: id(GATEWAY),
            rctx,
            tctx: Tctx {
                p: path,
                params,
                req_chain: chain.map(|n| vec![id(POD); n]),
                ..Tctx::default()
            },
            act: None,
        }
    }
}

proptest! {
    #[test]
    fn what_is_minted_verifies_and_says_the_same(context in contexts(), chained in any::<bool>()) {
        let mut world = World::new();
        world.limits.mint_kid_bytes_max = 4096;
        world.limits.mint_x5c_bytes_max = 4096;
        let minter = if chained { by_chain(&world) } else { by_kid(&world) };
        match minter.mint(&context, ids(), NOW, 60) {
            Ok(token) => {
                let verified = world.verify(token.expose()).unwrap();
                prop_assert_eq!(&verified.sub, &context.sub);
                prop_assert_eq!(&verified.scope, &context.scope);
                prop_assert_eq!(&verified.rctx, &context.rctx);
                prop_assert_eq!(&verified.tctx, &context.tctx);
            }
            Err(MintError::TooLarge { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn arbitrary_bytes_never_verify_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let world = World::new();
        prop_assert!(verify(&bytes, &world.with()).is_err());
    }

    #[test]
    fn arbitrary_payloads_of_the_issuer_never_panic(payload in "\\PC{0,200}") {
        let world = World::new();
        let token = signed(&world.kid_header().to_string(), &payload, &world.gateway);
        prop_assert!(world.verify(&token).is_err());
    }
}

/// It names the token in records and logs, and is put together from parts.
#[test]
fn the_hash_of_a_token_is_that_of_its_text() {
    let mut world = World::new();
    for signer in [p256(), ed25519()] {
        world.certify("gateway", GATEWAY, &signer);
        world.gateway = signer;
        world.list(KeyForms::Either, Some(key_set(&[&world.gateway])));
        let mut cache = TokenCache::new(&world.limits);
        for minter in [by_kid(&world), by_chain(&world)] {
            // Under a header that was not met before, and under one that was.
            for jti in 0..3 {
                let ids = TokenIds { jti: [jti; 16], ..ids() };
                let token = minter.mint(&base_context(), ids, NOW, 60).unwrap();
                let text = token.expose();
                let expected = digest(&SHA256, text.as_bytes());
                assert_eq!(token.sha256(), expected.as_ref());
                assert_eq!(world.verify(text).unwrap().token_sha256(), expected.as_ref());
                for met in [CacheResult::Miss, CacheResult::Hit] {
                    let (verified, result) =
                        cache.verify(text.as_bytes(), 1, &world.with()).unwrap();
                    assert_eq!((verified.token_sha256(), result), (token.sha256(), met));
                }
            }
        }
    }
}
