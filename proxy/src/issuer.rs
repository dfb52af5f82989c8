//! The issuer of context tokens in this process: its key, its own limits, and how a token is made.
//!
//! Invariant: only a process that is configured as a gateway or as a token service, and whose
//! identity is on the mesh's issuer list, has one. An ordinary sidecar has no minting type.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_certs_client::{Certs, Identity, svid};
use countersign_config::{AppService, ProxyConfig};
use countersign_ctxtoken::{
    Algorithm, ContextToken, KeyRef, MintError, Minter, NewContext, SignError, TokenIds,
    TokenSigner, UnixTime, VerifyingKey, txn_id,
};
use countersign_policy::Documents;
use countersign_policy::doc::{IssuerKeys, TrustedIssuer};
use countersign_workload_id::WorkloadId;
use http::HeaderValue;

use crate::clock::Now;
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
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
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
    ) -> Result<Issuer, String> {
        let serves = config.app.iter().any(|app| app.service == Some(AppService::Issuer));
        if config.gateway.is_empty() && !serves {
            return Err("this process is neither a gateway nor a token service".to_owned());
        }
        Ok(Issuer { minter: minter(documents, certs)?, ttl_s: documents.mesh.context_ttl_s })
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
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
        Ok(Minted { token, context, txn, sha256, jti: URL_SAFE_NO_PAD.encode(jti) })
    }
}

fn minter(documents: &Documents, certs: &Certs) -> Result<Minter, String> {
    let identity = certs.token_signer().ok_or("this issuer has no identity yet")?;
    let issuer =
        documents.mesh.issuers.iter().find(|issuer| issuer.id == identity.id).ok_or_else(|| {
            format!(
                "{} is not in MeshConfig `context.issuers`, so nobody would accept its tokens",
                identity.id
            )
        })?;
    let constraints = crate::trust::constraints(issuer)?;
    let key = match issuer.keys {
        IssuerKeys::X5c | IssuerKeys::Either => {
            KeyRef::X5c(identity.chain_der.iter().map(|certificate| certificate.to_vec()).collect())
        }
        IssuerKeys::Jwks => KeyRef::Kid(published_kid(issuer, identity)?),
    };
    let signer: Arc<dyn TokenSigner> = Arc::new(IdentityKey(Arc::clone(identity)));
    Minter::new(
        identity.id.clone(),
        documents.mesh.trust_domain.clone(),
        constraints,
        key,
        signer,
        Some(UnixTime(identity.not_after)),
        &crate::live::token_limits(),
    )
    .map_err(|error| error.to_string())
}

/// The name of our key in the issuer's key set; verifiers know no other keys of ours.
fn published_kid(issuer: &TrustedIssuer, identity: &Identity) -> Result<String, String> {
    let leaf = identity.chain_der.first().ok_or("the identity has no certificate")?;
    let spki = svid::spki(leaf).map_err(|error| error.to_string())?;
    let kid = VerifyingKey::from_spki_der(&spki).map_err(|error| error.to_string())?.kid();
    let published = crate::trust::key_set(issuer)?;
    if published.is_some_and(|keys| keys.has(&kid)) {
        return Ok(kid);
    }
    Err(format!(
        "`keys: jwks` of {}, but its key set does not hold the key of our certificate ({kid}); \
         publish it there, or write `keys: either`",
        issuer.id
    ))
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
}
