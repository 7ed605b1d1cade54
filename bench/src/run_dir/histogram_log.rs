//! Histograms as an HDR interval log (V2, deflate), which the standard tools read.

use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use super::Histograms;

/// Histograms as a log, for a window of this many seconds.
pub(super) fn encode(histograms: &Histograms, window_s: f64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    // Values are nanoseconds; the log's own maximum column is in milliseconds.
    builder
        .add_comment("values in nanoseconds, maxima in milliseconds")
        .with_base_time(UNIX_EPOCH)
        .with_max_value_divisor(1e6);
    let mut log = builder
        .begin_log_with(&mut bytes, &mut serializer)
        .expect("writing into memory cannot fail");
    for (tag, histogram) in histograms {
        log.write_histogram(
            histogram,
            Duration::ZERO,
            Duration::from_secs_f64(window_s.max(0.0)),
            Tag::new(tag),
        )
        .expect("writing into memory cannot fail");
    }
    drop(log);
    bytes
}

/// Histograms of a log by tag.
pub(super) fn decode(log: &[u8]) -> Result<Histograms, String> {
    use base64_lines::decode as decode_base64;
    let mut histograms = Histograms::new();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(log) {
        let LogEntry::Interval(interval) = entry.map_err(|error| format!("{error:?}"))? else {
            continue;
        };
        let tag = interval.tag().ok_or("an interval without a tag")?;
        let bytes = decode_base64(interval.encoded_histogram()).ok_or("not base64")?;
        let histogram = deserializer
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| format!("{error:?}"))?;
        histograms.insert(tag.as_str().to_owned(), histogram);
    }
    Ok(histograms)
}

/// The one direction of Base64 that the log format needs.
mod base64_lines {
    /// Decodes standard Base64 with padding.
    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
        let (mut accumulator, mut bits) = (0_u32, 0_u32);
        for symbol in text.trim_end_matches('=').bytes() {
            accumulator = accumulator << 6 | u32::from(value(symbol)?);
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from(accumulator >> bits & 0xff).ok()?);
            }
        }
        Some(bytes)
    }

    fn value(symbol: u8) -> Option<u8> {
        match symbol {
            b'A'..=b'Z' => Some(symbol - b'A'),
            b'a'..=b'z' => Some(symbol - b'a' + 26),
            b'0'..=b'9' => Some(symbol - b'0' + 52),
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    #[test]
    fn histograms_survive_the_log() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        for value in [1, 50_000, 123_456_789] {
            histogram.saturating_record(value);
        }
        let histograms = Histograms::from([("rest.response".to_owned(), histogram)]);
        let back = decode(&encode(&histograms, 1.0)).expect("just written");
        assert_eq!(back["rest.response"], histograms["rest.response"]);
    }
}
