//! From the claims of a verified user token to typed facts, as the provider document declares.
//! A declared claim of the wrong type, or larger than the context token may carry, refuses the
//! request and is named; it is never dropped, because a deny rule may depend on it.
//! Undeclared claims do not exist, but for the registered `acr`, `amr`, `client_id`, `azp` and
//! `scope`, which are facts about the login; badly formed ones count as absent.

use countersign_ctxtoken::{Subject, UserName};
use countersign_policy::doc::{ClaimDeclaration, ClaimRole, ClaimType, IdentityProvider};
use serde_json::{Map, Value};

use super::identify::IdentifyError;

/// Limits of the context token's vocabulary (`acct`, `groups`, `amr`, `claims`).
const TEXT_BYTES_MAX: usize = 64;
const GROUPS_MAX: usize = 16;
const AMR_MAX: usize = 8;
const CLAIMS_MAX: usize = 16;
const CLAIM_BYTES_MAX: usize = 256;
/// Largest integer JSON readers agree on.
const INTEGER_MAX: u64 = 1 << 53;

/// What is known about a user after the token was verified.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct UserFacts {
    pub(super) id: String,
    pub(super) subject: Subject,
    pub(super) account: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) auth_time: Option<u64>,
    pub(super) acr: Option<String>,
    pub(super) amr: Vec<String>,
    pub(super) client_id: Option<String>,
    pub(super) scopes: Option<Vec<String>>,
    pub(super) claims: Map<String, Value>,
}

/// Reads the facts the provider declares.
pub(super) fn read(
    claims: &Map<String, Value>,
    provider: &IdentityProvider,
) -> Result<UserFacts, IdentifyError> {
    let mut facts = UserFacts {
        id: String::new(),
        subject: Subject::Anonymous,
        account: None,
        groups: Vec::new(),
        auth_time: None,
        acr: short_text(claims, "acr"),
        amr: registered_list(claims, "amr"),
        client_id: short_text(claims, "client_id").or_else(|| short_text(claims, "azp")),
        scopes: scopes(claims).or_else(|| provider.grants.clone()),
        claims: Map::new(),
    };
    for (name, declared) in &provider.claims {
        let value = stated(claims, name, &declared.at).ok_or_else(|| invalid(name))?;
        if value.is_null() {
            continue;
        }
        let value = typed(value, declared).ok_or_else(|| invalid(name))?;
        facts.set(name, declared.role, value)?;
    }
    let name = UserName::new(provider.subject_prefix.as_deref(), &facts.id);
    facts.subject = Subject::User(name.ok_or_else(|| invalid(id_claim(provider)))?);
    Ok(facts)
}

/// Checks the claims without which a token of this provider does not count.
pub(super) fn check_required(
    claims: &Map<String, Value>,
    provider: &IdentityProvider,
) -> Result<(), IdentifyError> {
    let fits = |name: &str, accepted: &[String]| {
        let text = claims.get(name).and_then(Value::as_str);
        text.is_some_and(|text| accepted.iter().any(|one| one == text))
    };
    match provider.required_claims.iter().find(|(name, accepted)| !fits(name, accepted)) {
        None => Ok(()),
        Some((name, _)) => Err(IdentifyError::ClaimNotAccepted { claim: name.clone() }),
    }
}

/// A claim where it is declared to stand; null if it is not there, `None` if something else stands
/// in its way.
fn stated<'c>(claims: &'c Map<String, Value>, name: &str, at: &[String]) -> Option<&'c Value> {
    let mut names = at.iter().map(String::as_str);
    let mut value = claims.get(names.next().unwrap_or(name));
    for name in names {
        value = match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(members)) => members.get(name),
            Some(_) => return None,
        };
    }
    Some(value.unwrap_or(&Value::Null))
}

impl UserFacts {
    fn set(
        &mut self,
        name: &str,
        role: Option<ClaimRole>,
        value: Value,
    ) -> Result<(), IdentifyError> {
        match (role, value) {
            (Some(ClaimRole::Id), Value::String(id)) => self.id = id,
            (Some(ClaimRole::AccountId), value) => {
                let text = match value {
                    Value::String(text) => text,
                    Value::Number(number) => number.to_string(),
                    _ => return Err(invalid(name)),
                };
                if text.is_empty() || text.len() > TEXT_BYTES_MAX {
                    return Err(invalid(name));
                }
                self.account = Some(text);
            }
            (Some(ClaimRole::AuthTime), value) => self.auth_time = value.as_u64(),
            (Some(ClaimRole::Groups), value) => {
                self.groups = strings(&value).ok_or_else(|| invalid(name))?;
                let long = self.groups.iter().any(|group| group.len() > TEXT_BYTES_MAX);
                if self.groups.len() > GROUPS_MAX || long {
                    return Err(invalid(name));
                }
            }
            (None, value) => {
                if self.claims.len() == CLAIMS_MAX || weight(&value) > CLAIM_BYTES_MAX {
                    return Err(invalid(name));
                }
                self.claims.insert(name.to_owned(), value);
            }
            (Some(ClaimRole::Id), _) => return Err(invalid(name)),
        }
        Ok(())
    }
}

/// The value in its declared type, lists reduced to what is kept; `None` if it is of another type.
fn typed(value: &Value, declared: &ClaimDeclaration) -> Option<Value> {
    match declared.kind {
        ClaimType::Bool => value.as_bool().map(Value::Bool),
        ClaimType::Int => value.as_i64().map(Value::from),
        ClaimType::String => value.as_str().map(|text| Value::String(text.to_owned())),
        ClaimType::StringList => {
            let list = strings(value)?.into_iter();
            let kept = |item: &String| declared.keep.is_empty() || declared.keep.contains(item);
            Some(list.filter(kept).map(Value::String).collect())
        }
        ClaimType::Timestamp => seconds(value).map(Value::from),
    }
}

/// A numeric date: whole seconds; a fraction, which RFC 7519 allows, is cut off.
pub(super) fn seconds(value: &Value) -> Option<u64> {
    let whole = match value.as_u64() {
        Some(whole) => whole,
        None => {
            let number = value.as_f64().filter(|n| (0.0..9.0e15).contains(n))?;
            format!("{:.0}", number.floor()).parse().ok()?
        }
    };
    (whole <= INTEGER_MAX).then_some(whole)
}

/// A list of texts; some providers send a single text instead of a list of one.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn short_text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let text = claims.get(name)?.as_str()?;
    (!text.is_empty() && text.len() <= TEXT_BYTES_MAX).then(|| text.to_owned())
}

fn registered_list(claims: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = claims.get(name).and_then(strings).unwrap_or_default();
    let fits = list.len() <= AMR_MAX && list.iter().all(|item| item.len() <= TEXT_BYTES_MAX);
    if fits { list } else { Vec::new() }
}

/// What the credential itself grants: `scope` (RFC 8693) or `scp`, separated by spaces or a list.
fn scopes(claims: &Map<String, Value>) -> Option<Vec<String>> {
    match claims.get("scope").or_else(|| claims.get("scp"))? {
        Value::String(text) => {
            Some(text.split(' ').filter(|s| !s.is_empty()).map(Into::into).collect())
        }
        list => strings(list),
    }
}

fn id_claim(provider: &IdentityProvider) -> &str {
    provider.claim_for(ClaimRole::Id).map_or("sub", |(name, _)| name)
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        _ => 8,
    }
}

fn invalid(claim: &str) -> IdentifyError {
    IdentifyError::ClaimInvalid { claim: claim.to_owned() }
}
