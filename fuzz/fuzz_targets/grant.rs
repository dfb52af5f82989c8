//! Deferred grants: whole, and as payloads that a key of ours has signed.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use countersign_ctxtoken::{
    ChainKey, ChainValidator, GrantKey, GrantWith, Limits, LocalSigner, TokenSigner, UnixTime,
    grant_scope, verify_grant,
};
use countersign_fuzz::part;

struct NoChain;

impl ChainValidator for NoChain {
    fn validate(&self, _: &[Vec<u8>], _: UnixTime) -> Result<ChainKey, String> {
        Err("no chain counts here".to_owned())
    }
}

static KEY: LazyLock<LocalSigner> = LazyLock::new(|| {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    LocalSigner::from_pkcs8_der(key.expect("a key").as_ref()).expect("a signer")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let key = KEY.verifying_key().clone();
    let keys = [GrantKey { kid: key.kid(), key }];
    let issuer = "spiffe://prod.example.com/ns/edge/sa/gateway".parse().expect("an id");
    let limits = Limits::default();
    let with = GrantWith {
        issuer: &issuer,
        keys: &keys,
        chains: &NoChain,
        now: UnixTime(1_795_194_010),
        skew_s: 30,
        limits: &limits,
    };
    let _ = (grant_scope(bytes), verify_grant(bytes, &with));
    let header = format!(r#"{{"alg":"ES256","typ":"csign-deferred+jwt","kid":"{}"}}"#, keys[0].kid);
    let signed = format!("{}.{}", part(header.as_bytes()), part(bytes));
    let signature = KEY.sign(signed.as_bytes()).expect("a signature");
    let _ = verify_grant(format!("{signed}.{}", part(&signature)).as_bytes(), &with);
});
