//! Keys are equal exactly when the subjects are equal, and each key can be decoded.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sark_cache_core::key::KeyParts;
use sark_cache_fuzz::model::{MAX_SIZE, Subject};
use sark_cache_fuzz::reference;

fuzz_target!(|subjects: (Subject, Subject)| -> Corpus {
    let (a, b) = &subjects;
    if a.size().max(b.size()) > MAX_SIZE {
        return Corpus::Reject;
    }
    let keys = [a, b].map(|subject| {
        let key = subject.key();
        assert_eq!(key.is_ok(), subject.is_json());
        if let Ok(key) = &key {
            assert_eq!(reference::subject(key).as_ref(), Some(&subject.sorted()));
            assert_parts(subject, key);
        }
        key
    });
    if let [Ok(one), Ok(other)] = &keys {
        assert_eq!(one == other, a.sorted() == b.sorted());
    }
    Corpus::Keep
});

fn assert_parts(subject: &Subject, key: &[u8]) {
    let parts = KeyParts::of(key);
    match subject {
        Subject::Request(fields, context) => {
            let parts = parts.expect("a request has parts");
            let [user, action, resource] = parts.fields;
            let read = [parts.policy, user, action, resource];
            assert_eq!(read, fields.each_ref().map(String::as_str));
            assert_eq!(parts.context.is_empty(), context.is_empty());
        }
        Subject::General(_) => assert_eq!(parts, None),
    }
}
