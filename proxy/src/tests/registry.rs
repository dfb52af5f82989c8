use std::path::Path;

use countersign_certs_client::{Bundle, Certs, TrustBundles};
use countersign_config::ProxyConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use countersign_policy::DenyReason;

use super::*;
use crate::live::Builder;

const BEGAN_MS: u64 = 1_000_000;

/// Makes snapshots of growing generation.
pub(crate) struct Snapshots {
    builder: Builder,
    documents: Arc<countersign_policy::Documents>,
}

impl Snapshots {
    pub(crate) fn new() -> Snapshots {
        let dir = tempfile::tempdir().unwrap();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
        let text = std::fs::read_to_string(examples.join("sidecar.yaml")).unwrap();
        let text = text.replace("[mesh.yaml, policies/]", "[mesh.yaml]");
        let mesh = std::fs::read_to_string(examples.join("mesh.yaml")).unwrap();
        let federation = ["one.test", "other.test", "demo.test"]
            .map(|domain| format!("    - {{trustDomain: {domain}, bundle: {{source: true}}}}\n"));
        let mesh = format!("{mesh}\n  federation:\n{}", federation.concat());
        std::fs::write(dir.path().join("mesh.yaml"), mesh).unwrap();
        let file = dir.path().join("proxy.yaml");
        std::fs::write(&file, text).unwrap();
        let (config, documents) = ProxyConfig::load(&file).unwrap();
        Snapshots { builder: Builder::new(Arc::new(config)), documents: Arc::new(documents) }
    }

    fn next(&mut self, bundles: TrustBundles) -> Arc<Snapshot> {
        self.of(Certs { bundles: Arc::new(bundles), ..Certs::default() })
    }

    pub(crate) fn of(&mut self, certs: Certs) -> Arc<Snapshot> {
        Arc::new(self.builder.build(&self.documents, &Arc::new(certs)).unwrap())
    }
}

/// Says what it is told to say, and counts how often it is asked.
#[derive(Clone, Default)]
struct Told {
    ends: Rc<Cell<Option<EndReason>>>,
    asked: Rc<Cell<u32>>,
    saw_trust_shrink: Rc<Cell<bool>>,
    exchange: bool,
    spares_ms: Rc<Cell<u64>>,
}

impl Judged for Told {
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict> {
        self.asked.set(self.asked.get() + 1);
        self.saw_trust_shrink.set(against.trust_shrank);
        match self.ends.get() {
            Some(reason) => Err(Verdict { spares_ms: self.spares_ms.get(), ..reason.into() }),
            None => Ok(Standing::default()),
        }
    }

    fn is_exchange(&self) -> bool {
        self.exchange
    }
}

fn watch(told: &Told, generation: u64) -> Watch<Told> {
    Watch {
        judged: told.clone(),
        generation,
        since: at(BEGAN_MS),
        certificate_ends: None,
        allowance_s: 0,
        valid_until_ms: None,
    }
}

fn at(ms: u64) -> Now {
    Now::from_micros(ms * 1_000)
}

/// What the worker does once a second; says how many turns it took.
fn tick(registry: &Registry, snap: &Arc<Snapshot>, now_ms: u64) -> u32 {
    if !registry.is_due(snap.generation, at(now_ms)) {
        return 0;
    }
    let mut pass = registry.pass(Arc::clone(snap), at(now_ms));
    let mut turns = 1;
    while pass.turn() {
        turns += 1;
    }
    turns
}

fn authority(name: &str) -> TrustBundles {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).unwrap();
    let bundle = Bundle::from_certificates(vec![certificate.der().clone()]).unwrap();
    [(name.parse().unwrap(), bundle)].into_iter().collect()
}

#[test]
fn a_new_snapshot_judges_everything_once() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let registered = registry.register(watch(&told, first.generation));
    tick(&registry, &first, BEGAN_MS);
    assert_eq!(told.asked.get(), 0, "judged by this very snapshot already");
    let second = snapshots.next(TrustBundles::new());
    tick(&registry, &second, BEGAN_MS);
    assert_eq!(tick(&registry, &second, BEGAN_MS + 10), 0, "nothing left to do");
    assert_eq!((told.asked.get(), registered.reason()), (1, None));
    told.ends.set(Some(EndReason::Policy(DenyReason::NoMatch)));
    tick(&registry, &snapshots.next(TrustBundles::new()), BEGAN_MS);
    assert_eq!(registered.reason(), Some(EndReason::Policy(DenyReason::NoMatch)));
    drop(registered);
    assert!(registry.is_empty());
}

/// Whoever took its snapshot before a swap and registers after the pass is judged all the same.
#[test]
fn a_swap_between_snapshot_and_registration_is_noticed() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let old = snapshots.next(TrustBundles::new());
    let new = snapshots.next(TrustBundles::new());
    tick(&registry, &new, BEGAN_MS);
    let told = Told::default();
    told.ends.set(Some(EndReason::Revoked("certificate")));
    let registered = registry.register(watch(&told, old.generation));
    tick(&registry, &new, BEGAN_MS);
    assert_eq!(registered.reason(), Some(EndReason::Revoked("certificate")));
}

#[test]
fn an_exchange_is_judged_when_it_lasts_longer_than_a_second() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let told = Told { exchange: true, ..Told::default() };
    told.ends.set(Some(EndReason::Policy(DenyReason::DenyRule)));
    let registered = registry.register(watch(&told, first.generation));
    let second = snapshots.next(TrustBundles::new());
    tick(&registry, &second, BEGAN_MS + 999);
    assert_eq!((told.asked.get(), registered.reason()), (0, None));
    assert!(tick(&registry, &second, BEGAN_MS + 1_000) > 0, "it comes back to the young ones");
    assert_eq!(registered.reason(), Some(EndReason::Policy(DenyReason::DenyRule)));
}

#[test]
fn what_is_spared_ends_a_little_later() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let gone = Some(EndReason::Revoked("authority"));
    let [spared, worse, back] = [(); 3].map(|()| {
        let told = Told::default();
        told.ends.set(gone);
        told.spares_ms.set(ORDINARY_MS);
        (registry.register(watch(&told, first.generation)), told)
    });
    let reasons = || [&spared, &worse, &back].map(|(registered, _)| registered.reason());
    let second = snapshots.next(TrustBundles::new());
    tick(&registry, &second, BEGAN_MS);
    assert_eq!(reasons(), [None; 3]);
    // A connection that was opened by what counted before has no such claim.
    let late = registry.register(watch(&spared.1, first.generation));
    tick(&registry, &second, BEGAN_MS);
    assert_eq!(late.reason(), gone);
    // Another snapshot puts nothing off; it may say worse, or take it back.
    let revoked = Some(EndReason::Revoked("certificate"));
    worse.1.ends.set(revoked);
    worse.1.spares_ms.set(0);
    back.1.ends.set(None);
    let third = snapshots.next(TrustBundles::new());
    tick(&registry, &third, BEGAN_MS + 999);
    assert_eq!(reasons(), [None, revoked, None]);
    assert!(tick(&registry, &third, BEGAN_MS + 1_000) > 0, "it comes back to them");
    assert_eq!(reasons(), [gone, revoked, None]);
}

#[test]
fn what_is_spared_ends_though_it_was_told_to_end_with_grace() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let registered = registry.register(watch(&told, first.generation));
    registry.end_all(EndReason::Drain);
    told.ends.set(Some(EndReason::Revoked("authority")));
    told.spares_ms.set(ORDINARY_MS);
    let second = snapshots.next(TrustBundles::new());
    tick(&registry, &second, BEGAN_MS);
    assert_eq!(registered.reason(), Some(EndReason::Drain));
    tick(&registry, &second, BEGAN_MS + 1_000);
    assert_eq!(registered.reason(), Some(EndReason::Revoked("authority")));
}

/// Other certificates, and an authority that went, end the use of connections; other documents and
/// an authority that came do not.
#[test]
fn connections_to_peers_are_used_in_one_generation() {
    let mut snapshots = Snapshots::new();
    let one = authority("one.test");
    let mut both = one.clone();
    both.insert(
        "other.test".parse().unwrap(),
        one.get(&"one.test".parse().unwrap()).unwrap().clone(),
    );
    let mut of = |bundles: &TrustBundles, generation| {
        let certs = Certs { bundles: Arc::new(bundles.clone()), generation, ..Certs::default() };
        snapshots.of(certs).peers_generation
    };
    let steps = [of(&both, 1), of(&both, 1), of(&both, 2), of(&one, 2), of(&both, 2)];
    assert_eq!(steps, [1, 1, 3, 4, 4]);
}

#[test]
fn certificates_and_permits_end_things() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let snap = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let exchange = Told { exchange: true, ..Told::default() };
    let base = |told: &Told| watch(told, snap.generation);
    let http = registry.register(Watch { certificate_ends: Some(1_010), ..base(&told) });
    let tcp =
        registry.register(Watch { certificate_ends: Some(1_010), allowance_s: 20, ..base(&told) });
    let window = registry.register(Watch { valid_until_ms: Some(1_015_000), ..base(&told) });
    let asking = registry.register(Watch { valid_until_ms: Some(1_015_000), ..base(&exchange) });
    let stream = registry.register(Watch { valid_until_ms: Some(1_015_000), ..base(&exchange) });
    stream.streams();
    let all = [&http, &tcp, &window, &asking, &stream];
    let (age, expiry) = (Some(EndReason::Age), Some(EndReason::Expiry));
    for (now_ms, past, expected) in [
        (1_009_999, 0, [None, None, None, None, None]),
        (1_010_000, 1, [expiry, None, None, None, None]),
        (1_014_999, 1, [expiry, None, None, None, None]),
        // A request that is still being answered may finish.
        (1_015_000, 1, [expiry, None, age, None, age]),
        (1_029_999, 1, [expiry, None, age, None, age]),
        (1_030_000, 1, [expiry, expiry, age, None, age]),
    ] {
        tick(&registry, &snap, now_ms);
        let reasons: Vec<_> = all.iter().map(|registered| registered.reason()).collect();
        assert_eq!(reasons, expected, "{now_ms}");
        assert_eq!(registry.past_expiry(), past, "{now_ms}");
    }
    drop(tcp);
    assert_eq!(registry.past_expiry(), 0);
}

/// What ends with grace can still be cut; what was cut stays cut for its first reason.
#[test]
fn a_revocation_overtakes_a_deadline() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let snap = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let registered =
        registry.register(Watch { certificate_ends: Some(1_000), ..watch(&told, snap.generation) });
    tick(&registry, &snap, BEGAN_MS);
    assert_eq!(registered.reason(), Some(EndReason::Expiry));
    told.ends.set(Some(EndReason::Revoked("identity")));
    tick(&registry, &snapshots.next(TrustBundles::new()), BEGAN_MS);
    assert_eq!(registered.reason(), Some(EndReason::Revoked("identity")));
    registry.end_all(EndReason::Drain);
    assert_eq!(registered.reason(), Some(EndReason::Revoked("identity")));
}

#[test]
fn only_the_loss_of_an_authority_checks_chains_again() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let (one, other) = (authority("one.test"), authority("other.test"));
    let mut both = one.clone();
    both.insert(
        "other.test".parse().unwrap(),
        other.get(&"other.test".parse().unwrap()).unwrap().clone(),
    );
    let first = snapshots.next(one.clone());
    tick(&registry, &first, BEGAN_MS);
    let told = Told::default();
    let _registered = registry.register(watch(&told, first.generation));
    for (bundles, shrank) in [(both, false), (one.clone(), true), (one, false), (other, true)] {
        tick(&registry, &snapshots.next(bundles), BEGAN_MS);
        assert_eq!(told.saw_trust_shrink.get(), shrank);
    }
}

/// Two snapshots may follow each other so fast that a worker sees the second one only; whoever the
/// authority of the first one let in is held against the second.
#[test]
fn an_authority_that_came_and_went_between_two_passes_vouches_for_nobody() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let (one, other) = (authority("one.test"), authority("other.test"));
    let mut both = one.clone();
    both.insert(
        "other.test".parse().unwrap(),
        other.get(&"other.test".parse().unwrap()).unwrap().clone(),
    );
    tick(&registry, &snapshots.next(one.clone()), BEGAN_MS);
    let unseen = snapshots.next(both);
    let told = Told::default();
    let _registered = registry.register(watch(&told, unseen.generation));
    let last = snapshots.next(one);
    assert!(unseen.generation < last.trust_shrank_at, "what a new connection looks at");
    tick(&registry, &last, BEGAN_MS);
    assert!(told.saw_trust_shrink.get());
}

#[test]
fn a_pass_takes_turns() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let mut all: Vec<_> = (0..limits::REEVALUATE_BATCH_MAX * 3)
        .map(|_| registry.register(watch(&told, first.generation)))
        .collect();
    // Places given up are used again, not added to.
    all.truncate(limits::REEVALUATE_BATCH_MAX * 2);
    all.extend((0..100).map(|_| registry.register(watch(&told, first.generation))));
    assert_eq!(registry.len(), limits::REEVALUATE_BATCH_MAX * 2 + 100);
    assert_eq!(tick(&registry, &snapshots.next(TrustBundles::new()), BEGAN_MS), 3);
    assert_eq!(told.asked.get() as usize, all.len());
}

/// Verifying takes a worker longer than everything else: ten thousand streams must not hold up one
/// request for as long as their tokens take together.
#[test]
fn what_is_verified_again_takes_more_turns() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let one = authority("one.test");
    let first = snapshots.next(one.clone());
    let (stream, connection) = (Told { exchange: true, ..Told::default() }, Told::default());
    let number = limits::REEVALUATE_VERIFIED_MAX * 3;
    let all = |told: &Told| -> Vec<_> {
        (0..number).map(|_| registry.register(watch(told, first.generation))).collect()
    };
    let streams = all(&stream);
    let later = BEGAN_MS + ORDINARY_MS;
    assert_eq!(tick(&registry, &snapshots.next(one), later), 3);
    assert_eq!(stream.asked.get() as usize, number);
    drop(streams);
    let _connections = all(&connection);
    assert_eq!(tick(&registry, &snapshots.next(TrustBundles::new()), later), 3);
    assert!(connection.saw_trust_shrink.get());
    assert_eq!(connection.asked.get() as usize, number);
}

#[test]
fn who_waits_is_told() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let snap = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let registered = registry.register(watch(&told, snap.generation));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let waits = tokio::task::spawn_local(async move {
            let first = registered.ended().await;
            (first, registered.cut().await)
        });
        tokio::task::yield_now().await;
        registry.end_all(EndReason::Drain);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "a drain cuts nothing");
        told.ends.set(Some(EndReason::Revoked("pod")));
        tick(&registry, &snapshots.next(TrustBundles::new()), BEGAN_MS);
        assert_eq!(waits.await.unwrap(), (EndReason::Drain, EndReason::Revoked("pod")));
    });
}

/// A turn of a busy worker takes long, so a long pass takes more in each.
#[test]
fn a_long_pass_takes_more_in_each_turn() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let number = limits::REEVALUATE_BATCH_MAX * 64;
    let _all: Vec<_> =
        (0..number).map(|_| registry.register(watch(&told, first.generation))).collect();
    let turns = tick(&registry, &snapshots.next(TrustBundles::new()), BEGAN_MS);
    // 4 of 1, of 2, of 4, of 8 batches are 60; the rest is less than one of 16.
    assert_eq!(turns, 17);
    assert_eq!(told.asked.get() as usize, number);
}

/// What is revoked while a pass is under way does not wait for its end, and what had been judged
/// before is judged again.
#[test]
fn a_pass_follows_the_newest_snapshot() {
    let (registry, mut snapshots) = (Registry::default(), Snapshots::new());
    let first = snapshots.next(TrustBundles::new());
    let told = Told::default();
    let number = limits::REEVALUATE_BATCH_MAX + 1;
    let all: Vec<_> =
        (0..number).map(|_| registry.register(watch(&told, first.generation))).collect();
    let mut pass = registry.pass(snapshots.next(TrustBundles::new()), at(BEGAN_MS));
    assert!(pass.turn());
    let newest = snapshots.next(TrustBundles::new());
    told.ends.set(Some(EndReason::Revoked("certificate")));
    pass.follow(Arc::clone(&newest), at(BEGAN_MS));
    assert!(!pass.turn());
    let ended = || all.iter().filter(|one| one.reason().is_some()).count();
    assert_eq!(ended(), 1);
    assert_eq!(tick(&registry, &newest, BEGAN_MS), 2);
    assert_eq!(ended(), number);
    assert_eq!(tick(&registry, &newest, BEGAN_MS), 0);
}
