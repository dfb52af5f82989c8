//! The form and the reasons by themselves; what a whole service does is tested over the wire.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::request::{Request, Requested, SubjectKind};
use super::{KeyFiles, TokenError, Why};
use crate::refusal::Refusal;

const TYPES: &str = "urn:ietf:params:oauth:token-type:";

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/token_form");
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    files
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect()
}

#[test]
fn the_corpus_of_forms_replays() {
    let taken = |(name, body): (String, Vec<u8>)| Request::parse(&body).is_ok().then_some(name);
    let taken: BTreeSet<String> = corpus().into_iter().filter_map(taken).collect();
    assert_eq!(
        taken.into_iter().collect::<Vec<_>>(),
        ["deferred", "facts", "self_signed_as", "sound"]
    );
}

#[test]
fn every_kind_of_subject_has_its_urn_and_its_word() {
    let form = |kind: &str| {
        let pairs = [
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type=urn:ietf:params:oauth:token-type:txn_token",
            "audience=prod.example.com&scope=a&subject_token=x",
            &format!("subject_token_type={kind}"),
        ];
        Request::parse(pairs.join("&").as_bytes())
    };
    let kinds = [
        ("access_token", SubjectKind::AccessToken),
        ("id_token", SubjectKind::IdToken),
        ("jwt", SubjectKind::Jwt),
        ("txn_token", SubjectKind::TxnToken),
        ("self_signed", SubjectKind::SelfSigned),
        ("unsigned_json", SubjectKind::UnsignedJson),
    ];
    for (word, kind) in kinds {
        let request = form(&format!("{TYPES}{word}")).unwrap();
        assert_eq!((request.subject_kind, kind.name()), (kind, word));
        assert_eq!(request.requested.urn(), format!("{TYPES}txn_token"));
    }
    assert_eq!(form(Requested::Deferred.urn()).unwrap().subject_kind, SubjectKind::Deferred);
    for odd in ["refresh_token", "saml2", "ACCESS_TOKEN", "access_token ", ""] {
        let TokenError { why, .. } = form(&format!("{TYPES}{odd}")).unwrap_err();
        assert_eq!(why, Why::SubjectTypeUnsupported, "{odd}");
    }
}

#[test]
fn every_reason_has_its_own_name_and_an_honest_status() {
    let names: BTreeSet<&str> = Why::ALL.iter().map(|why| why.reason()).collect();
    assert_eq!(names.len(), Why::ALL.len());
    let codes = [
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
        "temporarily_unavailable",
    ];
    for why in Why::ALL {
        assert!(codes.contains(&why.code()), "{why:?}");
        let again = why.code() == "temporarily_unavailable";
        assert_eq!(again, [429, 503].contains(&why.refusal().row().http), "{why:?}");
        assert_eq!(!again, why.refusal() == Refusal::TokenRequestRefused, "{why:?}");
        assert!(!why.says().is_empty() && !why.says().contains(why.reason()), "{why:?}");
    }
}

proptest! {
    /// Whatever comes is a request or an error, and a request that is taken reads the same again.
    #[test]
    fn no_bytes_make_reading_a_form_panic(
        at in 0usize..400, cut in 0usize..30, bytes in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        for (_, sound) in corpus() {
            let at = at.min(sound.len());
            let end = (at + cut).min(sound.len());
            let damaged = [&sound[..at], &bytes, &sound[end..]].concat();
            if let Ok(request) = Request::parse(&damaged) {
                let again = Request::parse(&damaged).unwrap();
                prop_assert_eq!(&request.scope, &again.scope);
                prop_assert!((1..=16).contains(&request.scope.len()));
            }
        }
    }

    /// One more parameter of a name that is there, or unknown, refuses the request.
    #[test]
    fn no_parameter_counts_twice(name in "[a-z_]{1,20}", value in "[ -~]{0,20}") {
        for (file, sound) in corpus() {
            let Ok(before) = Request::parse(&sound) else { continue };
            let more = [sound.as_slice(), b"&", name.as_bytes(), b"=", value.replace(['&', '%', '+'], "").as_bytes()].concat();
            if let Ok(after) = Request::parse(&more) {
                // Only an optional parameter that was not there.
                prop_assert!(!String::from_utf8_lossy(&sound).contains(&format!("{name}=")), "{}", file);
                prop_assert_eq!(before.scope, after.scope);
            }
        }
    }
}

#[test]
fn key_files_that_cannot_be_read_right_now_do_not_end_deferred_work() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = STANDARD.encode(key.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let files = [write("a.pem"), write("b.pem")];
    let names = |keys: &[std::sync::Arc<countersign_ctxtoken::LocalSigner>]| -> Vec<String> {
        keys.iter().map(|key| key.verifying_key().kid()).collect()
    };
    let mut known = KeyFiles::default();
    let both = names(known.read(&files).unwrap());
    assert_eq!(both.len(), 2);
    std::fs::write(&files[1], "half a key").unwrap();
    assert_eq!(names(known.read(&files).unwrap()), both, "neither is lost");
    std::fs::remove_file(&files[0]).unwrap();
    assert_eq!(names(known.read(&files).unwrap()), both);
    let why = KeyFiles::default().read(&files).unwrap_err();
    assert!(why.contains("a.pem"), "{why}");
    // Another key, whole again, takes its place.
    write("a.pem");
    write("b.pem");
    assert!(names(known.read(&files).unwrap()).iter().all(|name| !both.contains(name)));
}
