//! PKCS#10 requests, as whoever may make a `CertificateSigningRequest` may send them.
#![no_main]

// The module uses nothing of its crate, so the target need not build the controller.
#[path = "../../controller/src/signer/csr.rs"]
mod csr;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = csr::parse(bytes);
    // The fuzzer cannot sign what it changes, so the names are read without that.
    let names = csr::unproven(bytes).and_then(|request| csr::requested_uri(&request));
    let whole = csr::parse(countersign_fuzz::pem("CERTIFICATE REQUEST", bytes).as_bytes());
    if let Ok(request) = whole {
        assert!(!request.spki.is_empty());
        assert_eq!(names, Ok(request.uri));
    }
});
