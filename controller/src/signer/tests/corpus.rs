//! Every file of the fuzz corpus, replayed: read or refused, never a panic.

use std::fs;
use std::path::Path;

use rustls_pki_types::pem::{PemObject as _, SectionKind};

use super::super::csr::{self, CsrError};

#[test]
fn the_corpus_of_requests_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/csr");
    let (mut named, mut refused) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let whole = csr::parse(&bytes);
        let der = match <(SectionKind, Vec<u8>)>::from_pem_slice(&bytes) {
            Ok((_, der)) => der,
            Err(_) => bytes,
        };
        let names = csr::unproven(&der).and_then(|request| csr::requested_uri(&request));
        match (&names, &whole) {
            (Ok(Some(_)), _) => named += 1,
            (Ok(None), _) => {}
            (Err(_), _) => refused += 1,
        }
        match whole {
            Ok(request) => assert_eq!(names, Ok(request.uri)),
            Err(CsrError::BadSignature | CsrError::KeyType(_) | CsrError::Malformed(_)) => {}
            Err(other) => assert_eq!(names, Err(other)),
        }
    }
    assert!(named >= 6 && refused >= 6, "{named} name an identity, {refused} refused");
}
