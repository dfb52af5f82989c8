//! Deferred grants: what a message carries instead of a context token. A grant is good for one
//! thing, to be redeemed at the issuer that made it, by the one workload it names, for the one
//! message whose digest it holds.
//!
//! Invariant: a grant is never a context token (another `typ`, and `aud` is the issuer itself), so
//! whoever reads a queue can call nobody with it; a [`Grant`] exists only after its signature was
//! verified with a key of ours, and says nothing to a workload or about a message it was not made
//! for. Times, keys and randomness are arguments.

use std::{fmt, sync::Arc};

use countersign_workload_id::{TrustDomain, WorkloadId};

use crate::{
    ChainValidator, InvalidContext, KeyName, KeyRef, Limits, MintError, NewContext, Origin, Rctx,
    Redacted, RequestContext, Subject, Tctx, TokenSigner, UnixTime, VerifyingKey,
    claims::{self, GrantClaims, GrantEnvelope, check_body, check_requesters, check_txn},
    json, jws, mint,
};

/// Media type of a grant.
const TYP: &str = "csign-deferred+jwt";

/// Longest life of any grant, in seconds: a day.
pub const GRANT_TTL_S_MAX: u64 = 86_400;

/// Longest grant: a message header must hold it.
const GRANT_BYTES_MAX: usize = 4096;

/// What a grant is to say. The signer adds issuer, times and its own ID.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGrant {
    /// The transaction that is put aside.
    pub txn: String,
    /// On whose behalf.
    pub sub: Subject,
    /// What for; never more than the live token's scope.
    pub scope: Vec<String>,
    /// The workload that puts it aside.
    pub req_wl: WorkloadId,
    /// The only workload that may take it up.
    pub may_act: WorkloadId,
    /// SHA-256 of the message it goes with.
    pub msg: [u8; 32],
    /// Earlier requesters of this transaction, oldest first.
    pub req_chain: Vec<WorkloadId>,
    /// What the live token said of the user and the reason; nothing of its connection.
    pub rctx: Rctx,
    /// What the live token said of its request.
    pub tctx: Tctx,
}

impl NewGrant {
    /// A grant for what `live` allows now. Facts about the connection the request came over (its
    /// address, TLS, proof of possession) are left out: they say nothing about the moment it is
    /// taken up again. User, device and reason stay, because they can be revoked meanwhile.
    pub fn of(
        live: &RequestContext,
        token_sha256: &[u8; 32],
        scope: Vec<String>,
        producer: WorkloadId,
        consumer: WorkloadId,
        msg: [u8; 32],
    ) -> Self {
        let mut req_chain = live.tctx.req_chain.clone().unwrap_or_default();
        req_chain.push(live.req_wl.clone());
        let rctx =
            Rctx { req_ip: None, ip_src: None, tls: None, wl: None, sc: None, ..live.rctx.clone() };
        let tctx = Tctx {
            deadline: None,
            req_chain: None,
            parent: Some(jws::encode(token_sha256)),
            ..live.tctx.clone()
        };
        Self {
            txn: live.txn.clone(),
            sub: live.sub.clone(),
            scope,
            req_wl: producer,
            may_act: consumer,
            msg,
            req_chain,
            rctx,
            tctx,
        }
    }
}

/// The text of a grant; `Debug` never shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantText(Redacted<String>);

impl GrantText {
    /// The grant, for the message it goes into. Grep for this name.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// Makes grants with one key.
pub struct GrantSigner {
    issuer: WorkloadId,
    signer: Arc<dyn TokenSigner>,
    not_after: Option<UnixTime>,
    /// The encoded header and its dot.
    header: String,
}

impl GrantSigner {
    /// A signer for `issuer`. `not_after` is the end of the certificate that belongs to the key;
    /// a key without one outlives certificates.
    pub fn new(
        issuer: WorkloadId,
        key: &KeyRef,
        signer: Arc<dyn TokenSigner>,
        not_after: Option<UnixTime>,
    ) -> Result<Self, MintError> {
        let named = mint::name(key)?;
        let algorithm = signer.algorithm().name();
        let header = format!(r#"{{"alg":"{algorithm}","typ":"{TYP}",{named}}}"#);
        Ok(Self { issuer, signer, not_after, header: jws::encode(header.as_bytes()) + "." })
    }

    /// How long a grant made now could live at most.
    pub fn longest_s(&self, now: UnixTime) -> u64 {
        self.not_after.map_or(GRANT_TTL_S_MAX, |end| end.since(now).min(GRANT_TTL_S_MAX))
    }

    /// Makes one grant that lives `ttl_s` seconds. A life beyond that of the key is refused, not
    /// shortened: whoever puts work aside must know until when.
    pub fn sign(
        &self,
        grant: &NewGrant,
        jti: [u8; 16],
        now: UnixTime,
        ttl_s: u64,
    ) -> Result<GrantText, MintError> {
        let limit = self.longest_s(now);
        if ttl_s == 0 || ttl_s > limit {
            return Err(MintError::TtlInvalid { secs: ttl_s, limit });
        }
        let home = self.issuer.trust_domain();
        check_txn("txn", &grant.txn)?;
        check_body(home, &grant.sub, &grant.scope, &grant.rctx, &grant.tctx, None)?;
        check_requesters(&grant.req_chain)?;
        let exp = now.plus(ttl_s);
        let envelope = GrantEnvelope { iss: &self.issuer, iat: now, exp, jti: &jti };
        let mut payload = Vec::with_capacity(1024);
        claims::write_grant(&mut payload, &envelope, grant);
        let mut text = self.header.clone();
        jws::encode_into(&payload, &mut text);
        let signature = self.signer.sign(text.as_bytes())?;
        text.push('.');
        jws::encode_into(&signature, &mut text);
        if text.len() > GRANT_BYTES_MAX {
            return Err(MintError::TooLarge { bytes: text.len(), limit: GRANT_BYTES_MAX });
        }
        Ok(GrantText(Redacted::new(text)))
    }
}

impl fmt::Debug for GrantSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantSigner").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// A key whose grants are believed.
#[derive(Debug, Clone)]
pub struct GrantKey {
    /// Its name in headers.
    pub kid: String,
    /// The key.
    pub key: VerifyingKey,
}

/// Everything the check of a grant depends on besides the grant.
pub struct GrantWith<'a> {
    /// The issuer itself: the only `iss` and the only `aud`.
    pub issuer: &'a WorkloadId,
    /// Keys that outlive certificates.
    pub keys: &'a [GrantKey],
    /// Validates the chain of a grant made with the key of a certificate.
    pub chains: &'a dyn ChainValidator,
    /// The time of this request.
    pub now: UnixTime,
    /// How far clocks may differ, in seconds.
    pub skew_s: u64,
    /// Sizes.
    pub limits: &'a Limits,
}

/// A verified grant, not yet anybody's: [`Grant::redeem`] says to whom it speaks.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    claims: GrantClaims,
    home: TrustDomain,
    key_name: String,
    leaf: Option<Vec<u8>>,
}

/// Why a grant is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No compact JWS of this type.
    #[error("not a deferred grant: {0}")]
    Malformed(String),
    /// Made by, or for, another issuer.
    #[error("the grant was made by another issuer")]
    OtherIssuer,
    /// No key of ours has this name, or the chain is not ours.
    #[error("no key for this grant: {0}")]
    KeyUnknown(String),
    /// The signature does not fit.
    #[error("the signature of the grant does not fit")]
    SignatureInvalid,
    /// It has ended, or does not begin yet.
    #[error("the grant has ended")]
    Expired,
    /// A member is missing or breaks its rule.
    #[error("{0}")]
    Claim(#[from] InvalidContext),
    /// Presented by a workload it does not name.
    #[error("the grant is for {named}, not for {peer}")]
    OtherConsumer {
        /// The workload it names.
        named: WorkloadId,
        /// The workload that came.
        peer: WorkloadId,
    },
    /// Presented with a message it was not made for.
    #[error("the grant was made for another message")]
    OtherMessage,
    /// More scope asked for than it holds.
    #[error("the grant does not hold the scope asked for")]
    ScopeExceeded,
    /// Taken up by too many workloads one after another.
    #[error("the transaction was taken up too often")]
    TooManyRequesters,
}

/// Verifies a grant: form, key, signature, issuer, times, members.
pub fn verify_grant(text: &[u8], with: &GrantWith<'_>) -> Result<Grant, GrantError> {
    let malformed = |error: crate::VerifyError| GrantError::Malformed(error.to_string());
    let limits = Limits { token_bytes_max: GRANT_BYTES_MAX, ..with.limits.clone() };
    let parts = jws::split(text, None, &limits).map_err(malformed)?;
    let header = jws::decode_part(parts.header).map_err(malformed)?;
    let header = jws::header_of_type(&header, &limits, &[TYP]).map_err(malformed)?;
    let payload = jws::decode_part(parts.payload).map_err(malformed)?;
    let signature = jws::decode_part(parts.signature).map_err(malformed)?;
    let payload = json::check(&payload).map_err(|why| GrantError::Malformed(why.to_owned()))?;
    let (key, key_ends) = find_key(&header.key, with)?;
    if key.algorithm() != header.algorithm {
        return Err(GrantError::KeyUnknown("the key is for another algorithm".to_owned()));
    }
    if !key.verifies(parts.signed, &signature) {
        return Err(GrantError::SignatureInvalid);
    }
    let home = with.issuer.trust_domain();
    let claims = claims::parse_grant(payload, home)?;
    if claims.iss != *with.issuer || claims.aud != *with.issuer {
        return Err(GrantError::OtherIssuer);
    }
    let begun = claims.iat <= with.now.plus(with.skew_s);
    let sound = claims.exp > claims.iat && claims.exp.since(claims.iat) <= GRANT_TTL_S_MAX;
    let lives = claims.exp > with.now && key_ends.is_none_or(|end| claims.exp <= end);
    if !(begun && sound && lives) {
        return Err(GrantError::Expired);
    }
    let leaf = match header.key {
        KeyName::Kid(_) => None,
        KeyName::X5c(chain) => chain.into_iter().next(),
    };
    Ok(Grant { claims, home: home.clone(), key_name: key.kid(), leaf })
}

/// The key a header names, and when it ends.
fn find_key(
    name: &KeyName,
    with: &GrantWith<'_>,
) -> Result<(VerifyingKey, Option<UnixTime>), GrantError> {
    let unknown = |why: &str| GrantError::KeyUnknown(why.to_owned());
    match name {
        KeyName::Kid(kid) => {
            let known = with.keys.iter().find(|known| known.kid == *kid);
            let known = known.ok_or_else(|| unknown("no key of this name makes grants here"))?;
            Ok((known.key.clone(), None))
        }
        KeyName::X5c(chain) => {
            let signer = with.chains.validate(chain, with.now).map_err(GrantError::KeyUnknown)?;
            if signer.id != *with.issuer {
                return Err(unknown("a certificate of another workload"));
            }
            Ok((signer.key, Some(signer.not_after)))
        }
    }
}

impl Grant {
    /// When it was made; entries of a revocation compare this.
    pub fn iat(&self) -> UnixTime {
        self.claims.iat
    }

    /// When it ends.
    pub fn exp(&self) -> UnixTime {
        self.claims.exp
    }

    /// Its own ID, by which redemptions are counted.
    pub fn jti(&self) -> &str {
        &self.claims.jti
    }

    /// The name of the key it was made with.
    pub fn key_name(&self) -> &str {
        &self.key_name
    }

    /// The certificate of that key, where the grant brought one.
    pub fn leaf(&self) -> Option<&[u8]> {
        self.leaf.as_deref()
    }

    /// What it says in the form of a context, to be held against what is revoked.
    pub fn context(&self) -> RequestContext {
        let GrantClaims { iss, iat, exp, jti, grant, aud: _ } = &self.claims;
        RequestContext {
            iss: iss.clone(),
            aud: self.home.clone(),
            iat: *iat,
            exp: *exp,
            nbf: None,
            txn: grant.txn.clone(),
            jti: jti.clone(),
            sub: grant.sub.clone(),
            scope: grant.scope.clone(),
            req_wl: grant.req_wl.clone(),
            rctx: grant.rctx.clone(),
            tctx: grant.tctx.clone(),
            act: None,
        }
    }

    /// What it says.
    pub fn content(&self) -> &NewGrant {
        &self.claims.grant
    }

    /// What `peer` may go on with, for the message whose digest it brings: the context of a new
    /// token, first held by `peer` and attributed to it.
    pub fn redeem(
        &self,
        peer: &WorkloadId,
        msg: &[u8; 32],
        scope: &[String],
    ) -> Result<NewContext, GrantError> {
        let grant = &self.claims.grant;
        if *peer != grant.may_act || *peer.trust_domain() != self.home {
            let (named, peer) = (grant.may_act.clone(), peer.clone());
            return Err(GrantError::OtherConsumer { named, peer });
        }
        if *msg != grant.msg {
            return Err(GrantError::OtherMessage);
        }
        if scope.is_empty() || !scope.iter().all(|name| grant.scope.contains(name)) {
            return Err(GrantError::ScopeExceeded);
        }
        let mut requesters = grant.req_chain.clone();
        requesters.push(grant.req_wl.clone());
        check_requesters(&requesters).map_err(|_| GrantError::TooManyRequesters)?;
        Ok(NewContext {
            sub: grant.sub.clone(),
            scope: scope.to_vec(),
            req_wl: peer.clone(),
            rctx: Rctx { origin: Origin::Async, to: peer.clone(), ..grant.rctx.clone() },
            tctx: Tctx { req_chain: Some(requesters), ..grant.tctx.clone() },
            act: Some(peer.clone()),
        })
    }
}

impl fmt::Debug for GrantClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantClaims").field("jti", &self.jti).finish_non_exhaustive()
    }
}

/// The scope a grant says it holds, with nothing verified: so that a consumer's sidecar can ask for
/// all of it. `None` if the text is no grant by its form.
pub fn grant_scope(text: &[u8]) -> Option<String> {
    let limits = Limits { token_bytes_max: GRANT_BYTES_MAX, ..Limits::default() };
    let parts = jws::split(text, None, &limits).ok()?;
    jws::header_of_type(&jws::decode(parts.header)?, &limits, &[TYP]).ok()?;
    let payload = jws::decode(parts.payload)?;
    let payload: serde_json::Value = serde_json::from_str(json::check(&payload).ok()?).ok()?;
    payload.get("scope")?.as_str().map(str::to_owned)
}
