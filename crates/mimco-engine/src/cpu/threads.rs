//! A pool of worker threads with a static partition of the work.
//!
//! [`parallel`] runs blocks `0..blocks`; worker `t` of `n` runs the `t`-th contiguous range of
//! them. The result of a block must depend only on its index, so that it is the same for any number
//! of threads.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// Number of polls of a waiting thread before it sleeps: about 0.1 ms, the gap between two
/// operators.
const SPINS: u32 = 3000;

type Work<'a> = &'a (dyn Fn(usize) + Sync);

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    blocks: usize,
    /// Number of ranges that the blocks are split into: the workers and the caller.
    threads: usize,
}

struct Shared {
    /// Number of the current job. A worker that sees it change has a job to do.
    epoch: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not finished the current job.
    remaining: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the thread that holds the pool, while no worker reads it
// (remaining == 0), and is published by the release store of `epoch`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is dereferenced only while `Pool::run` keeps the closure alive.
unsafe impl Send for Shared {}

struct Pool {
    shared: Arc<Shared>,
    /// Number of workers requested. The system may have refused some.
    wanted: usize,
    workers: Vec<JoinHandle<()>>,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads that operators use, the calling thread included; at least one.
pub fn set_threads(threads: usize) {
    THREADS.store(threads.max(1), Ordering::Relaxed);
    // The next job replaces a pool of another size.
}

/// Number of threads that operators use: that of [`set_threads`], by default all cores.
pub fn threads() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new(); // the system call takes longer than a small operator
    match THREADS.load(Ordering::Relaxed) {
        0 => *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get())),
        n => n,
    }
}

/// Runs `work(0)`, ..., `work(blocks - 1)`, each once, and returns when all have ended.
///
/// If the workers are busy with another job (two trainings in one process, a call from within a
/// block), the calling thread runs all blocks itself, with the same result.
///
/// # Panics
/// If a block panics, after all others have ended.
pub fn parallel(blocks: usize, work: impl Fn(usize) + Sync) {
    let wanted = threads() - 1;
    if wanted == 0 || blocks < 2 {
        return (0..blocks).for_each(work);
    }
    let mut pool = match POOL.try_lock() {
        Ok(pool) => pool,
        // A block panicked. The pool waited for all workers before it resumed the panic, so its
        // state is valid.
        Err(TryLockError::Poisoned(pool)) => pool.into_inner(),
        Err(TryLockError::WouldBlock) => return (0..blocks).for_each(work),
    };
    if pool.as_ref().is_some_and(|pool| pool.wanted != wanted) {
        *pool = None; // its workers end before the new ones start
    }
    pool.get_or_insert_with(|| Pool::new(wanted)).run(blocks, &work);
}

/// Range of blocks that a thread runs.
fn block_range(blocks: usize, threads: usize, thread: usize) -> std::ops::Range<usize> {
    blocks * thread / threads..blocks * (thread + 1) / threads
}

impl Pool {
    fn new(wanted: usize) -> Pool {
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            remaining: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        // The first refusal ends the loop: workers are numbered without a gap.
        let workers = (1..=wanted)
            .map_while(|thread| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("engine-{thread}")).spawn(move || worker(&shared, thread)).ok()
            })
            .collect();
        Pool { shared, wanted, workers }
    }

    fn run(&mut self, blocks: usize, work: Work<'_>) {
        let shared = &*self.shared;
        let threads = self.workers.len() + 1;
        // SAFETY: only the lifetime is erased; this function does not return before every worker
        // has finished with the closure.
        let erased: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        // SAFETY: this thread holds the pool and remaining == 0, so no worker reads `job` now.
        unsafe { *shared.job.get() = Some(Job { work: erased, blocks, threads }) };
        shared.remaining.store(self.workers.len(), Ordering::Relaxed);
        {
            let _guard = shared.sleep.lock();
            shared.epoch.fetch_add(1, Ordering::Release);
        }
        shared.wake.notify_all();
        let own = catch_unwind(AssertUnwindSafe(|| block_range(blocks, threads, 0).for_each(work)));
        let mut spins = 0;
        while shared.remaining.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "an engine worker panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _guard = self.shared.sleep.lock();
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.epoch.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn worker(shared: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen && spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        }
        if shared.epoch.load(Ordering::Acquire) == seen {
            // The epoch changes under this lock, so no change is missed before the sleep.
            let mut guard = shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            while shared.epoch.load(Ordering::Acquire) == seen {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        seen += 1;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: `job` was written before `epoch` was published and does not change before
        // `remaining` reaches 0.
        if let Some(job) = unsafe { *shared.job.get() } {
            let blocks = block_range(job.blocks, job.threads, thread);
            // SAFETY: `Pool::run` keeps the closure alive until `remaining` is 0.
            let work = unsafe { &*job.work };
            if catch_unwind(AssertUnwindSafe(|| blocks.for_each(work))).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.remaining.fetch_sub(1, Ordering::Release);
    }
}

/// A slice of which several threads write parts that do not overlap.
pub(crate) struct DisjointSlices<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: all access is through `part`, whose caller ensures that parts do not overlap.
unsafe impl<T: Send> Sync for DisjointSlices<'_, T> {}

impl<'a, T> DisjointSlices<'a, T> {
    /// Borrows the slice for the lifetime of the parts.
    pub fn new(slice: &'a mut [T]) -> Self {
        DisjointSlices { start: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// Returns `len` elements from `start` on. Panics if they are not inside the slice.
    ///
    /// # Safety
    /// No two parts that exist at the same time may overlap.
    #[allow(clippy::mut_from_ref, reason = "the caller ensures that parts do not overlap")]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part outside its slice");
        // SAFETY: inside the slice by the assertion; disjoint from other parts by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// Calls `work(index, chunk)` for every chunk of `chunk` elements (the last may be shorter), in
/// parallel.
pub fn for_each_chunk<T: Send>(slice: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let len = slice.len();
    let parts = DisjointSlices::new(slice);
    parallel(len.div_ceil(chunk.max(1)), |i| {
        let start = i * chunk;
        // SAFETY: only chunk i covers i*chunk..(i+1)*chunk.
        work(i, unsafe { parts.part(start, chunk.min(len - start)) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 5] {
            set_threads(threads);
            for blocks in [0, 1, 2, 7, 100] {
                let mut counts = vec![0u32; blocks];
                for_each_chunk(&mut counts, 1, |_, c| c[0] += 1);
                assert!(counts.iter().all(|&c| c == 1), "{threads} threads, {blocks} blocks");
            }
        }
    }

    #[test]
    fn a_call_from_within_a_block_ends() {
        let total = AtomicUsize::new(0);
        parallel(4, |_| parallel(4, |_| _ = total.fetch_add(1, Ordering::Relaxed)));
        assert_eq!(total.into_inner(), 16);
    }
}
