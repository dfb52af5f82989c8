//! Mints a token, verifies it as the first holder's sidecar would, and shows who may use it.
//!
//! ```text
//! cargo run -p countersign-ctxtoken --example mint_and_verify
//! cargo run -p countersign-ctxtoken --example mint_and_verify -- --export   # for other libraries
//! ```

use std::{error::Error, sync::Arc};

use aws_lc_rs::{
    rand::{SecureRandom, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use countersign_ctxtoken::{
    ChainKey, ChainValidator, Constraints, CustodyWith, HopKeys, Issuer, IssuerSet, KeyForms,
    KeyRef, KeySet, Limits, LocalSigner, Minter, NewContext, Origin, Rctx, RequestContext,
    ScopePattern, SubPattern, Subject, Tctx, TokenIds, UnixTime, UserName, Verified, VerifyWith,
    check_custody, txn_id, verify,
};
use countersign_workload_id::{TrustDomain, WorkloadId};

/// This example names its key; a verifier of `x5c` tokens brings a real validator.
struct NoChains;

impl ChainValidator for NoChains {
    fn validate(&self, _: &[Vec<u8>], _: UnixTime) -> Result<ChainKey, String> {
        Err("this verifier knows no certificate authority".to_owned())
    }
}

impl HopKeys for NoChains {
    fn find(&self, _: &[u8; 32], _: UnixTime) -> Option<Arc<ChainKey>> {
        None
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let trust_domain: TrustDomain = "prod.example.com".parse()?;
    let gateway = WorkloadId::new(&trust_domain, "edge", "gateway")?;
    let orders = WorkloadId::new(&trust_domain, "shop", "orders")?;
    let billing = WorkloadId::new(&trust_domain, "shop", "billing")?;
    let limits = Limits::default();

    // The gateway's key and what it may sign: the same entry stands in every verifier's list.
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
    let signer = Arc::new(LocalSigner::from_pkcs8_der(pkcs8.as_ref())?);
    let jwks = format!(r#"{{"keys":[{}]}}"#, signer.verifying_key().to_jwk());
    let allow = Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*")?],
        scopes: vec![ScopePattern::parse("orders.*")?],
        impersonate: vec![],
        max_ttl_s: 60,
    };

    // Mint: alice reads orders; the token is handed to `orders`.
    // Time and randomness are the caller's; a program that serves takes them from its clock.
    let now = UnixTime(1_795_194_000);
    let (mut rand, mut jti) = ([0; 10], [0; 16]);
    random.fill(&mut rand)?;
    random.fill(&mut jti)?;
    let ids = TokenIds { txn: txn_id(now.0 * 1000, rand), jti };
    let mut context = NewContext {
        sub: Subject::User(UserName::new(None, "alice").ok_or("no user name")?),
        scope: vec!["orders.read".to_owned()],
        req_wl: gateway.clone(),
        rctx: Rctx::new(Origin::User, orders.clone()),
        tctx: Tctx { m: Some("GET".to_owned()), ..Tctx::default() },
        act: None,
    };
    context.rctx.groups = Some(vec!["support".to_owned()]);
    let key = KeyRef::Kid(signer.verifying_key().kid());
    let minter = Minter::new(
        gateway.clone(),
        trust_domain.clone(),
        allow.clone(),
        key,
        signer,
        None,
        &limits,
    )?;
    let token = minter.mint(&context, ids, now, 60)?;
    if std::env::args().any(|arg| arg == "--export") {
        println!(r#"{{"jwks":{jwks},"token":"{}"}}"#, token.expose());
        return Ok(());
    }
    println!("minted    {token:?}, {} bytes", token.expose().len());

    // Verify, as any sidecar of the domain.
    let jwks = Some(KeySet::from_jwks_json(jwks.as_bytes())?);
    let entry = Issuer { id: gateway.clone(), keys: KeyForms::Either, allow, jwks };
    let issuers = IssuerSet::new(vec![entry])?;
    let with = VerifyWith {
        issuers: &issuers,
        chains: &NoChains,
        trust_domain: &trust_domain,
        now,
        skew_s: 30,
        limits: &limits,
    };
    let verified = verify(token.expose().as_bytes(), &with)?;
    println!("verified  {} for {:?}, txn {}", verified.sub, verified.scope, verified.txn);

    show_custody(&verified, &[&gateway, &orders, &billing], now);
    Ok(())
}

/// Who presents the token to whom. No hop records: only the first holder and those it calls.
fn show_custody(
    verified: &Verified<RequestContext>,
    [gateway, orders, billing]: &[&WorkloadId; 3],
    now: UnixTime,
) {
    for (peer, me) in [(gateway, orders), (orders, billing), (billing, orders)] {
        let with = CustodyWith {
            peer,
            peer_leaf_sha256: [0; 32],
            me,
            hops: None,
            keys: &NoChains,
            seen: None,
            now,
            skew_s: 30,
            required: true,
        };
        match check_custody(verified, &with) {
            Ok(_) => println!("accepted  {} from {}", me.short(), peer.short()),
            Err(refusal) => println!("refused   {}: {refusal}", refusal.reason()),
        }
    }
}
