//! Statements of workloads about themselves, and what a job may say of whom it acts for.
use countersign_workload_id::WorkloadId;

use super::world::*;
use crate::*;

const SERVICE: &str = "spiffe://prod.example.com/ns/jobs/sa/issuer";

fn check(text: &str, key: &LocalSigner, now: UnixTime) -> Result<(), StatementError> {
    let requester = id(ORDERS);
    let with = (&requester, key.verifying_key());
    check_statement(text.as_bytes(), with, &id(SERVICE), now, 30, &Limits::default())
}

#[test]
fn a_statement_counts_for_its_key_its_service_and_its_minute() {
    for key in [p256(), ed25519()] {
        let text = sign_statement(&id(ORDERS), &id(SERVICE), NOW, &*key).unwrap();
        assert_eq!(check(&text, &key, NOW), Ok(()));
        assert!(check(&text, &p256(), NOW).is_err());
        assert_eq!(check(&text, &key, NOW.plus(89)), Ok(()));
        assert_eq!(check(&text, &key, NOW.plus(90)), Err(StatementError::Time("it has ended")));
        let early = UnixTime(NOW.0 - 31);
        assert_eq!(check(&text, &key, early), Err(StatementError::Time("it begins in the future")));
        let other = id(POD);
        let with = (&other, key.verifying_key());
        let limits = Limits::default();
        let checked = check_statement(text.as_bytes(), with, &id(SERVICE), NOW, 30, &limits);
        assert_eq!(checked, Err(StatementError::NotTheRequester("iss")));
        let requester = id(ORDERS);
        let with = (&requester, key.verifying_key());
        let checked = check_statement(text.as_bytes(), with, &id(GATEWAY), NOW, 30, &limits);
        assert_eq!(checked, Err(StatementError::Audience));
    }
}

#[test]
fn a_statement_is_no_context_token_and_the_other_way_round() {
    let mut world = World::new();
    world.list(KeyForms::Either, None);
    let text = sign_statement(&id(GATEWAY), &id(SERVICE), NOW, &*world.gateway).unwrap();
    world.refuses(&text, "token_malformed");
    let token = world.token(&base_claims());
    let malformed = |result: Result<(), StatementError>| {
        assert!(matches!(result, Err(StatementError::Malformed(_))), "{result:?}");
    };
    malformed(check(&token, &world.gateway, NOW));
    for text in ["", "a.b", "a.b.c", "....", "eyJhbGciOiJub25lIn0.e30.", "\u{0}.\u{0}.\u{0}"] {
        malformed(check(text, &world.gateway, NOW));
    }
}

#[test]
fn a_job_acts_only_for_whom_its_issuer_may_let_it() {
    let sub = |text: &str| Subject::parse(text).unwrap();
    let allow = Constraints {
        origins: vec![Origin::Batch, Origin::Service, Origin::Async, Origin::User],
        subs: vec![SubPattern::parse("svc:*").unwrap(), SubPattern::parse("user:*").unwrap()],
        impersonate: vec![SubPattern::parse("user:alice").unwrap()],
        ..user_constraints()
    };
    let job = id(ORDERS);
    let check = |origin, subject: &str, act: Option<&WorkloadId>| {
        let scope = ["orders.read".to_owned()];
        allow.check(origin, (&sub(subject), act), &scope, NOW, NOW.plus(60))
    };
    assert_eq!(check(Origin::Batch, "user:alice", Some(&job)), Ok(()));
    assert_eq!(check(Origin::Batch, "user:bob", Some(&job)), Err(Constraint::Subject));
    // A user whom a job names without saying that it acts would pass for the user.
    assert_eq!(check(Origin::Batch, "user:alice", None), Err(Constraint::Subject));
    assert_eq!(check(Origin::Service, "user:alice", None), Err(Constraint::Subject));
    assert_eq!(check(Origin::Batch, &format!("svc:{ORDERS}"), None), Ok(()));
    assert_eq!(check(Origin::Async, "user:bob", Some(&job)), Ok(()));
    assert_eq!(check(Origin::User, "user:bob", None), Ok(()));
}
