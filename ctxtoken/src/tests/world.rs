//! A small trust domain to test in: a gateway that issues, keys, certificate chains that are
//! opaque here, and a way to sign anything, so that a refusal is never owed to a bad signature.
use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use countersign_workload_id::{TrustDomain, WorkloadId};
use serde_json::{Value, json};

use crate::*;

pub(super) const NOW: UnixTime = UnixTime(1_795_194_010);
pub(super) const GATEWAY: &str = "spiffe://prod.example.com/ns/edge/sa/gateway";
pub(super) const ORDERS: &str = "spiffe://prod.example.com/ns/shop/sa/orders";
pub(super) const POD: &str = "spiffe://prod.example.com/ns/shop/sa/pod";
pub(super) const FOREIGN: &str = "spiffe://evil.example.net/ns/edge/sa/gateway";

pub(super) fn id(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

pub(super) fn trust_domain() -> TrustDomain {
    "prod.example.com".parse().unwrap()
}

pub(super) fn p256() -> Arc<LocalSigner> {
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    Arc::new(LocalSigner::from_pkcs8_der(pkcs8.unwrap().as_ref()).unwrap())
}

pub(super) fn ed25519() -> Arc<LocalSigner> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Arc::new(LocalSigner::from_pkcs8_der(pkcs8.as_ref()).unwrap())
}

/// The size of a real leaf; the text stands for a certificate.
pub(super) fn certificate(name: &str) -> Vec<u8> {
    let mut der = vec![0x30; 436];
    der[..name.len()].copy_from_slice(name.as_bytes());
    der
}

pub(super) fn key_set(keys: &[&LocalSigner]) -> KeySet {
    let keys: Vec<String> = keys.iter().map(|key| key.verifying_key().to_jwk()).collect();
    KeySet::from_jwks_json(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap()
}

pub(super) fn user_constraints() -> Constraints {
    Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*").unwrap(), SubPattern::parse("anon").unwrap()],
        scopes: vec![ScopePattern::parse("orders.*").unwrap()],
        impersonate: vec![],
        max_ttl_s: 60,
    }
}

/// Chains that validate, by their leaf; counts how often it was asked.
#[derive(Default)]
pub(super) struct Chains {
    pub(super) known: BTreeMap<Vec<u8>, ChainKey>,
    pub(super) asked: Cell<usize>,
}

impl ChainValidator for Chains {
    fn validate(&self, chain_der: &[Vec<u8>], _now: UnixTime) -> Result<ChainKey, String> {
        self.asked.set(self.asked.get() + 1);
        self.known.get(&chain_der[0]).cloned().ok_or("no path to a trust anchor".to_owned())
    }
}

pub(super) struct World {
    pub(super) gateway: Arc<LocalSigner>,
    pub(super) issuers: IssuerSet,
    pub(super) chains: Chains,
    pub(super) trust_domain: TrustDomain,
    pub(super) limits: Limits,
    pub(super) now: UnixTime,
}

impl World {
    /// One issuer, the gateway, with a P-256 key that is in its set and in a certificate.
    pub(super) fn new() -> Self {
        let gateway = p256();
        let mut world = Self {
            issuers: IssuerSet::default(),
            gateway: Arc::clone(&gateway),
            chains: Chains::default(),
            trust_domain: trust_domain(),
            limits: Limits::default(),
            now: NOW,
        };
        world.list(KeyForms::Either, Some(key_set(&[&gateway])));
        world.certify("gateway", GATEWAY, &gateway);
        world
    }

    pub(super) fn list(&mut self, keys: KeyForms, jwks: Option<KeySet>) {
        let issuer = Issuer { id: id(GATEWAY), keys, allow: user_constraints(), jwks };
        self.issuers = IssuerSet::new(vec![issuer]).unwrap();
    }

    pub(super) fn certify(&mut self, name: &str, owner: &str, signer: &LocalSigner) {
        let key = signer.verifying_key().clone();
        let chain_key = ChainKey { id: id(owner), key, not_after: NOW.plus(3600) };
        self.chains.known.insert(certificate(name), chain_key);
    }

    pub(super) fn with(&self) -> VerifyWith<'_> {
        VerifyWith {
            issuers: &self.issuers,
            chains: &self.chains,
            trust_domain: &self.trust_domain,
            now: self.now,
            skew_s: 30,
            limits: &self.limits,
        }
    }

    pub(super) fn verify(&self, token: &str) -> Result<Verified<RequestContext>, VerifyError> {
        verify(token.as_bytes(), &self.with())
    }

    #[track_caller]
    pub(super) fn refuses(&self, token: &str, reason: &str) -> VerifyError {
        match self.verify(token) {
            Ok(_) => panic!("accepted, expected {reason}"),
            Err(error) => {
                assert_eq!(error.reason(), reason, "{error}");
                error
            }
        }
    }

    /// The gateway's `kid` header.
    pub(super) fn kid_header(&self) -> Value {
        json!({"alg": "ES256", "typ": "txntoken+jwt", "kid": self.gateway.verifying_key().kid()})
    }

    /// Signs claims properly, with the gateway's key and its `kid`.
    pub(super) fn token(&self, claims: &Value) -> String {
        signed(&self.kid_header().to_string(), &claims.to_string(), &self.gateway)
    }

    /// The base claims after `change`, signed properly.
    pub(super) fn changed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = base_claims();
        change(&mut claims);
        self.token(&claims)
    }

    /// The base claims under another header, signed with the gateway's key.
    pub(super) fn headed(&self, header: &Value) -> String {
        signed(&header.to_string(), &base_claims().to_string(), &self.gateway)
    }

    pub(super) fn minter(&self, key: KeyRef) -> Minter {
        Minter::new(
            id(GATEWAY),
            self.trust_domain.clone(),
            user_constraints(),
            key,
            self.gateway.clone(),
            Some(NOW.plus(3600)),
            &self.limits,
        )
        .unwrap()
    }
}

pub(super) fn x5c_header(leaf: &str) -> Value {
    let der = jws::encode_certificate(&certificate(leaf));
    json!({"alg": "ES256", "typ": "txntoken+jwt", "x5c": [der]})
}

/// Signs any header and payload.
pub(super) fn signed(header: &str, payload: &str, signer: &LocalSigner) -> String {
    signed_bytes(header.as_bytes(), payload.as_bytes(), signer)
}

pub(super) fn signed_bytes(header: &[u8], payload: &[u8], signer: &LocalSigner) -> String {
    let input = format!("{}.{}", jws::encode(header), jws::encode(payload));
    let signature = signer.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", jws::encode(&signature))
}

/// A sound token of the gateway for `orders`.
pub(super) fn base_claims() -> Value {
    json!({
        "iss": GATEWAY, "aud": "prod.example.com", "iat": NOW.0 - 10, "exp": NOW.0 + 50,
        "txn": "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2", "jti": "sUBCq5r81Enqa632cABTLw",
        "sub": "user:alice", "scope": "orders.read", "req_wl": GATEWAY,
        "rctx": {"v": 1, "origin": "user", "to": ORDERS}
    })
}

pub(super) fn base_context() -> NewContext {
    NewContext {
        sub: Subject::parse("user:alice").unwrap(),
        scope: vec!["orders.read".to_owned()],
        req_wl: id(GATEWAY),
        rctx: Rctx::new(Origin::User, id(ORDERS)),
        tctx: Tctx::default(),
        act: None,
    }
}

pub(super) fn ids() -> TokenIds {
    TokenIds { txn: txn_id(NOW.0 * 1000, [9; 10]), jti: [7; 16] }
}
