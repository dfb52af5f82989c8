//! Pure parts of the source: what answers say, who is an anchor, what somebody is told to do.

use countersign_config::identity::{VaultLogin, VaultRoleId, VaultSource, VaultTokenLogin};
use countersign_workload_id::WorkloadId;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;

use super::{answers::Answer, explain, server, trust};

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, retry_after: None, body: body.to_owned().into() }
}

fn source(login: VaultLogin) -> VaultSource {
    VaultSource {
        address: "https://vault.example.com:8200".to_owned(),
        ca: None,
        namespace: None,
        mount: "teams/pki".to_owned(),
        role: "orders".to_owned(),
        life_s: 3_600,
        bundle: None,
        trust_refresh_s: 300,
        login,
    }
}

fn token_login() -> VaultTokenLogin {
    VaultTokenLogin { mount: "k8s".into(), role: "orders".into(), token_file: "t".into() }
}

fn approle() -> VaultLogin {
    VaultLogin::AppRole {
        mount: "approle".to_owned(),
        role_id: VaultRoleId::Written("id".to_owned()),
        secret_id_file: "s".into(),
    }
}

#[test]
fn errors_are_one_short_line_without_what_was_sent() {
    let shown = |status, body: &str| answer(status, body).shown(&["s.secret-token", "ab"]);
    assert_eq!(shown(503, r#"{"errors":["Vault is sealed"]}"#), "status 503: Vault is sealed");
    assert_eq!(shown(404, r#"{"errors":[]}"#), "status 404");
    assert_eq!(shown(204, ""), "status 204");
    assert_eq!(shown(400, r#"{"errors":["a\n\tb","c"]}"#), "status 400: a b, c");
    assert_eq!(
        shown(400, r#"{"errors":["bad token s.secret-token, about"]}"#),
        "status 400: bad token (withheld), about"
    );
    let long = shown(500, &"é".repeat(1_000));
    assert_eq!(long.chars().count(), "status 500: ".len() + 301);
    // Cut in the middle of a secret, it is still not shown.
    let edge = shown(500, &format!("{}s.secret-token", "x".repeat(295)));
    assert!(!edge.contains("s.se"), "{edge}");
}

#[test]
fn leases_are_taken_whole_or_not_at_all() {
    let lease = |body: &str| answer(200, body).lease();
    let good = r#"{"auth":{"client_token":"s.x","lease_duration":300,"renewable":true}}"#;
    let lease_of_good = lease(good).unwrap();
    assert_eq!((lease_of_good.life_s, lease_of_good.renewable), (300, true));
    assert_eq!(format!("{lease_of_good:?}"), "Lease { life_s: 300, renewable: true, .. }");
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"auth":null}"#,
        r#"{"auth":{}}"#,
        r#"{"auth":{"client_token":""}}"#,
        r#"{"auth":{"client_token":"a\r\nx-evil: 1"}}"#,
        r#"{"auth":{"client_token":"s.x","lease_duration":-1}}"#,
    ] {
        let problem = lease(bad).unwrap_err().to_string();
        assert!(problem.starts_with("the answer"), "{bad}: {problem}");
        assert!(!problem.contains("s.x"), "{problem}");
    }
}

#[test]
fn issuers_have_names_that_fit_into_a_path() {
    let keys = |body: &str| answer(200, body).keys();
    let good = r#"{"data":{"keys":["1dd09f76-2b67-b62a-86e9-a04d71ae6af1"]}}"#;
    assert_eq!(keys(good).unwrap().len(), 1);
    for bad in [r#"{"data":{"keys":["../sys"]}}"#, r#"{"data":{"keys":[""]}}"#, r#"{"data":{}}"#] {
        keys(bad).unwrap_err();
    }
}

/// An authority with this name and key, signed by itself or by another.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

impl Ca {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn root(name: &str) -> Ca {
        let (params, key) = (Ca::params(name), KeyPair::generate().unwrap());
        let der = params.self_signed(&key).unwrap().der().clone();
        Ca { params, key, der }
    }

    fn signs(&self, name: &str) -> Ca {
        let (params, key) = (Ca::params(name), KeyPair::generate().unwrap());
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        Ca { params, key, der }
    }

    /// `other` once more, vouched for by this one.
    fn crosses(&self, other: &Ca) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        other.params.signed_by(&other.key, &issuer).unwrap().der().clone()
    }
}

#[test]
fn anchors_are_the_authorities_nobody_in_the_mount_issued() {
    let (old, new, other) = (Ca::root("ca"), Ca::root("ca"), Ca::root("other"));
    let nameless = [Ca::root(""), Ca::root("")];
    let below = old.signs("below");
    let lowest = below.signs("lowest");
    let anchors = |all: &[&CertificateDer<'static>]| {
        trust::anchors(&all.iter().map(|der| (*der).clone()).collect::<Vec<_>>())
    };
    // Two roots of one name, and one named twice.
    assert_eq!(anchors(&[&old.der, &new.der, &old.der]), [old.der.clone(), new.der.clone()]);
    assert_eq!(anchors(&[&nameless[0].der, &nameless[1].der]).len(), 2);
    // What a root issued is no anchor, unless the root is not here.
    assert_eq!(anchors(&[&lowest.der, &below.der, &old.der]), vec![old.der.clone()]);
    assert_eq!(anchors(&[&lowest.der, &below.der]), vec![below.der.clone()]);
    // A root that the old one vouches for too stays an anchor by itself.
    let cross = old.crosses(&other);
    assert_eq!(anchors(&[&old.der, &cross, &other.der]), [old.der.clone(), other.der.clone()]);
    assert_eq!(anchors(&[]), []);
    assert_eq!(anchors(&[&CertificateDer::from(vec![0x30, 0x00])]), []);
    // A chain ends where an anchor begins.
    let above = vec![lowest.der.clone(), below.der.clone(), old.der.clone()];
    let between = trust::intermediates(above, std::slice::from_ref(&old.der));
    assert_eq!(between, [lowest.der.clone(), below.der.clone()]);
}

#[test]
fn hints_name_the_place_of_the_fix() {
    let id = WorkloadId::parse("spiffe://prod.example.com/ns/shop/sa/orders").unwrap();
    let roles = source(approle());
    let sign = |status, text| explain::sign(&roles, &id, status, text).unwrap_or_default();
    assert!(sign(400, "role requires keys of type rsa").contains("`teams/pki/roles/orders`"));
    assert!(sign(400, "URI Subject Alternative Names …").contains(id.as_str()));
    assert!(sign(403, "").contains("path \"teams/pki/sign/orders\""));
    assert!(sign(503, "Vault is sealed").contains("operator unseal"));
    assert!(sign(404, "namespace not found").contains("does not exist"));
    assert_eq!(sign(400, "something new"), "");

    let reviewed = source(VaultLogin::Kubernetes(token_login()));
    let login = |status, text| explain::login(&reviewed, status, text).unwrap_or_default();
    assert!(login(403, "invalid audience (aud) claim").contains("`auth/k8s`"));
    assert!(login(403, "service account name not authorized").contains("bound_service_account"));
    assert!(login(403, "permission denied").contains("system:auth-delegator"));
    let own = source(VaultLogin::Jwt(token_login()));
    let login = |status, text| explain::login(&own, status, text).unwrap_or_default();
    assert!(login(400, "token is expired").contains("who writes it has stopped"));
    assert!(login(400, "role \"x\" could not be found").contains("auth/k8s/role/orders"));
    assert!(login(400, "sub claim does not match").contains("bound_subject"));
}

#[test]
fn a_certificate_that_the_role_spoiled_is_explained() {
    let id = WorkloadId::parse("spiffe://prod.example.com/ns/shop/sa/orders").unwrap();
    let source = source(approle());
    let leaf = |uri: Option<&str>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uri.map(|uri| rcgen::SanType::URI(uri.try_into().unwrap())).into_iter().collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A critical extension of nobody's is the gate's business.
        let mut odd = CustomExtension::from_oid_content(&[2, 999, 1], vec![5, 0]);
        odd.set_criticality(true);
        params.custom_extensions = vec![odd];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    };
    assert_eq!(explain::certificate(&source, &id, &leaf(Some(id.as_str()))), None);
    let (problem, fix) = explain::certificate(&source, &id, &leaf(None)).unwrap();
    assert!(problem.contains("0 URI names"), "{problem}");
    assert!(fix.contains("use_csr_sans=true") && fix.contains(id.as_str()), "{fix}");
}

#[test]
fn credentials_are_one_word_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let read = |text: &[u8]| {
        let path = folder.path().join("token");
        std::fs::write(&path, text).unwrap();
        server::credential(&path).map(|word| word.to_string()).map_err(|error| error.answer)
    };
    assert_eq!(read(b" eyJ.a.b\n").as_deref(), Ok("eyJ.a.b"));
    assert!(read(b"\n").unwrap_err().ends_with("it is empty"));
    assert!(read(b"one two").unwrap_err().ends_with("more than one word of ASCII"));
    assert!(read(b"a\r\nX-Evil: 1").unwrap_err().ends_with("more than one word of ASCII"));
    assert!(read(&[0xff, 0xfe]).unwrap_err().contains("UTF-8"));
    let missing = server::credential(&folder.path().join("none")).unwrap_err();
    assert!(missing.answer.contains("none: No such file"), "{}", missing.answer);
}

#[test]
fn a_role_that_signs_more_than_one_name_is_found() {
    let id = WorkloadId::parse("spiffe://prod.example.com/ns/shop/sa/orders").unwrap();
    let found = |names: &str, more: &str| {
        let body = format!(r#"{{"data":{{"allowed_uri_sans":{names},"key_type":"ec"{more}}}}}"#);
        let role = answer(200, &body).role().unwrap();
        role.findings("pki/roles/orders", &id).into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    assert_eq!(found(&format!("[\"{id}\"]"), ""), [""; 0]);
    let template = "[\"spiffe://prod.example.com/{{identity.entity.metadata.id}}\"]";
    assert_eq!(found(template, ",\"allowed_uri_sans_template\":true"), [""; 0]);
    let wide = found("[\"spiffe://prod.example.com/ns/*\"]", "");
    assert_eq!(wide.len(), 1);
    assert!(wide[0].contains("can take any of them"), "{wide:?}");
    let other = found(&format!("[\"{id}\",\"spiffe://prod.example.com/x\"]"), "");
    assert_eq!(other, ["`pki/roles/orders` signs `spiffe://prod.example.com/x` too"]);
    assert_eq!(found("[]", ",\"require_cn\":true").len(), 2);
}
