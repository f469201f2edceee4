//! Bound on the memory that a file can make its reader allocate. The allocator is the whole
//! program's, so this is the only test here.

use mimco::interop::read::weights::Weights;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// System's allocator that records the largest request.
struct Recording;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Recording {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`, and `at` came from the system's
        // allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `realloc`, and `at` came from the system's
        // allocator.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Recording = Recording;

/// Opens a file and reads every tensor; returns the size of the largest allocation, in bytes.
fn largest_request(bytes: Vec<u8>) -> usize {
    let source = Cursor::new(bytes);
    LARGEST.store(0, Ordering::Relaxed);
    if let Ok(weights) = Weights::from_source(Path::new("a file"), source) {
        weights.tensors.keys().for_each(|name| drop(weights.read(name)));
    }
    LARGEST.load(Ordering::Relaxed)
}

#[test]
fn no_wrong_size_in_a_file_is_allocated() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch");
    let mut files: Vec<Vec<u8>> = ["small.pt", "small_old.pt"].iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect();
    let header = r#"{"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}"#;
    files.push([&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
    // Every field, at any place, set to the largest value of its width.
    let values: [&[u8]; 4] =
        [&[0xff; 2], &[0xff, 0xff, 0xff, 0x7f], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0, 0, 0, 0, 0, 0, 0, 0x10]];
    for file in &files {
        for at in 0..file.len() {
            for value in values {
                let mut changed = file.clone();
                changed.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = *value);
                let largest = largest_request(changed);
                // An archive's fields of two bytes can request 64 KiB, which also exceeds a small
                // pickle's values.
                assert!(largest <= 2 * file.len() + (64 << 10), "{largest} bytes for a file of {}, changed at {at}", file.len());
            }
        }
    }
    // A pickle may build many small values, each a fixed multiple of its instruction.
    for instruction in [&b"]"[..], b"}", b"(", b"2", b"K\x01", b"\x94", b"N\x85", b"\x8c\0", b"cA\nB\n"] {
        let file = [b"\x80\x02N", &instruction.repeat(100_000)[..], b"."].concat();
        let length = file.len();
        let largest = largest_request(file);
        assert!(largest <= 64 * length, "{largest} bytes for a file of {length} ({instruction:?})");
    }
}
