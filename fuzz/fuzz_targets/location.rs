//! The extension of the attested location: what is read is what would be written again.
#![no_main]

use countersign_certs_client::location::Location;

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    if let Some(location) = Location::from_der(value) {
        assert_eq!(Location::from_der(&location.to_der()), Some(location));
    }
});
