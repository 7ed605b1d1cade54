//! The lines that a terminal shows of a load while it runs.

use std::time::Duration;

use super::format::number;
use crate::load::View;

/// The load in two lines of less than 80 columns: rates, send lag and the subject's resources, then
/// the responses.
pub fn lines(view: &View) -> String {
    let responses = [("REST", view.rest_ns), ("AMQP", view.amqp_ns)];
    let responses: Vec<_> = responses.into_iter().filter_map(response).collect();
    [whole(view), responses.join(", ")].join("\n  ")
}

fn whole(view: &View) -> String {
    let mut parts = vec![format!(
        "{} of {} /s",
        number(view.achieved_per_s.round()),
        number(view.offered_per_s.round())
    )];
    if view.ended_badly > 0 {
        parts.push(format!("{} ended badly", view.ended_badly));
    }
    let lag = view.send_lag_p99_ns.map(|ns| ns as f64 / 1e3);
    parts.extend(lag.map(|us| format!("send lag p99 {} µs", number(us))));
    if view.pss_bytes > 0 {
        let mebibytes = view.pss_bytes as f64 / 1_048_576.0;
        parts.push(format!("CPU {} cores", number(view.cores)));
        parts.push(format!("PSS {} MiB", number(mebibytes)));
    }
    parts.join(", ")
}

fn response((kind, times): (&str, Option<(u64, u64)>)) -> Option<String> {
    let (p50, p99) = times?;
    let ms = |ns: u64| number(ns as f64 / 1e6);
    Some(format!("{kind} p50/p99 {}/{} ms", ms(p50), ms(p99)))
}

/// What is left, to the second: `3 min 20 s left`.
pub fn time_left(left: Duration) -> String {
    let seconds = left.as_secs_f64().ceil() as u64;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    match seconds {
        3_600.. => format!("{hours} h {minutes} min left"),
        60.. => format!("{minutes} min {} s left", seconds % 60),
        _ => format!("{seconds} s left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_hold_what_is_known() {
        let view = View {
            offered_per_s: 2_000.4,
            achieved_per_s: 1_998.0,
            ended_badly: 2,
            send_lag_p99_ns: Some(12_400),
            rest_ns: Some((210_000, 1_100_000)),
            amqp_ns: None,
            cores: 0.214,
            pss_bytes: 4_404_019,
        };
        assert_eq!(
            lines(&view),
            "1,998 of 2,000 /s, 2 ended badly, send lag p99 12.4 µs, CPU 0.214 cores, PSS 4.20 MiB\n  \
             REST p50/p99 0.210/1.10 ms"
        );
        assert_eq!(lines(&View::default()), "0 of 0 /s\n  ");
    }

    #[test]
    fn what_is_left_is_told_in_two_units_at_most() {
        let texts = [59, 61, 7_384].map(|s| time_left(Duration::from_secs(s)));
        assert_eq!(texts, ["59 s left", "1 min 1 s left", "2 h 3 min left"]);
    }
}
