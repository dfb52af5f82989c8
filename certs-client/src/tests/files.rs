//! The `files` source, with a writer that does what kubelet and cert-manager do, and worse.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use tempfile::TempDir;

use super::authority::{Leaf, NOW, ORDERS, TestCa, clock, life, pem, until};
use crate::{CertSource, Certs, CertsHandle, NextTry, State, Status, source};
use countersign_config::FilesKey;

struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Files {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn one_file(&self) -> CertSource {
        let certificate = self.path("identity.pem");
        CertSource::Files { certificate, key: None, bundle: self.path("trust.pem") }
    }

    fn two_files(&self) -> CertSource {
        CertSource::Files {
            certificate: self.path("tls.crt"),
            key: Some(FilesKey::File(self.path("tls.key"))),
            bundle: self.path("ca.crt"),
        }
    }
}

fn start(source: CertSource) -> CertsHandle {
    source::spawn(source, None, clock().0)
}

async fn holds(handle: &CertsHandle, leaf: &Leaf) -> Arc<Certs> {
    let wanted = crate::bundle::sha256(&leaf.certificate);
    until(&mut handle.certs(), |certs| {
        certs.identity.as_ref().is_some_and(|identity| identity.leaf_sha256 == wanted)
    })
    .await
}

#[tokio::test]
async fn one_file_with_key_and_chain() {
    let (files, ca) = (Files::new(), TestCa::new("demo.test"));
    let first = ca.leaf(ORDERS, |_| {});
    files.write("trust.pem", pem(&ca.certificate));
    files.write("identity.pem", first.pem());
    let handle = start(files.one_file());
    let certs = holds(&handle, &first).await;
    assert_eq!(certs.generation, 1);
    assert!(handle.status().borrow().is_ready());

    files.write("identity.pem", first.pem() + "\n");
    let second = ca.leaf(ORDERS, |_| {});
    files.write("identity.pem", second.pem());
    assert_eq!(holds(&handle, &second).await.generation, 2, "the same leaf is no new generation");
}

#[tokio::test]
async fn files_source_survives_torn_rotation() {
    let (files, ca) = (Files::new(), TestCa::new("demo.test"));
    let write_key = |leaf: &Leaf| files.write("tls.key", leaf.key.serialize_pem());
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    files.write("ca.crt", pem(&ca.certificate));
    files.write("tls.crt", pem(&first.certificate));
    write_key(&first);
    let handle = start(files.two_files());
    holds(&handle, &first).await;

    files.write("tls.crt", pem(&second.certificate)); // the key follows later
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    holds(&handle, &first).await;
    write_key(&second);
    holds(&handle, &second).await;
    let status = Arc::clone(&handle.status().borrow());
    assert_eq!((status.failures_total, status.last_failure.as_ref()), (0, None));
}

#[tokio::test]
async fn files_that_never_fit_are_reported_and_the_good_identity_stays() {
    let (files, ca) = (Files::new(), TestCa::new("demo.test"));
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    files.write("ca.crt", pem(&ca.certificate));
    files.write("tls.crt", pem(&first.certificate));
    files.write("tls.key", first.key.serialize_pem());
    let handle = start(files.two_files());
    holds(&handle, &first).await;

    files.write("tls.crt", pem(&second.certificate));
    let status = until(&mut handle.status(), |status| status.last_failure.is_some()).await;
    let failure = status.last_failure.clone().unwrap();
    assert_eq!(failure.answer, "the private key does not belong to the certificate");
    assert_eq!(failure.next_try, NextTry::OnChange);
    assert_eq!(status.state, State::Valid);
    holds(&handle, &first).await;

    files.write("tls.crt", &pem(&second.certificate)[..100]); // truncated
    until(&mut handle.status(), |status| status.failures_total == 2).await;
    fs::remove_file(files.path("tls.key")).unwrap();
    let status = until(&mut handle.status(), |status| status.failures_total == 3).await;
    let failure = status.last_failure.clone().unwrap();
    assert!(failure.authority.ends_with("tls.key"), "{failure}");
    assert!(failure.to_string().contains("is the volume mounted"), "{failure}");
    holds(&handle, &first).await;
}

#[tokio::test]
async fn a_projected_volume_swaps_a_symlink() {
    let (files, ca) = (Files::new(), TestCa::new("demo.test"));
    let swap = |version: &str, leaf: &Leaf| {
        let folder = files.path(version);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("identity.pem"), leaf.pem()).unwrap();
        fs::write(folder.join("trust.pem"), pem(&ca.certificate)).unwrap();
        symlink(version, files.path("..data_tmp")).unwrap();
        fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    };
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    swap("..1", &first);
    for name in ["identity.pem", "trust.pem"] {
        symlink(Path::new("..data").join(name), files.path(name)).unwrap();
    }
    let handle = start(files.one_file());
    holds(&handle, &first).await;
    swap("..2", &second);
    fs::remove_dir_all(files.path("..1")).unwrap();
    holds(&handle, &second).await;
}

#[tokio::test]
async fn a_new_authority_comes_with_the_bundle() {
    let (files, old, new) = (Files::new(), TestCa::new("demo.test"), TestCa::new("demo.test"));
    let (first, second) = (old.leaf(ORDERS, |_| {}), new.leaf(ORDERS, |_| {}));
    files.write("trust.pem", pem(&old.certificate));
    files.write("identity.pem", first.pem());
    let handle = start(files.one_file());
    holds(&handle, &first).await;
    files.write("trust.pem", pem(&old.certificate) + &pem(&new.certificate));
    let both = until(&mut handle.certs(), |certs| certs.generation == 2).await;
    assert_eq!(both.bundles.get(&old.domain).unwrap().certificates().len(), 2);
    files.write("identity.pem", second.pem());
    holds(&handle, &second).await;
}

#[tokio::test]
async fn keys_in_other_forms_are_refused_with_the_fix() {
    let (files, ca) = (Files::new(), TestCa::new("demo.test"));
    let leaf = ca.leaf(ORDERS, |_| {});
    files.write("trust.pem", pem(&ca.certificate));
    let pkcs1 = leaf.pem().replace("PRIVATE KEY", "RSA PRIVATE KEY");
    files.write("identity.pem", pkcs1);
    let handle = start(files.one_file());
    let status = until(&mut handle.status(), |status| status.last_failure.is_some()).await;
    let text = status.to_string();
    assert!(text.contains("openssl pkcs8 -topk8"), "{text}");
    assert_eq!(status.state, State::Empty);
    assert!(!status.is_ready());
}

#[tokio::test]
async fn an_identity_that_is_not_renewed_is_late_then_expires() {
    let (files, ca) = (Files::new(), TestCa::new("demo.test"));
    let leaf = ca.leaf(ORDERS, |params| life(params, NOW - 60, NOW + 100));
    files.write("trust.pem", pem(&ca.certificate));
    files.write("identity.pem", leaf.pem());
    let (clock, hands) = clock();
    let handle = source::spawn(files.one_file(), None, clock);
    holds(&handle, &leaf).await;
    for (after, state, share) in [(80, State::Late, "75 %"), (95, State::Critical, "90 %")] {
        hands.store(NOW + after, Ordering::Relaxed);
        let says = |status: &Arc<Status>| {
            let text = status.to_string();
            status.state == state && text.contains(share) && text.contains("has stopped")
        };
        until(&mut handle.status(), says).await;
        assert!(handle.certs().borrow().identity.is_some(), "still serving");
    }
    hands.store(NOW + 101, Ordering::Relaxed);
    until(&mut handle.status(), |status| status.state == State::Expired).await;
    let certs = Arc::clone(&handle.certs().borrow());
    assert!(certs.identity.is_none(), "fails closed");
    assert!(!certs.bundles.is_empty());

    hands.store(NOW + 50, Ordering::Relaxed); // the clock was wrong: the files are as they were
    holds(&handle, &leaf).await;
    hands.store(NOW + 101, Ordering::Relaxed);
    until(&mut handle.status(), |status| status.state == State::Expired).await;

    let next = ca.leaf(ORDERS, |params| life(params, NOW, NOW + 500));
    files.write("identity.pem", next.pem());
    holds(&handle, &next).await;
    until(&mut handle.status(), |status| status.state == State::Valid).await;
}
