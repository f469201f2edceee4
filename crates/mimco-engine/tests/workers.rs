//! The worker threads, in their own process and test, so that no other test uses them.

use mimco_engine::cpu::threads::{parallel, set_threads};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs three blocks and counts the threads that ran them.
fn threads_at_work() -> usize {
    let threads = Mutex::new(HashSet::new());
    parallel(3, |_| _ = threads.lock().unwrap().insert(std::thread::current().id()));
    threads.into_inner().unwrap().len()
}

#[test]
fn workers_outlive_panics_and_miss_no_job() {
    a_panic_in_a_block_reaches_the_caller_and_leaves_the_workers_intact();
    no_wake_up_is_lost();
}

fn a_panic_in_a_block_reaches_the_caller_and_leaves_the_workers_intact() {
    set_threads(3);
    assert_eq!(threads_at_work(), 3);
    // The calling thread runs block 0, the workers the others.
    for bad in [&[0][..], &[1], &[2], &[0, 1], &[0, 1, 2]] {
        let done = AtomicUsize::new(0);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            parallel(3, |block| {
                assert!(!bad.contains(&block), "a bad block");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert!(ended.is_err(), "{bad:?}");
        assert_eq!(done.into_inner(), 3 - bad.len(), "{bad:?}: the other blocks");
        assert_eq!(threads_at_work(), 3, "{bad:?}: the next job");
    }
    set_threads(2);
    assert_eq!(threads_at_work(), 2);
    set_threads(1);
    assert_eq!(threads_at_work(), 1);
}

/// Runs many short jobs with pauses between them, which start while workers spin, fall asleep or
/// sleep.
fn no_wake_up_is_lost() {
    set_threads(3);
    let total = AtomicUsize::new(0);
    for job in 0..2000u32 {
        for _ in 0..job % 50 * 100 {
            std::hint::spin_loop();
        }
        parallel(5, |_| _ = total.fetch_add(1, Ordering::Relaxed));
    }
    assert_eq!(total.into_inner(), 10_000);
}
