//! How much the generator can do at all, and what an operation costs it.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::trials::{counts, quantile_of};
use super::{CalibrateError, Cores, Drive, drive};
use crate::load::{Arrival, Exchange};
use crate::record::{Kind, Layout};
use crate::scenario::RestRequest;
use crate::truth::Behaviour;

/// Load before the window.
const WARM_UP: Duration = Duration::from_millis(300);

/// The highest rate in a closed loop against the null server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Where both ran.
    pub layout: Layout,
    /// Connections.
    pub connections: usize,
    /// Right answers per second.
    pub rate_per_s: f64,
    /// Share of a core that the generator used: below 1, the server or the kernel was the limit.
    pub busy_ratio: f64,
    /// Operations that did not end well; must be 0.
    pub failed: u64,
}

/// An open loop against the null server at a fixed rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Intended operations per second.
    pub rate_per_s: f64,
    /// Right answers of what was planned.
    pub achieved_ratio: f64,
    /// CPU of the generator per operation in ns, without the polling before a send.
    pub cpu_ns: f64,
    /// CPU of that polling per operation in ns: the price of punctual sends.
    pub polling_ns: f64,
    /// 99th percentile of the send lag in ns.
    pub send_lag_p99_ns: f64,
    /// Median response time in ns.
    pub response_p50_ns: f64,
    /// 99th percentile of the response time in ns.
    pub response_p99_ns: f64,
}

fn latest(address: SocketAddr) -> Vec<Exchange> {
    Exchange::turns(&[RestRequest::Latest], address)
}

/// Measures the ceiling of a layout.
///
/// # Errors
/// [`CalibrateError`] if the server or the generator cannot begin.
pub fn ceiling(
    layout: Layout,
    connections: usize,
    window: Duration,
    interrupt: &AtomicBool,
) -> Result<Ceiling, CalibrateError> {
    let load = Drive {
        turns: latest,
        connections,
        arrival: None,
        warm_up: WARM_UP,
        window,
    };
    let result = drive(Behaviour::NULL, &load, None, Cores::of(layout), interrupt)?.result;
    let counts = counts(&result, Kind::Rest);
    Ok(Ceiling {
        layout,
        connections,
        rate_per_s: counts.ok as f64 / window.as_secs_f64(),
        busy_ratio: result.generator.busy_ratio,
        failed: counts.issued - counts.ok,
    })
}

/// Measures an open loop at a rate, isolated.
///
/// # Errors
/// [`CalibrateError`] if the server or the generator cannot begin.
pub fn step(
    rate_per_s: f64,
    connections: usize,
    window: Duration,
    interrupt: &AtomicBool,
) -> Result<Step, CalibrateError> {
    let load = Drive {
        turns: latest,
        connections,
        arrival: Some(Arrival::Constant {
            rate_per_s,
            phase: 0.0,
        }),
        warm_up: WARM_UP,
        window,
    };
    let result = drive(
        Behaviour::NULL,
        &load,
        None,
        Cores::of(Layout::Isolated),
        interrupt,
    )?
    .result;
    let counts = counts(&result, Kind::Rest);
    let per_operation = |ratio: f64| ratio * window.as_secs_f64() * 1e9 / counts.ok.max(1) as f64;
    Ok(Step {
        rate_per_s,
        achieved_ratio: counts.ok as f64 / counts.planned.max(1) as f64,
        cpu_ns: per_operation(result.generator.busy_ratio),
        polling_ns: per_operation(result.generator.polling_ratio),
        send_lag_p99_ns: quantile_of(&result, "rest.send_lag", 0.99),
        response_p50_ns: quantile_of(&result, "rest.response", 0.5),
        response_p99_ns: quantile_of(&result, "rest.response", 0.99),
    })
}
