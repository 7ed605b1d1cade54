//! Reconnect back-off with full jitter.

use std::time::Duration;

/// Delays between attempts to connect: `random · min(30 s, 0.5 s · 2ⁿ)`, for ever.
///
/// Full jitter spreads the return of many clients best (M. Brooker, "Exponential Backoff And
/// Jitter", 2015).
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LARGEST: Duration = Duration::from_secs(30);

    /// The delay before the next attempt; `random` lies in `[0, 1)`.
    pub fn next(&mut self, random: f64) -> Duration {
        let ceiling = Self::FIRST
            .saturating_mul(1 << self.attempt.min(16))
            .min(Self::LARGEST);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Starts again from the shortest delay, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_thirty_seconds() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<f64> = (0..8).map(|_| backoff.next(1.0).as_secs_f64()).collect();
        assert_eq!(ceilings, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(250));
    }

    #[test]
    fn attempts_without_end_never_overflow() {
        let mut backoff = Backoff { attempt: u32::MAX };
        assert_eq!(backoff.next(1.0), Duration::from_secs(30));
    }
}
