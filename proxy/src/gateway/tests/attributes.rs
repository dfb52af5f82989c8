use countersign_policy::doc::{
    AskAs, Asked, AttributeCache, AttributeSource, AuthZen, FactType, Place,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn spec() -> AuthZen {
    let facts = [("status", FactType::String), ("size", FactType::Int), ("vip", FactType::Bool)];
    AuthZen {
        endpoint: "http://127.0.0.1:9/access/v1/evaluation".to_owned(),
        auth: AskAs::Nobody,
        roots: None,
        subject: Asked { kind: "user".to_owned(), id: AskedId::UserId },
        action: "use".to_owned(),
        resource: Asked { kind: "ticket".to_owned(), id: AskedId::JustificationRef },
        facts: facts.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect(),
    }
}

fn provider(on_unavailable: OnUnavailable, positive_s: u64) -> Arc<Provider> {
    Arc::new(Provider {
        namespace: String::new(),
        name: "tickets".to_owned(),
        spec: AttributeProvider {
            source: AttributeSource::AuthZen(spec()),
            timeout_ms: 2_000,
            cache: AttributeCache { positive_s, negative_s: 5, max_entries: 4 },
            on_unavailable,
        },
        place: Place { file: "x".into(), line: 1, column: 1 },
    })
}

fn question(user: &str, reference: &str) -> Question {
    Question {
        user: Some(user.to_owned()),
        justification: Some(reference.to_owned()),
        ..Question::default()
    }
}

fn at(seconds: u64) -> Now {
    Now::from_micros(seconds * 1_000_000)
}

fn said(text: &str) -> Result<Answer, String> {
    authzen::read(text.as_bytes(), &spec())
}

#[test]
fn only_a_complete_yes_is_one() {
    let facts = json!({"status": "open", "size": 3, "vip": true});
    let yes = said(r#"{"decision":true,"context":{"status":"open","size":3,"vip":true,"more":1}}"#);
    assert_eq!(yes, Ok(Answer::Yes(facts.as_object().unwrap().clone())));
    assert_eq!(said(r#"{"decision":true}"#), Ok(Answer::Yes(Map::new())));
    assert_eq!(said(r#"{"decision":false}"#), Ok(Answer::No(None)));
    let long = "a".repeat(65);
    for text in [
        "",
        "true",
        "[]",
        "{}",
        r#"{"decision":"true"}"#,
        r#"{"decision":1}"#,
        r#"{"decision":null}"#,
        r#"{"Decision":true}"#,
        r#"{"decision":true,"decision":false}"#,
        r#"{"decision":true} {"decision":true}"#,
        r#"{"decision":true,"context":[]}"#,
        r#"{"decision":true,"context":{"status":1}}"#,
        r#"{"decision":true,"context":{"size":"3"}}"#,
        r#"{"decision":true,"context":{"size":1.5}}"#,
        r#"{"decision":true,"context":{"vip":"true"}}"#,
        r#"{"decision":true,"context":{"status":"a\u0000b"}}"#,
        &format!(r#"{{"decision":true,"context":{{"status":"{long}"}}}}"#),
    ] {
        assert!(said(text).is_err(), "{text}");
    }
}

#[test]
fn a_code_is_a_word() {
    let code = |context: &str| match said(&format!(r#"{{"decision":false,"context":{context}}}"#)) {
        Ok(Answer::No(code)) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(r#"{"reason":"closed"}"#).as_deref(), Some("closed"));
    assert_eq!(code(r#"{"code":"T-17","reason":"closed"}"#).as_deref(), Some("T-17"));
    assert_eq!(code(r#"{"reason":"the ticket of ann is closed"}"#), None);
    assert_eq!(code(r#"{"reason":{"en":"closed"}}"#), None);
}

#[test]
fn the_question_is_of_the_standard() {
    let asked = authzen::question(&spec(), &question("ann", "SUP-1")).unwrap();
    let expected = json!({
        "subject": {"type": "user", "id": "ann"},
        "action": {"name": "use"},
        "resource": {"type": "ticket", "id": "SUP-1"},
    });
    assert_eq!(asked, expected);
    let of = Question { provider: Some("corp".to_owned()), ..question("ann", "SUP-1") };
    let asked = authzen::question(&spec(), &of).unwrap();
    let subject = json!({"type": "user", "id": "ann", "properties": {"provider": "corp"}});
    assert_eq!((&asked["subject"], &asked["resource"]), (&subject, &expected["resource"]));
    assert!(authzen::question(&spec(), &Question::default()).is_err());
}

#[test]
fn different_questions_have_different_keys() {
    let one = question("ann", "SUP-1");
    let mut moved = Question { user: Some("annSUP-1".to_owned()), ..Question::default() };
    assert_ne!(one.key("p"), moved.key("p"));
    moved.justification = Some(String::new());
    assert_ne!(moved.key("p"), Question { justification: None, ..moved.clone() }.key("p"));
    let namesake = Question { provider: Some("shop".to_owned()), ..one.clone() };
    assert_ne!(one.key("p"), namesake.key("p"));
    assert_ne!(one.key("p"), one.key("q"));
    assert_eq!(one.key("p"), one.clone().key("p"));
}

#[tokio::test]
async fn answers_count_as_long_as_the_document_says() {
    let attributes = Attributes::start();
    // Nobody listens on port 9: whatever is not remembered is unavailable.
    let unknown = provider(OnUnavailable::Unknown, 60);
    let (yes, no) = (question("ann", "SUP-1"), question("ann", "SUP-2"));
    let keep = |question: &Question, answer| {
        let answered = Answered { answer, at: 1_000 };
        attributes.known.keep(&unknown, question.key("tickets"), answered);
    };
    keep(&yes, Answer::Yes(Map::new()));
    keep(&no, Answer::No(None));
    let ask = async |provider: &Arc<Provider>, question: &Question, now| {
        attributes.ask(provider, question, at(now)).await
    };
    assert_eq!(ask(&unknown, &yes, 1_059).await.unwrap().answer, Answer::Yes(Map::new()));
    assert!(ask(&unknown, &yes, 1_060).await.is_err());
    assert!(ask(&unknown, &yes, 999).await.is_err(), "the clock went back");
    assert_eq!(ask(&unknown, &no, 1_004).await.unwrap().answer, Answer::No(None));
    assert!(ask(&unknown, &no, 1_005).await.is_err());
    let other = question("bob", "SUP-1");
    assert!(ask(&unknown, &other, 1_001).await.is_err(), "asked of another user");
    // A document that changed asks anew.
    let changed = provider(OnUnavailable::Unknown, 61);
    assert!(ask(&changed, &yes, 1_001).await.is_err());
}

#[tokio::test]
async fn stale_answers_count_only_where_and_as_long_as_they_may() {
    let attributes = Attributes::start();
    let stale = provider(OnUnavailable::UseStale(600), 60);
    let yes = question("ann", "SUP-1");
    let answered = Answered { answer: Answer::Yes(Map::new()), at: 1_000 };
    attributes.known.keep(&stale, yes.key("tickets"), answered.clone());
    assert_eq!(attributes.ask(&stale, &yes, at(1_600)).await.as_ref(), Ok(&answered));
    assert!(attributes.ask(&stale, &yes, at(1_601)).await.is_err());
    let missing = Question { user: None, ..yes };
    assert!(attributes.ask(&stale, &missing, at(1_001)).await.is_err());
}

/// More questions than may be under way at once, to somebody who accepts and says nothing.
#[tokio::test]
async fn attack_stalls_every_question() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stalled = Provider::clone(&provider(OnUnavailable::Unknown, 60));
    let AttributeSource::AuthZen(spec) = &mut stalled.spec.source else { panic!() };
    spec.endpoint = format!("http://127.0.0.1:{port}/");
    stalled.spec.timeout_ms = 300;
    let (attributes, stalled) = (Attributes::start(), Arc::new(stalled));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..3 * countersign_config::limits::ATTRIBUTE_CALLS_MAX {
        let (attributes, stalled) = (attributes.clone(), Arc::clone(&stalled));
        all.spawn(async move {
            let question = question("ann", &format!("SUP-{number}"));
            attributes.ask(&stalled, &question, at(1_000)).await
        });
    }
    let answers = all.join_all().await;
    let why = |answer: &Result<Answered, Unavailable>| answer.as_ref().unwrap_err().0.clone();
    let crowded = answers.iter().filter(|answer| why(answer).contains("have no answer yet"));
    assert_eq!(crowded.count(), 2 * countersign_config::limits::ATTRIBUTE_CALLS_MAX);
    assert!(answers.iter().any(|answer| why(answer).contains("within 300ms")));
}

proptest! {
    #[test]
    fn nothing_a_decision_point_says_makes_reading_panic(text in "\\PC{0,200}") {
        prop_assert!(!matches!(said(&text), Ok(Answer::Groups(_))));
    }
}
