//! Many requests at once to one endpoint.

use futures_util::future::join_all;

use super::*;
use crate::upstream::connect::ConnectError;

const STREAMS: usize = limits::H2_STREAMS_MAX as usize;

/// Takes so many connections, for HTTP/2 spoken with prior knowledge, and then no more; keeps
/// them open, or drops each at once.
async fn multiplexed_app(most: usize, keep: bool) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepted = Rc::new(Cell::new(0));
    let counted = Rc::clone(&accepted);
    tokio::task::spawn_local(async move {
        let mut open = Vec::new();
        while counted.get() < most {
            let (stream, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            open.extend(keep.then_some(stream));
        }
        drop(listener);
        std::future::pending::<()>().await;
    });
    (addr, accepted)
}

async fn leases(pool: &Pool, addr: SocketAddr, count: usize) -> Vec<Result<Lease, LeaseError>> {
    let target = app_in(addr, true);
    join_all((0..count).map(|_| pool.lease(&target))).await
}

async fn turns() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_burst_that_meets_no_connection_gets_as_many_as_it_needs() {
    run(async {
        let (addr, accepted) = multiplexed_app(usize::MAX, true).await;
        let pool = Pool::new(&Limits::default());
        let held = leases(&pool, addr, 1_000).await;
        assert!(
            held.iter().all(Result::is_ok),
            "{:?}",
            held.iter().find_map(|one| one.as_ref().err())
        );
        assert_eq!(accepted.get(), 1_000_usize.div_ceil(STREAMS));
    });
}

#[test]
fn another_connection_is_opened_before_streams_run_out_and_nobody_waits_for_it() {
    run(async {
        let (addr, accepted) = multiplexed_app(usize::MAX, true).await;
        let pool = Pool::new(&Limits::default());
        let _held = leases(&pool, addr, STREAMS * 4 / 5).await;
        turns().await;
        assert_eq!(accepted.get(), 1);
        let next = pool.lease(&app_in(addr, true)).await.ok().unwrap();
        assert!(!next.is_new());
        turns().await;
        assert_eq!(accepted.get(), 2);
    });
}

/// What cannot be opened in time fails nobody while there are streams; then it does, and one
/// request answers for it.
#[test]
fn a_connection_that_was_to_relieve_others_fails_only_those_without_a_stream() {
    run(async {
        let (addr, accepted) = multiplexed_app(1, true).await;
        let pool = Pool::new(&Limits::default());
        let mut held = leases(&pool, addr, 1).await;
        turns().await;
        held.extend(leases(&pool, addr, STREAMS - 1).await);
        assert!(held.iter().all(Result::is_ok));
        turns().await;
        let more = leases(&pool, addr, 3).await;
        let answers = |outcome: &&Result<Lease, LeaseError>| {
            matches!(outcome, Err(LeaseError::Connect { shared: false, .. }))
        };
        assert_eq!(more.iter().filter(answers).count(), 1);
        assert!(more.iter().all(Result::is_err));
        assert_eq!(accepted.get(), 1);
    });
}

/// A server that takes one connection and drops all others, as one at its limit does, is neither
/// flooded with connections nor said to have failed.
#[test]
fn an_endpoint_that_takes_no_more_connections_is_crowded() {
    run(async {
        let (addr, accepted) = multiplexed_app(usize::MAX, true).await;
        let pool = Pool::new(&Limits::default());
        let target = app_in(addr, true);
        let mut held = leases(&pool, addr, 1).await;
        held.extend(leases(&pool, addr, STREAMS - 1).await);
        turns().await;
        let slot = pool.slot(&target);
        // The second, opened for relief, and each one after it ends before anybody can use it.
        let spoil = async {
            loop {
                slot.h2.borrow().iter().skip(1).for_each(|connection| connection.spoiled.set(true));
                tokio::task::yield_now().await;
            }
        };
        let refused = tokio::select! { biased;
            () = spoil => None,
            lease = pool.lease(&target) => lease.err(),
        };
        let full = LeaseError::Crowded { addr, limit: "H2_STREAMS_MAX" };
        assert_eq!(refused.unwrap().to_string(), full.to_string());
        turns().await;
        assert_eq!(accepted.get(), 2 + limits::H2_CONNS_PER_KEY_MAX);
        assert!(held.iter().all(Result::is_ok));
    });
}

#[test]
fn relief_that_came_is_followed_by_more() {
    run(async {
        let (addr, accepted) = multiplexed_app(usize::MAX, true).await;
        let pool = Pool::new(&Limits::default());
        let mut held = leases(&pool, addr, 1).await;
        for connections in 2..=4 {
            let scarce = (STREAMS * 4 / 5 + 1) * (connections - 1);
            held.extend(leases(&pool, addr, scarce - held.len()).await);
            turns().await;
            assert_eq!(accepted.get(), connections);
        }
        assert!(held.iter().all(Result::is_ok));
    });
}

/// While all but a few streams are in use each request might want relief.
#[test]
fn relief_is_not_sought_again_at_once() {
    run(async {
        let (addr, accepted) = multiplexed_app(usize::MAX, true).await;
        let pool = Pool::new(&Limits::default());
        let slot = pool.slot(&app_in(addr, true));
        let mut held = leases(&pool, addr, 1).await;
        held.extend(leases(&pool, addr, STREAMS * 4 / 5).await);
        turns().await;
        assert!(slot.not_before.get().is_some());
        let hour = Duration::from_secs(3_600);
        for (not_before, expected) in [(Instant::now() + hour, 2), (Instant::now(), 3)] {
            slot.not_before.set(Some(not_before));
            slot.h2.borrow().iter().skip(1).for_each(|connection| connection.spoiled.set(true));
            held.extend(leases(&pool, addr, 3).await);
            turns().await;
            assert_eq!(accepted.get(), expected);
        }
        assert!(held.iter().all(Result::is_ok));
    });
}

/// A server that drops what it takes fails the request after a few attempts, and only it.
#[test]
fn connections_that_close_at_once_are_replaced_twice() {
    run(async {
        let (addr, accepted) = multiplexed_app(usize::MAX, false).await;
        let pool = Pool::new(&Limits::default());
        let target = app_in(addr, true);
        let slot = pool.slot(&target);
        // Whoever waits finds that the connection has ended meanwhile.
        let spoil = async {
            loop {
                slot.h2.borrow().iter().for_each(|connection| connection.spoiled.set(true));
                tokio::task::yield_now().await;
            }
        };
        let refused = tokio::select! { biased;
            () = spoil => None,
            lease = pool.lease(&target) => lease.err(),
        };
        let LeaseError::Connect { error, .. } = refused.unwrap() else { panic!("not crowded") };
        assert!(matches!(*error, ConnectError::Closed { .. }), "{error}");
        turns().await;
        assert_eq!(accepted.get(), 3);
    });
}

/// What 128 clients used at once, 128 clients use again.
#[test]
fn connections_of_a_burst_serve_the_next_one() {
    run(async {
        let (addr, connections) = hasty_app().await;
        let pool = Pool::new(&Limits::default());
        let target = app(addr);
        for _ in 0..3 {
            let calls = (0..128).map(|_| call(&pool, &target, ProxyBody::Empty));
            assert!(join_all(calls).await.iter().all(Result::is_ok));
        }
        assert_eq!(connections.get(), 128);
    });
}
