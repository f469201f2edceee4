//! A cache of groups of images. Threads that need the same group read it once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by group number; the most recently used ones are kept.
pub(crate) struct GroupCache<T> {
    /// Capacity in bytes.
    capacity: AtomicUsize,
    /// Entries in the order of their last use.
    entries: Mutex<Vec<Entry<T>>>,
}

struct Entry<T> {
    number: u32,
    /// Size of the value in bytes; 0 until it is loaded.
    bytes: usize,
    slot: Arc<Slot<T>>,
}

/// Locked while the value is loaded. Invalid data remains invalid and is remembered as an error; disk
/// and network failures are not.
type Slot<T> = Mutex<Option<Result<Arc<T>, String>>>;

/// Locks a mutex. A panic leaves no inconsistent state, so poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Default for GroupCache<T> {
    /// Returns a cache of capacity 0, which keeps only the most recent value.
    fn default() -> GroupCache<T> {
        GroupCache { capacity: AtomicUsize::new(0), entries: Mutex::default() }
    }
}

impl<T> GroupCache<T> {
    /// Sets the capacity in bytes. A single larger value is kept too.
    pub fn set_capacity(&self, bytes: usize) {
        self.capacity.store(bytes, Ordering::Relaxed);
    }

    /// Returns the value of a group. `load` returns the value and its size in bytes, and runs if
    /// the value is not cached; other threads that need the value wait for it.
    ///
    /// # Errors
    /// Returns the error of `load`.
    pub fn get(&self, number: u32, load: impl FnOnce() -> io::Result<(T, usize)>) -> io::Result<Arc<T>> {
        let slot = self.slot(number);
        let mut loaded = lock(&slot);
        match &*loaded {
            Some(Ok(value)) => return Ok(value.clone()),
            Some(Err(what)) => return Err(io::Error::new(io::ErrorKind::InvalidData, what.clone())),
            None => {}
        }
        match load() {
            Ok((value, bytes)) => {
                let value = Arc::new(value);
                *loaded = Some(Ok(value.clone()));
                drop(loaded);
                self.evict(number, bytes);
                Ok(value)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    *loaded = Some(Err(error.to_string()));
                }
                Err(error)
            }
        }
    }

    /// Returns a group's slot and marks the group as most recently used.
    fn slot(&self, number: u32) -> Arc<Slot<T>> {
        let mut entries = lock(&self.entries);
        let found = entries.iter().rposition(|entry| entry.number == number);
        let last = found.map_or_else(|| Entry { number, bytes: 0, slot: Arc::default() }, |at| entries.remove(at));
        let slot = last.slot.clone();
        entries.push(last);
        slot
    }

    /// Records a value's size and evicts the least recently used values over the capacity. Values
    /// that are being loaded stay, as they would be loaded twice.
    fn evict(&self, number: u32, bytes: usize) {
        let mut entries = lock(&self.entries);
        if let Some(loaded) = entries.iter_mut().find(|entry| entry.number == number) {
            loaded.bytes = bytes;
        }
        let capacity = self.capacity.load(Ordering::Relaxed);
        let mut all: usize = entries.iter().map(|entry| entry.bytes).sum();
        entries.retain(|entry| {
            let evicted = all > capacity && entry.bytes > 0 && entry.number != number;
            all -= if evicted { entry.bytes } else { 0 };
            !evicted
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, mpsc};
    use std::time::Duration;

    fn with_capacity<T>() -> GroupCache<T> {
        let cache = GroupCache::default();
        cache.set_capacity(10);
        cache
    }

    #[test]
    fn threads_that_need_one_value_load_it_once() {
        let (cache, made, start) = (with_capacity(), AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let value = cache.get(3, || {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                        Ok((7, 1))
                    });
                    assert_eq!(*value.unwrap(), 7);
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn different_values_are_loaded_in_parallel() {
        let cache = &with_capacity();
        let (to_second, first_began) = mpsc::channel();
        let (to_first, second_began) = mpsc::channel();
        let meet = |number, sender: mpsc::Sender<()>, receiver: mpsc::Receiver<()>| {
            let made = cache.get(number, || {
                sender.send(()).unwrap();
                receiver.recv_timeout(Duration::from_secs(10)).unwrap();
                Ok(((), 1))
            });
            made.unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(move || meet(0, to_second, second_began));
            scope.spawn(move || meet(1, to_first, first_began));
        });
    }

    #[test]
    fn the_most_recently_used_values_stay_within_the_capacity() {
        let cache = with_capacity();
        let made = |number, bytes| {
            let mut made = false;
            cache.get(number, || Ok(((), std::mem::replace(&mut made, true) as usize + bytes))).unwrap();
            made
        };
        assert!(made(0, 4) && made(1, 4) && !made(0, 4)); // 1 is now the least recently used
        assert!(made(2, 4) && !made(0, 4) && made(1, 4));
        // A value over the capacity remains until the next one.
        assert!(made(9, 50) && !made(9, 50) && made(0, 4) && !made(0, 4) && made(9, 50));
    }

    #[test]
    fn invalid_data_is_remembered_and_a_failing_disk_is_read_again() {
        let cache = with_capacity::<()>();
        let fails = |number, kind: io::ErrorKind| cache.get(number, || Err(io::Error::new(kind, "first"))).unwrap_err();
        assert_eq!(fails(0, io::ErrorKind::TimedOut).kind(), io::ErrorKind::TimedOut);
        assert!(cache.get(0, || Ok(((), 1))).is_ok());
        fails(1, io::ErrorKind::InvalidData);
        let error = cache.get(1, || Ok(((), 1))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidData, "first"));
    }
}
