//! What several threads ask for by number, made once and kept while there is room.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by number, those asked for last kept.
pub(crate) struct Cache<T> {
    /// Bytes that are kept.
    room: AtomicUsize,
    /// The one asked for last is the last.
    kept: Mutex<Vec<Kept<T>>>,
}

struct Kept<T> {
    number: u32,
    /// Its bytes; 0 until it is made.
    bytes: usize,
    slot: Arc<Slot<T>>,
}

/// Locked while the value is made. What is wrong with the data stays wrong, and is kept in its place; a disk's failure is not.
type Slot<T> = Mutex<Option<Result<Arc<T>, String>>>;

/// A thread that panics leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Default for Cache<T> {
    /// Without room: the value made last is kept.
    fn default() -> Cache<T> {
        Cache { room: AtomicUsize::new(0), kept: Mutex::default() }
    }
}

impl<T> Cache<T> {
    /// Gives it room for `room` bytes, or for one value of more.
    pub fn give_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// The value of a number, by `make` (it and its bytes) where it is not kept; a thread that asks for one being made waits for it.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&self, number: u32, make: impl FnOnce() -> io::Result<(T, usize)>) -> io::Result<Arc<T>> {
        let slot = self.slot(number);
        let mut place = lock(&slot);
        match &*place {
            Some(Ok(value)) => return Ok(value.clone()),
            Some(Err(what)) => return Err(io::Error::new(io::ErrorKind::InvalidData, what.clone())),
            None => {}
        }
        match make() {
            Ok((value, bytes)) => {
                let value = Arc::new(value);
                *place = Some(Ok(value.clone()));
                drop(place);
                self.make_room(number, bytes);
                Ok(value)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    *place = Some(Err(error.to_string()));
                }
                Err(error)
            }
        }
    }

    fn slot(&self, number: u32) -> Arc<Slot<T>> {
        let mut kept = lock(&self.kept);
        let found = kept.iter().rposition(|kept| kept.number == number);
        let last = found.map_or_else(|| Kept { number, bytes: 0, slot: Arc::default() }, |at| kept.remove(at));
        let slot = last.slot.clone();
        kept.push(last);
        slot
    }

    /// Notes a value's bytes and lets those go that were not asked for the longest; not those being made, which would be made twice.
    fn make_room(&self, number: u32, bytes: usize) {
        let mut kept = lock(&self.kept);
        if let Some(made) = kept.iter_mut().find(|kept| kept.number == number) {
            made.bytes = bytes;
        }
        let room = self.room.load(Ordering::Relaxed);
        let mut all: usize = kept.iter().map(|kept| kept.bytes).sum();
        kept.retain(|kept| {
            let goes = all > room && kept.bytes > 0 && kept.number != number;
            all -= if goes { kept.bytes } else { 0 };
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, mpsc};
    use std::time::Duration;

    fn with_room<T>() -> Cache<T> {
        let cache = Cache::default();
        cache.give_room(10);
        cache
    }

    #[test]
    fn threads_that_ask_for_one_value_have_it_made_once() {
        let (cache, made, start) = (with_room(), AtomicUsize::new(0), Barrier::new(8));
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
    fn different_values_are_made_at_the_same_time() {
        let cache = &with_room();
        let (to_second, first_began) = mpsc::channel();
        let (to_first, second_began) = mpsc::channel();
        let meet = |number, tell: mpsc::Sender<()>, hear: mpsc::Receiver<()>| {
            let made = cache.get(number, || {
                tell.send(()).unwrap();
                hear.recv_timeout(Duration::from_secs(10)).unwrap();
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
    fn the_values_asked_for_last_stay_within_the_room() {
        let cache = with_room();
        let made = |number, bytes| {
            let mut made = false;
            cache.get(number, || Ok(((), std::mem::replace(&mut made, true) as usize + bytes))).unwrap();
            made
        };
        assert!(made(0, 4) && made(1, 4) && !made(0, 4)); // 1 is now the one not asked for the longest
        assert!(made(2, 4) && !made(0, 4) && made(1, 4));
        // One of more than the room stays until the next.
        assert!(made(9, 50) && !made(9, 50) && made(0, 4) && !made(0, 4) && made(9, 50));
    }

    #[test]
    fn wrong_data_is_remembered_and_a_failing_disk_asked_again() {
        let cache = with_room::<()>();
        let fails = |number, kind: io::ErrorKind| cache.get(number, || Err(io::Error::new(kind, "first"))).unwrap_err();
        assert_eq!(fails(0, io::ErrorKind::TimedOut).kind(), io::ErrorKind::TimedOut);
        assert!(cache.get(0, || Ok(((), 1))).is_ok());
        fails(1, io::ErrorKind::InvalidData);
        let error = cache.get(1, || Ok(((), 1))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidData, "first"));
    }
}
