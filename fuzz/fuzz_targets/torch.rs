//! Opens any bytes as a file of weights and reads every tensor; the seeds are PyTorch's two formats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use std::path::Path;
use mimco::interop::read::weights::Weights;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(weights) = Weights::from_source(Path::new("a file"), Cursor::new(bytes.to_vec())) {
        for name in weights.tensors.keys() {
            // What has been opened has been checked: only the file itself could fail, and this one cannot.
            assert!(weights.read(name).is_ok(), "{name}");
        }
    }
});
