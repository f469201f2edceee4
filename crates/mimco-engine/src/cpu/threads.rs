//! The engine's own fixed workers with a static partition of the work.
//!
//! [`parallel`] runs blocks `0..blocks`; worker `t` of `n` takes the `t`-th contiguous share of them. What a block computes
//! must depend on its index alone, so the result is the same for any number of threads.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// How often a waiting thread looks before it sleeps: about a tenth of a millisecond, the gap between two operators.
const SPINS: u32 = 3000;

type Work<'a> = &'a (dyn Fn(usize) + Sync);

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    blocks: usize,
    /// Shares that the blocks are cut into: the workers and the caller.
    threads: usize,
}

struct Shared {
    /// Number of the current job; a worker that sees it change has a job to do.
    epoch: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not finished the current job.
    remaining: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the one thread that holds the pool, while no worker reads it (remaining == 0), and
// is published by the release store of `epoch`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside `job` is only followed while `Pool::run` keeps the closure alive; see there.
unsafe impl Send for Shared {}

struct Pool {
    shared: Arc<Shared>,
    /// How many workers were asked for; the system may have refused some.
    wanted: usize,
    workers: Vec<JoinHandle<()>>,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads that operators use, the caller's included; at least one.
pub fn set_threads(threads: usize) {
    THREADS.store(threads.max(1), Ordering::Relaxed);
    // The workers of another number end when the next job starts.
}

/// The number of threads that operators use: what [`set_threads`] said, else all cores.
pub fn threads() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new(); // asking the system takes longer than a small operator
    match THREADS.load(Ordering::Relaxed) {
        0 => *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get())),
        n => n,
    }
}

/// Runs `work(0)`, ..., `work(blocks - 1)`, each once, and returns when all have ended.
///
/// Where the workers are busy with somebody else's job (two trainings in one process, a call from within a block), the
/// caller does all blocks itself: slower, with the same result.
pub fn parallel(blocks: usize, work: impl Fn(usize) + Sync) {
    let wanted = threads() - 1;
    if wanted == 0 || blocks < 2 {
        return (0..blocks).for_each(work);
    }
    let mut pool = match POOL.try_lock() {
        Ok(pool) => pool,
        // A block panicked. The pool had waited for all workers before it passed the panic on, so it is as good as ever.
        Err(TryLockError::Poisoned(pool)) => pool.into_inner(),
        Err(TryLockError::WouldBlock) => return (0..blocks).for_each(work),
    };
    if pool.as_ref().is_some_and(|pool| pool.wanted != wanted) {
        *pool = None; // its workers end before the others begin
    }
    pool.get_or_insert_with(|| Pool::new(wanted)).run(blocks, &work);
}

fn share(blocks: usize, threads: usize, thread: usize) -> std::ops::Range<usize> {
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
        // The first refusal ends it: workers are numbered without a gap, and the shares go by how many there are.
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
        // SAFETY: only the lifetime is forgotten; this function does not return before every worker has finished with it.
        let work_for_ever: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        // SAFETY: we hold the pool and remaining == 0, so no worker reads `job` now.
        unsafe { *shared.job.get() = Some(Job { work: work_for_ever, blocks, threads }) };
        shared.remaining.store(self.workers.len(), Ordering::Relaxed);
        {
            let _guard = shared.sleep.lock();
            shared.epoch.fetch_add(1, Ordering::Release);
        }
        shared.wake.notify_all();
        let own = catch_unwind(AssertUnwindSafe(|| share(blocks, threads, 0).for_each(work)));
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
            // The epoch changes under this lock, so no change is missed between the look and the sleep.
            let mut guard = shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            while shared.epoch.load(Ordering::Acquire) == seen {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        seen += 1;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: written before `epoch` was published, not changed before `remaining` reaches 0.
        if let Some(job) = unsafe { *shared.job.get() } {
            let blocks = share(job.blocks, job.threads, thread);
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
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `part`, whose caller promises that parts do not overlap.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Takes the slice for as long as the parts live.
    pub fn new(slice: &'a mut [T]) -> Self {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// The part from `start` of `len` elements; panics where it leaves the slice.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref, reason = "that is what the type is for; the caller keeps parts apart")]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part outside its slice");
        // SAFETY: inside the slice by the line above, apart from the others by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// Calls `work(index, chunk)` for every chunk of `chunk` elements (the last may be shorter), in parallel.
pub fn for_each_chunk<T: Send>(slice: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let len = slice.len();
    let parts = Parts::new(slice);
    parallel(len.div_ceil(chunk.max(1)), |i| {
        let start = i * chunk;
        // SAFETY: chunk i alone covers i*chunk..(i+1)*chunk.
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
