//! Histograms as an HDR interval log (V2, deflate), which the standard tools read.

use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use super::{Histograms, Intervals, Slices};
use crate::record::Slice;

/// Histograms as a log, for a window of this many seconds: those of which there are intervals as
/// that many lines, the others as one line for the whole window, all of them by their start.
pub(super) fn encode(histograms: &Histograms, intervals: &Intervals, window_s: f64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    // Values are nanoseconds; the log's own maximum column is in milliseconds.
    builder
        .add_comment("values in nanoseconds, maxima in milliseconds")
        .with_start_time(UNIX_EPOCH)
        .with_base_time(UNIX_EPOCH)
        .with_max_value_divisor(1e6);
    let mut log = builder
        .begin_log_with(&mut bytes, &mut serializer)
        .expect("writing into memory cannot fail");
    for (start_s, length_s, tag, histogram) in lines(histograms, intervals, window_s.max(0.0)) {
        log.write_histogram(
            histogram,
            Duration::from_secs_f64(start_s),
            Duration::from_secs_f64(length_s),
            Tag::new(tag),
        )
        .expect("writing into memory cannot fail");
    }
    drop(log);
    bytes
}

type Line<'a> = (f64, f64, &'a str, &'a Histogram<u64>);

fn lines<'a>(histograms: &'a Histograms, intervals: &'a Intervals, window_s: f64) -> Vec<Line<'a>> {
    let mut lines: Vec<Line> = Vec::new();
    for (tag, whole) in histograms {
        let parts = intervals
            .get(tag)
            .map_or(std::slice::from_ref(whole), Vec::as_slice);
        let length_s = window_s / parts.len() as f64;
        let line = |(place, part)| (length_s * place as f64, length_s, tag.as_str(), part);
        lines.extend(parts.iter().enumerate().map(line));
    }
    // Stable, so that the tags of one start keep their order.
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    lines
}

/// Histograms of a log by tag, those of several lines summed, and what each line of these says.
pub(super) fn decode(log: &[u8]) -> Result<(Histograms, Slices), String> {
    use base64_lines::decode as decode_base64;
    let (mut histograms, mut slices) = (Histograms::new(), Slices::new());
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(log) {
        let LogEntry::Interval(interval) = entry.map_err(|error| format!("{error:?}"))? else {
            continue;
        };
        let tag = interval.tag().ok_or("an interval without a tag")?;
        let bytes = decode_base64(interval.encoded_histogram()).ok_or("not base64")?;
        let histogram: Histogram<u64> = deserializer
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| format!("{error:?}"))?;
        let tag = tag.as_str().to_owned();
        slices.entry(tag.clone()).or_default().push(Slice {
            start_s: interval.start_timestamp().as_secs_f64(),
            length_s: interval.duration().as_secs_f64(),
            operations: histogram.len(),
            median_ns: histogram.value_at_quantile(0.5),
        });
        match histograms.get_mut(&tag) {
            None => drop(histograms.insert(tag, histogram)),
            Some(sum) => sum.add(histogram).map_err(|error| format!("{error:?}"))?,
        }
    }
    slices.retain(|_, lines| lines.len() > 1);
    Ok((histograms, slices))
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
    use super::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        for value in values {
            histogram.saturating_record(*value);
        }
        histogram
    }

    fn tagged<T>(value: T) -> std::collections::BTreeMap<String, T> {
        [("rest.response".to_owned(), value)].into()
    }

    #[test]
    fn histograms_survive_the_log() {
        let histograms = tagged(histogram(&[1, 50_000, 123_456_789]));
        let log = encode(&histograms, &Intervals::new(), 1.0);
        let (back, slices) = decode(&log).expect("just written");
        assert_eq!(back["rest.response"], histograms["rest.response"]);
        assert!(slices.is_empty(), "one line is no course");
    }

    #[test]
    fn intervals_are_lines_with_their_start_and_length_and_sum_up_to_the_whole() {
        let parts = [&[10, 20, 30][..], &[], &[40, 50_000]].map(histogram);
        let whole = histogram(&[10, 20, 30, 40, 50_000]);
        let mut histograms = tagged(whole.clone());
        histograms.insert("rest.service".to_owned(), whole.clone());
        let log = encode(&histograms, &tagged(parts.to_vec()), 1.5);
        let text = String::from_utf8_lossy(&log);
        let lines = text.lines().filter_map(|line| line.strip_prefix("Tag="));
        let starts = lines.map(|line| line.rsplitn(3, ',').last().unwrap_or_default().to_owned());
        assert_eq!(
            starts.collect::<Vec<_>>(),
            [
                "rest.response,0.000,0.500",
                "rest.service,0.000,1.500",
                "rest.response,0.500,0.500",
                "rest.response,1.000,0.500",
            ]
        );
        let (back, slices) = decode(&log).expect("just written");
        assert_eq!(back["rest.response"], whole);
        let found = &slices["rest.response"];
        let counts: Vec<_> = found
            .iter()
            .map(|it| (it.operations, it.median_ns))
            .collect();
        assert_eq!(counts, [(3, 20), (0, 0), (2, 40)]);
        assert_eq!(slices.len(), 1);
    }
}
