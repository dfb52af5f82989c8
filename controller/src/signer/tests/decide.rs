//! Who gets a certificate, for what, and who does not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_certs_client::csr;
use countersign_workload_id::WorkloadId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384,
    SanType,
};
use serde_json::{Value, json};

use super::super::csr::{CsrError, parse};
use super::super::decide::{Denial, Place, Pod, check_pod, grant, sound};
use super::super::newest_of_each_pod;
use super::super::request::{Requester, Stage};
use super::{UID, domain, key, object, orders, request, rules, sound_object};

fn denied(object: Value) -> Denial {
    sound(&request(object), &rules()).unwrap_err()
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = sound_object();
    change(&mut object);
    object
}

/// A request made by another library, with whatever it asks for.
fn asking(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    object("csr-1", &params.serialize_request(key).unwrap().pem().unwrap())
}

fn pod() -> Pod {
    Pod {
        uid: UID.to_owned(),
        account: "orders".to_owned(),
        node: Some("node-1".to_owned()),
        ..Pod::default()
    }
}

#[test]
fn the_identity_comes_from_who_asks() {
    let asked = request(sound_object());
    let found = sound(&asked, &rules()).unwrap();
    assert_eq!(check_pod(&found.requester, Some(&pod())), Ok(()));
    let place = Place { zone: Some("eu-1".to_owned()), region: None };
    let granted = grant(&asked, found, &pod(), place, &rules());
    assert_eq!(granted.id, orders());
    assert_eq!(granted.life_s, 3600);
    let location = granted.location;
    assert_eq!(location.pod_uid.as_deref(), Some(UID));
    assert_eq!(location.node.as_deref(), Some("node-1"));
    assert_eq!((location.zone.as_deref(), location.region), (Some("eu-1"), None));
    // Nothing in the request has to name anybody.
    let silent = object("csr-1", &csr::request(&key(), None).unwrap().pem);
    assert!(sound(&request(silent), &rules()).is_ok());
}

#[test]
fn lives_are_moved_between_the_bounds() {
    for (asked, given) in [(json!(60), 600), (json!(3600), 3600), (json!(86_400), 7200)] {
        let object = with(|object| object["spec"]["expirationSeconds"] = asked.clone());
        let asked = request(object);
        let found = sound(&asked, &rules()).unwrap();
        assert_eq!(grant(&asked, found, &pod(), Place::default(), &rules()).life_s, given);
    }
    let silent = request(with(|object| object["spec"]["expirationSeconds"] = Value::Null));
    let found = sound(&silent, &rules()).unwrap();
    assert_eq!(grant(&silent, found, &pod(), Place::default(), &rules()).life_s, 7200);
}

#[test]
fn attack_csr_names_another_workload() {
    let other = WorkloadId::new(&domain(), "shop", "billing").unwrap();
    let asked = object("csr-1", &csr::request(&key(), Some(&other)).unwrap().pem);
    assert!(matches!(denied(asked), Denial::OtherIdentity { .. }));
    let key = KeyPair::generate().unwrap();
    let twisted = format!("spiffe://x/\u{1b}[2J\n{}", "a".repeat(10_000));
    let asked = asking(&key, |params| {
        params.subject_alt_names = vec![SanType::URI(twisted.as_str().try_into().unwrap())];
    });
    let said = denied(asked).to_string();
    assert!(said.len() < 500 && !said.contains(char::is_control), "{said:?}");
    for names in [
        vec![orders().as_str(), "spiffe://prod.example.com/ns/shop/sa/billing"],
        vec![orders().as_str(), orders().as_str()],
    ] {
        let asked = asking(&key, |params| {
            let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
            params.subject_alt_names = names.iter().map(uri).collect();
        });
        assert_eq!(denied(asked), Denial::Csr(CsrError::Names("several URIs")));
    }
    let asked = asking(&key, |params| {
        let name = "billing.shop.svc".try_into().unwrap();
        params.subject_alt_names = vec![SanType::DnsName(name)];
    });
    assert_eq!(denied(asked), Denial::Csr(CsrError::Names("a name that is no URI")));
    let asked = asking(&key, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(denied(asked), Denial::Csr(CsrError::AsksForAuthority));
}

#[test]
fn a_subject_has_no_effect() {
    let key = KeyPair::generate().unwrap();
    let asked = asking(&key, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:masters");
    });
    let asked = request(asked);
    let found = sound(&asked, &rules()).unwrap();
    let granted = grant(&asked, found, &pod(), Place::default(), &rules());
    assert_eq!(granted.id, orders());
}

#[test]
fn only_service_accounts_of_pods_are_served() {
    for (user, word) in [
        ("alice", "not a service account"),
        ("system:node:node-1", "not a service account"),
        ("system:serviceaccount:shop", "not a service account"),
        ("system:serviceaccount:shop:orders/x", ""),
        ("system:serviceaccount:sh%6fp:orders", ""),
    ] {
        let text = denied(with(|object| object["spec"]["username"] = json!(user))).to_string();
        assert!(text.contains(word), "{user}: {text}");
    }
    for extra in [
        json!({}),
        json!({"authentication.kubernetes.io/pod-name": ["orders-1"]}),
        json!({
            "authentication.kubernetes.io/pod-name": ["orders-1", "orders-2"],
            "authentication.kubernetes.io/pod-uid": [UID],
        }),
        json!({
            "authentication.kubernetes.io/pod-name": ["orders-1"],
            "authentication.kubernetes.io/pod-uid": [""],
        }),
    ] {
        let denial = denied(with(|object| object["spec"]["extra"] = extra));
        assert!(denial.to_string().contains("not bound to a pod"), "{denial}");
        assert_eq!(denial.reason(), "NotAPod");
    }
}

#[test]
fn usages_are_exactly_the_three() {
    for usages in [
        json!([]),
        json!(["digital signature", "client auth"]),
        json!(["digital signature", "client auth", "server auth", "cert sign"]),
        json!(["digital signature", "key encipherment", "client auth", "server auth"]),
    ] {
        let denial = denied(with(|object| object["spec"]["usages"] = usages));
        assert_eq!(denial.reason(), "Usages");
    }
    let reordered = json!(["server auth", "client auth", "digital signature"]);
    let object = with(|object| object["spec"]["usages"] = reordered);
    assert!(sound(&request(object), &rules()).is_ok());
}

#[test]
fn keys_are_p256_or_ed25519_and_belong_to_whoever_asks() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let denial = denied(asking(&p384, |_| {}));
    assert_eq!(denial.reason(), "KeyType");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(sound(&request(asking(&ed25519, |_| {})), &rules()).is_ok());

    // The public key of somebody else under a signature of one's own.
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let csr = |key: &KeyPair| CertificateParams::default().serialize_request(key).unwrap();
    let (mine_der, theirs_der) = (csr(&mine).der().to_vec(), csr(&theirs).der().to_vec());
    let (mine_key, theirs_key) = (mine.public_key_raw(), theirs.public_key_raw());
    let at = mine_der.windows(mine_key.len()).position(|found| found == mine_key).unwrap();
    let mut forged = mine_der.clone();
    forged[at..at + theirs_key.len()].copy_from_slice(theirs_key);
    assert_ne!(forged, theirs_der);
    let pem = |der: &[u8]| {
        format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(der)
        )
    };
    assert!(sound(&request(object("csr-1", &pem(&mine_der))), &rules()).is_ok());
    let denial = denied(object("csr-1", &pem(&forged)));
    assert_eq!(denial, Denial::Csr(CsrError::BadSignature));
    // Whatever is cut off or damaged is refused, and nothing panics.
    for end in 0..mine_der.len() {
        assert_eq!(denied(object("csr-1", &pem(&mine_der[..end]))).reason(), "BadRequest");
    }
    // The envelope around what is signed may be damaged; what it says may not.
    let whole = parse(pem(&mine_der).as_bytes()).unwrap();
    for bit in 0..mine_der.len() * 8 {
        let mut damaged = mine_der.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let read = parse(pem(&damaged).as_bytes());
        assert!(read.is_err() || read == Ok(whole.clone()), "bit {bit}: {read:?}");
    }
    for text in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert_eq!(denied(object("csr-1", text)).reason(), "BadRequest", "{text}");
    }
}

#[test]
fn attack_csr_of_a_pod_that_is_not_there() {
    let requester = Requester {
        namespace: "shop".to_owned(),
        account: "orders".to_owned(),
        pod_name: "orders-1".to_owned(),
        pod_uid: UID.to_owned(),
        node: Some("node-1".to_owned()),
    };
    let reason = |pod: Option<Pod>| check_pod(&requester, pod.as_ref()).unwrap_err().reason();
    assert_eq!(reason(None), "PodGone");
    assert_eq!(reason(Some(Pod { uid: "another".to_owned(), ..pod() })), "PodGone");
    assert_eq!(reason(Some(Pod { account: "billing".to_owned(), ..pod() })), "OtherServiceAccount");
    assert_eq!(reason(Some(Pod { terminating: true, ..pod() })), "PodTerminating");
    assert_eq!(reason(Some(Pod { ended: true, ..pod() })), "PodEnded");
    assert_eq!(reason(Some(Pod { node: Some("node-2".to_owned()), ..pod() })), "OtherNode");
    let older = Requester { node: None, ..requester };
    assert_eq!(check_pod(&older, Some(&pod())), Ok(()), "tokens of older clusters name no node");
}

#[test]
fn of_a_pods_requests_the_newest_counts() {
    let at = |name: &str, second: u32, uid: &str, approved: bool| {
        let mut object = sound_object();
        object["metadata"] =
            json!({"name": name, "creationTimestamp": format!("2026-11-21T18:00:{second:02}Z")});
        object["spec"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!([uid]);
        if approved {
            object["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
        }
        request(object)
    };
    let all = [at("b", 3, "x", false), at("a", 9, "x", false), at("c", 5, "y", false)];
    let newest = newest_of_each_pod(all.iter());
    assert_eq!((newest["x"].as_str(), newest["y"].as_str()), ("a", "c"));
    let all = [at("a", 9, "x", false), at("b", 3, "x", true)];
    assert_eq!(newest_of_each_pod(all.iter())["x"], "b", "what is approved is signed");
}

#[test]
fn what_is_decided_is_left_alone() {
    let stage = |status: Value| request(with(|object| object["status"] = status)).stage;
    let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
    assert_eq!(stage(json!({})), Stage::Open);
    assert_eq!(stage(condition("Approved")), Stage::Approved);
    assert_eq!(stage(condition("Denied")), Stage::Closed);
    assert_eq!(stage(condition("Failed")), Stage::Closed);
    assert_eq!(stage(json!({"certificate": "QQ=="})), Stage::Closed);
}
