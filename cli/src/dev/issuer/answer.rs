//! What the development issuer answers: discovery, keys, tokens. Pure: requests and the time are
//! arguments, so tests need no socket.

use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::keys::KeyRing;
use super::users::User;

/// The grant `countersign dev token` uses: name a user, get a token. No password; nothing a real
/// issuer would ever offer, hence a name of its own.
pub const DEV_GRANT: &str = "urn:countersign:params:oauth:grant-type:dev-user";
/// Most seconds a token may have ended before it is issued, to look at refusals.
const PAST_S_MAX: i64 = 24 * 60 * 60;

/// A running issuer's state.
pub struct Issuer {
    pub(super) base: String,
    pub(super) audiences: Vec<String>,
    pub(super) users: Vec<User>,
    pub(super) token_ttl_s: u64,
    pub(super) keys: Mutex<KeyRing>,
}

/// Status and JSON body.
pub type Answer = (StatusCode, Value);

impl Issuer {
    /// The issuer identifier, which is also its address.
    pub fn issuer(&self) -> &str {
        &self.base
    }

    /// Answers one request.
    pub fn answer(&self, method: &Method, path: &str, body: &[u8], now_s: u64) -> Answer {
        match (method, path) {
            (&Method::GET, "/.well-known/openid-configuration") => {
                (StatusCode::OK, self.discovery())
            }
            (&Method::GET, "/keys") => (StatusCode::OK, self.keys().jwks()),
            (&Method::POST, "/token") => self.token(body, now_s),
            _ => (StatusCode::NOT_FOUND, json!({"error": "not_found"})),
        }
    }

    /// Rotates if it is time; returns the id of a new signing key.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn advance(&self, now_s: u64) -> anyhow::Result<Option<String>> {
        Ok(self.keys().advance(now_s)?.map(str::to_owned))
    }

    /// What `--write-info` writes: where everything is.
    pub fn info(&self) -> Value {
        let users: Vec<&str> = self.users.iter().map(|user| user.name.as_str()).collect();
        json!({
            "schemaVersion": 1,
            "issuer": self.base,
            "jwksUri": format!("{}/keys", self.base),
            "tokenEndpoint": format!("{}/token", self.base),
            "audiences": self.audiences,
            "users": users,
        })
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, KeyRing> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discovery(&self) -> Value {
        json!({
            "issuer": self.base,
            "jwks_uri": format!("{}/keys", self.base),
            "token_endpoint": format!("{}/token", self.base),
            "grant_types_supported": [DEV_GRANT],
            "token_endpoint_auth_methods_supported": ["none"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        })
    }

    fn token(&self, body: &[u8], now_s: u64) -> Answer {
        match self.issue(body, now_s) {
            Ok(token) => (StatusCode::OK, token),
            Err((error, text)) => {
                (StatusCode::BAD_REQUEST, json!({"error": error, "error_description": text}))
            }
        }
    }

    /// A token for the named user, or an error of RFC 6749 §5.2 and its explanation.
    fn issue(&self, body: &[u8], now_s: u64) -> Result<Value, (&'static str, String)> {
        let form = Form::parse(body).ok_or(("invalid_request", "not a form".to_owned()))?;
        if form.get("grant_type") != Some(DEV_GRANT) {
            return Err(("unsupported_grant_type", format!("grant_type must be {DEV_GRANT}")));
        }
        let name = form.get("username").unwrap_or_default();
        let Some(user) = self.users.iter().find(|user| user.name == name) else {
            let known: Vec<&str> = self.users.iter().map(|user| user.name.as_str()).collect();
            return Err((
                "invalid_grant",
                format!("no user `{name}`; known: {}", known.join(", ")),
            ));
        };
        let audience = match form.get("audience") {
            None => self.audiences.first().map_or("", String::as_str),
            Some(asked) => asked,
        };
        if !self.audiences.iter().any(|known| known == audience) {
            let known = self.audiences.join(", ");
            return Err(("invalid_target", format!("no audience `{audience}`; known: {known}")));
        }
        let lifetime = self.lifetime(form.get("expires_in"))?;
        let expires_at = now_s.saturating_add_signed(lifetime);
        let claims = self.claims(user, audience, form.get("scope"), now_s, expires_at);
        let failed = |error: anyhow::Error| ("server_error", error.to_string());
        let mut keys = self.keys();
        keys.advance(now_s).map_err(failed)?;
        let token = keys.sign("at+jwt", &claims, expires_at).map_err(failed)?;
        Ok(json!({"access_token": token, "token_type": "Bearer", "expires_in": lifetime}))
    }

    /// The asked lifetime, never longer than the issuer's own. A negative one makes a token that
    /// has already ended.
    fn lifetime(&self, asked: Option<&str>) -> Result<i64, (&'static str, String)> {
        let longest = i64::try_from(self.token_ttl_s).unwrap_or(i64::MAX);
        let Some(asked) = asked else { return Ok(longest) };
        match asked.parse() {
            Ok(seconds) if (-PAST_S_MAX..=longest).contains(&seconds) => Ok(seconds),
            _ => {
                let text = format!("expires_in must be -{PAST_S_MAX} to {longest} seconds");
                Err(("invalid_request", text))
            }
        }
    }

    fn claims(
        &self,
        user: &User,
        audience: &str,
        scope: Option<&str>,
        now_s: u64,
        expires_at: u64,
    ) -> Value {
        let issued_at = now_s.min(expires_at.saturating_sub(1));
        let mut claims = json!({
            "iss": self.base,
            "sub": user.name,
            "aud": audience,
            "iat": issued_at,
            "exp": expires_at,
            "auth_time": issued_at,
            "jti": random_id(),
            "client_id": "countersign-dev",
        });
        if let Value::Object(claims) = &mut claims {
            claims.extend(user.claims.clone());
            claims.extend(scope.map(|scope| ("scope".to_owned(), json!(scope))));
        }
        claims
    }
}

fn random_id() -> String {
    let random = getrandom::u64().unwrap_or_default();
    format!("{random:016x}")
}

/// Fields of an `application/x-www-form-urlencoded` body; no name twice.
struct Form {
    fields: Vec<(String, String)>,
}

impl Form {
    fn parse(body: &[u8]) -> Option<Form> {
        let mut form = Form { fields: Vec::new() };
        for field in body.split(|byte| *byte == b'&').filter(|field| !field.is_empty()) {
            let mut parts = field.splitn(2, |byte| *byte == b'=');
            let name = decode(parts.next()?)?;
            let value = decode(parts.next().unwrap_or_default())?;
            if form.get(&name).is_some() {
                return None;
            }
            form.fields.push((name, value));
        }
        Some(form)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &[u8]) -> Option<String> {
    let mut decoded = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(decoded).ok()
}
