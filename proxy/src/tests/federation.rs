use std::path::Path;
use std::sync::Arc;

use countersign_certs_client::JwksForm;
use countersign_certs_client::federation::Federated;
use countersign_policy::Source;

use super::*;

fn bundle(domain: &str) -> Bundle {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, domain);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Bundle::from_certificates(vec![certificate.der().clone()]).unwrap()
}

fn jwt(kid: &str) -> JwtBundle {
    let jwks = format!(r#"{{"keys": [{}]}}"#, jwk(kid));
    JwtBundle::parse(jwks.as_bytes(), JwksForm::SpiffeBundle).unwrap()
}

fn jwk(kid: &str) -> String {
    format!(
        r#"{{"use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "{kid}", "x": "AA", "y": "AA"}}"#
    )
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// A mesh `own.test` in `folder`, federated with these.
fn documents(folder: &Path, federation: &str) -> Documents {
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
         spec:\n  trustDomain: own.test\n  federation: [{federation}]\n"
    );
    let name = folder.join("mesh.yaml").display().to_string();
    countersign_policy::load(&[Source { name: &name, text: &text }]).unwrap()
}

const ALL: &str = "{trustDomain: a.test, bundle: {source: true}}, \
    {trustDomain: b.test, bundle: {file: b.json}}, \
    {trustDomain: c.test, bundle: {endpoint: {url: 'https://c.test/', profile: https_web}}}";

/// What the source delivers, of everybody; what counts is what the documents say of each domain.
#[test]
fn only_named_domains_count_and_each_from_its_own_place() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["own.test", "a.test", "b.test", "c.test", "d.test"];
    let certs = Certs {
        bundles: Arc::new(names.iter().map(|name| (domain(name), bundle(name))).collect()),
        jwt_bundles: Arc::new(names.iter().map(|name| (domain(name), jwt("source"))).collect()),
        ..Certs::default()
    };
    let mesh = documents(folder.path(), ALL).mesh;
    let mut held = Bundles::default();
    let of = |held: &mut Bundles| held.in_force(&mesh, &certs);
    let trusted = |all: &InForce| -> Vec<String> {
        all.authorities.domains().map(ToString::to_string).collect()
    };
    assert_eq!(trusted(&of(&mut held)), ["a.test", "own.test"], "no file, nothing fetched");

    let in_file = bundle("b.test");
    let rendered = BundleDoc::render(in_file.certificates(), 1, 60);
    std::fs::write(folder.path().join("b.json"), rendered.unwrap_or_default()).unwrap();
    let keys = format!(r#"{{"keys": [{}], "spiffe_sequence": 1}}"#, jwk("fetched"));
    let doc = BundleDoc::parse(keys.as_bytes()).unwrap();
    let one = Federated { doc: Some(Arc::new(doc)), ..Federated::default() };
    let fetched: Fetched = [(domain("c.test"), one)].into_iter().collect();
    assert!(held.take(Arc::new(fetched.clone())));
    assert!(!held.take(Arc::new(fetched)), "nothing new");
    let InForce { authorities: bundles, tokens } = of(&mut held);
    assert_eq!(bundles.get(&domain("b.test")), Some(&in_file), "from the file, not the source");
    assert_eq!(bundles.get(&domain("c.test")), None, "it has keys for tokens only");
    let kids = |name: &str| tokens.get(&domain(name)).map(|keys| keys.kids().to_vec());
    assert_eq!(kids("a.test"), Some(vec!["source".to_owned()]));
    assert_eq!(kids("b.test"), None, "its file has none");
    assert_eq!(kids("d.test"), None, "nobody named it");
    assert_eq!(kids("c.test"), Some(vec!["fetched".to_owned()]));

    // What cannot be read changes nothing, what says `nobody` does.
    std::fs::write(folder.path().join("b.json"), "{").unwrap();
    assert_eq!(of(&mut held).authorities.get(&domain("b.test")), Some(&in_file));
    std::fs::write(folder.path().join("b.json"), r#"{"keys": []}"#).unwrap();
    assert_eq!(of(&mut held).authorities.get(&domain("b.test")), None);
    std::fs::write(folder.path().join("b.json"), "{").unwrap();
    assert_eq!(
        of(&mut held).authorities.get(&domain("b.test")),
        None,
        "nobody is the last good answer"
    );
}

#[test]
fn endpoints_are_those_of_the_documents() {
    let folder = tempfile::tempdir().unwrap();
    let found = endpoints(&documents(folder.path(), ALL));
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.domain.as_str(), one.url.as_str()), ("c.test", "https://c.test/"));
    assert_eq!((one.profile.clone(), one.max_stale_s), (Profile::Web(None), 24 * 3600));
    let pace = pace(&Limits::default());
    assert_eq!((pace.least_s, pace.most_s), (30, 3600));
}

/// The last good file of a domain counts while the domain is named; who was cut off does not come
/// back by memory.
#[test]
fn a_domain_that_was_taken_out_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.json");
    let rendered = BundleDoc::render(bundle("b.test").certificates(), 1, 60).unwrap();
    std::fs::write(&file, rendered).unwrap();
    let mesh = |federation| documents(folder.path(), federation).mesh;
    let named = mesh("{trustDomain: b.test, bundle: {file: b.json}}");
    let mut held = Bundles::default();
    let certs = Certs::default();
    let mut trusts = |mesh: &MeshConfig| {
        held.in_force(mesh, &certs).authorities.get(&domain("b.test")).is_some()
    };
    assert!(trusts(&named));
    std::fs::remove_file(&file).unwrap();
    assert!(trusts(&named), "a file that cannot be read right now changes nothing");
    assert!(!trusts(&mesh("{trustDomain: a.test, bundle: {source: true}}")));
    assert!(!trusts(&named));
    std::fs::write(&file, r#"{"keys": []}"#).unwrap();
    assert!(!trusts(&named), "nobody, as the page on federation says");
}
