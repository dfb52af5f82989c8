//! Hop lists, and what is done with one before anything in it is believed.
#![no_main]

use countersign_ctxtoken::{HopList, Limits};

libfuzzer_sys::fuzz_target!(|field: &[u8]| {
    let limits = Limits::default();
    if let Ok(list) = HopList::parse(field, &limits) {
        assert_eq!(HopList::parse(list.text().as_bytes(), &limits).as_ref(), Ok(&list));
        assert!(list.leads_as(&list));
    }
});
