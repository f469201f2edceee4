//! Turning panics of decoders into errors: hostile bytes must not end a training run.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a panic of this thread becomes an error about an image. A program's panic hook
/// need not report such a panic.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs a decoder; returns `None` if it panics.
pub(crate) fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.ok()
}
