//! Service account tokens: what is refused before anybody is asked, what the API server's answer
//! must say, and what is remembered. Real tokens of a real API server are checked end to end.

use std::sync::Arc;

use countersign_config::KubernetesApi;
use countersign_config::limits::CALLER_REVIEW_AGE_MS_MAX;
use countersign_policy::doc::UserAlgorithm;
use serde_json::{Value, json};

use super::issuer::{NOW_S, Signer, jwks, now};
use crate::clock::Now;
use crate::gateway::callers::cache::Entry;
use crate::gateway::callers::review::{self, ReviewTarget, Reviewed};
use crate::gateway::callers::{
    CLUSTER, CallerCache, CallerError, CallerKind, CallerRules, ServiceAccounts, ServiceCaller,
    Verdict,
};
use crate::gateway::identify::UserVerifier;
use crate::gateway::provider_keys::KeysSnapshot;
use crate::gateway::user_keys::UserKeySet;
use crate::gateway::user_token;

const AUDIENCE: &str = "countersign.dev/prod.example.com";
const ISSUER: &str = "https://kubernetes.default.svc";

/// As the API server writes them.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:jobs:batch", "aud": [AUDIENCE],
        "iat": NOW_S - 10, "nbf": NOW_S - 10, "exp": NOW_S + 590, "jti": "9e1d",
        "kubernetes.io": {
            "namespace": "jobs",
            "serviceaccount": {"name": "batch", "uid": "d4c5"},
            "pod": {"name": "batch-7", "uid": "5c0e7a0e"},
            "node": {"name": "node-1", "uid": "77aa"},
        },
    })
}

struct World {
    signer: Signer,
    keys: KeysSnapshot,
    rules: CallerRules,
}

fn target() -> ReviewTarget {
    let cluster = KubernetesApi {
        server: "https://10.0.0.1".into(),
        ca: "ca".into(),
        token_file: "token".into(),
    };
    ReviewTarget { cluster, audience: AUDIENCE.to_owned() }
}

impl World {
    fn new(review: bool, keys: bool) -> World {
        let signer = Signer::rs256("k1");
        let set = UserKeySet::from_jwks_json(
            jwks(&[&signer]).as_bytes(),
            &[UserAlgorithm::RS256, UserAlgorithm::ES256],
        );
        let service_account = ServiceAccounts {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            review: review.then(|| Arc::new(target())),
            keys,
            grants: vec!["orders.read".to_owned()],
        };
        let rules = CallerRules {
            domain: "prod.example.com".parse().unwrap(),
            service_account: Some(service_account),
            jwt_svid: None,
        };
        World { signer, keys: KeysSnapshot::fixed([(CLUSTER, set.unwrap())]), rules }
    }

    fn verdict(&self, header: &Value, claims: &Value) -> Result<Verdict, CallerError> {
        let token = self.signer.sign_with(header, claims);
        let token = user_token::parse(&token).unwrap();
        self.rules.verify(&token, CallerKind::ServiceAccount, &self.keys, now())
    }

    fn changed(&self, change: impl FnOnce(&mut Value)) -> Result<Verdict, CallerError> {
        let mut claims = claims();
        change(&mut claims);
        self.verdict(&json!({"alg": "RS256", "kid": "k1"}), &claims)
    }

    /// Proven without asking.
    fn proven(&self, change: impl FnOnce(&mut Value)) -> Result<ServiceCaller, CallerError> {
        match self.changed(change)? {
            Verdict::Proven(caller) => Ok(caller),
            Verdict::ToReview(..) => panic!("nobody is to be asked"),
        }
    }

    /// The API server is asked, and answers so.
    fn reviewed(&self, answer: Reviewed) -> Result<ServiceCaller, CallerError> {
        match self.changed(|_| {}).unwrap() {
            Verdict::Proven(_) => panic!("the API server is to be asked"),
            Verdict::ToReview(stated, asked) => {
                assert_eq!(*asked, target());
                self.rules.confirm(stated, answer)
            }
        }
    }
}

fn yes() -> Reviewed {
    Reviewed::Authenticated {
        username: "system:serviceaccount:jobs:batch".to_owned(),
        pod_uid: "5c0e7a0e".to_owned(),
    }
}

#[test]
fn a_service_account_token_proves_a_service() {
    let caller = World::new(false, true).proven(|_| {}).unwrap();
    assert_eq!(caller.subject().to_string(), "svc:spiffe://prod.example.com/ns/jobs/sa/batch");
    assert_eq!(caller.kind().no_peer().reason(), "service_account_token");
    assert_eq!(caller.idp(), Some("k8s"));
    assert_eq!(caller.pod().map(|pod| &*pod.uid), Some("5c0e7a0e"));
    for keys in [true, false] {
        let reviewed = World::new(true, keys).reviewed(yes()).unwrap();
        assert_eq!(reviewed.id(), caller.id());
    }
    let nobody = World::new(false, false).changed(|_| {}).unwrap_err();
    assert_eq!(nobody.sub(), "unverifiable", "nobody vouches for it");
}

#[test]
fn attack_uses_token_that_is_bound_to_no_pod() {
    let world = World::new(false, true);
    let without = |path: &[&str]| {
        let mut claims = claims();
        let (last, above) = path.split_last().unwrap();
        let object = above.iter().fold(&mut claims, |object, name| &mut object[*name]);
        object.as_object_mut().unwrap().remove(*last);
        world.verdict(&json!({"alg": "RS256", "kid": "k1"}), &claims).unwrap_err().sub()
    };
    assert_eq!(without(&["kubernetes.io"]), "unbound");
    assert_eq!(without(&["kubernetes.io", "pod"]), "unbound");
    assert_eq!(without(&["kubernetes.io", "pod", "uid"]), "unbound");
    assert_eq!(without(&["kubernetes.io", "pod", "name"]), "unbound");
    assert_eq!(without(&["kubernetes.io", "namespace"]), "claim");
    assert_eq!(without(&["kubernetes.io", "serviceaccount"]), "claim");
    // What the issuer wrote into tokens of Secrets before they were bound to anything.
    let of_secret = world.changed(|claims| {
        *claims = json!({
            "iss": ISSUER, "sub": "system:serviceaccount:jobs:batch", "aud": [AUDIENCE],
            "iat": NOW_S, "exp": NOW_S + 60, "kubernetes.io/serviceaccount/namespace": "jobs",
        });
    });
    assert_eq!(of_secret.unwrap_err().sub(), "unbound");
}

#[test]
fn tokens_nobody_is_asked_about_live_ten_minutes_and_others_a_day() {
    let (offline, online) = (World::new(false, true), World::new(true, true));
    let lives = |world: &World, life_s: u64| {
        world.changed(|claims| {
            claims["iat"] = json!(NOW_S);
            claims["exp"] = json!(NOW_S + life_s);
        })
    };
    assert!(lives(&offline, 600).is_ok());
    let long = lives(&offline, 601).unwrap_err();
    assert_eq!(long.sub(), "life");
    assert!(long.to_string().contains("tokenReview"), "{long}");
    assert!(lives(&online, 86_400).is_ok());
    assert_eq!(lives(&online, 86_401).unwrap_err().sub(), "life");
    // The API server extends tokens of its own audience to a year.
    assert_eq!(lives(&online, 365 * 86_400).unwrap_err().sub(), "life");
    let undated = online.changed(|claims| {
        claims.as_object_mut().unwrap().remove("iat");
    });
    assert_eq!(undated.unwrap_err().sub(), "claim");
}

#[test]
fn attack_service_account_token_is_changed() {
    for world in [World::new(false, true), World::new(true, true)] {
        let sub = |change: &dyn Fn(&mut Value)| world.changed(change).unwrap_err().sub();
        assert_eq!(sub(&|c| c["aud"] = json!([ISSUER])), "audience", "one for the API server");
        assert_eq!(sub(&|c| c["aud"] = json!([])), "audience");
        assert_eq!(sub(&|c| c["exp"] = json!(NOW_S - 31)), "expired");
        assert_eq!(sub(&|c| c["nbf"] = json!(NOW_S + 31)), "not_yet_valid");
        for subject in ["system:node:node-1", "alice", "system:serviceaccount:jobs"] {
            assert_eq!(sub(&|c| c["sub"] = json!(subject)), "subject", "{subject}");
        }
        // The parts must tell one story.
        assert_eq!(sub(&|c| c["sub"] = json!("system:serviceaccount:jobs:admin")), "claim");
        assert_eq!(sub(&|c| c["sub"] = json!("system:serviceaccount:shop:batch")), "claim");
        assert_eq!(sub(&|c| c["kubernetes.io"]["namespace"] = json!("shop")), "claim");
        let slash = "system:serviceaccount:jobs:batch/../admin";
        let of_path = |c: &mut Value| {
            c["sub"] = json!(slash);
            c["kubernetes.io"]["serviceaccount"]["name"] = json!("batch/../admin");
        };
        assert_eq!(sub(&of_path), "subject");
    }
}

#[test]
fn attack_algorithm_of_a_service_account_token_is_changed() {
    let world = World::new(true, true);
    let sub = |header: Value| world.verdict(&header, &claims()).unwrap_err().sub();
    for alg in ["none", "HS256", "EdDSA", "PS256", "RS512"] {
        assert_eq!(sub(json!({"alg": alg, "kid": "k1"})), "algorithm", "{alg}");
    }
    assert_eq!(sub(json!({"alg": "ES256", "kid": "k1"})), "algorithm", "the key is an RSA key");
    assert_eq!(sub(json!({"alg": "RS256", "kid": "k2"})), "key_unknown");
    assert_eq!(sub(json!({"alg": "RS256", "kid": "k1", "typ": "txntoken+jwt"})), "header");
    let forged = Signer::rs256("k1").sign_with(&json!({"alg": "RS256", "kid": "k1"}), &claims());
    let token = user_token::parse(&forged).unwrap();
    let verdict = world.rules.verify(&token, CallerKind::ServiceAccount, &world.keys, now());
    assert_eq!(verdict.unwrap_err(), CallerError::SignatureInvalid, "the API server is not asked");
    let none =
        world.rules.verify(&token, CallerKind::ServiceAccount, &KeysSnapshot::default(), now());
    assert_eq!(none.unwrap_err().sub(), "unverifiable", "before the keys have come");
}

#[test]
fn the_api_server_must_confirm_what_the_token_states() {
    let world = World::new(true, false);
    let said = |username: &str, pod_uid: &str| {
        let (username, pod_uid) = (username.to_owned(), pod_uid.to_owned());
        world.reviewed(Reviewed::Authenticated { username, pod_uid }).unwrap_err()
    };
    let other = said("system:serviceaccount:jobs:admin", "5c0e7a0e");
    assert_eq!(other, CallerError::Contradicted("user name"));
    let other = said("system:serviceaccount:jobs:batch", "other");
    assert_eq!(other, CallerError::Contradicted("pod"));
    let no = world.reviewed(Reviewed::Refused("pod is gone".to_owned())).unwrap_err();
    assert_eq!(no.sub(), "not_authenticated");
}

#[test]
fn only_a_plain_yes_for_our_audience_is_a_yes() {
    let sound = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": "t", "audiences": [AUDIENCE]},
        "status": {
            "authenticated": true, "audiences": [AUDIENCE],
            "user": {
                "username": "system:serviceaccount:jobs:batch", "uid": "d4c5",
                "groups": ["system:serviceaccounts"],
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["batch-7"],
                    "authentication.kubernetes.io/pod-uid": ["5c0e7a0e"],
                },
            },
        },
    });
    let read = |review: &Value| review::read(review.to_string().as_bytes(), AUDIENCE);
    assert_eq!(read(&sound), Ok(yes()));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut review = sound.clone();
        change(&mut review);
        read(&review)
    };
    let refused: [&dyn Fn(&mut Value); 8] = [
        &|r| r["status"]["authenticated"] = json!(false),
        &|r| r["status"]["authenticated"] = json!("true"),
        &|r| r["status"]["authenticated"] = json!(null),
        &|r| r["status"]["audiences"] = json!([ISSUER]),
        &|r| r["status"]["audiences"] = json!(null),
        &|r| r["status"]["audiences"] = json!(AUDIENCE),
        &|r| r["status"]["user"]["extra"] = json!({}),
        &|r| {
            r["status"]["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["a", "b"])
        },
    ];
    for (number, change) in refused.iter().enumerate() {
        assert!(matches!(changed(change), Ok(Reviewed::Refused(_))), "{number}");
    }
    let nonsense: [&dyn Fn(&mut Value); 5] = [
        &|r| r["kind"] = json!("Status"),
        &|r| r["status"] = json!(null),
        &|r| r["status"]["user"] = json!(null),
        &|r| r["status"]["user"]["username"] = json!(7),
        &|r| *r = json!([1]),
    ];
    for (number, change) in nonsense.iter().enumerate() {
        assert!(changed(change).is_err(), "{number}");
    }
    assert!(review::read(b"<html>", AUDIENCE).is_err());
    let twice = br#"{"kind":"TokenReview","status":{"authenticated":false,"authenticated":true}}"#;
    assert!(review::read(twice, AUDIENCE).is_err(), "two readers could differ");
    let asked = review::question("t", AUDIENCE);
    assert_eq!(asked["spec"], json!({"token": "t", "audiences": [AUDIENCE]}));
}

/// A caller that was let in, or a refusal, kept at a moment, looked for at another.
struct Kept {
    cache: CallerCache,
    rules: Arc<CallerRules>,
}

impl Kept {
    fn at(ms: u64, outcome: Result<ServiceCaller, CallerError>, reviewed: bool) -> Kept {
        let rules = Arc::new(World::new(true, true).rules);
        let mut cache = CallerCache::default();
        let at = Now::from_micros(ms * 1_000);
        cache.keep([7; 32], Entry::new(outcome.map(Arc::new), &rules, None, reviewed, at));
        Kept { cache, rules }
    }

    fn get(&mut self, ms: u64) -> Option<Result<Arc<ServiceCaller>, CallerError>> {
        self.cache.get(&[7; 32], &self.rules, None, Now::from_micros(ms * 1_000))
    }
}

#[test]
fn an_answer_of_the_api_server_counts_for_ten_seconds() {
    assert_eq!(CALLER_REVIEW_AGE_MS_MAX, 10_000);
    let start = NOW_S * 1_000;
    let caller = World::new(true, true).reviewed(yes());
    let mut kept = Kept::at(start, caller.clone(), true);
    assert!(kept.get(start).unwrap().is_ok());
    assert!(kept.get(start + 9_999).unwrap().is_ok());
    assert!(kept.get(start + 10_000).is_none(), "asked again");
    assert!(kept.get(start - 1).is_none(), "a clock that went back says nothing of its age");
    let other = Arc::new(World::new(true, true).rules);
    assert!(kept.cache.get(&[7; 32], &other, None, now()).is_none(), "other documents");
    // A no is remembered as long, so that one bad token is not a flood of questions.
    let no = Err(CallerError::NotAuthenticated("gone".to_owned()));
    let mut kept = Kept::at(start, no, true);
    assert_eq!(kept.get(start + 9_999).unwrap().unwrap_err().sub(), "not_authenticated");
    assert!(kept.get(start + 10_000).is_none());
    // That nobody answered is not.
    let down = Err(CallerError::Unverifiable("down".to_owned()));
    assert!(Kept::at(start, down, true).get(start).is_none());
}

#[test]
fn a_remembered_caller_ends_with_its_token() {
    let caller = World::new(false, true).proven(|_| {});
    let start = NOW_S * 1_000;
    let mut kept = Kept::at(start, caller, false);
    assert!(kept.get(start + 600_000).unwrap().is_ok(), "as long as the token");
    assert_eq!(kept.get(start + 620_000).unwrap().unwrap_err().sub(), "expired");
}

#[test]
fn a_token_is_a_service_accounts_by_its_issuer() {
    let world = World::new(true, true);
    let users = UserVerifier::default();
    let kind = |claims: Value| world.rules.kind(claims.as_object().unwrap(), &users);
    assert_eq!(kind(claims()), Some(CallerKind::ServiceAccount));
    let mut other = claims();
    other["iss"] = json!("https://other.example.com");
    assert_eq!(kind(other), None, "another cluster");
    assert_eq!(kind(json!({"sub": "spiffe://prod.example.com/a"})), None, "not taken here");
}
