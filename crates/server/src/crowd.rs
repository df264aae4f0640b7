//! Who is connected: so that clients who only occupy connections give way to those who ask.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

/// All connections, the oldest first.
#[derive(Default)]
pub(crate) struct Crowd(Mutex<VecDeque<Weak<Guest>>>);

/// One connection.
#[derive(Default)]
pub(crate) struct Guest {
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Cancelled when the connection is to give way.
    pub(crate) leave: CancellationToken,
}

impl Crowd {
    /// Notes a new connection, until the last reference to it is dropped.
    pub(crate) fn enter(&self) -> Arc<Guest> {
        let guest = Arc::new(Guest::default());
        let mut guests = self.guests();
        // Those who left are swept when they are half of all, which costs each a constant.
        if guests.len() == guests.capacity() {
            guests.retain(|guest| guest.strong_count() > 0);
        }
        guests.push_back(Arc::downgrade(&guest));
        guest
    }

    /// Sends away the one that has been here for longest without asking anything now. Answers
    /// false when everybody is being served.
    pub(crate) fn make_room(&self) -> bool {
        let mut guests = self.guests();
        guests.retain(|guest| guest.strong_count() > 0);
        let idle = guests.iter().position(|guest| {
            let guest = guest.upgrade();
            guest.is_some_and(|guest| guest.busy.load(Ordering::Relaxed) == 0)
        });
        let idle = idle.and_then(|index| guests.remove(index)?.upgrade());
        match idle {
            Some(guest) => {
                guest.leave.cancel();
                true
            }
            None => false,
        }
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, VecDeque<Weak<Guest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Notes that a request is being answered, until the note is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

/// See [`Guest::busy`].
pub(crate) struct Busy(Arc<Guest>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_idle_one_gives_way() {
        let crowd = Crowd::default();
        let served = crowd.enter();
        let note = served.busy();
        let gone = crowd.enter();
        let idle = crowd.enter();
        let younger = crowd.enter();
        drop(gone);
        assert!(crowd.make_room());
        assert!(idle.leave.is_cancelled());
        assert!(!younger.leave.is_cancelled());
        assert!(crowd.make_room());
        assert!(younger.leave.is_cancelled());
        assert!(!crowd.make_room());
        drop(note);
        assert!(crowd.make_room());
        assert!(served.leave.is_cancelled());
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let crowd = Crowd::default();
        for _ in 0..10_000 {
            drop(crowd.enter());
        }
        assert!(crowd.guests().len() < 100);
    }
}
