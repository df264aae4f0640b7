//! Whether and when an ended container is started again: Docker's rules.

use std::time::Duration;

use sampan_shim_protocol::RestartPolicy;

/// The first pause.
const SHORTEST: Duration = Duration::from_millis(100);
/// Pauses do not get longer than this.
const LONGEST: Duration = Duration::from_secs(60);
/// After a run of this length the pauses begin anew.
const LONG_RUN: Duration = Duration::from_secs(10);

/// What is known of restarts.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    pub(super) policy: RestartPolicy,
    /// How often it was started again.
    pub(super) count: u32,
    /// Somebody wants it to end.
    pub(super) ended_by_hand: bool,
    pause: Duration,
}

impl Restarts {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// A run of the length `run` has ended with `code`: the pause before the next one, which is
    /// counted, or `None` where there will be none.
    pub(super) fn next(&mut self, code: i32, run: Duration) -> Option<Duration> {
        let wanted = !self.ended_by_hand
            && match self.policy {
                RestartPolicy::No => false,
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure(most) => code != 0 && (most == 0 || self.count < most),
            };
        if !wanted {
            return None;
        }
        self.pause = if self.pause.is_zero() || run >= LONG_RUN {
            SHORTEST
        } else {
            (self.pause * 2).min(LONGEST)
        };
        self.count += 1;
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_long_run() {
        let mut restarts = Restarts::new(RestartPolicy::Always);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pauses.push(restarts.next(0, SHORT).unwrap().as_millis());
        }
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000
            ]
        );
        assert_eq!(restarts.next(0, LONG_RUN), Some(SHORTEST));
        assert_eq!(restarts.count, 13);
    }

    #[test]
    fn failures_are_counted_and_success_ends_it() {
        let mut restarts = Restarts::new(RestartPolicy::OnFailure(2));
        assert!(restarts.next(1, SHORT).is_some());
        assert!(restarts.next(137, SHORT).is_some());
        assert_eq!(restarts.next(1, SHORT), None);
        assert_eq!(restarts.count, 2);
        let mut restarts = Restarts::new(RestartPolicy::OnFailure(0));
        for _ in 0..100 {
            assert!(restarts.next(1, SHORT).is_some());
        }
        assert_eq!(restarts.next(0, SHORT), None);
    }

    #[test]
    fn what_was_ended_by_hand_stays_so() {
        for policy in [RestartPolicy::Always, RestartPolicy::OnFailure(0)] {
            let mut restarts = Restarts::new(policy);
            restarts.ended_by_hand = true;
            assert_eq!(restarts.next(1, SHORT), None);
        }
        assert_eq!(Restarts::new(RestartPolicy::No).next(1, SHORT), None);
    }
}
