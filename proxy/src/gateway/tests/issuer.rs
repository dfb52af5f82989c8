//! An identity provider for tests: keys, its JWK set, and tokens good and bad.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_policy::Place;
use countersign_policy::doc::{
    ClaimDeclaration, ClaimRole, ClaimType, CredentialSource, IdentityProvider, ProviderKeys,
    UserAlgorithm,
};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::Now;
use crate::gateway::provider_keys::Provider;
use crate::gateway::user_keys::UserKeySet;

pub(super) const NOW_S: u64 = 1_795_194_000;
pub(super) const ISSUER: &str = "https://login.example.com/";
pub(super) const AUDIENCE: &str = "https://api.example.com";

pub(super) fn now() -> Now {
    Now::from_micros(NOW_S * 1_000_000)
}

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn claim(kind: ClaimType, role: Option<ClaimRole>) -> ClaimDeclaration {
    ClaimDeclaration { kind, role, keep: Vec::new(), at: Vec::new() }
}

/// The provider of `policy.md` §2.
pub(super) fn provider() -> Provider {
    let groups = ClaimDeclaration {
        keep: vec!["support".into(), "sre-oncall".into()],
        ..claim(ClaimType::StringList, Some(ClaimRole::Groups))
    };
    let claims = [
        ("sub", claim(ClaimType::String, Some(ClaimRole::Id))),
        ("uid", claim(ClaimType::String, Some(ClaimRole::AccountId))),
        ("auth_time", claim(ClaimType::Timestamp, Some(ClaimRole::AuthTime))),
        ("groups", groups),
        ("tenant", claim(ClaimType::String, None)),
        ("level", claim(ClaimType::Int, None)),
    ];
    let spec = IdentityProvider {
        issuer: ISSUER.into(),
        audiences: vec![AUDIENCE.into()],
        algorithms: vec![UserAlgorithm::RS256, UserAlgorithm::ES256],
        token_types: vec!["at+jwt".into(), "JWT".into()],
        claims: claims.map(|(name, claim)| (name.to_owned(), claim)).into_iter().collect(),
        subject_prefix: None,
        keys: discovery(30),
        from: vec![source("authorization", Some("Bearer"))],
        grants: None,
        required_claims: Default::default(),
        sender: Default::default(),
    };
    named("corp", spec)
}

pub(super) fn named(name: &str, spec: IdentityProvider) -> Provider {
    let place = Place { file: "mesh.yaml".into(), line: 1, column: 1 };
    Provider { namespace: String::new(), name: name.into(), spec, place }
}

pub(super) fn discovery(unknown_key_cooldown_s: u64) -> ProviderKeys {
    ProviderKeys::Discovery {
        api_server: None,
        allowed_hosts: vec!["login.example.com".into()],
        refresh_s: 900,
        unknown_key_cooldown_s,
        max_stale_s: 86_400,
    }
}

pub(super) fn source(header: &str, scheme: Option<&str>) -> CredentialSource {
    CredentialSource { header: header.into(), scheme: scheme.map(Into::into) }
}

pub(super) fn alice() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "uid": "42",
        "iat": NOW_S - 10, "exp": NOW_S + 300, "auth_time": NOW_S - 812,
        "groups": ["support", "everyone"], "tenant": "acme", "secret": "not declared",
        "acr": "2", "amr": ["pwd", "otp"], "client_id": "webshop", "scope": "orders.read profile",
    })
}

pub(super) enum Key {
    Es256(EcdsaKeyPair),
    Rs256(Box<RsaKeyPair>),
}

/// A key pair with its id.
pub(super) struct Signer {
    pub(super) kid: &'static str,
    pub(super) key: Key,
}

impl Signer {
    pub(super) fn es256(kid: &'static str) -> Signer {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Signer { kid, key: Key::Es256(key) }
    }

    pub(super) fn rs256(kid: &'static str) -> Signer {
        Signer { kid, key: Key::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())) }
    }

    pub(super) fn alg(&self) -> &'static str {
        match self.key {
            Key::Es256(_) => "ES256",
            Key::Rs256(_) => "RS256",
        }
    }

    /// The bytes of the public key: what an HMAC confusion would use as the secret.
    pub(super) fn public_bytes(&self) -> Vec<u8> {
        match &self.key {
            Key::Es256(key) => key.public_key().as_ref().to_vec(),
            Key::Rs256(key) => key.public_key().as_ref().to_vec(),
        }
    }

    pub(super) fn jwk(&self) -> Value {
        match &self.key {
            Key::Es256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
                       "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            Key::Rs256(key) => {
                let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
                let (_, info) = SubjectPublicKeyInfo::from_der(der.as_ref()).unwrap();
                let PublicKey::RSA(rsa) = info.parsed().unwrap() else { panic!("an RSA key") };
                let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
                json!({"kty": "RSA", "kid": self.kid, "use": "sig",
                       "n": b64(modulus), "e": b64(rsa.exponent)})
            }
        }
    }

    /// Signs whatever header and payload are given.
    pub(super) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Es256(key) => key.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Key::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", b64(signature))
    }

    pub(super) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_raw(&header.to_string(), &claims.to_string())
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": self.alg(), "typ": "at+jwt", "kid": self.kid})
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }
}

pub(super) fn jwks(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

pub(super) fn key_set(signers: &[&Signer]) -> UserKeySet {
    let algorithms = [UserAlgorithm::RS256, UserAlgorithm::ES256];
    UserKeySet::from_jwks_json(jwks(signers).as_bytes(), &algorithms).unwrap()
}
