//! Wall-clock instants as data.

use std::time::{Duration, SystemTime};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// The instant of a clock reading; before 1970 counts as 1970.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// This instant moved by `duration` into the future.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// RFC 3339 in UTC with milliseconds; years beyond 9999 are cut to the last instant of 9999.
    #[must_use]
    pub fn rfc3339(self) -> String {
        const END_OF_9999: u64 = 253_402_300_799_999;
        let since = Duration::from_millis(self.0.min(END_OF_9999));
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
    }
}

/// Seconds from a publisher's `x-sent-ns` to `now`; `None` if the header is absent or the clocks
/// disagree about the order.
#[must_use]
pub fn end_to_end_s(sent_ns: Option<i64>, now: SystemTime) -> Option<f64> {
    let sent = Duration::from_nanos(u64::try_from(sent_ns?).ok()?);
    now.duration_since(SystemTime::UNIX_EPOCH + sent)
        .ok()
        .map(|age| age.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_in_utc() {
        assert_eq!(UnixMs(1_500).rfc3339(), "1970-01-01T00:00:01.500Z");
        assert_eq!(UnixMs(u64::MAX).rfc3339(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_message_from_the_future_has_no_age() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(end_to_end_s(Some(500_000_000), now), Some(0.5));
        assert_eq!(end_to_end_s(Some(2_000_000_000), now), None);
        assert_eq!(end_to_end_s(Some(-1), now), None);
        assert_eq!(end_to_end_s(None, now), None);
    }
}
