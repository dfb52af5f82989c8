//! `Countersign-Certs`: chains of a request, thumbprints of an answer.
#![no_main]

use countersign_proxy::http::certs::{
    read_chains, read_thumbprints, write_chains, write_thumbprints,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(chains) = read_chains(bytes) {
        assert!((1..=8).contains(&chains.len()));
        assert!(chains.iter().all(|chain| (1..=3).contains(&chain.len())));
        let field = write_chains(chains.iter().map(Vec::as_slice));
        let again = read_chains(field.as_bytes()).expect("what is written is read");
        assert_eq!(again, chains[..again.len()]);
    }
    if let Ok(thumbprints) = read_thumbprints(bytes) {
        let field = write_thumbprints(&thumbprints);
        assert_eq!(read_thumbprints(field.as_bytes()), Ok(thumbprints));
    }
});
