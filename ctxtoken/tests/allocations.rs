//! How often the heap is asked, per step. Counts, not times: they are the same on every machine.
//! A count may fall; one that rises is a decision, made here.

use std::sync::Arc;

use allocation_counter::measure;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use countersign_ctxtoken::*;
use countersign_workload_id::{TrustDomain, WorkloadId};

const NOW: UnixTime = UnixTime(1_795_194_000);
const LEAF: [u8; 32] = [7; 32];

struct Mesh {
    signer: Arc<LocalSigner>,
    issuers: IssuerSet,
    domain: TrustDomain,
    limits: Limits,
    orders: WorkloadId,
    billing: WorkloadId,
    ledger: WorkloadId,
}

/// Every chain and every record is the one signer's.
struct Known(Arc<ChainKey>, Arc<ChainKey>);

impl ChainValidator for Known {
    fn validate(&self, _: &[Vec<u8>], _: UnixTime) -> Result<ChainKey, String> {
        Ok((*self.0).clone())
    }
}

impl HopKeys for Known {
    fn find(&self, _: &[u8; 32], _: UnixTime) -> Option<Arc<ChainKey>> {
        Some(Arc::clone(&self.1))
    }
}

fn allow() -> Constraints {
    Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*").unwrap()],
        scopes: vec![ScopePattern::parse("orders.*").unwrap()],
        max_ttl_s: 60,
        impersonate: Vec::new(),
    }
}

impl Mesh {
    fn new() -> Mesh {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let domain = TrustDomain::parse("prod.example.com").unwrap();
        let id = |name: &str| WorkloadId::new(&domain, "shop", name).unwrap();
        let gateway = WorkloadId::new(&domain, "edge", "gateway").unwrap();
        let issuer = Issuer { id: gateway, keys: KeyForms::X5c, allow: allow(), jwks: None };
        Mesh {
            signer: Arc::new(LocalSigner::from_pkcs8_der(key.as_ref()).unwrap()),
            issuers: IssuerSet::new(vec![issuer]).unwrap(),
            limits: Limits::default(),
            orders: id("orders"),
            billing: id("billing"),
            ledger: id("ledger"),
            domain,
        }
    }

    fn gateway(&self) -> WorkloadId {
        WorkloadId::new(&self.domain, "edge", "gateway").unwrap()
    }

    fn known(&self) -> Known {
        let key = |id: WorkloadId| {
            let key = self.signer.verifying_key().clone();
            Arc::new(ChainKey { id, key, not_after: NOW.plus(3600) })
        };
        Known(key(self.gateway()), key(self.orders.clone()))
    }

    fn minter(&self) -> Minter {
        let chain = KeyRef::X5c(vec![vec![0x30; 436]]);
        let (domain, signer) = (self.domain.clone(), self.signer.clone());
        let end = Some(NOW.plus(3600));
        Minter::new(self.gateway(), domain, allow(), chain, signer, end, &self.limits).unwrap()
    }

    fn context(&self) -> NewContext {
        let mut rctx = Rctx::new(Origin::User, self.orders.clone());
        rctx.idp = Some("corp".to_owned());
        rctx.groups = Some(vec!["support".to_owned()]);
        NewContext {
            sub: Subject::parse("user:alice").unwrap(),
            scope: vec!["orders.read".to_owned()],
            req_wl: self.gateway(),
            rctx,
            tctx: Tctx::default(),
            act: None,
        }
    }
}

fn ids(serial: u8) -> TokenIds {
    TokenIds { txn: txn_id(NOW.0 * 1000, [serial; 10]), jti: [serial; 16] }
}

/// Compares and prints; a smaller count is to be written here.
#[track_caller]
fn asks(step: &str, most: u64, run: impl FnOnce()) {
    let count = measure(run).count_total;
    println!("{step}: {count} allocations (at most {most})");
    assert!(count <= most, "{step} asks the heap {count} times, not {most}");
}

/// As [`asks`], for what signs: a signature's random number decides what the library asks for, so
/// the least of a few counts.
#[track_caller]
fn asks_at_least_once(step: &str, most: u64, mut run: impl FnMut()) {
    let count = (0..SIGNATURES).map(|_| measure(&mut run).count_total).min();
    println!("{step}: {count:?} allocations (at most {most})");
    assert!(count <= Some(most), "{step} asks the heap {count:?} times, not {most}");
}

#[test]
fn each_step_asks_the_heap_as_often_as_recorded() {
    let mesh = Mesh::new();
    let (minter, context, known) = (mesh.minter(), mesh.context(), mesh.known());
    let mint = |serial| minter.mint(&context, ids(serial), NOW, 60).unwrap();
    let (warm, fresh) = (mint(1), mint(2));
    let mut next: Vec<_> = (3..3 + SIGNATURES).map(ids).collect();
    asks_at_least_once("mint", MINT, || {
        drop(minter.mint(&context, next.pop().unwrap(), NOW, 60));
    });
    let with = VerifyWith {
        issuers: &mesh.issuers,
        chains: &known,
        trust_domain: &mesh.domain,
        now: NOW,
        skew_s: 30,
        limits: &mesh.limits,
    };
    let mut cache = TokenCache::new(&mesh.limits);
    let _ = cache.verify(warm.expose().as_bytes(), 1, &with).unwrap();
    asks("verify a fresh token, key and chain cached", FRESH, || {
        assert!(cache.verify(fresh.expose().as_bytes(), 1, &with).is_ok());
    });
    asks("meet a token again", 0, || {
        let again = cache.verify(fresh.expose().as_bytes(), 1, &with);
        assert!(again.is_ok_and(|(_, result)| result == CacheResult::Hit));
    });
    let (token, _) = cache.verify(fresh.expose().as_bytes(), 1, &with).unwrap();
    let hop =
        |sub, aud| NewHop { sub, aud, iat: NOW, token_sha256: token.token_sha256(), scope: None };
    let add =
        |list: Option<&HopList>, hop: &NewHop<'_>| append(list, hop, &*mesh.signer, &LEAF).unwrap();
    let parse = |field: &str| HopList::parse(field.as_bytes(), &mesh.limits).unwrap();
    let one = parse(&add(None, &hop(&mesh.orders, &mesh.billing)));
    let field = add(Some(&one), &hop(&mesh.billing, &mesh.ledger));
    let two = parse(&field);
    asks("read two hop records", READ, || drop(parse(&field)));
    asks_at_least_once("add a hop record", APPEND, || {
        drop(add(Some(&one), &hop(&mesh.billing, &mesh.ledger)));
    });
    let seen = VerifiedHops::new(64);
    let custody = |peer, me, hops| CustodyWith {
        peer,
        peer_leaf_sha256: LEAF,
        me,
        hops,
        keys: &known,
        seen: Some(&seen),
        now: NOW,
        skew_s: 30,
        required: true,
    };
    asks("custody of the first holder", CUSTODY_FIRST, || {
        assert!(check_custody(&token, &custody(&mesh.orders, &mesh.billing, Some(&one))).is_ok());
    });
    asks("custody at the third workload", CUSTODY_THIRD, || {
        assert!(check_custody(&token, &custody(&mesh.billing, &mesh.ledger, Some(&two))).is_ok());
    });
    asks("custody at the third workload, again", CUSTODY_AGAIN, || {
        assert!(check_custody(&token, &custody(&mesh.billing, &mesh.ledger, Some(&two))).is_ok());
    });
}

/// How often what signs is tried.
const SIGNATURES: u8 = 40;

const MINT: u64 = 13;
const FRESH: u64 = 10;
const READ: u64 = 17;
const APPEND: u64 = 9;
const CUSTODY_FIRST: u64 = 4;
const CUSTODY_THIRD: u64 = 7;
const CUSTODY_AGAIN: u64 = 5;
