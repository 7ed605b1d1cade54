//! Samples of a window in pieces, as if it had none.

use crate::record::Sample;

/// The samples of a launch on its own clock, which runs only while the launch has its turn.
///
/// Counters stand still between two turns: what a subject uses while it rests is not of the load.
#[derive(Debug, Default)]
pub struct Pieces {
    samples: Vec<Sample>,
}

impl Pieces {
    /// Adds the samples of the next piece, of which the first stands at its begin and the last at
    /// its end.
    pub fn add(&mut self, piece: &[Sample]) {
        let (Some(begin), Some(end)) = (piece.first(), self.samples.last().copied()) else {
            self.samples.extend(piece);
            return;
        };
        let onward = |now: &Sample| Sample {
            t_ms: end.t_ms + (now.t_ms - begin.t_ms),
            cpu_ns: end.cpu_ns + now.cpu_ns.saturating_sub(begin.cpu_ns),
            user_ns: end.user_ns + now.user_ns.saturating_sub(begin.user_ns),
            system_ns: end.system_ns + now.system_ns.saturating_sub(begin.system_ns),
            run_queue_wait_ns: end.run_queue_wait_ns
                + now
                    .run_queue_wait_ns
                    .saturating_sub(begin.run_queue_wait_ns),
            voluntary_switches: end.voluntary_switches
                + now
                    .voluntary_switches
                    .saturating_sub(begin.voluntary_switches),
            involuntary_switches: end.involuntary_switches
                + now
                    .involuntary_switches
                    .saturating_sub(begin.involuntary_switches),
            ..*now
        };
        self.samples.extend(piece[1..].iter().map(onward));
    }

    /// All of them.
    #[must_use]
    pub fn finish(self) -> Vec<Sample> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t_ms: f64, cpu_ns: u64, pss_bytes: u64) -> Sample {
        Sample {
            t_ms,
            cpu_ns,
            pss_bytes,
            ..Sample::default()
        }
    }

    #[test]
    fn what_lies_between_two_turns_is_left_out() {
        let mut pieces = Pieces::default();
        pieces.add(&[sample(50.0, 1_000, 7), sample(250.0, 1_500, 8)]);
        pieces.add(&[]);
        pieces.add(&[
            sample(1_050.0, 9_000, 9),
            sample(1_150.0, 9_100, 10),
            sample(1_250.0, 9_700, 11),
        ]);
        let expected = [
            sample(50.0, 1_000, 7),
            sample(250.0, 1_500, 8),
            sample(350.0, 1_600, 10),
            sample(450.0, 2_200, 11),
        ];
        assert_eq!(pieces.finish(), expected);
    }
}
