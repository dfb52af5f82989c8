//! The form of an exchange: strict, typed, nothing believed.
//!
//! Invariant: a parameter that is unknown or there twice refuses the whole request, so no two
//! readers can differ about what was asked. Pure.

use countersign_ctxtoken::Redacted;
use countersign_policy::doc::SubjectToken;
use countersign_workload_id::TrustDomain;
use serde_json::{Map, Value};

use super::{TokenError, Why};
use crate::gateway::strict_json;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
const DEFERRED: &str = "urn:countersign:token-type:deferred";
const TYPES: &str = "urn:ietf:params:oauth:token-type:";
/// Scope names of one request: what a token carries.
const SCOPES_MAX: usize = 16;

/// What is asked for. Closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A context token.
    Context,
    /// A deferred grant.
    Deferred,
}

impl Requested {
    /// `requested_token_type` and `issued_token_type`.
    pub fn urn(self) -> &'static str {
        match self {
            Requested::Context => TXN_TOKEN,
            Requested::Deferred => DEFERRED,
        }
    }
}

/// What is brought. Closed; refresh tokens have no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// An access token of a provider.
    AccessToken,
    /// An ID token of a provider.
    IdToken,
    /// Any JWT of a provider.
    Jwt,
    /// A context token.
    TxnToken,
    /// A statement signed with the key of the connection.
    SelfSigned,
    /// A statement nobody signed.
    UnsignedJson,
    /// A deferred grant.
    Deferred,
}

impl SubjectKind {
    fn parse(urn: &str) -> Result<SubjectKind, TokenError> {
        if urn == DEFERRED {
            return Ok(SubjectKind::Deferred);
        }
        match urn.strip_prefix(TYPES) {
            Some("access_token") => Ok(SubjectKind::AccessToken),
            Some("id_token") => Ok(SubjectKind::IdToken),
            Some("jwt") => Ok(SubjectKind::Jwt),
            Some("txn_token") => Ok(SubjectKind::TxnToken),
            Some("self_signed") => Ok(SubjectKind::SelfSigned),
            Some("unsigned_json") => Ok(SubjectKind::UnsignedJson),
            Some("refresh_token") => {
                Err(Why::SubjectTypeUnsupported.error("a refresh token is never a subject"))
            }
            _ => Err(Why::SubjectTypeUnsupported.error("an unknown `subject_token_type`")),
        }
    }

    /// The word of documents.
    pub fn document(self) -> SubjectToken {
        match self {
            SubjectKind::AccessToken => SubjectToken::AccessToken,
            SubjectKind::IdToken => SubjectToken::IdToken,
            SubjectKind::Jwt => SubjectToken::Jwt,
            SubjectKind::TxnToken => SubjectToken::TxnToken,
            SubjectKind::SelfSigned => SubjectToken::SelfSigned,
            SubjectKind::UnsignedJson => SubjectToken::UnsignedJson,
            SubjectKind::Deferred => SubjectToken::Deferred,
        }
    }

    /// As documents spell it.
    pub fn name(self) -> &'static str {
        self.document().as_str()
    }
}

/// A well-formed request.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub requested: Requested,
    /// What is brought.
    pub subject_kind: SubjectKind,
    /// It, as it came.
    pub subject_token: Redacted<String>,
    /// Scope names, each once.
    pub scope: Vec<String>,
    /// `request_context`: facts for `rctx`.
    pub context: Map<String, Value>,
    /// `request_details`: facts for `tctx`.
    pub details: Map<String, Value>,
    /// `csign_as`: for whom a job acts.
    pub act_for: Option<String>,
    /// Parameters of deferred grants.
    pub deferred: Deferral,
    audience: String,
}

/// Parameters that only deferred grants have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deferral {
    /// `csign_consumer`: who may redeem the grant.
    pub consumer: Option<String>,
    /// `csign_ttl`: how long the grant is to live, seconds.
    pub ttl: Option<String>,
    /// `csign_digest`: SHA-256 of the message.
    pub digest: Option<String>,
}

/// Parameters as they came, each at most once.
struct Form(Vec<(&'static str, String)>);

const PARAMETERS: &[&str] = &[
    "grant_type",
    "audience",
    "requested_token_type",
    "scope",
    "subject_token",
    "subject_token_type",
    "request_context",
    "request_details",
    "csign_as",
    "csign_consumer",
    "csign_ttl",
    "csign_digest",
];

impl Form {
    fn parse(body: &[u8]) -> Result<Form, TokenError> {
        let mut form = Form(Vec::new());
        for pair in body.split(|byte| *byte == b'&') {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
                return Err(malformed("a parameter without `=`"));
            };
            let name = decode(name).ok_or_else(|| malformed("a badly encoded name"))?;
            let known = PARAMETERS.iter().copied().find(|known| *known == name);
            let known = known.ok_or_else(|| malformed("an unknown parameter"))?;
            if form.0.iter().any(|(other, _)| *other == known) {
                return Err(malformed(&format!("`{known}` is there twice")));
            }
            let value =
                decode(value).ok_or_else(|| malformed(&format!("`{known}` is badly encoded")))?;
            form.0.push((known, value));
        }
        Ok(form)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn need(&mut self, name: &str) -> Result<String, TokenError> {
        match self.take(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(malformed(&format!("`{name}` is missing"))),
        }
    }

    fn object(&mut self, name: &str) -> Result<Map<String, Value>, TokenError> {
        let Some(text) = self.take(name) else { return Ok(Map::new()) };
        strict_json::object(text.as_bytes())
            .map_err(|_| malformed(&format!("`{name}` is not one JSON object")))
    }
}

impl Request {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// `form_malformed`, `grant_type`, `requested_type`, `subject_type`.
    pub fn parse(body: &[u8]) -> Result<Request, TokenError> {
        let mut form = Form::parse(body)?;
        if form.need("grant_type")? != GRANT_TYPE {
            return Err(Why::GrantType.error("another `grant_type`"));
        }
        let requested = match form.need("requested_token_type")?.as_str() {
            TXN_TOKEN => Requested::Context,
            DEFERRED => Requested::Deferred,
            _ => return Err(Why::RequestedTypeUnsupported.error("another type of token")),
        };
        let subject_kind = SubjectKind::parse(&form.need("subject_token_type")?)?;
        let request = Request {
            requested,
            subject_kind,
            subject_token: Redacted::new(form.need("subject_token")?),
            scope: scope(&form.need("scope")?)?,
            context: form.object("request_context")?,
            details: form.object("request_details")?,
            act_for: form.take("csign_as"),
            deferred: Deferral {
                consumer: form.take("csign_consumer"),
                ttl: form.take("csign_ttl"),
                digest: form.take("csign_digest"),
            },
            audience: form.need("audience")?,
        };
        request.fits()
    }

    /// Parameters that this kind of request does not have are as bad as unknown ones.
    fn fits(self) -> Result<Request, TokenError> {
        if self.act_for.is_some() && self.subject_kind != SubjectKind::SelfSigned {
            return Err(malformed("`csign_as` is for self-signed subjects"));
        }
        let defers =
            self.requested == Requested::Deferred || self.subject_kind == SubjectKind::Deferred;
        if !defers && self.deferred != Deferral::default() {
            return Err(malformed("parameters of deferred grants"));
        }
        Ok(self)
    }

    /// Whether it asks for a token of this trust domain.
    ///
    /// # Errors
    /// `target_wrong`.
    pub fn is_for(&self, domain: &TrustDomain) -> Result<(), TokenError> {
        if self.audience == domain.as_str() {
            return Ok(());
        }
        Err(Why::TargetWrong.error(format!("tokens of {domain} are made here, and of no other")))
    }
}

/// RFC 6749 §3.3: names with single spaces between them.
fn scope(text: &str) -> Result<Vec<String>, TokenError> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(' ') {
        let sound = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if !sound {
            return Err(malformed("`scope` is no list of names"));
        }
        if !names.iter().any(|other| other == name) {
            names.push(name.to_owned());
        }
    }
    if names.len() > SCOPES_MAX {
        return Err(malformed("`scope` has more than 16 names"));
    }
    Ok(names)
}

/// `application/x-www-form-urlencoded`, strictly: whole escapes, UTF-8.
fn decode(text: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let (high, low) = (hex(*bytes.next()?)?, hex(*bytes.next()?)?);
                out.push(high << 4 | low);
            }
            other => out.push(*other),
        }
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn malformed(detail: &str) -> TokenError {
    Why::FormMalformed.error(detail)
}
