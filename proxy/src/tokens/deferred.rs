//! Deferred grants: a live context put aside for a message, and taken up again by its consumer.
//!
//! Invariant: a grant is made only for a context that the requester holds, and never for more than
//! that; it is redeemed only by the workload it names, for the message it names, as long as nothing
//! in it was revoked and the documents still let that workload have it. Every redemption decides anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_certs_client::Certs;
use countersign_config::{ProxyConfig, limits};
use countersign_ctxtoken::{
    Grant, GrantError, GrantKey, GrantSigner, GrantText, GrantWith, KeyRef, LocalSigner, MintError,
    NewGrant, Origin, UnixTime, verify_grant,
};
use countersign_workload_id::WorkloadId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::subject::{self, Proven};
use super::{Asked, Granted, Issued, Request, SubjectKind, TokenError, TokenRules, Why};

use crate::inbound::again;
use crate::inbound::context::SKEW_S;
use crate::issuer::IdentityKey;

/// Makes grants, and knows those it made.
pub struct GrantKeys {
    signer: GrantSigner,
    known: Vec<GrantKey>,
    max_ttl_s: u64,
    max_redemptions: u32,
}

/// A made grant and what the record says of it.
pub struct MadeGrant {
    /// The grant.
    pub text: GrantText,
    /// What it says.
    pub content: NewGrant,
    /// Its own id, as in the claim.
    pub jti: String,
}

impl GrantKeys {
    /// The keys of this process.
    ///
    /// # Errors
    /// A sentence saying why there are none.
    pub fn build(
        rules: Option<&TokenRules>,
        config: &ProxyConfig,
        certs: &Certs,
        files: &mut KeyFiles,
    ) -> Result<GrantKeys, String> {
        if rules.is_none() {
            return Err("this process serves no tokens".to_owned());
        }
        let identity = certs.token_signer().ok_or("this issuer has no identity yet")?;
        let id = identity.id.clone();
        let grants = &config.grants;
        let keys = files.read(&grants.key_files)?;
        let known = keys.iter().map(|key| {
            let key = key.verifying_key().clone();
            GrantKey { kid: key.kid(), key }
        });
        let known: Vec<GrantKey> = known.collect();
        let signer = match keys.first().cloned() {
            Some(first) => {
                let name = KeyRef::Kid(first.verifying_key().kid());
                GrantSigner::new(id, &name, first, None)
            }
            None => {
                let chain = identity.chain_der.iter().map(|der| der.to_vec()).collect();
                let ends = Some(UnixTime(identity.not_after));
                let key = Arc::new(IdentityKey(Arc::clone(identity)));
                GrantSigner::new(id, &KeyRef::X5c(chain), key, ends)
            }
        };
        Ok(GrantKeys {
            signer: signer.map_err(|error| error.to_string())?,
            known,
            max_ttl_s: grants.max_ttl_s,
            max_redemptions: grants.max_redemptions,
        })
    }
}

/// The keys of `grants.keyFiles`, as they were read last: files that cannot be read right now must
/// not end deferred work with the next certificate.
#[derive(Default)]
pub struct KeyFiles(Vec<Arc<LocalSigner>>);

impl KeyFiles {
    pub(super) fn read(&mut self, files: &[PathBuf]) -> Result<&[Arc<LocalSigner>], String> {
        match files.iter().map(|file| key(file).map(Arc::new)).collect::<Result<_, _>>() {
            Ok(keys) => self.0 = keys,
            Err(why) if self.0.is_empty() => return Err(why),
            Err(why) => tracing::warn!(code = "GK-01", why, "the last good keys for grants stay"),
        }
        Ok(&self.0)
    }
}

/// Reads a private key. What is wrong with it says nothing about it.
fn key(file: &Path) -> Result<LocalSigner, String> {
    let invalid = |why: &str| format!("grants.keyFiles: {}: {why}", file.display());
    let pem = std::fs::read(file).map_err(|error| invalid(&error.to_string()))?;
    let pem = zeroize::Zeroizing::new(pem);
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
        .map_err(|_| invalid("no private key (PKCS#8, PEM) in it"))?;
    let signer = LocalSigner::from_pkcs8_der(key.secret_pkcs8_der());
    signer.map_err(|error| invalid(&error.to_string()))
}

/// A grant for the live context that was brought.
///
/// # Errors
/// [`TokenError`].
pub(super) fn grant(asked: Asked<'_>, request: &Request) -> Result<Granted, TokenError> {
    if request.subject_kind != SubjectKind::TxnToken {
        let detail = "a deferred grant is made for a context token alone";
        return Err(Why::SubjectTypeUnsupported.error(detail));
    }
    let grants = keys(asked)?;
    let malformed = |detail: &str| Why::FormMalformed.error(detail);
    let consumer = request.deferred.consumer.as_deref().and_then(|id| WorkloadId::parse(id).ok());
    let consumer = consumer.ok_or_else(|| malformed("`csign_consumer` is no SPIFFE ID"))?;
    let ttl_s = match request.deferred.ttl.as_deref() {
        Some(text) => text.parse().ok().filter(|ttl| *ttl > 0),
        None => Some(limits::GRANT_TTL_S.min(grants.max_ttl_s)),
    };
    let ttl_s = ttl_s.ok_or_else(|| malformed("`csign_ttl` is no number of seconds"))?;
    let msg = message(request)?;
    may_defer(asked, &consumer)?;
    if ttl_s > grants.max_ttl_s {
        let detail = format!("{ttl_s} s asked for, {} s are allowed", grants.max_ttl_s);
        return Err(Why::GrantLife.error(detail));
    }
    let (live, custody) = subject::held(asked, request.subject_token.expose())?;
    let now = UnixTime(asked.now.secs());
    // Without the forgiveness of clocks: what has ended is not made to last.
    if live.exp <= now {
        return Err(Why::SubjectExpired.error("a token that has ended is not put aside"));
    }
    let scope = super::granted(&request.scope, Some(&custody.scope), asked.entry)?;
    let producer = asked.requester.id().clone();
    let sha256 = live.token_sha256();
    let content = NewGrant::of(live.get(), sha256, scope.clone(), producer, consumer, msg);
    let jti: [u8; 16] = asked.worker.random();
    let text = grants.signer.sign(&content, jti, now, ttl_s).map_err(|error| of_mint(&error))?;
    let made = MadeGrant { text, content, jti: URL_SAFE_NO_PAD.encode(jti) };
    Ok(Granted { issued: Issued::Grant(Box::new(made)), expires_in_s: ttl_s, scope })
}

/// Both ends of the queue are listed for it; a grant that nobody may redeem is refused where its
/// producer sees why.
fn may_defer(asked: Asked<'_>, consumer: &WorkloadId) -> Result<(), TokenError> {
    if !asked.entry.origins.contains(&Origin::Async) {
        let detail = "its entry lists no origin `async`";
        return Err(Why::OriginNotPermitted.error(detail));
    }
    let entry = asked.rules.entry(consumer).filter(|entry| {
        entry.takes(SubjectKind::Deferred) && entry.origins.contains(&Origin::Async)
    });
    match entry {
        Some(_) => Ok(()),
        None => Err(Why::GrantOfAnother.error(format!(
            "no entry lets {consumer} redeem deferred grants (`deferred`, `async`)"
        ))),
    }
}

/// What the grant that was brought lets the requester go on with.
///
/// # Errors
/// [`TokenError`].
pub(super) fn redeem(asked: Asked<'_>, request: &Request) -> Result<Proven, TokenError> {
    let grants = keys(asked)?;
    let msg = message(request)?;
    let with = GrantWith {
        issuer: asked.issuer.id(),
        keys: &grants.known,
        chains: &asked.snap.chains(),
        now: UnixTime(asked.now.secs()),
        skew_s: SKEW_S,
        limits: &asked.snap.token_limits,
    };
    let grant = verify_grant(request.subject_token.expose().as_bytes(), &with)
        .map_err(|error| of_grant(&error))?;
    let content = grant.content();
    let context = grant.redeem(asked.requester.id(), &msg, &content.scope);
    let context = context.map_err(|error| of_grant(&error))?;
    still_counts(asked, &grant)?;
    let exp = grant.exp().0;
    let counted = &asked.worker.shared.redeemed;
    if !counted.admit(grant.jti(), exp, grants.max_redemptions, asked.now) {
        let detail = format!("{} times at this process", grants.max_redemptions);
        return Err(Why::GrantSpent.error(detail));
    }
    let (txn, scope) = (content.txn.clone(), content.scope.clone());
    Ok(Proven { context, txn: Some(txn), grants: Some(scope) })
}

/// Whether what the grant rests on was not withdrawn since it was made.
fn still_counts(asked: Asked<'_>, grant: &Grant) -> Result<(), TokenError> {
    let (context, now) = (grant.context(), asked.now);
    let revocations = &asked.snap.revocations;
    let leaf = || grant.leaf().map(|leaf| CertificateDer::from(leaf.to_vec()));
    let used = || Some(again::KeyUsed { kid: grant.key_name().to_owned(), leaf: leaf() });
    if let Some(by) = again::revoked(&context, used, revocations, now) {
        return Err(Why::SubjectRevoked.error(format!("the grant is revoked ({by})")));
    }
    let ms = |s: u64| i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000);
    if revocations.identity(&context.req_wl, ms(grant.iat().0), ms(now.secs())) {
        return Err(Why::SubjectRevoked.error("the workload that made the message is revoked"));
    }
    let listed = |name: &str| asked.rules.providers.iter().any(|own| own.name == name);
    let idp = context.rctx.idp.as_deref().filter(|_| context.sub.user().is_some());
    if idp.is_some_and(|name| !listed(name)) {
        return Err(Why::SubjectInvalid.error("the user's provider is no longer configured"));
    }
    Ok(())
}

fn keys<'a>(asked: Asked<'a>) -> Result<&'a GrantKeys, TokenError> {
    asked.snap.grants.as_deref().map_err(|why| Why::NoGrantKey.error(why.clone()))
}

/// The digest of the message that goes with the request.
fn message(request: &Request) -> Result<[u8; 32], TokenError> {
    let text = request.deferred.digest.as_deref().unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Why::FormMalformed.error("`csign_digest` is no SHA-256 in base64url"))
}

fn of_grant(error: &GrantError) -> TokenError {
    let why = match error {
        GrantError::Expired => Why::SubjectExpired,
        GrantError::OtherConsumer { .. } => Why::GrantOfAnother,
        GrantError::OtherMessage => Why::MessageDiffers,
        GrantError::TooManyRequesters => Why::ReplacedTooOften,
        GrantError::Claim(_)
        | GrantError::KeyUnknown(_)
        | GrantError::Malformed(_)
        | GrantError::OtherIssuer
        | GrantError::ScopeExceeded
        | GrantError::SignatureInvalid => Why::GrantInvalid,
    };
    why.error(error.to_string())
}

fn of_mint(error: &MintError) -> TokenError {
    let why = match error {
        MintError::TtlInvalid { .. } => Why::GrantLife,
        MintError::Context(_) | MintError::TooLarge { .. } => Why::ContextInvalid,
        MintError::ChainUnusable(_)
        | MintError::ConstraintViolated(_)
        | MintError::KeyNameInvalid
        | MintError::Sign(_)
        | MintError::SignerExpired => Why::NoGrantKey,
    };
    why.error(error.to_string())
}
