//! Decoders that panic on hostile bytes must end neither a training nor a user's patience.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic in this thread is made an error of an image: a program's panic hook need not tell it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs a decoder; nothing where it panics.
pub(crate) fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.ok()
}
