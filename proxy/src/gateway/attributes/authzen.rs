//! Questions to a decision point: the access evaluation of the AuthZEN Authorization API 1.0.
//!
//! Invariant: only `decision: true` in a complete, well-formed answer with status 200 is a yes, and
//! an answer whose facts are not of their declared types is none at all.

use std::io::Read as _;
use std::path::Path;

use countersign_certs_client::https::{Client, Request, Trust, Url};
use countersign_config::limits::ATTRIBUTE_ANSWER_BYTES_MAX;
use countersign_policy::doc::{AskAs, AskedId, AuthZen, FactType};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Answer, Question};
use crate::gateway::strict_json;

/// Longest fact, in bytes: facts travel in every token.
const FACT_BYTES_MAX: usize = 64;
/// Longest code that a caller is told.
const CODE_BYTES_MAX: usize = 64;
/// Longest bearer token of our own.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// How a decision point is reached.
#[derive(Clone)]
pub(super) struct DecisionPoint {
    client: Client,
}

impl DecisionPoint {
    pub(super) fn new(spec: &AuthZen) -> DecisionPoint {
        let trust = match &spec.roots {
            Some(file) => Trust::PemFile(file.resolve()),
            None => Trust::System,
        };
        DecisionPoint { client: Client::new(trust).answer_bytes_max(ATTRIBUTE_ANSWER_BYTES_MAX) }
    }
}

/// Asks.
pub(super) async fn ask(
    spec: &AuthZen,
    point: &DecisionPoint,
    question: &Question,
) -> Result<Answer, String> {
    let body = self::question(spec, question)?;
    let url = Url::parse(&spec.endpoint).map_err(|why| format!("{}: {why}", spec.endpoint))?;
    let mut request = Request::post(url).json(&body);
    if let AskAs::Bearer(file) = &spec.auth {
        request = request.bearer(&bearer(&file.resolve())?);
    }
    let answer = point.client.send(request).await.map_err(|error| error.to_string())?;
    if answer.status.as_u16() != 200 {
        // What it says may be about the user: only its status is told.
        return Err(format!("{}: {}", spec.endpoint, answer.status));
    }
    read(&answer.body, spec).map_err(|why| format!("{}: {why}", spec.endpoint))
}

fn bearer(file: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |error: std::io::Error| format!("our token, {}: {error}", file.display());
    let mut text = Zeroizing::new(String::new());
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The access evaluation request.
pub(super) fn question(spec: &AuthZen, question: &Question) -> Result<Value, String> {
    let entity = |asked: &countersign_policy::doc::Asked| {
        let id = question.value(asked.id);
        let id = id.ok_or_else(|| format!("the request has no `{}`", asked.id.as_str()))?;
        let mut entity = json!({"type": asked.kind, "id": id});
        // An id of a user means something only together with who issued it.
        if let (AskedId::UserId | AskedId::UserAccount, Some(provider)) =
            (asked.id, &question.provider)
            && let Some(entity) = entity.as_object_mut()
        {
            entity.insert("properties".to_owned(), json!({"provider": provider}));
        }
        Ok::<_, String>(entity)
    };
    Ok(json!({
        "subject": entity(&spec.subject)?,
        "action": {"name": spec.action},
        "resource": entity(&spec.resource)?,
    }))
}

/// Reads the access evaluation response.
pub(in crate::gateway) fn read(body: &[u8], spec: &AuthZen) -> Result<Answer, String> {
    let answer = strict_json::object(body).map_err(|_| "the answer is not JSON".to_owned())?;
    let decision = answer.get("decision").and_then(Value::as_bool);
    let decision = decision.ok_or("the answer holds no `decision` that is true or false")?;
    let context = match answer.get("context") {
        None | Some(Value::Null) => None,
        Some(Value::Object(context)) => Some(context),
        Some(_) => return Err("the `context` of the answer is no object".to_owned()),
    };
    if !decision {
        return Ok(Answer::No(context.and_then(code)));
    }
    let mut facts = Map::new();
    for (name, kind) in &spec.facts {
        match context.and_then(|context| context.get(name)) {
            None | Some(Value::Null) => {}
            Some(value) if fits(value, *kind) => {
                facts.insert(name.clone(), value.clone());
            }
            Some(_) => return Err(format!("the fact `{name}` of the answer is none of its type")),
        }
    }
    Ok(Answer::Yes(facts))
}

fn fits(value: &Value, kind: FactType) -> bool {
    match kind {
        FactType::String => value.as_str().is_some_and(|text| {
            text.len() <= FACT_BYTES_MAX && !text.chars().any(char::is_control)
        }),
        FactType::Int => value.as_i64().is_some(),
        FactType::Bool => value.is_boolean(),
    }
}

/// `code` or `reason`, where it is a word; free text is not handed to callers.
fn code(context: &Map<String, Value>) -> Option<String> {
    let word = |text: &&str| {
        (1..=CODE_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    ["code", "reason"]
        .into_iter()
        .find_map(|name| context.get(name).and_then(Value::as_str).filter(word))
        .map(str::to_owned)
}
