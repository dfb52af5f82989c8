use super::*;

fn held(token: &str) -> Option<Arc<Held>> {
    let token = HeaderValue::from_str(token).unwrap();
    Some(Arc::new(Held { token, txn: "t".into(), exp: 100, may_pass_on: true, context: None }))
}

const BOTH: Propagation = Propagation { handle: true, traceparent: true };

fn at(seconds: u64) -> Now {
    Now::from_micros(seconds * 1_000_000)
}

fn index(max: usize) -> Arc<ContextIndex> {
    Arc::new(ContextIndex::with_capacity(max))
}

fn handle(n: u8) -> Handle {
    Handle::new([n; 16])
}

const TRACE: TraceId = TraceId(7);

#[test]
fn a_handle_finds_its_request_and_nothing_else() {
    let index = index(8);
    let _open = index.open(handle(1), None, held("a.b.c")).unwrap();
    let found = index.find(Asked::Once(&handle(1).text()), None, BOTH, at(1));
    assert_eq!(found.result(), "handle");
    for wrong in [handle(2).text(), String::new(), "x".repeat(22), "x".repeat(500)] {
        let found = index.find(Asked::Once(&wrong), None, BOTH, at(1));
        assert_eq!(found.result(), "unknown_handle", "{wrong}");
    }
    assert_eq!(index.find(Asked::Repeatedly, None, BOTH, at(1)).result(), "unknown_handle");
}

#[test]
fn an_unknown_handle_does_not_fall_back_to_the_trace() {
    let index = index(8);
    let _open = index.open(handle(1), Some(TRACE), held("a.b.c")).unwrap();
    let found = index.find(Asked::Once("gone"), Some(TRACE), BOTH, at(1));
    assert_eq!(found.result(), "unknown_handle");
}

#[test]
fn attack_two_users_share_one_trace_id() {
    let index = index(8);
    let _alice = index.open(handle(1), Some(TRACE), held("alice")).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob")).unwrap();
    let found = index.find(Asked::Nothing, Some(TRACE), BOTH, at(1));
    assert_eq!(found.result(), "ambiguous");
    assert!(found.held().is_none());
}

#[test]
fn attack_sends_handle_of_one_and_trace_of_another() {
    let index = index(8);
    let _alice = index.open(handle(1), None, held("alice")).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob")).unwrap();
    let found = index.find(Asked::Once(&handle(1).text()), Some(TRACE), BOTH, at(1));
    assert_eq!(found.result(), "mismatch");
    assert!(found.held().is_none());
}

#[test]
fn attack_calls_back_without_context_under_the_victims_trace() {
    let index = index(8);
    let _victim = index.open(handle(1), Some(TRACE), held("victim")).unwrap();
    let _attacker = index.open(handle(2), Some(TRACE), None).unwrap();
    let found = index.find(Asked::Nothing, Some(TRACE), BOTH, at(1));
    assert_eq!(found.result(), "ambiguous");
    let found = index.find(Asked::Once(&handle(2).text()), None, BOTH, at(1));
    assert_eq!(found.result(), "unknown_handle");
}

#[test]
fn a_trace_with_too_many_requests_is_not_followed_further() {
    let index = index(64);
    let open = |n| index.open(handle(n), Some(TRACE), held("a"));
    let kept: Vec<_> = (0..16).map(|n| open(n).unwrap()).collect();
    assert!(open(16).is_none());
    drop(kept);
    index.sweep(Now::from_micros(u64::MAX / 2));
    assert!(open(17).is_some());
}

#[test]
fn the_same_token_twice_under_one_trace_is_not_ambiguous() {
    let index = index(8);
    let _one = index.open(handle(1), Some(TRACE), held("alice")).unwrap();
    let _two = index.open(handle(2), Some(TRACE), held("alice")).unwrap();
    let found = index.find(Asked::Nothing, Some(TRACE), BOTH, at(1));
    assert_eq!(found.result(), "traceparent");
}

#[test]
fn attack_uses_context_after_the_token_ended() {
    let index = index(8);
    let _open = index.open(handle(1), Some(TRACE), held("a")).unwrap();
    assert_eq!(index.find(Asked::Nothing, Some(TRACE), BOTH, at(100)).result(), "none");
    let asked = handle(1).text();
    assert_eq!(index.find(Asked::Once(&asked), None, BOTH, at(100)).result(), "unknown_handle");
}

#[test]
fn attack_reuses_handle_after_request_ended() {
    let index = index(8);
    index.open(handle(1), Some(TRACE), held("a")).unwrap();
    index.close(handle(1), at(10));
    let asked = handle(1).text();
    assert_eq!(index.find(Asked::Once(&asked), None, BOTH, at(14)).result(), "handle");
    assert_eq!(index.find(Asked::Once(&asked), None, BOTH, at(15)).result(), "unknown_handle");
    assert_eq!(index.find(Asked::Nothing, Some(TRACE), BOTH, at(15)).result(), "none");
}

#[test]
fn contexts_in_grace_make_room_and_open_ones_do_not() {
    let index = index(2);
    let first = index.open(handle(1), Some(TRACE), held("a")).unwrap();
    let _second = index.open(handle(2), None, held("b")).unwrap();
    assert!(index.open(handle(3), None, held("c")).is_none(), "full of open requests");
    drop(first);
    assert!(index.open(handle(3), None, held("c")).is_some());
    let asked = handle(1).text();
    let found = index.find(Asked::Once(&asked), None, BOTH, at(1));
    assert_eq!(found.result(), "unknown_handle");
}

#[test]
fn sweeping_leaves_nothing_behind() {
    let index = index(64);
    for n in 0..32 {
        index.open(handle(n), Some(TraceId(u128::from(n))), held("a")).unwrap();
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
    assert_eq!(index.find(Asked::Once(&asked), None, BOTH, at(49)).result(), "handle");
    assert_eq!(index.find(Asked::Once(&asked), None, BOTH, at(50)).result(), "unknown_handle");
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
    assert!(index.open(more, None, held("a")).is_some());
    assert!(index.end(number(7)));
    assert!(!index.end(number(7)), "twice");
    assert!(index.begin(number(7), held("job").unwrap(), 50, at(1)).is_some());
}

#[test]
fn what_was_ended_early_does_not_lend_its_trace_to_another() {
    let index = index(8);
    let _alice = index.open(handle(1), Some(TRACE), held("alice")).unwrap();
    let _bob = index.open(handle(2), Some(TRACE), held("bob")).unwrap();
    assert!(index.end(handle(1)));
    let asked = handle(1).text();
    assert_eq!(index.find(Asked::Once(&asked), None, BOTH, at(1)).result(), "unknown_handle");
    assert_eq!(index.find(Asked::Nothing, Some(TRACE), BOTH, at(1)).result(), "ambiguous");
}
