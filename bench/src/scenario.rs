//! Scenarios: one TOML file each; a scenario with one value of its axis is a *cell*.

mod arrival;
mod definition;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::profile::ProfileName;
use crate::record::{CellFacts, Kind, Ladder, Layout};

pub use arrival::{ArrivalKind, BurstShape, Pace, RampShape, StepShape};
pub use definition::{DefinitionError, read_toml, toml_files};

/// One kind of REST request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestRequest {
    /// `GET /api/v1/latest/{key}`; needs the `shared` profile of the service.
    Latest,
    /// `POST /api/v1/flatten`.
    Flatten,
    /// `POST /api/v1/device/commands`.
    Device,
}

/// REST load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestLoad {
    /// Requests per second; the axis may override it; ignored by the closed loop.
    pub rate_per_s: f64,
    /// Requests in turn.
    pub mix: Vec<RestRequest>,
    /// How they arrive.
    #[serde(default)]
    pub arrival: ArrivalKind,
}

/// AMQP load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpLoad {
    /// Events per second.
    pub rate_per_s: f64,
    /// Length of an event's body in bytes.
    pub payload_bytes: usize,
    /// How they arrive; the closed loop is not offered here.
    #[serde(default)]
    pub arrival: ArrivalKind,
}

/// Both loads; a missing one is not offered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadDefinition {
    /// REST.
    pub rest: Option<RestLoad>,
    /// AMQP.
    pub amqp: Option<AmqpLoad>,
}

/// The one setting that varies within a scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Name in cells, such as `pool`.
    pub name: String,
    /// Its values.
    pub values: Vec<u32>,
    /// `BC_` variables that all get the value.
    #[serde(default)]
    pub env: Vec<String>,
    /// REST rate for each value, in requests per second.
    #[serde(default)]
    pub rest_rate_per_s: Vec<f64>,
    /// Keep-alive connections of the generator for each value.
    #[serde(default)]
    pub connections: Vec<usize>,
}

/// Lengths in one profile.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durations {
    /// Load before the measured window, in seconds.
    pub warm_up_s: f64,
    /// Measured window in seconds; for a drain, the longest time that it may take.
    pub window_s: f64,
    /// Messages in the queue before the launch: one number for each value of the axis.
    #[serde(default)]
    pub prefill: Vec<u64>,
    /// Blocks at the most, for windows so long that the profile's number would take days.
    pub blocks: Option<u32>,
}

/// One scenario file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name, equal to the file's name.
    pub name: String,
    /// What it asks, one sentence.
    pub question: String,
    /// Who may use which core.
    pub layout: Layout,
    /// `BC_PROFILE` of the service: `isolated` or `shared`.
    pub service_profile: String,
    /// Further `BC_` variables.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What varies, if anything does.
    pub axis: Option<Axis>,
    /// What the values of the axis are rungs of, if they are to be read together.
    pub ladder: Option<Ladder>,
    /// Offered load; empty for `idle` and for drains.
    #[serde(default)]
    pub load: LoadDefinition,
    /// Keep-alive HTTP connections of the generator.
    #[serde(default = "sixteen")]
    pub connections: usize,
    /// Deadline of one operation in seconds.
    #[serde(default = "two_seconds")]
    pub timeout_s: f64,
    /// Whether `run` measures it when no scenario is named.
    #[serde(default = "yes")]
    pub default: bool,
    /// Whether the first subject is measured under a second name as well: the noise floor.
    #[serde(default)]
    pub twin: bool,
    /// Whether the subjects of a block are up together and take turns under load; else each has the
    /// machine for itself.
    #[serde(default)]
    pub turns: bool,
    /// Lengths by profile; every profile is needed.
    pub durations: BTreeMap<ProfileName, Durations>,
}

fn sixteen() -> usize {
    16
}

fn two_seconds() -> f64 {
    2.0
}

fn yes() -> bool {
    true
}

/// A scenario with one value of its axis and the lengths of one profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// `scenario` or `scenario/axis=value`.
    pub name: String,
    /// Where it comes from.
    pub scenario: Scenario,
    /// Value of the axis.
    pub axis: Option<String>,
    /// `BC_` variables of the scenario and of the axis.
    pub environment: BTreeMap<String, String>,
    /// Offered load of this cell.
    pub load: LoadDefinition,
    /// Load before the window, in seconds.
    pub warm_up_s: f64,
    /// Window in seconds.
    pub window_s: f64,
    /// Messages queued before the launch; above 0 the cell is a drain.
    pub prefill: u64,
    /// Blocks at the most; no limit of its own if none.
    pub blocks: Option<u32>,
}

impl Scenario {
    /// Reads one file.
    ///
    /// # Errors
    /// [`DefinitionError`], which names the file and what to mend.
    pub fn read(path: &Path) -> Result<Self, DefinitionError> {
        let scenario: Self = read_toml(path)?;
        scenario.contradiction().map_or(Ok(()), |reason| {
            Err(DefinitionError::Contradiction {
                path: path.to_owned(),
                reason,
            })
        })?;
        Ok(scenario)
    }

    fn contradiction(&self) -> Option<String> {
        if let Some(missing) = ProfileName::ALL
            .iter()
            .find(|profile| !self.durations.contains_key(profile))
        {
            return Some(format!("`[durations.{missing}]` is missing"));
        }
        let values = self.axis.as_ref().map_or(1, |axis| axis.values.len());
        if let Some(reason) = self.axis.as_ref().and_then(Axis::contradiction) {
            return Some(reason);
        }
        if self.ladder.is_some() && values < 2 {
            return Some("`ladder` needs an axis with at least two values".into());
        }
        if self.connections == 0 {
            return Some("`connections` must be at least 1".into());
        }
        if self
            .durations
            .values()
            .any(|lengths| !lengths.prefill.is_empty() && lengths.prefill.len() != values)
        {
            return Some("`prefill` needs one number for each value of the axis".into());
        }
        self.load_contradiction()
    }

    fn load_contradiction(&self) -> Option<String> {
        let rest = self.load.rest.as_ref();
        if rest.is_some_and(|rest| rest.mix.is_empty()) {
            return Some("`load.rest.mix` is empty: name at least one request".into());
        }
        if rest.is_some_and(|rest| rest.mix.contains(&RestRequest::Latest))
            && self.service_profile != "shared"
        {
            return Some("`latest` is served only with `service_profile = \"shared\"`".into());
        }
        let amqp = self.load.amqp.as_ref();
        if amqp.is_some_and(|amqp| amqp.arrival == ArrivalKind::ClosedLoop) {
            return Some("`load.amqp` is open-loop only".into());
        }
        let rates = rest
            .map(|rest| rest.rate_per_s)
            .into_iter()
            .chain(amqp.map(|amqp| amqp.rate_per_s));
        if rates
            .into_iter()
            .any(|rate| !rate.is_finite() || rate <= 0.0)
        {
            return Some("a rate must be above 0 per second".into());
        }
        ProfileName::ALL
            .into_iter()
            .find_map(|profile| self.shape_contradiction(profile))
    }

    fn shape_contradiction(&self, profile: ProfileName) -> Option<String> {
        let of_cell = |cell: Cell| {
            let rest = cell.load.rest.iter();
            let amqp = cell.load.amqp.iter();
            rest.map(|rest| (&rest.arrival, rest.rate_per_s))
                .chain(amqp.map(|amqp| (&amqp.arrival, amqp.rate_per_s)))
                .find_map(|(arrival, rate)| arrival.contradiction(cell.pace(rate)))
        };
        self.cells(profile).into_iter().find_map(of_cell)
    }

    /// The cells of this scenario in one profile, in the order of the axis.
    #[must_use]
    pub fn cells(&self, profile: ProfileName) -> Vec<Cell> {
        match &self.axis {
            None => vec![self.cell(profile, None)],
            Some(axis) => (0..axis.values.len())
                .map(|index| self.cell(profile, Some((axis, index))))
                .collect(),
        }
    }

    fn cell(&self, profile: ProfileName, axis: Option<(&Axis, usize)>) -> Cell {
        let lengths = &self.durations[&profile];
        let mut cell = Cell {
            name: self.name.clone(),
            scenario: self.clone(),
            axis: None,
            environment: self.settings.clone(),
            load: self.load.clone(),
            warm_up_s: lengths.warm_up_s,
            window_s: lengths.window_s,
            prefill: lengths.prefill.first().copied().unwrap_or(0),
            blocks: lengths.blocks,
        };
        cell.environment
            .insert("BC_PROFILE".into(), self.service_profile.clone());
        if let Some((axis, index)) = axis {
            cell.apply_axis(axis, index, lengths);
        }
        cell
    }
}

impl Axis {
    fn contradiction(&self) -> Option<String> {
        let lists = [
            ("rest_rate_per_s", self.rest_rate_per_s.len()),
            ("connections", self.connections.len()),
        ];
        let wrong = |(_, length): &(&str, usize)| *length != 0 && *length != self.values.len();
        if let Some((name, _)) = lists.into_iter().find(wrong) {
            return Some(format!(
                "`axis.{name}` needs one number for each of `axis.values`"
            ));
        }
        self.connections
            .contains(&0)
            .then(|| "`axis.connections` must be at least 1 each".into())
    }
}

impl Cell {
    fn apply_axis(&mut self, axis: &Axis, index: usize, lengths: &Durations) {
        let value = axis.values[index].to_string();
        self.name = format!("{}/{}={value}", self.scenario.name, axis.name);
        for name in &axis.env {
            self.environment.insert(name.clone(), value.clone());
        }
        if let (Some(rest), Some(&rate)) = (&mut self.load.rest, axis.rest_rate_per_s.get(index)) {
            rest.rate_per_s = rate;
        }
        if let Some(&connections) = axis.connections.get(index) {
            self.scenario.connections = connections;
        }
        self.prefill = lengths.prefill.get(index).copied().unwrap_or(0);
        self.axis = Some(value);
    }

    /// The cell in a layout; named by it if it is not the scenario's own, since a figure of one layout
    /// says nothing of another.
    #[must_use]
    pub fn in_layout(mut self, layout: Layout) -> Self {
        if layout != self.scenario.layout {
            self.name = format!("{}@{}", self.name, layout.as_str());
            self.scenario.layout = layout;
        }
        self
    }

    /// The cell with another REST rate, as the value `value` of an axis; for searches, which choose
    /// their rates as they go.
    #[must_use]
    pub fn at_rate(&self, axis: &str, value: &str, rate_per_s: f64) -> Self {
        let mut cell = self.clone();
        cell.name = format!("{}/{axis}={value}", self.scenario.name);
        cell.axis = Some(value.to_owned());
        if let Some(rest) = &mut cell.load.rest {
            rest.rate_per_s = rate_per_s;
        }
        cell
    }

    /// The pace of a load of that rate in this cell.
    #[must_use]
    pub fn pace(&self, rate_per_s: f64) -> Pace {
        Pace {
            rate_per_s,
            warm_up_s: self.warm_up_s,
            window_s: self.window_s,
        }
    }

    /// Offered load by kind in operations per second, over the window on average; the closed loop
    /// offers none.
    #[must_use]
    pub fn arrival_rate_per_s(&self) -> BTreeMap<Kind, f64> {
        let mean =
            |arrival: &ArrivalKind, rate_per_s| arrival.mean_rate_per_s(self.pace(rate_per_s));
        let rest = self.load.rest.iter();
        let rest =
            rest.filter_map(|rest| Some((Kind::Rest, mean(&rest.arrival, rest.rate_per_s)?)));
        let amqp = self.load.amqp.iter();
        let amqp =
            amqp.filter_map(|amqp| Some((Kind::Amqp, mean(&amqp.arrival, amqp.rate_per_s)?)));
        rest.chain(amqp).collect()
    }

    /// Kinds whose arrivals are a Poisson process.
    #[must_use]
    pub fn poisson(&self) -> Vec<Kind> {
        let rest = self
            .load
            .rest
            .iter()
            .map(|rest| (Kind::Rest, &rest.arrival));
        let amqp = self
            .load
            .amqp
            .iter()
            .map(|amqp| (Kind::Amqp, &amqp.arrival));
        rest.chain(amqp)
            .filter(|(_, arrival)| **arrival == ArrivalKind::Poisson)
            .map(|(kind, _)| kind)
            .collect()
    }

    /// Whether the REST load waits for answers.
    #[must_use]
    pub fn is_closed_loop(&self) -> bool {
        self.load
            .rest
            .as_ref()
            .is_some_and(|rest| rest.arrival == ArrivalKind::ClosedLoop)
    }

    /// Whether a request of the mix waits for the device.
    #[must_use]
    pub fn needs_device(&self) -> bool {
        self.load
            .rest
            .as_ref()
            .is_some_and(|rest| rest.mix.contains(&RestRequest::Device))
    }

    /// What the manifest says of the cell.
    #[must_use]
    pub fn facts(&self) -> CellFacts {
        CellFacts {
            cell: self.name.clone(),
            scenario: self.scenario.name.clone(),
            question: self.scenario.question.clone(),
            axis: self.axis.clone(),
            layout: self.scenario.layout,
            arrival_rate_per_s: self.arrival_rate_per_s(),
            window_s: self.window_s,
            prefill: self.prefill,
            closed_loop: self.is_closed_loop(),
            ladder: self.scenario.ladder,
            connections: self.load.rest.as_ref().map(|_| self.scenario.connections),
        }
    }
}

/// Every scenario of a folder, in the order in which a report tells them.
///
/// # Errors
/// [`DefinitionError`] of the first file that is wrong.
pub fn read_all(folder: &Path) -> Result<Vec<Scenario>, DefinitionError> {
    let mut scenarios = toml_files(folder)?
        .iter()
        .map(|path| Scenario::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    scenarios.sort_by_key(|scenario| {
        let order = ["idle", "low-load", "steady-mixed", "io-wait", "ingest"];
        let known = order.iter().position(|name| *name == scenario.name);
        (known.unwrap_or(order.len()), scenario.name.clone())
    });
    Ok(scenarios)
}

/// Those of `all` that are named, or the default ones if none is named.
///
/// # Errors
/// [`DefinitionError::Unknown`], which lists the known names.
pub fn select(all: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>, DefinitionError> {
    if names.is_empty() {
        return Ok(all
            .into_iter()
            .filter(|scenario| scenario.default)
            .collect());
    }
    if let Some(name) = names
        .iter()
        .find(|name| all.iter().all(|scenario| scenario.name != **name))
    {
        let known: Vec<_> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        return Err(DefinitionError::Unknown {
            what: "scenario",
            name: name.clone(),
            known: known.join(", "),
        });
    }
    Ok(all
        .into_iter()
        .filter(|scenario| names.contains(&scenario.name))
        .collect())
}

#[cfg(test)]
mod tests;
