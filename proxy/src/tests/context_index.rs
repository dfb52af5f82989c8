use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use countersign_ctxtoken::{
    ChainKey, ChainValidator, Constraints, Issuer, IssuerSet, KeyForms, KeyRef, KeySet, Limits,
    LocalSigner, Minter, NewContext, Origin, Rctx, ScopePattern, SubPattern, Subject, Tctx,
    TokenIds, UnixTime, VerifyWith, txn_id, verify,
};
use countersign_workload_id::{TrustDomain, WorkloadId};

use super::*;

fn held(token: &str) -> Option<Arc<Held>> {
    Some(Arc::new(held_until(token, 100)))
}

pub(super) fn held_until(token: &str, exp: u64) -> Held {
    let token = HeaderValue::from_str(token).unwrap();
    Held {
        token,
        exp,
        may_pass_on: true,
        hops: None,
        scope: None,
        signers: Arc::default(),
        context: None,
    }
}

/// A context whose token was minted and verified.
pub(super) fn proven(user: &str) -> Held {
    const IAT: UnixTime = UnixTime(1_795_194_000);
    let domain: TrustDomain = "prod.example.com".parse().unwrap();
    let gateway = WorkloadId::new(&domain, "edge", "gateway").unwrap();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let signer = Arc::new(LocalSigner::from_pkcs8_der(key.unwrap().as_ref()).unwrap());
    let allow = || Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*").unwrap()],
        scopes: vec![ScopePattern::parse("*").unwrap()],
        impersonate: vec![],
        max_ttl_s: 60,
    };
    let (limits, kid) = (Limits::default(), KeyRef::Kid(signer.verifying_key().kid()));
    let keys = format!(r#"{{"keys":[{}]}}"#, signer.verifying_key().to_jwk());
    let (id, trust) = (gateway.clone(), domain.clone());
    let minter = Minter::new(id, trust, allow(), kid, signer, None, &limits).unwrap();
    let to = WorkloadId::new(&domain, "shop", "orders").unwrap();
    let context = NewContext {
        sub: Subject::parse(&format!("user:{user}")).unwrap(),
        scope: vec!["orders.read".to_owned()],
        req_wl: gateway.clone(),
        rctx: Rctx::new(Origin::User, to),
        tctx: Tctx::default(),
        act: None,
    };
    let ids = TokenIds { txn: txn_id(IAT.0, [1; 10]), jti: [2; 16] };
    let token = minter.mint(&context, ids, IAT, 60).unwrap();
    let jwks = Some(KeySet::from_jwks_json(keys.as_bytes()).unwrap());
    let issuer = Issuer { id: gateway, keys: KeyForms::Jwks, allow: allow(), jwks };
    let with = VerifyWith {
        issuers: &IssuerSet::new(vec![issuer]).unwrap(),
        chains: &NoChains,
        trust_domain: &domain,
        now: IAT,
        skew_s: 0,
        limits: &limits,
    };
    let verified = verify(token.expose().as_bytes(), &with).unwrap();
    Held { context: Some(Arc::new(verified)), ..held_until(token.expose(), 100) }
}

struct NoChains;

impl ChainValidator for NoChains {
    fn validate(&self, _: &[Vec<u8>], _: UnixTime) -> Result<ChainKey, String> {
        Err("no chain is known".to_owned())
    }
}

const ALL: Propagation = Propagation { handle: true, traceparent: true, token: true };

/// What a call that says this finds.
fn find(
    index: &ContextIndex,
    handle: Asked<&str>,
    trace: Option<TraceId>,
    seconds: u64,
) -> &'static str {
    let call = Call { handle, token: Asked::Nothing, trace };
    name(&index.find(&call, ALL, at(seconds)))
}

pub(super) fn name(found: &Lookup) -> &'static str {
    assert_eq!(
        found.held().is_some(),
        matches!(found, Lookup::Handle(_) | Lookup::Traceparent(_) | Lookup::Token(_))
    );
    match found {
        Lookup::Handle(_) => "handle",
        Lookup::Traceparent(_) => "traceparent",
        Lookup::Token(_) => "token",
        Lookup::None => "none",
        Lookup::UnknownHandle => "unknown_handle",
        Lookup::UnknownToken => "unknown_token",
        Lookup::Ambiguous => "ambiguous",
        Lookup::Mismatch => "mismatch",
    }
}

fn at(seconds: u64) -> Now {
    Now::from_micros(seconds * 1_000_000)
}

fn index(max: usize) -> Arc<ContextIndex> {
    Arc::new(ContextIndex::new(max, 5_000))
}

fn handle(n: u8) -> Handle {
    Handle::new([n; 16])
}

const TRACE: TraceId = TraceId(7);

#[test]
fn a_handle_finds_its_request_and_nothing_else() {
    let index = index(8);
    let _open = index.open(handle(1), None, held("a.b.c"), true).unwrap();
    let found = find(&index, Asked::Once(&handle(1).text()), None, 1);
    assert_eq!(found, "handle");
    for wrong in [handle(2).text(), String::new(), "x".repeat(22), "x".repeat(500)] {
        let found = find(&index, Asked::Once(&wrong), None, 1);
        assert_eq!(found, "unknown_handle", "{wrong}");
    }
    assert_eq!(find(&index, Asked::Repeatedly, None, 1), "unknown_handle");
}

#[test]
fn an_unknown_handle_does_not_fall_back_to_the_trace() {
    let index = index(8);
    let _open = index.open(handle(1), Some(TRACE), held("a.b.c"), true).unwrap();
    let found = find(&index, Asked::Once("gone"), Some(TRACE), 1);
    assert_eq!(found, "unknown_handle");
}

#[test]
fn attack_two_users_share_one_trace_id() {
    let index = index(8);
    let _alice = index.open(handle(1), Some(TRACE), held("alice"), true).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob"), true).unwrap();
    let found = find(&index, Asked::Nothing, Some(TRACE), 1);
    assert_eq!(found, "ambiguous");
}

#[test]
fn attack_sends_handle_of_one_and_trace_of_another() {
    let index = index(8);
    let _alice = index.open(handle(1), None, held("alice"), true).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob"), true).unwrap();
    let found = find(&index, Asked::Once(&handle(1).text()), Some(TRACE), 1);
    assert_eq!(found, "mismatch");
}

#[test]
fn attack_calls_back_without_context_under_the_victims_trace() {
    let index = index(8);
    let _victim = index.open(handle(1), Some(TRACE), held("victim"), true).unwrap();
    let _attacker = index.open(handle(2), Some(TRACE), None, true).unwrap();
    let found = find(&index, Asked::Nothing, Some(TRACE), 1);
    assert_eq!(found, "ambiguous");
    let found = find(&index, Asked::Once(&handle(2).text()), None, 1);
    assert_eq!(found, "unknown_handle");
}

#[test]
fn a_trace_with_too_many_requests_is_not_followed_further() {
    let index = index(64);
    let open = |n| index.open(handle(n), Some(TRACE), held("a"), true);
    let kept: Vec<_> = (0..16).map(|n| open(n).unwrap()).collect();
    assert!(open(16).is_none());
    drop(kept);
    index.sweep(Now::from_micros(u64::MAX / 2));
    assert!(open(17).is_some());
}

#[test]
fn the_same_token_twice_under_one_trace_is_not_ambiguous() {
    let index = index(8);
    let _one = index.open(handle(1), Some(TRACE), held("alice"), true).unwrap();
    let _two = index.open(handle(2), Some(TRACE), held("alice"), true).unwrap();
    let found = find(&index, Asked::Nothing, Some(TRACE), 1);
    assert_eq!(found, "traceparent");
}

#[test]
fn attack_uses_context_after_the_token_ended() {
    let index = index(8);
    let _open = index.open(handle(1), Some(TRACE), held("a"), true).unwrap();
    assert_eq!(find(&index, Asked::Nothing, Some(TRACE), 100), "none");
    let asked = handle(1).text();
    assert_eq!(find(&index, Asked::Once(&asked), None, 100), "unknown_handle");
}

#[test]
fn attack_reuses_handle_after_request_ended() {
    let index = index(8);
    index.open(handle(1), Some(TRACE), held("a"), true).unwrap();
    index.close(handle(1), at(10));
    let asked = handle(1).text();
    assert_eq!(find(&index, Asked::Once(&asked), None, 14), "handle");
    assert_eq!(find(&index, Asked::Once(&asked), None, 15), "unknown_handle");
    assert_eq!(find(&index, Asked::Nothing, Some(TRACE), 15), "none");
}

#[test]
fn contexts_in_grace_make_room_and_open_ones_do_not() {
    let index = index(2);
    let first = index.open(handle(1), Some(TRACE), held("a"), true).unwrap();
    let _second = index.open(handle(2), None, held("b"), true).unwrap();
    assert!(index.open(handle(3), None, held("c"), true).is_none(), "full of open requests");
    drop(first);
    assert!(index.open(handle(3), None, held("c"), true).is_some());
    let asked = handle(1).text();
    let found = find(&index, Asked::Once(&asked), None, 1);
    assert_eq!(found, "unknown_handle");
}

#[test]
fn sweeping_leaves_nothing_behind() {
    let index = index(64);
    for n in 0..32 {
        index.open(handle(n), Some(TraceId(u128::from(n))), held("a"), true).unwrap();
    }
    assert_eq!(index.len(), 32);
    index.sweep(Now::from_micros(u64::MAX / 2));
    assert!(index.is_empty());
    assert!(index.traces.iter().all(|shard| lock(shard).is_empty()));
}

#[test]
fn only_well_formed_traceparents_count() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert!(TraceId::parse(good).is_some());
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        "00-é0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert!(TraceId::parse(bad).is_none(), "{bad}");
    }
    let own = TraceId::new([1; 16]);
    assert_eq!(TraceId::parse(&own.traceparent([0; 8])), Some(own));
}

#[test]
fn a_begun_context_ends_at_its_time_and_leaves_nothing() {
    let index = index(8);
    let asked = handle(1).text();
    assert_eq!(index.begin(handle(1), held("job").unwrap(), 50, at(1)), Some(50));
    assert_eq!(index.begin(handle(2), held("job").unwrap(), 500, at(1)), Some(100), "its token");
    assert_eq!(find(&index, Asked::Once(&asked), None, 49), "handle");
    assert_eq!(find(&index, Asked::Once(&asked), None, 50), "unknown_handle");
    assert_eq!(index.begin(handle(3), held("job").unwrap(), 50, at(50)), None, "over already");
    index.sweep(at(50));
    assert_eq!(index.len(), 1);
    index.sweep(at(100));
    assert!(index.is_empty());
    assert_eq!(index.begun.load(Ordering::Relaxed), 0);
}

#[test]
fn jobs_take_no_places_of_requests() {
    let index = index(limits::CONTEXT_INDEX_BEGUN_MAX + 1);
    let number = |n: usize| Handle::new((n as u128).to_le_bytes());
    for n in 0..limits::CONTEXT_INDEX_BEGUN_MAX {
        assert!(index.begin(number(n), held("job").unwrap(), 50, at(1)).is_some());
    }
    let more = number(limits::CONTEXT_INDEX_BEGUN_MAX);
    assert_eq!(index.begin(more, held("job").unwrap(), 50, at(1)), None);
    assert!(index.open(more, None, held("a"), true).is_some());
    assert!(index.end(number(7)));
    assert!(!index.end(number(7)), "twice");
    assert!(index.begin(number(7), held("job").unwrap(), 50, at(1)).is_some());
}

#[test]
fn what_was_ended_early_does_not_lend_its_trace_to_another() {
    let index = index(8);
    let _alice = index.open(handle(1), Some(TRACE), held("alice"), true).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob"), true).unwrap();
    assert!(index.end(handle(1)));
    let asked = handle(1).text();
    assert_eq!(find(&index, Asked::Once(&asked), None, 1), "unknown_handle");
    assert_eq!(find(&index, Asked::Nothing, Some(TRACE), 1), "ambiguous");
}

#[test]
fn a_token_counts_only_if_a_request_of_this_pod_brought_it() {
    let index = index(8);
    let _alice = index.open(handle(1), None, held("alice"), true).unwrap();
    let _bob = index.open(handle(2), None, held("bob"), false).unwrap();
    let find = |token: Asked<&'static str>, how| {
        let token = match token {
            Asked::Nothing => Asked::Nothing,
            Asked::Once(text) => Asked::Once(HeaderValue::from_static(text)),
            Asked::Repeatedly => Asked::Repeatedly,
        };
        let token = match &token {
            Asked::Nothing => Asked::Nothing,
            Asked::Once(token) => Asked::Once(token),
            Asked::Repeatedly => Asked::Repeatedly,
        };
        name(&index.find(&Call { handle: Asked::Nothing, token, trace: None }, how, at(1)))
    };
    assert_eq!(find(Asked::Once("alice"), ALL), "token");
    assert_eq!(find(Asked::Once("alice"), Propagation { token: false, ..ALL }), "none");
    assert_eq!(find(Asked::Once("alicf"), ALL), "unknown_token");
    assert_eq!(find(Asked::Once("bob"), ALL), "unknown_token", "the app was not given it");
    assert_eq!(find(Asked::Repeatedly, ALL), "unknown_token");
}

#[test]
fn a_handle_of_none_of_a_traces_requests_contradicts_it() {
    let index = index(8);
    let _carol = index.open(handle(3), None, held("carol"), true).unwrap();
    let _alice = index.open(handle(1), Some(TRACE), held("alice"), true).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob"), true).unwrap();
    let of = |n| find(&index, Asked::Once(&handle(n).text()), Some(TRACE), 1);
    assert_eq!([of(1), of(2), of(3)], ["handle", "handle", "mismatch"]);
}

#[test]
fn attack_waits_for_the_end_of_a_token_to_lend_its_trace_another() {
    let index = index(8);
    let alice = Some(Arc::new(held_until("alice", 50)));
    let _alice = index.open(handle(1), Some(TRACE), alice, true).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob"), true).unwrap();
    // Alice's request is still open when her token has ended: her calls are not Bob's.
    assert_eq!(find(&index, Asked::Nothing, Some(TRACE), 60), "ambiguous");
}

/// A list of one record, as the wire has it; nothing here looks at signatures.
fn list(aud: &str, iat: u64) -> Option<Arc<HopList>> {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let name = encode(&[7; 32]);
    let header = format!(r#"{{"alg":"ES256","typ":"csign-hop+jwt","kid":"{name}"}}"#);
    let (sub, aud) = ("spiffe://a.test/ns/a/sa/a", format!("spiffe://a.test/ns/a/sa/{aud}"));
    let record = format!(r#"{{"sub":"{sub}","aud":"{aud}","iat":{iat},"n":0,"tth":"{name}"}}"#);
    let parts = [encode(header.as_bytes()), encode(record.as_bytes()), encode(&[9; 64])];
    let limits = Limits::default();
    Some(Arc::new(HopList::parse(parts.join(".").as_bytes(), &limits).unwrap()))
}

/// What is found by trace id and by token for two requests of one token, opened in this order.
fn of_two(first: Held, second: Held) -> [(&'static str, Option<Arc<HopList>>); 2] {
    let index = index(8);
    let token = first.token.clone();
    let _first = index.open(handle(1), Some(TRACE), Some(Arc::new(first)), true).unwrap();
    let _second = index.open(handle(2), Some(TRACE), Some(Arc::new(second)), true).unwrap();
    let by_trace = Call { handle: Asked::Nothing, token: Asked::Nothing, trace: Some(TRACE) };
    let by_token = Call { handle: Asked::Nothing, token: Asked::Once(&token), trace: None };
    [by_trace, by_token].map(|call| {
        let found = index.find(&call, ALL, at(1));
        (name(&found), found.held().and_then(|held| held.hops.clone()))
    })
}

#[test]
fn one_token_by_two_ways_is_ambiguous() {
    let plain = || held_until("alice", 100);
    let by = |aud| Held { hops: list(aud, 10), ..plain() };
    let narrowed = || Held { scope: Some(Arc::from(["orders.read".to_owned()])), ..by("b") };
    let kept = || Held { may_pass_on: false, ..by("b") };
    for (first, second) in
        [(plain(), by("b")), (by("b"), by("c")), (by("b"), narrowed()), (by("b"), kept())]
    {
        assert_eq!(of_two(first, second).map(|(result, _)| result), ["ambiguous"; 2]);
    }
}

#[test]
fn of_lists_that_differ_in_bytes_only_the_newest_is_taken() {
    let at = |iat| Held { hops: list("b", iat), ..held_until("alice", 100) };
    let newest = list("b", 12).unwrap();
    for (result, hops) in of_two(at(10), at(12)) {
        assert!(["traceparent", "token"].contains(&result), "{result}");
        assert_eq!(hops.unwrap().text(), newest.text());
    }
}

#[test]
fn a_context_in_grace_is_the_one_that_came() {
    let index = index(8);
    let (alice, narrowed) = (proven("alice"), Some(Arc::from(["orders.list".to_owned()])));
    let alice = Held { exp: u64::MAX, scope: narrowed, hops: list("b", 10), ..alice };
    let again = || Some(Arc::new(alice.clone()));
    let (one, two) = (handle(1), handle(2));
    drop(index.open(one, Some(TRACE), again(), true).unwrap());
    let open = index.open(two, Some(TRACE), again(), true).unwrap();
    // One rests, the other does not; they are one context all the same.
    let text = one.text();
    let by_handle = Call { handle: Asked::Once(&text), token: Asked::Nothing, trace: None };
    let by_trace = Call { handle: Asked::Nothing, token: Asked::Nothing, trace: Some(TRACE) };
    let by_token = Call { handle: Asked::Nothing, token: Asked::Once(&alice.token), trace: None };
    let check = || {
        for (call, by) in [(&by_handle, "handle"), (&by_trace, "traceparent"), (&by_token, "token")]
        {
            let found = index.find(call, ALL, Now::read());
            assert_eq!(name(&found), by);
            let held = found.held().unwrap();
            assert_eq!((&held.token, held.txn()), (&alice.token, alice.txn()));
            assert_eq!(held.token_sha256(), alice.token_sha256());
            assert_eq!((&held.scope, held.may_pass_on), (&alice.scope, true));
            assert_eq!(held.hops.as_ref().unwrap().text(), list("b", 10).unwrap().text());
            let (then, now) = (alice.context.as_ref().unwrap(), held.context.as_ref().unwrap());
            assert_eq!(then.get(), now.get());
        }
    };
    check();
    drop(open);
    check();
}

#[test]
fn a_context_in_grace_lets_go_of_what_its_token_says() {
    let index = index(8);
    let alice = proven("alice");
    let said = Arc::downgrade(alice.context.as_ref().unwrap());
    let open = index.open(handle(1), None, Some(Arc::new(alice)), true).unwrap();
    assert_eq!(said.strong_count(), 1);
    drop(open);
    assert_eq!(said.strong_count(), 0);
}
