//! The loop's own use of its core.

use super::engine::Window;
use crate::host;

/// Share of the loop's own time, in nanoseconds of the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OwnTime {
    /// On a core, spinning excluded.
    pub(super) busy_ns: u64,
    /// On a core, polling without waiting and finding nothing.
    pub(super) polling_ns: u64,
    /// Runnable without a core.
    pub(super) wait_ns: u64,
}

/// Reads the thread's `schedstat` at the window's edges and takes the spinning off.
#[derive(Debug, Default)]
pub(super) struct Meter {
    spun_ns: u64,
    at_start: Option<(u64, u64, u64)>,
    at_end: Option<(u64, u64, u64)>,
}

impl Meter {
    /// The loop has polled without waiting and found nothing.
    pub(super) fn spun(&mut self, ns: u64) {
        self.spun_ns += ns;
    }

    pub(super) fn look(&mut self, window: Window, now_ns: u64) {
        if self.at_start.is_none() && now_ns >= window.start_ns {
            self.at_start = self.read();
        } else if self.at_end.is_none() && now_ns >= window.end_ns {
            self.at_end = self.read();
        }
    }

    fn read(&self) -> Option<(u64, u64, u64)> {
        let pid = i32::try_from(std::process::id()).ok()?;
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let (cpu, wait) = host::schedstat(pid, tid)?;
        Some((cpu, wait, self.spun_ns))
    }

    /// What the window took; `None` if it was left early or the kernel did not tell.
    pub(super) fn own_time(&self) -> Option<OwnTime> {
        let (start, end) = (self.at_start?, self.at_end?);
        let polling_ns = end.2 - start.2;
        Some(OwnTime {
            busy_ns: (end.0 - start.0).saturating_sub(polling_ns),
            polling_ns,
            wait_ns: end.1 - start.1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_was_left_early_has_no_figure_instead_of_a_zero() {
        let window = Window {
            start_ns: 10,
            end_ns: 20,
        };
        let mut meter = Meter::default();
        for now_ns in [0, 12, 19] {
            meter.look(window, now_ns);
            assert_eq!(meter.own_time(), None);
        }
        meter.spun(3);
        meter.look(window, 25);
        assert_eq!(meter.own_time().map(|own| own.polling_ns), Some(3));
    }
}
