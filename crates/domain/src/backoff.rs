//! Reconnect back-off with jitter.

use std::time::Duration;

/// Delays between attempts to connect: between 0.1 s and `min(0.75 s, 0.25 s · 2ⁿ)`, for ever.
///
/// Jitter over the whole range spreads the return of many clients best (M. Brooker, "Exponential
/// Backoff And Jitter", 2015).
/// The floor is for the broker: a client that declares a queue anew and consumes from it within some
/// 20 ms of its deletion may be given a consumer that never gets a message, on a connection that
/// looks sound (RabbitMQ 3.10, 2 of 42 deletions).
/// The ceiling is low, because it is what a service sleeps on after its broker has come back: with
/// 30 s a restart of half a minute cost up to 14 s more, and with 3 s events through REST were
/// refused for up to 2.6 s. A high one protects a broker from a herd of thousands; here it meets the
/// two connections of each instance, and an attempt that fails costs it next to nothing.
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    const LARGEST: Duration = Duration::from_millis(750);
    const FLOOR: Duration = Duration::from_millis(100);

    /// Whether an attempt has failed since the last success: what failed again is no news.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.attempt > 0
    }

    /// The delay before the next attempt; `random` lies in `[0, 1)`.
    pub fn next(&mut self, random: f64) -> Duration {
        let ceiling = Self::FIRST
            .saturating_mul(1 << self.attempt.min(16))
            .min(Self::LARGEST);
        self.attempt = self.attempt.saturating_add(1);
        Self::FLOOR + (ceiling - Self::FLOOR).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Notes that a connection was made and lived for so long.
    ///
    /// One that outlived the longest delay was a success, so that the delays start again from the
    /// shortest. One that died at once was not, although it had been opened: a broker that is still
    /// starting or a proxy without a broker behind it may do so for ever, and is not to be asked
    /// without a pause.
    pub fn lived(&mut self, lifetime: Duration) {
        if lifetime >= Self::LARGEST {
            self.attempt = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_three_quarters_of_a_second() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<f64> = (0..4).map(|_| backoff.next(1.0).as_secs_f64()).collect();
        assert_eq!(ceilings, [0.25, 0.5, 0.75, 0.75]);
    }

    #[test]
    fn there_is_always_a_pause() {
        assert_eq!(Backoff::default().next(0.0), Duration::from_millis(100));
    }

    #[test]
    fn only_a_connection_that_lasted_ends_the_growth() {
        let mut backoff = Backoff::default();
        backoff.next(1.0);
        backoff.lived(Duration::from_millis(20));
        assert!(backoff.is_repeated());
        assert_eq!(backoff.next(1.0), Duration::from_millis(500));
        backoff.lived(Duration::from_secs(60));
        assert!(!backoff.is_repeated());
        assert_eq!(backoff.next(0.5), Duration::from_millis(175));
    }

    #[test]
    fn attempts_without_end_never_overflow() {
        let mut backoff = Backoff { attempt: u32::MAX };
        assert_eq!(backoff.next(1.0), Duration::from_millis(750));
    }
}
