//! No bytes make reading a key's parts panic; what is read from a key is its subject, whose only key
//! it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sark_cache_core::KeyWriter;
use sark_cache_core::key::{KeyParts, KeyTexts};
use sark_cache_fuzz::reference;

fuzz_target!(|bytes: &[u8]| {
    if let Some(parts) = KeyParts::of(bytes) {
        let [user, action, resource] = parts.fields;
        let mut written = KeyWriter::new();
        written.policy(parts.policy).expect("it was short enough");
        written.request(user, action, resource).expect("it was short enough");
        assert_eq!([written.as_bytes(), parts.context].concat(), bytes);
        let _ = KeyTexts::of(&parts);
    }
    if let Some(subject) = reference::subject(bytes) {
        assert_eq!(subject.key().as_deref(), Ok(bytes));
    }
});
