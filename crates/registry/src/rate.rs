//! How often a client may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients remembered; beyond it, those are forgotten that may ask as often as anybody new.
const MEMORY: usize = 10_000;

/// A bucket for each client, which fills again with time.
#[derive(Debug)]
pub(crate) struct Rate<K> {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<K, (f64, Instant)>>,
}

impl<K: Hash + Eq> Rate<K> {
    /// So many a second, and so many at once.
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        Self {
            per_second,
            burst: burst.max(1.0),
            buckets: Mutex::default(),
        }
    }

    /// Counts a request of a client. Answers how long it should wait if it asks too often.
    pub(crate) fn ask(&self, client: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MEMORY && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| self.filled(*bucket, now) < self.burst);
            // All of them ask too often: whoever is new waits too.
            if buckets.len() >= MEMORY {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(client).or_insert((self.burst, now));
        let filled = self.filled(*bucket, now);
        if filled < 1.0 {
            *bucket = (filled, now);
            return Err(Duration::from_secs_f64((1.0 - filled) / self.per_second));
        }
        *bucket = (filled - 1.0, now);
        Ok(())
    }

    fn filled(&self, (tokens, since): (f64, Instant), now: Instant) -> f64 {
        let passed = now.saturating_duration_since(since).as_secs_f64();
        (tokens + passed * self.per_second).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_after_its_burst_and_others_do_not() {
        let rate = Rate::new(2.0, 3.0);
        let start = Instant::now();
        for _ in 0..3 {
            rate.ask("a", start).unwrap();
        }
        assert_eq!(rate.ask("a", start), Err(Duration::from_millis(500)));
        rate.ask("b", start).unwrap();
        rate.ask("a", start + Duration::from_millis(500)).unwrap();
        assert!(rate.ask("a", start + Duration::from_millis(600)).is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let rate = Rate::new(1.0, 2.0);
        let start = Instant::now();
        for client in 0..MEMORY {
            rate.ask(client, start).unwrap();
        }
        assert!(rate.ask(MEMORY, start).is_err());
        rate.ask(MEMORY, start + Duration::from_secs(2)).unwrap();
        assert!(rate.buckets.lock().unwrap().len() <= MEMORY);
    }
}
