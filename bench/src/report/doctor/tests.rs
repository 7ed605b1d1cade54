//! What the page of an examination must hold.

use super::*;
use crate::analyse::resolution::{Resolution, synthetic};
use crate::calibrate::Point;
use crate::record::{Host, HostDuring, Layout};

fn trial() -> Calibration {
    let point = |step: u32| Point {
        decades: f64::from(step) / 10.0,
        expected_ns: 5e6,
        observed_ns: 5.02e6 + f64::from(step) * 1e3,
        send_lag_ns: f64::from(step) * 50.0,
    };
    Calibration {
        name: "fixed delay".into(),
        truth: "each request takes 5 ms".into(),
        operations: 10_000,
        figures: vec![Figure {
            name: "p99".into(),
            expected_ns: 5e6,
            observed_ns: 5.04e6,
            allowed_ns: 2e5,
        }],
        blind_p99_ns: Some(5.04e6),
        theory_mean_ns: None,
        send_lag_p99_ns: 2_000.0,
        held_ratio: 0.0,
        curve: (0..=30).map(point).collect(),
        host: HostDuring::default(),
        faults: vec![],
    }
}

fn examination() -> Examination {
    let run = synthetic::run(10, 0.02, [1.0, 1.05, 1.0]);
    Examination {
        host: Host::default(),
        noise: HostDuring::default(),
        disturbance: None,
        timers: vec![Lateness {
            way: "sleep".into(),
            p50_ns: 70_000.0,
            p99_ns: 140_000.0,
            max_ns: 900_000.0,
            cpu_ns: 15_000.0,
        }],
        ceilings: vec![Ceiling {
            layout: Layout::Isolated,
            connections: 64,
            rate_per_s: 150_000.0,
            busy_ratio: 0.98,
            failed: 0,
        }],
        steps: vec![],
        calibrations: vec![trial()],
        resolution: Resolution::of(&run, &synthetic::judged(&run)),
        unresolved: None,
        interrupted: false,
    }
}

#[test]
fn the_page_draws_what_was_found_and_needs_nothing_but_itself() {
    let page = page(&examination());
    assert_eq!(page.matches("<svg").count(), 3);
    for foreign in [
        "http:", "https:", "<script", "@import", "url(", "src=", "NaN",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn the_same_page_can_be_made_from_the_json() {
    let text = json(&examination());
    let read: Examination = serde_json::from_str(&text).expect("the same plain data");
    assert_eq!(page(&read), page(&read.clone()));
    assert_eq!(page(&read), page(&examination()));
}

#[test]
fn it_ends_with_what_cannot_be_told_apart() {
    let mut examination = examination();
    assert!(text(&examination).contains("differences under 2.00 % in CPU per operation"));
    examination.resolution = None;
    examination.unresolved = Some("a quick examination does not measure it".into());
    assert!(text(&examination).contains("is not known: a quick examination does not measure it."));
}

#[test]
fn an_examination_of_an_earlier_version_can_still_be_shown() {
    let mut value = serde_json::to_value(examination()).expect("plain data");
    let object = value.as_object_mut().expect("an object");
    object.remove("resolution");
    object.remove("unresolved");
    object["calibrations"][0]
        .as_object_mut()
        .expect("an object")
        .remove("curve");
    let read: Examination = serde_json::from_value(value).expect("older");
    assert!(page(&read).contains("it was not measured"));
}
