//! Reading the parts of a key does not panic for any bytes, and a decoded key encodes to the same
//! bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sark_cache_core::KeyWriter;
use sark_cache_core::key::{KeyParts, KeyTexts};
use sark_cache_core::limits::MAX_POLICY_BYTES;
use sark_cache_fuzz::reference;

fuzz_target!(|bytes: &[u8]| {
    let parts = KeyParts::of(bytes);
    // The writer refuses a longer policy, so no key has one.
    if parts.is_some_and(|parts| parts.policy.len() > MAX_POLICY_BYTES) {
        return;
    }
    if let Some(parts) = parts {
        let [user, action, resource] = parts.fields;
        let mut written = KeyWriter::new();
        written.policy(parts.policy).expect("it is short enough");
        written.request(user, action, resource).expect("it is short enough");
        assert_eq!([written.as_bytes(), parts.context].concat(), bytes);
        let _ = KeyTexts::of(&parts);
    }
    if let Some(subject) = reference::subject(bytes) {
        assert_eq!(subject.key().as_deref(), Ok(bytes));
    }
});
