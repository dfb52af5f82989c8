//! Files that change under a running signer: what is good is taken over, what is not changes
//! nothing.

use std::fs;

use countersign_policy::Revocations;

use super::super::authority::Authority;
use super::super::reload::Watched;
use super::{Files, UID};

const REVOKED: &str = "apiVersion: countersign.dev/v1alpha1
kind: Revocation
metadata: {name: now}
spec: {pods: [{uid: 5c0e7a0e-3b0f-4c55-9f6b-1d8f0a2b7c11}], expires: \"2099-01-01T00:00:00Z\"}
";
const MESH: &str = include_str!("../../../../config/examples/mesh.yaml");

#[test]
fn a_new_authority_is_taken_over_whole_or_not_at_all() {
    let files = Files::new();
    let config = files.config("http://127.0.0.1:1");
    let first = Authority::load(&config).unwrap();
    let roots = first.roots_pem().to_owned();
    let mut watched = Watched::new(config, first, Revocations::default());
    watched.look();
    assert_eq!(watched.authority().roots_pem(), roots);

    // Half of a rotation: the certificate is new, the key is not.
    let old_key = fs::read(files.path("ca.key")).unwrap();
    files.write_authority();
    let new_key = fs::read(files.path("ca.key")).unwrap();
    fs::write(files.path("ca.key"), &old_key).unwrap();
    watched.look();
    assert_eq!(watched.authority().roots_pem(), roots, "the old pair stays");
    fs::write(files.path("ca.key"), &new_key).unwrap();
    watched.look();
    assert_ne!(watched.authority().roots_pem(), roots);

    let roots = watched.authority().roots_pem().to_owned();
    for damage in ["", "garbage"] {
        fs::write(files.path("ca.pem"), damage).unwrap();
        watched.look();
        assert_eq!(watched.authority().roots_pem(), roots, "{damage}");
    }
    fs::remove_file(files.path("ca.pem")).unwrap();
    watched.look();
    assert_eq!(watched.authority().roots_pem(), roots);
}

#[test]
fn revocations_are_followed_and_never_lost_to_a_typo() {
    let files = Files::new();
    fs::write(files.path("mesh.yaml"), MESH).unwrap();
    fs::write(files.path("revocation.yaml"), "").unwrap();
    let mut config = files.config("http://127.0.0.1:1");
    config.documents = vec![files.path("mesh.yaml"), files.path("revocation.yaml")];
    let authority = Authority::load(&config).unwrap();
    let mut watched = Watched::new(config, authority, Revocations::default());
    assert!(!watched.revocations().pod(UID, 0));
    fs::write(files.path("revocation.yaml"), REVOKED).unwrap();
    watched.look();
    assert!(watched.revocations().pod(UID, 0));
    fs::write(files.path("revocation.yaml"), REVOKED.replace("pods", "pod")).unwrap();
    watched.look();
    assert!(watched.revocations().pod(UID, 0), "a typo revokes nothing back");
}
