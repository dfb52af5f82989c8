//! Minting. A [`Minter`] exists only where configuration made this process an issuer, and applies
//! the verifier's own rules and constraints first: what nobody would accept is not signed.
//! The header never changes between two tokens of one key, so its text is made once.

use std::{fmt, sync::Arc};

use countersign_workload_id::{TrustDomain, WorkloadId};

use crate::{
    Constraints, ContextToken, Limits, Message, MintError, Rctx, Subject, Tctx, TokenSigner,
    UnixTime,
    claims::{self, Envelope, check_body, check_txn},
    hashing::HashedHeader,
    jws,
};

/// Room for the payload of an ordinary token, so that its buffer is allocated once.
const PAYLOAD_BYTES_TYPICAL: usize = 768;

/// How tokens of a minter name their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    /// By a name that verifiers find in the issuer's JWK set.
    Kid(String),
    /// By the certificate chain: DER, leaf first, root omitted, at most three.
    X5c(Vec<Vec<u8>>),
}

/// What a new token is to say. The minter adds issuer, audience, times and IDs.
#[derive(Debug, Clone, PartialEq)]
pub struct NewContext {
    /// On whose behalf.
    pub sub: Subject,
    /// What for.
    pub scope: Vec<String>,
    /// Where the request entered: the authenticated requester, never a parameter.
    pub req_wl: WorkloadId,
    /// The environment; `rctx.to` is the callee of the connection the token goes out on.
    pub rctx: Rctx,
    /// Facts that must stay true.
    pub tctx: Tctx,
    /// The worker that acts for the subject.
    pub act: Option<WorkloadId>,
}

/// The two IDs of a token; randomness is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    /// The transaction: [`txn_id`] for a new one.
    pub txn: String,
    /// This token: 16 random bytes.
    pub jti: [u8; 16],
}

/// Makes context tokens with one key.
pub struct Minter {
    issuer: WorkloadId,
    trust_domain: TrustDomain,
    constraints: Constraints,
    signer: Arc<dyn TokenSigner>,
    leaf_not_after: Option<UnixTime>,
    ttl_s_max: u64,
    bytes_max: usize,
    /// The encoded header and its dot.
    header: String,
    hashed: HashedHeader,
}

impl Minter {
    /// A minter for `issuer`. `constraints` is its own entry of the allow-list;
    /// `leaf_not_after` is the end of the certificate that belongs to the key, if there is one.
    pub fn new(
        issuer: WorkloadId,
        trust_domain: TrustDomain,
        constraints: Constraints,
        key: KeyRef,
        signer: Arc<dyn TokenSigner>,
        leaf_not_after: Option<UnixTime>,
        limits: &Limits,
    ) -> Result<Self, MintError> {
        let named = name(&key)?;
        let bytes_max = match &key {
            KeyRef::Kid(_) => limits.mint_kid_bytes_max,
            KeyRef::X5c(_) => limits.mint_x5c_bytes_max,
        };
        let algorithm = signer.algorithm().name();
        let header = format!(r#"{{"alg":"{algorithm}","typ":"{}",{named}}}"#, jws::TYP);
        if header.len() > limits.header_bytes_max {
            return Err(MintError::ChainUnusable("the header would be over its size limit"));
        }
        let header = jws::encode(header.as_bytes());
        Ok(Self {
            issuer,
            trust_domain,
            constraints,
            signer,
            leaf_not_after,
            ttl_s_max: limits.ttl_s_max,
            bytes_max,
            hashed: HashedHeader::of(header.as_bytes()),
            header: header + ".",
        })
    }

    /// Who signs.
    pub fn issuer(&self) -> &WorkloadId {
        &self.issuer
    }

    /// How long a token minted now would live, seconds.
    pub fn life_s(&self, now: UnixTime, ttl_s: u64) -> u64 {
        self.end_of_life(now, ttl_s).map_or(0, |exp| exp.since(now))
    }

    /// Mints one token that lives `ttl_s` seconds, or shorter where the signing certificate ends
    /// before.
    pub fn mint(
        &self,
        context: &NewContext,
        ids: TokenIds,
        now: UnixTime,
        ttl_s: u64,
    ) -> Result<ContextToken, MintError> {
        let exp = self.end_of_life(now, ttl_s)?;
        self.check(context, &ids, now, exp)?;
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES_TYPICAL);
        let envelope = Envelope {
            iss: &self.issuer,
            aud: &self.trust_domain,
            iat: now,
            exp,
            txn: &ids.txn,
            jti: &ids.jti,
        };
        claims::write(&mut payload, &envelope, context);
        self.sign(&payload)
    }

    fn end_of_life(&self, now: UnixTime, ttl_s: u64) -> Result<UnixTime, MintError> {
        if ttl_s == 0 || ttl_s > self.ttl_s_max {
            return Err(MintError::TtlInvalid { secs: ttl_s, limit: self.ttl_s_max });
        }
        let exp = now.plus(ttl_s).min(self.leaf_not_after.unwrap_or(UnixTime(u64::MAX)));
        if exp <= now { Err(MintError::SignerExpired) } else { Ok(exp) }
    }

    /// The rules and constraints every verifier applies.
    fn check(
        &self,
        context: &NewContext,
        ids: &TokenIds,
        iat: UnixTime,
        exp: UnixTime,
    ) -> Result<(), MintError> {
        let NewContext { sub, scope, req_wl: _, rctx, tctx, act } = context;
        check_txn("txn", &ids.txn)?;
        check_body(&self.trust_domain, sub, scope, rctx, tctx, act.as_ref())?;
        self.constraints
            .check(rctx.origin, (sub, act.as_ref()), scope, iat, exp)
            .map_err(MintError::ConstraintViolated)
    }

    fn sign(&self, payload: &[u8]) -> Result<ContextToken, MintError> {
        let encoded = base64::encoded_len(payload.len(), false).unwrap_or(usize::MAX);
        // A signature of 64 bytes is 86 characters, behind its dot.
        let bytes = self.header.len().saturating_add(encoded).saturating_add(87);
        if bytes > self.bytes_max {
            return Err(MintError::TooLarge { bytes, limit: self.bytes_max });
        }
        let mut token = String::with_capacity(bytes);
        token.push_str(&self.header);
        jws::encode_into(payload, &mut token);
        let hashed = self.hashed.with_payload(after(&token, self.header.len()));
        let signature = self.signer.sign_hashed(&Message::new(token.as_bytes(), &hashed))?;
        token.push('.');
        let signed = token.len();
        jws::encode_into(&signature, &mut token);
        let sha256 = hashed.token(after(&token, signed));
        Ok(ContextToken::new(token, sha256))
    }
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

fn after(text: &str, at: usize) -> &[u8] {
    text.as_bytes().get(at..).unwrap_or_default()
}

/// The header member that names a key.
pub(crate) fn name(key: &KeyRef) -> Result<String, MintError> {
    match key {
        KeyRef::Kid(kid) => name_by_kid(kid),
        KeyRef::X5c(chain) => name_by_chain(chain),
    }
}

fn name_by_kid(kid: &str) -> Result<String, MintError> {
    if !jws::is_kid(kid) {
        return Err(MintError::KeyNameInvalid);
    }
    Ok(format!(r#""kid":"{kid}""#))
}

fn name_by_chain(chain: &[Vec<u8>]) -> Result<String, MintError> {
    if chain.is_empty() || chain.iter().any(Vec::is_empty) {
        return Err(MintError::ChainUnusable("there is no certificate"));
    }
    if chain.len() > jws::CHAIN_MAX {
        return Err(MintError::ChainUnusable("there are more than three certificates"));
    }
    let certificates: Vec<String> =
        chain.iter().map(|der| format!("\"{}\"", jws::encode_certificate(der))).collect();
    Ok(format!(r#""x5c":[{}]"#, certificates.join(",")))
}

/// The `txn` of a new transaction: a UUIDv7 made of the time and ten random bytes. Never derived
/// from a trace ID, which others know.
pub fn txn_id(now_ms: u64, rand: [u8; 10]) -> String {
    let [_, _, time @ ..] = now_ms.to_be_bytes();
    let [a, b, c, rest @ ..] = rand;
    let [t0, t1, t2, t3, t4, t5] = time;
    let version = 0x70 | (a & 0x0f);
    let variant = 0x80 | (c & 0x3f);
    let [n0, n1, n2, n3, n4, n5, last] = rest;
    let mut id = String::with_capacity(36);
    for group in [
        &[t0, t1, t2, t3][..],
        &[t4, t5],
        &[version, b],
        &[variant, last],
        &[n0, n1, n2, n3, n4, n5],
    ] {
        if !id.is_empty() {
            id.push('-');
        }
        for byte in group {
            for half in [byte >> 4, byte & 0x0f] {
                id.push(char::from_digit(u32::from(half), 16).unwrap_or_default());
            }
        }
    }
    id
}
