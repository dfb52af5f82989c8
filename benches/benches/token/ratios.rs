//! Each step beside the bare signature of the library over as many bytes.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, ParsedPublicKey,
};
use countersign_ctxtoken::{
    Algorithm, ChainKey, CustodyWith, HopKeys, HopList, NewHop, TokenCache, UnixTime, VerifiedHops,
    append, check_custody,
};
use countersign_workload_id::WorkloadId;

use super::{Mesh, NOW, ids};

const ROUNDS: usize = 401;
/// Few, so that a round fits between two moments in which the machine does something else.
const TURNS: usize = 8;
const LEAF: [u8; 32] = [7; 32];

/// The library's own keys, without anything of ours around them.
enum Bare {
    Es256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Bare {
    fn new(algorithm: Algorithm) -> Bare {
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::Es256 => {
                let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
                Bare::Es256(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref()).unwrap())
            }
            Algorithm::Ed25519 => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Bare::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Bare::Es256(pair) => {
                pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            }
            Bare::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn public(&self) -> ParsedPublicKey {
        match self {
            Bare::Es256(pair) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref())
            }
            Bare::Ed25519(pair) => ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()),
        }
        .unwrap()
    }
}

/// Median nanoseconds of one turn of each, round by round in turn, and the median of their ratios.
fn beside(mut ours: impl FnMut(), mut bare: impl FnMut()) -> (f64, f64, f64) {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..TURNS {
            run();
        }
        start.elapsed().as_nanos() as f64 / TURNS as f64
    };
    let (mut a, mut b, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (one, other) = (time(&mut ours), time(&mut bare));
        a.push(one);
        b.push(other);
        both.push(one / other);
    }
    (median(a), median(b), median(both))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The certificate of every holder is known, and says what it should.
struct OneHolder(Arc<ChainKey>);

impl HopKeys for OneHolder {
    fn find(&self, _: &[u8; 32], _: UnixTime) -> Option<Arc<ChainKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Prints the ratios of one algorithm.
pub(crate) fn print(algorithm: Algorithm) {
    let mesh = Mesh::new(algorithm);
    let bare = Bare::new(algorithm);
    let (minter, context, with) = (mesh.minter(), mesh.context(), mesh.with());
    let tokens: Vec<String> = (0..(ROUNDS * TURNS) as u128).map(|at| mesh.token(at)).collect();
    let message = tokens[0].rsplit_once('.').unwrap().0.as_bytes().to_vec();
    let signature = bare.sign(&message);
    let public = bare.public();
    let sign = || drop(black_box(bare.sign(black_box(&message))));
    let verify = || public.verify_sig(black_box(&message), black_box(&signature)).unwrap();

    let show = |what: &str, (ours, bare, ratio): (f64, f64, f64), target: &str| {
        let (ours, bare) = (ours / 1e3, bare / 1e3);
        println!(
            "{algorithm:8} {what:44} {ours:7.2} us  bare {bare:7.2} us  x{ratio:.2}  {target}"
        );
    };
    let mint = || drop(minter.mint(black_box(&context), ids(7), NOW, 60).unwrap());
    show("mint", beside(mint, sign), "(target x1.5)");
    let mut cache = TokenCache::new(&mesh.limits);
    let mut next = tokens.iter();
    let fresh = || {
        let token = next.next().unwrap();
        assert!(cache.verify(black_box(token.as_bytes()), 1, &with).is_ok());
    };
    show("verify a fresh token", beside(fresh, verify), "(target x1.3)");
    let last = tokens.last().unwrap().as_bytes();
    let again = || assert!(cache.verify(black_box(last), 1, &with).is_ok());
    show("meet a token again", beside(again, verify), "(target 2 us)");

    let id = |name: &str| -> WorkloadId {
        format!("spiffe://bench.test/ns/shop/sa/{name}").parse().unwrap()
    };
    let (orders, billing, ledger) = (id("orders"), id("billing"), id("ledger"));
    let mut cache = TokenCache::new(&mesh.limits);
    let (token, _) = cache.verify(last, 1, &with).unwrap();
    let hop =
        |sub, aud| NewHop { sub, aud, iat: NOW, token_sha256: token.token_sha256(), scope: None };
    let parse = |field: &str| HopList::parse(field.as_bytes(), &mesh.limits).unwrap();
    let one = parse(&append(None, &hop(&orders, &billing), &*mesh.signer, &LEAF).unwrap());
    let next = hop(&billing, &ledger);
    let field = append(Some(&one), &next, &*mesh.signer, &LEAF).unwrap();
    let add = || drop(append(Some(&one), black_box(&next), &*mesh.signer, &LEAF).unwrap());
    show("add a hop record", beside(add, sign), "");
    let key = mesh.signer.verifying_key().clone();
    let not_after = UnixTime(NOW.0 + 3600);
    let keys = OneHolder(Arc::new(ChainKey { id: orders.clone(), key, not_after }));
    let seen = VerifiedHops::new(64);
    let custody = |seen| CustodyWith {
        peer: &billing,
        peer_leaf_sha256: LEAF,
        me: &ledger,
        hops: None,
        keys: &keys,
        seen,
        now: NOW,
        skew_s: 30,
        required: true,
    };
    let shown = |seen| {
        let list = parse(black_box(&field));
        let with = CustodyWith { hops: Some(&list), ..custody(seen) };
        assert!(check_custody(&token, &with).is_ok());
    };
    show("read two records, prove custody", beside(|| shown(None), verify), "");
    show("the same, records seen before", beside(|| shown(Some(&seen)), verify), "");
}
