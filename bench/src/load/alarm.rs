//! How early the loop has to be woken in order to be on time.

/// First guess; a timer with a slack of 1 ns comes 15–40 µs late on a virtual machine.
const FIRST_LEAD_NS: u64 = 40_000;
/// Longest time that the loop polls towards a send: more would only take the core from the broker.
pub(super) const LONGEST_LEAD_NS: u64 = 60_000;
/// Change of the lead after one alarm.
const STEP_NS: u64 = 200;

/// Follows the lateness of the loop's own timers.
///
/// The loop asks to be woken this long before a send and polls for the rest of it. Polling costs
/// CPU and being late costs truth, so the lead settles where three alarms of four come in time: it
/// grows by three steps after a late one and shrinks by one step after the others, which is in
/// balance at the third quartile (stochastic approximation, Robbins and Monro 1951).
#[derive(Debug, Clone, Copy)]
pub(super) struct Alarm {
    lead_ns: u64,
}

impl Default for Alarm {
    fn default() -> Self {
        Self {
            lead_ns: FIRST_LEAD_NS,
        }
    }
}

impl Alarm {
    /// How long before a send the loop should be woken.
    pub(super) fn lead_ns(self) -> u64 {
        self.lead_ns
    }

    /// An alarm for `at_ns` has rung.
    pub(super) fn rang(&mut self, at_ns: u64, now_ns: u64) {
        self.lead_ns = if now_ns.saturating_sub(at_ns) > self.lead_ns {
            (self.lead_ns + 3 * STEP_NS).min(LONGEST_LEAD_NS)
        } else {
            self.lead_ns.saturating_sub(STEP_NS)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    #[test]
    fn the_lead_settles_at_the_third_quartile_of_the_lateness() {
        let (mut alarm, mut random) = (Alarm::default(), SplitMix(3));
        let mut sum = 0.0;
        for round in 0..20_000 {
            // Uniform between 10 and 30 µs: the third quartile is 25 µs.
            alarm.rang(0, 10_000 + (random.next_unit() * 20_000.0) as u64);
            if round >= 10_000 {
                sum += alarm.lead_ns() as f64 / 1e4;
            }
        }
        assert!((sum - 25_000.0).abs() < 1_500.0, "{sum}");
    }

    #[test]
    fn a_stalled_machine_does_not_make_the_loop_poll_for_long() {
        let mut alarm = Alarm::default();
        (0..1_000).for_each(|_| alarm.rang(0, 5_000_000));
        assert_eq!(alarm.lead_ns(), LONGEST_LEAD_NS);
    }
}
