//! What one context token costs: minting it, verifying it for the first time, meeting it again,
//! refusing a forged one, and the way it came. `cargo bench -p countersign-benches --bench token`.
//! Wall time, for comparison on one machine; nothing asserts it. First it prints what each step
//! costs beside the bare signature of the library: medians of rounds in which both take turns.

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use countersign_ctxtoken::{
    Algorithm, ChainKey, ChainValidator, Constraints, Issuer, IssuerSet, KeyForms, KeyRef, Limits,
    LocalSigner, Minter, NewContext, Origin, Rctx, ScopePattern, SubPattern, Subject, Tctx,
    TokenCache, TokenIds, UnixTime, VerifyWith, txn_id,
};
use countersign_workload_id::{TrustDomain, WorkloadId};
use divan::Bencher;

const NOW: UnixTime = UnixTime(1_795_194_010);
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Es256, Algorithm::Ed25519];
/// More tokens than a cache holds, so that going round meets none of them again.
const TOKENS: u128 = 4096;
/// Bytes of a typical leaf certificate.
const LEAF_BYTES: usize = 436;

fn main() {
    // `cargo test` runs benches too, and asks for nothing but that they run.
    if !std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        for algorithm in ALGORITHMS {
            ratios::print(algorithm);
        }
    }
    divan::main();
}

#[path = "token/ratios.rs"]
mod ratios;

#[divan::bench(args = ALGORITHMS)]
fn mint(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let mesh = Mesh::new(algorithm);
    let (minter, context) = (mesh.minter(), mesh.context());
    bencher.bench_local(|| minter.mint(black_box(&context), ids(7), NOW, 60));
}

#[divan::bench(args = ALGORITHMS)]
fn verify_fresh(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let mesh = Mesh::new(algorithm);
    let tokens = mesh.tokens();
    let mut next = tokens.iter().cycle();
    let (mut cache, with) = (TokenCache::new(&mesh.limits), mesh.with());
    bencher.bench_local(|| {
        let token = next.next().map_or(&[][..], String::as_bytes);
        cache.verify(black_box(token), 1, &with).is_ok()
    });
}

#[divan::bench(args = ALGORITHMS)]
fn verify_again(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let mesh = Mesh::new(algorithm);
    let token = mesh.token(7);
    let (mut cache, with) = (TokenCache::new(&mesh.limits), mesh.with());
    bencher.bench_local(|| cache.verify(black_box(token.as_bytes()), 1, &with).is_ok());
}

#[divan::bench(args = ALGORITHMS)]
fn refuse_forged(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let mesh = Mesh::new(algorithm);
    let forged = Mesh::new(algorithm).token(7);
    let (mut cache, with) = (TokenCache::new(&mesh.limits), mesh.with());
    bencher.bench_local(|| cache.verify(black_box(forged.as_bytes()), 1, &with).is_err());
}

/// A gateway whose key is known by one certificate, as in every connection that is warm.
struct Mesh {
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

impl Mesh {
    fn new(algorithm: Algorithm) -> Mesh {
        let signer = Arc::new(signer(algorithm));
        let key = signer.verifying_key().clone();
        let issuer =
            Issuer { id: gateway(), keys: KeyForms::X5c, allow: constraints(), jwks: None };
        Mesh {
            issuers: IssuerSet::new(vec![issuer]).unwrap(),
            chain: OneChain(ChainKey { id: gateway(), key, not_after: UnixTime(NOW.0 + 3600) }),
            signer,
            trust_domain: TrustDomain::parse("bench.test").unwrap(),
            limits: Limits::default(),
        }
    }

    fn minter(&self) -> Minter {
        Minter::new(
            gateway(),
            self.trust_domain.clone(),
            constraints(),
            KeyRef::X5c(vec![vec![0x30; LEAF_BYTES]]),
            self.signer.clone(),
            Some(UnixTime(NOW.0 + 3600)),
            &self.limits,
        )
        .unwrap()
    }

    fn context(&self) -> NewContext {
        let orders = "spiffe://bench.test/ns/shop/sa/orders".parse().unwrap();
        NewContext {
            sub: Subject::parse("user:alice").unwrap(),
            scope: vec!["orders.read".to_owned()],
            req_wl: gateway(),
            rctx: Rctx::new(Origin::User, orders),
            tctx: Tctx::default(),
            act: None,
        }
    }

    fn token(&self, serial: u128) -> String {
        let token = self.minter().mint(&self.context(), ids(serial), NOW, 60).unwrap();
        token.expose().to_owned()
    }

    fn tokens(&self) -> Vec<String> {
        (0..TOKENS).map(|serial| self.token(serial)).collect()
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

fn signer(algorithm: Algorithm) -> LocalSigner {
    let random = SystemRandom::new();
    let pkcs8 = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random),
        Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
    };
    LocalSigner::from_pkcs8_der(pkcs8.unwrap().as_ref()).unwrap()
}

fn gateway() -> WorkloadId {
    "spiffe://bench.test/ns/edge/sa/gateway".parse().unwrap()
}

fn constraints() -> Constraints {
    Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*").unwrap()],
        scopes: vec![ScopePattern::parse("orders.*").unwrap()],
        impersonate: vec![],
        max_ttl_s: 60,
    }
}

fn ids(serial: u128) -> TokenIds {
    TokenIds { txn: txn_id(NOW.0 * 1000, [9; 10]), jti: serial.to_be_bytes() }
}
