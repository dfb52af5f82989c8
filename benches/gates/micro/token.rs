//! What one context token and the way it came cost, signatures included: minted, verified for the
//! first time, met again, refused as forged; a hop record added, read and checked. And the bare
//! signatures of the library, over as many bytes, for what is around them.

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, ParsedPublicKey,
};
use countersign_ctxtoken::{
    Algorithm, ChainKey, ChainValidator, Constraints, CustodyWith, HopKeys, HopList, Issuer,
    IssuerSet, KeyForms, KeyRef, Limits, LocalSigner, Minter, NewContext, NewHop, Origin, Rctx,
    ScopePattern, SubPattern, Subject, Tctx, TokenCache, TokenIds, UnixTime, VerifiedHops,
    VerifyWith, append, check_custody, txn_id,
};
use countersign_workload_id::{TrustDomain, WorkloadId};

use super::{Steps, WARM_UP};
use crate::identities::{GATEWAY_ID, ORDERS_ID, TRUST_DOMAIN};

const NOW: UnixTime = UnixTime(1_795_194_010);
/// Many, because the numbers a signature draws decide how long its verification takes.
const TURNS: usize = 64;
/// Bytes of a typical leaf certificate.
const LEAF_BYTES: usize = 436;
const LEAF: [u8; 32] = [7; 32];

pub(super) fn run(steps: &Steps<'_>) {
    for algorithm in [Algorithm::Es256, Algorithm::Ed25519] {
        let mesh = Mesh::new(algorithm);
        let kind = match algorithm {
            Algorithm::Es256 => "es256",
            Algorithm::Ed25519 => "ed25519",
        };
        tokens(steps, &mesh, kind);
        hops(steps, &mesh, kind);
    }
    bare(steps);
}

fn tokens(steps: &Steps<'_>, mesh: &Mesh, kind: &str) {
    let (minter, context, with) = (mesh.minter(), mesh.context(), mesh.with());
    steps.step(&format!("token/{kind}/mint"), TURNS, || {
        minter.mint(black_box(&context), ids(7), NOW, 60).expect("a token");
    });
    let many = || -> Vec<String> { (0..TURNS + WARM_UP).map(|at| mesh.token(at)).collect() };
    let fresh = many();
    let mut next = fresh.iter();
    let mut cache = TokenCache::new(&mesh.limits);
    steps.step(&format!("token/{kind}/verify_miss"), TURNS, || {
        let token = next.next().map_or(&[][..], String::as_bytes);
        assert!(cache.verify(black_box(token), 1, &with).is_ok());
    });
    let known = mesh.token(TURNS + WARM_UP);
    steps.step(&format!("token/{kind}/verify_hit"), TURNS, || {
        assert!(cache.verify(black_box(known.as_bytes()), 1, &with).is_ok());
    });
    let forger = Mesh::new(mesh.algorithm);
    let forged: Vec<String> = (0..TURNS + WARM_UP).map(|at| forger.token(at)).collect();
    let mut next = forged.iter();
    steps.step(&format!("token/{kind}/verify_bad_signature"), TURNS, || {
        let token = next.next().map_or(&[][..], String::as_bytes);
        assert!(cache.verify(black_box(token), 1, &with).is_err());
    });
}

fn hops(steps: &Steps<'_>, mesh: &Mesh, kind: &str) {
    let token = mesh.token(1);
    let mut cache = TokenCache::new(&mesh.limits);
    let (token, _) = cache.verify(token.as_bytes(), 1, &mesh.with()).expect("a good token");
    let (orders, billing, ledger) = (workload("orders"), workload("billing"), workload("ledger"));
    let hop =
        |sub, aud| NewHop { sub, aud, iat: NOW, token_sha256: token.token_sha256(), scope: None };
    let add = |list: Option<&HopList>, hop: &NewHop<'_>| {
        append(list, hop, &*mesh.signer, &LEAF).expect("a record")
    };
    let parse = |field: &str| HopList::parse(field.as_bytes(), &mesh.limits).expect("records");
    let one = parse(&add(None, &hop(&orders, &billing)));
    let next = hop(&billing, &ledger);
    steps.step(&format!("hops/{kind}/append"), TURNS, || {
        black_box(add(Some(&one), black_box(&next)));
    });
    let key = mesh.signer.verifying_key().clone();
    let keys = OneHolder(Arc::new(ChainKey { id: orders.clone(), key, not_after: NOW.plus(3600) }));
    let check = |field: &str, seen: Option<&VerifiedHops>| {
        let list = parse(black_box(field));
        let with = CustodyWith {
            peer: &billing,
            peer_leaf_sha256: LEAF,
            me: &ledger,
            hops: Some(&list),
            keys: &keys,
            seen,
            now: NOW,
            skew_s: 30,
            required: true,
        };
        assert!(check_custody(&token, &with).is_ok());
    };
    let fields: Vec<String> = (0..TURNS + WARM_UP)
        .map(|_| add(Some(&parse(&add(None, &hop(&orders, &billing)))), &next))
        .collect();
    let mut rest = fields.iter();
    steps.step(&format!("hops/{kind}/check_two"), TURNS, || {
        check(rest.next().map_or("", String::as_str), None);
    });
    let seen = VerifiedHops::new(64);
    let field = fields.first().map_or("", String::as_str);
    steps.step(&format!("hops/{kind}/check_two_seen"), TURNS, || check(field, Some(&seen)));
}

/// What the library alone costs for a message as long as a token.
fn bare(steps: &Steps<'_>) {
    let random = SystemRandom::new();
    let message = vec![b'.'; 1_300];
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let sign = || pair.sign(&random, black_box(&message)).expect("a signature");
    steps.step("bare/es256/sign", TURNS, || {
        black_box(sign());
    });
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
    let public = public.expect("a public key");
    let signatures: Vec<_> = (0..TURNS + WARM_UP).map(|_| sign()).collect();
    let mut next = signatures.iter();
    steps.step("bare/es256/verify", TURNS, || {
        let signature = next.next().map_or(&[][..], AsRef::as_ref);
        public.verify_sig(black_box(&message), signature).expect("a good signature");
    });
}

/// A gateway whose key is known by one certificate, as in every connection that is warm.
struct Mesh {
    algorithm: Algorithm,
    signer: Arc<LocalSigner>,
    issuers: IssuerSet,
    chain: OneChain,
    trust_domain: TrustDomain,
    limits: Limits,
}

struct OneChain(ChainKey);

impl ChainValidator for OneChain {
    fn validate(&self, _chain_der: &[Vec<u8>], _now: UnixTime) -> Result<ChainKey, String> {
        Ok(self.0.clone())
    }
}

/// The certificate of every holder is known, and says what it should.
struct OneHolder(Arc<ChainKey>);

impl HopKeys for OneHolder {
    fn find(&self, _: &[u8; 32], _: UnixTime) -> Option<Arc<ChainKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Mesh {
    fn new(algorithm: Algorithm) -> Mesh {
        let random = SystemRandom::new();
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            }
            Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        };
        let signer = LocalSigner::from_pkcs8_der(pkcs8.expect("a key").as_ref());
        let signer = Arc::new(signer.expect("a signer"));
        let (id, key) = (workload_id(GATEWAY_ID), signer.verifying_key().clone());
        let issuer =
            Issuer { id: id.clone(), keys: KeyForms::X5c, allow: constraints(), jwks: None };
        Mesh {
            algorithm,
            issuers: IssuerSet::new(vec![issuer]).expect("issuers"),
            chain: OneChain(ChainKey { id, key, not_after: NOW.plus(3600) }),
            signer,
            trust_domain: TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain"),
            limits: Limits::default(),
        }
    }

    fn minter(&self) -> Minter {
        let chain = KeyRef::X5c(vec![vec![0x30; LEAF_BYTES]]);
        let (domain, signer) = (self.trust_domain.clone(), self.signer.clone());
        let (id, end) = (workload_id(GATEWAY_ID), Some(NOW.plus(3600)));
        Minter::new(id, domain, constraints(), chain, signer, end, &self.limits).expect("a minter")
    }

    fn context(&self) -> NewContext {
        NewContext {
            sub: Subject::parse("user:alice").expect("a subject"),
            scope: vec!["orders.read".to_owned()],
            req_wl: workload_id(GATEWAY_ID),
            rctx: Rctx::new(Origin::User, workload_id(ORDERS_ID)),
            tctx: Tctx::default(),
            act: None,
        }
    }

    fn token(&self, serial: usize) -> String {
        let token = self.minter().mint(&self.context(), ids(serial as u128), NOW, 60);
        token.expect("a token").expose().to_owned()
    }

    fn with(&self) -> VerifyWith<'_> {
        VerifyWith {
            issuers: &self.issuers,
            chains: &self.chain,
            trust_domain: &self.trust_domain,
            now: NOW,
            skew_s: 30,
            limits: &self.limits,
        }
    }
}

fn workload_id(id: &str) -> WorkloadId {
    id.parse().expect("an id")
}

fn workload(account: &str) -> WorkloadId {
    workload_id(&format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}"))
}

fn constraints() -> Constraints {
    Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*").expect("a pattern")],
        scopes: vec![ScopePattern::parse("orders.*").expect("a pattern")],
        impersonate: vec![],
        max_ttl_s: 60,
    }
}

fn ids(serial: u128) -> TokenIds {
    TokenIds { txn: txn_id(NOW.0 * 1000, [9; 10]), jti: serial.to_be_bytes() }
}
