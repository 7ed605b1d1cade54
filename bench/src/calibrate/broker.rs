//! The same through a broker: a consumer of known delay in the subject's place.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use contract::QueueType;

use super::trials::{counts, faults, quantile_of};
use super::{CalibrateError, Calibration, Cores, Figure, LEAD, TIMEOUT};
use crate::broker::Broker;
use crate::host::Reading;
use crate::load::{AmqpPlan, Arrival, Generator, LoadPlan, LoadResult};
use crate::record::Kind;
use crate::truth::TruthConsumer;

/// Load before the window.
const WARM_UP: Duration = Duration::from_millis(500);
/// Events per second: few enough that none waits for another.
const RATE_PER_S: f64 = 25.0;
/// The two known delays: both so long that the broker has gone to rest when the reply comes. It does
/// so in steps: 5 and 10 ms were 0.3 ms farther apart than they are.
const SHORT: Duration = Duration::from_millis(15);
const LONG: Duration = Duration::from_millis(25);

/// Finds a known delay behind a broker.
///
/// What the broker itself takes nobody knows, so the delay is told by differences of medians; in the
/// order of ABBA, so that the broker's own drift is in both alike.
///
/// # Errors
/// [`CalibrateError`] if the broker, the consumer or the generator cannot be used.
pub fn through_broker(
    broker: &Broker,
    window: Duration,
    cores: Cores,
    interrupt: &AtomicBool,
) -> Result<Calibration, CalibrateError> {
    let before = Reading::take();
    let half = window / 2;
    let mut results = Vec::new();
    for delay in [SHORT, LONG, LONG, SHORT] {
        results.push(drive(broker, delay, half, cores, interrupt)?);
    }
    let host = Reading::take().since(&before, &[], &broker.pids());
    let median = |result: &LoadResult| quantile_of(result, "amqp.response", 0.5);
    let [first, second, third, last] = [0, 1, 2, 3].map(|place| median(&results[place]));
    let added_ns = f64::midpoint(second, third) - f64::midpoint(first, last);
    let faults = results.iter().map(|result| faults(result, Kind::Amqp));
    let faults: Vec<String> = faults.flatten().collect();
    let operations = results.iter().map(|it| counts(it, Kind::Amqp).ok).sum();
    let lags_ns = results
        .iter()
        .map(|it| quantile_of(it, "amqp.send_lag", 0.99));
    Ok(Calibration {
        name: "through the broker".to_owned(),
        truth: "the consumer of an event takes 15 ms, then 25".to_owned(),
        operations,
        figures: vec![Figure::new(
            "difference of the p50",
            (LONG - SHORT).as_secs_f64() * 1e9,
            added_ns,
        )],
        blind_p99_ns: None,
        curve: Vec::new(),
        theory_mean_ns: None,
        send_lag_p99_ns: lags_ns.fold(0.0, f64::max),
        // The consumer sleeps between two messages and cannot tell.
        held_ratio: 0.0,
        host,
        faults,
    })
}

fn drive(
    broker: &Broker,
    delay: Duration,
    window: Duration,
    cores: Cores,
    interrupt: &AtomicBool,
) -> Result<LoadResult, CalibrateError> {
    broker.reset(QueueType::Quorum)?;
    let consumer = TruthConsumer::start(&broker.url, delay, cores.server)?;
    let plan = AmqpPlan {
        url: broker.url.clone(),
        id_prefix: format!("calibrate-{}", delay.as_micros()),
        payload_bytes: 128,
    };
    let arrival = Arrival::Constant {
        rate_per_s: RATE_PER_S,
        phase: 0.0,
    };
    let generator = Generator::prepare(LoadPlan {
        rest: None,
        amqp: Some((plan, arrival)),
        warm_up: WARM_UP,
        window,
        timeout: TIMEOUT,
        cpu: cores.generator,
    })?;
    let result = generator.run_apart(Instant::now() + LEAD, interrupt);
    consumer.stop()?;
    Ok(result)
}
