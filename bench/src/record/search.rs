//! What a search for capacities asks, and what a ladder climbs.

use serde::{Deserialize, Serialize};

use super::Layout;

/// What grows from cell to cell of a scenario whose cells are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ladder {
    /// Offered REST load: what an operation costs at each rate.
    Rate,
    /// Open connections: what memory each of them takes.
    Connections,
    /// Operations in flight: what memory each of them takes.
    InFlight,
}

/// What a search for capacities asks; each of its probes is a launch of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchFacts {
    /// Scenario of the probes, whose cells are named `scenario/rate=…`.
    pub scenario: String,
    /// What it asks, one sentence.
    pub question: String,
    /// Layout of the probes.
    pub layout: Layout,
    /// Window of a probe in seconds; longer at a low rate.
    pub window_s: f64,
    /// Keep-alive connections of the generator.
    pub connections: usize,
    /// Service-level objective: the longest response time at the quantile, in ns.
    pub slo_ns: f64,
    /// Quantile of the objective, in `[0, 1]`.
    pub quantile: f64,
    /// Rate at which the search begins, in requests per second.
    pub first_per_s: f64,
    /// Rate above which nothing is asked: a third of the ceiling.
    pub most_per_s: f64,
    /// What the generator did against a null server in this layout, in requests per second.
    pub ceiling_per_s: f64,
    /// Fresh launches that must hold at the rate that was found.
    pub confirmations: u32,
}

#[cfg(test)]
impl SearchFacts {
    /// A search of three confirmations, for tests.
    pub(crate) fn for_tests() -> Self {
        Self {
            scenario: "capacity".into(),
            question: "How many?".into(),
            layout: Layout::Isolated,
            window_s: 2.0,
            connections: 64,
            slo_ns: 50e6,
            quantile: 0.99,
            first_per_s: 500.0,
            most_per_s: 20_000.0,
            ceiling_per_s: 60_000.0,
            confirmations: 3,
        }
    }
}
