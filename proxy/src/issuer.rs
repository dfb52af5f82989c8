//! The issuer of context tokens in this process: its key, its own limits, and how a token is made.
//!
//! Invariant: only a process that is configured as a gateway or as a token service, and whose
//! identity is on the mesh's issuer list, has one. An ordinary sidecar has no minting type.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_certs_client::{Certs, Identity};
use countersign_config::{AppService, ProxyConfig};
use countersign_ctxtoken::{
    Algorithm, ContextToken, KeyRef, Message, MintError, Minter, NewContext, SignError, TokenIds,
    TokenSigner, UnixTime, txn_id,
};
use countersign_policy::Documents;
use countersign_policy::doc::{IssuerKeys, TrustedIssuer};
use countersign_workload_id::WorkloadId;
use http::HeaderValue;

use crate::clock::Now;
use crate::issuers::own::OwnKeys;
use crate::refusal::{Refusal, Refused, Stage};
use crate::worker::Worker;

/// Makes context tokens.
pub struct Issuer {
    minter: Minter,
    /// Life of a token, seconds.
    pub ttl_s: u64,
}

/// A made token and what the record says of it.
pub struct Minted {
    /// The token.
    pub token: ContextToken,
    /// Its content.
    pub context: NewContext,
    /// Its transaction.
    pub txn: String,
    /// Its own id, as in the claim.
    pub jti: String,
}

impl Minted {
    /// The token as a header value that HPACK never indexes and `Debug` never shows.
    ///
    /// # Errors
    /// `context_too_large`, which a token that was just made never is.
    pub fn header(self) -> Result<HeaderValue, Refused> {
        let mut value = HeaderValue::try_from(self.token.into_exposed()).map_err(|_| {
            Refused::new(Refusal::ContextTooLarge, Stage::Mint, "the token is no header value")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Issuer {
    /// The issuer of this process.
    ///
    /// # Errors
    /// A sentence saying why there is none.
    pub fn build(
        documents: &Documents,
        config: &ProxyConfig,
        certs: &Certs,
        own: &OwnKeys,
        now: Now,
    ) -> Result<Issuer, String> {
        let serves = config.app.iter().any(|app| app.service == Some(AppService::Issuer));
        if config.gateway.is_empty() && !serves {
            return Err("this process is neither a gateway nor a token service".to_owned());
        }
        Ok(Issuer {
            minter: minter(documents, certs, own, now)?,
            ttl_s: documents.mesh.context_ttl_s,
        })
    }

    /// Who signs.
    pub fn id(&self) -> &WorkloadId {
        self.minter.issuer()
    }

    /// How long a token made now lives, seconds.
    pub fn life_s(&self, now: Now) -> u64 {
        self.minter.life_s(UnixTime(now.secs()), self.ttl_s)
    }

    /// Makes a token of a transaction, of a new one if `txn` is `None`.
    ///
    /// # Errors
    /// [`MintError`]: what nobody would accept is not signed.
    pub fn mint(
        &self,
        worker: &Worker,
        context: NewContext,
        txn: Option<String>,
        now: Now,
    ) -> Result<Minted, MintError> {
        let txn = txn.unwrap_or_else(|| txn_id(now.millis(), worker.random()));
        let jti: [u8; 16] = worker.random();
        let ids = TokenIds { txn: txn.clone(), jti };
        let token = self.minter.mint(&context, ids, UnixTime(now.secs()), self.ttl_s)?;
        Ok(Minted { token, context, txn, jti: URL_SAFE_NO_PAD.encode(jti) })
    }
}

fn minter(documents: &Documents, certs: &Certs, own: &OwnKeys, now: Now) -> Result<Minter, String> {
    let identity = certs.token_signer().ok_or("this issuer has no identity yet")?;
    let issuer =
        documents.mesh.issuers.iter().find(|issuer| issuer.id == identity.id).ok_or_else(|| {
            format!(
                "{} is not in MeshConfig `context.issuers`, so nobody would accept its tokens",
                identity.id
            )
        })?;
    let constraints = crate::trust::constraints(issuer)?;
    let (key, signer, ends) = signing_key(issuer, identity, own, now)?;
    Minter::new(
        identity.id.clone(),
        documents.mesh.trust_domain.clone(),
        constraints,
        key,
        signer,
        ends.map(UnixTime),
        &crate::live::token_limits(),
    )
    .map_err(|error| error.to_string())
}

/// A key, what names it in tokens, and when its certificate ends.
type Signing = (KeyRef, Arc<dyn TokenSigner>, Option<u64>);

/// By name once the name is published for long enough; until then by certificate, where the mesh
/// accepts both.
fn signing_key(
    issuer: &TrustedIssuer,
    identity: &Arc<Identity>,
    own: &OwnKeys,
    now: Now,
) -> Result<Signing, String> {
    let by_name = match issuer.keys {
        IssuerKeys::X5c => None,
        IssuerKeys::Either => own.in_use(now).filter(|_| own.prefers_kid()),
        IssuerKeys::Jwks => Some(own.in_use(now).ok_or_else(|| {
            format!(
                "`keys: jwks` of {}: {}; with `keys: either` it signs by its certificate meanwhile",
                issuer.id,
                own.waits_for()
            )
        })?),
    };
    if let Some(key) = by_name {
        return Ok((KeyRef::Kid(key.kid.to_string()), Arc::clone(&key.signer), key.ends));
    }
    let chain = identity.chain_der.iter().map(|certificate| certificate.to_vec()).collect();
    let signer: Arc<dyn TokenSigner> = Arc::new(IdentityKey(Arc::clone(identity)));
    Ok((KeyRef::X5c(chain), signer, Some(identity.not_after)))
}

/// Signs tokens with the key of an identity.
pub struct IdentityKey(pub Arc<Identity>);

impl TokenSigner for IdentityKey {
    fn algorithm(&self) -> Algorithm {
        self.0.key.algorithm()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.0.key.sign(message)
    }

    fn sign_hashed(&self, message: &Message<'_>) -> Result<Vec<u8>, SignError> {
        self.0.key.sign_hashed(message)
    }
}
