//! Scenarios whose cells are rungs of a ladder: what grows with a rate, with connections, or with
//! what is in flight.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LaunchData;
use super::comparison::Judged;
use super::gates::Standing;
use super::metric::Metric;
use super::statistics::{Interval, median, median_over_blocks, seed_for, theil_sen};
use crate::record::{CellFacts, Kind, Ladder, Launch, Layout, Manifest, Sample};

/// Share of the window whose samples count.
const INNER_SHARE: f64 = 0.99;

/// One ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LadderSummary {
    /// Scenario.
    pub scenario: String,
    /// What grows.
    pub ladder: Ladder,
    /// Layout.
    pub layout: Layout,
    /// The cells from the lowest rung to the highest.
    pub rungs: Vec<Rung>,
    /// For a ladder of memory: what one step adds, by size and subject.
    pub slopes: BTreeMap<Size, BTreeMap<String, Slope>>,
}

/// One cell of a ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Cell.
    pub cell: String,
    /// Where it stands: requests per second, connections, or operations in flight on average.
    pub place: f64,
}

/// A size that grows with the rungs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// Summed PSS in bytes.
    Pss,
    /// Summed USS in bytes.
    Uss,
    /// Page tables of the processes in bytes: memory of the kernel, which is in neither.
    PageTables,
    /// Threads.
    Threads,
}

/// What one connection, or one operation in flight, adds to a size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// Slope over the rungs of each block (Theil–Sen), in bytes or threads for each.
    pub blocks: BTreeMap<u32, f64>,
    /// Median over the blocks.
    pub median: f64,
    /// Its 95 % bootstrap interval; absent with fewer than two blocks.
    pub interval: Option<Interval>,
}

impl Size {
    /// Every size in the order of the tables.
    pub const ALL: [Size; 4] = [Size::Pss, Size::Uss, Size::PageTables, Size::Threads];

    fn of(self, sample: &Sample) -> f64 {
        match self {
            Size::Pss => sample.pss_bytes as f64,
            Size::Uss => sample.uss_bytes as f64,
            Size::PageTables => sample.page_table_bytes as f64,
            Size::Threads => f64::from(sample.threads),
        }
    }

    /// Median over the samples within the window.
    ///
    /// Not those at its end: a look at thousands of threads takes so long that it comes behind it,
    /// where the generator closed its connections before method version 6.
    fn read(self, data: &LaunchData) -> Option<f64> {
        let end_ms = data.samples.first()?.t_ms + INNER_SHARE * data.launch.window_s * 1e3;
        let inner = data.samples.iter().filter(|it| it.t_ms <= end_ms);
        median(&mut inner.map(|it| self.of(it)).collect::<Vec<_>>())
    }
}

/// Every ladder of the run in the order of its cells.
pub fn ladders(manifest: &Manifest, launches: &[Judged]) -> Vec<LadderSummary> {
    let mut scenarios: Vec<(&str, Ladder)> = manifest
        .cells
        .iter()
        .filter_map(|cell| Some((cell.scenario.as_str(), cell.ladder?)))
        .collect();
    scenarios.dedup();
    let of = |(scenario, ladder)| LadderSummary::of(manifest, scenario, ladder, launches);
    scenarios.into_iter().map(of).collect()
}

impl LadderSummary {
    fn of(manifest: &Manifest, scenario: &str, ladder: Ladder, launches: &[Judged]) -> Self {
        let cells: Vec<&CellFacts> = manifest
            .cells
            .iter()
            .filter(|cell| cell.scenario == scenario)
            .collect();
        // A noisy host makes a subject slow, but not its memory grow.
        let usable: Vec<&LaunchData> = launches
            .iter()
            .filter(|(judged, _)| judged.standing_of(Metric::Pss) != Standing::Invalid)
            .map(|(_, data)| *data)
            .collect();
        let rungs = cells.iter().filter_map(|cell| rung(cell, ladder, &usable));
        let slopes = Size::ALL.into_iter().filter(|_| ladder != Ladder::Rate);
        let slopes = slopes.map(|size| {
            let subjects = manifest.compared().filter_map(|subject| {
                let points = points(&cells, ladder, &usable, &subject.name, size);
                let seed = seed_for(manifest.seed, &[scenario, &subject.name, "slope"]);
                Some((subject.name.clone(), Slope::of(&points, seed)?))
            });
            (size, subjects.collect())
        });
        Self {
            scenario: scenario.to_owned(),
            ladder,
            layout: cells.first().map_or(Layout::Isolated, |cell| cell.layout),
            rungs: rungs.collect(),
            slopes: slopes.collect(),
        }
    }
}

/// Where a launch stands on the ladder.
fn place(cell: &CellFacts, ladder: Ladder, launch: &Launch) -> Option<f64> {
    match ladder {
        Ladder::Rate => cell.arrival_rate_per_s.get(&Kind::Rest).copied(),
        Ladder::Connections => cell.connections.map(|count| count as f64),
        // As measured: what was asked for is the rate alone.
        Ladder::InFlight => Some(launch.generator.mean_in_flight),
    }
}

fn rung(cell: &CellFacts, ladder: Ladder, launches: &[&LaunchData]) -> Option<Rung> {
    let own = launches.iter().map(|data| &data.launch);
    let own = own.filter(|launch| launch.cell == cell.cell);
    let mut places: Vec<f64> = own
        .filter_map(|launch| place(cell, ladder, launch))
        .collect();
    Some(Rung {
        cell: cell.cell.clone(),
        place: median(&mut places)?,
    })
}

/// Place and size of the launches of a subject, by block.
fn points(
    cells: &[&CellFacts],
    ladder: Ladder,
    launches: &[&LaunchData],
    subject: &str,
    size: Size,
) -> BTreeMap<u32, Vec<(f64, f64)>> {
    let mut points: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for data in launches.iter().filter(|it| it.launch.subject == subject) {
        let launch = &data.launch;
        let cell = cells.iter().find(|cell| cell.cell == launch.cell);
        let place = cell.and_then(|cell| place(cell, ladder, launch));
        if let Some(point) = place.zip(size.read(data)) {
            points.entry(launch.block).or_default().push(point);
        }
    }
    points
}

impl Slope {
    fn of(points: &BTreeMap<u32, Vec<(f64, f64)>>, seed: u64) -> Option<Self> {
        let blocks: BTreeMap<u32, f64> = points
            .iter()
            .filter_map(|(block, points)| Some((*block, theil_sen(points)?)))
            .collect();
        let values: Vec<f64> = blocks.values().copied().collect();
        let (median, interval) = median_over_blocks(&values, seed)?;
        Some(Self {
            blocks,
            median,
            interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::{RunData, analyse, synthetic};

    /// The cells of `io-wait` as rungs of 16, 256 and 1,024 connections, with that many bytes for
    /// each connection of the first, second and third subject.
    fn climbed(bytes: [u64; 3], ladder: Ladder) -> RunData {
        let mut run = synthetic::run(3);
        let is_rung = |scenario: &str| scenario == "io-wait";
        run.manifest.cells.retain(|cell| is_rung(&cell.scenario));
        for (cell, connections) in run.manifest.cells.iter_mut().zip([16, 256, 1024]) {
            cell.ladder = Some(ladder);
            cell.connections = Some(connections);
        }
        let names: Vec<String> = run.manifest.compared().map(|it| it.name.clone()).collect();
        for data in &mut run.launches {
            let launch = &mut data.launch;
            let cell = run.manifest.cells.iter().find(|it| it.cell == launch.cell);
            let Some(cell) = cell else { continue };
            let connections = cell.connections.expect("set above") as u64;
            let subject = names.iter().position(|name| *name == launch.subject);
            let each = bytes[subject.expect("a subject")] + u64::from(launch.block);
            for sample in &mut data.samples {
                sample.pss_bytes = 4_000_000 + each * connections;
                sample.threads = 3;
            }
            // One look within the window, and one behind its end, when the connections are closed.
            let mut late = *data.samples.last().expect("samples");
            (late.pss_bytes, late.threads) = (4_000_000, 1);
            data.samples.truncate(1);
            data.samples.push(late);
            if ladder == Ladder::InFlight {
                put_in_flight(data, connections as f64 / 4.0);
            }
        }
        run
    }

    /// That many operations at once, with the service time that Little's law asks for.
    fn put_in_flight(data: &mut LaunchData, count: f64) {
        data.launch.generator.mean_in_flight = count;
        let rate = data.launch.arrival_rate_per_s[&Kind::Rest];
        let service = data.histograms.get_mut("rest.service").expect("REST");
        let operations = service.len();
        service.reset();
        let service_ns = (count / rate * 1e9) as u64;
        service
            .record_n(service_ns, operations)
            .expect("within range");
    }

    fn ladder(run: &RunData) -> LadderSummary {
        let mut ladders = analyse(run).ladders;
        assert_eq!(ladders.len(), 1);
        ladders.remove(0)
    }

    #[test]
    fn the_planted_bytes_per_connection_are_recovered() {
        let found = ladder(&climbed([700, 9_000, 20_000], Ladder::Connections));
        let places: Vec<f64> = found.rungs.iter().map(|rung| rung.place).collect();
        assert_eq!(places, [16.0, 256.0, 1024.0]);
        let pss = &found.slopes[&Size::Pss];
        let slope = &pss["multi-process"];
        assert!((slope.median - 9_001.0).abs() < 1e-6, "{slope:?}");
        assert!(slope.interval.is_some_and(|it| it.contains(9_000.0)));
        assert_eq!(slope.blocks.len(), 3);
        assert!(found.slopes[&Size::Threads]["async"].median.abs() < 1e-9);
    }

    #[test]
    fn operations_in_flight_are_taken_as_they_were_measured() {
        let found = ladder(&climbed([100, 100, 100], Ladder::InFlight));
        let slope = &found.slopes[&Size::Pss]["async"];
        assert!((slope.median - 404.0).abs() < 1e-6, "{slope:?}");
    }

    #[test]
    fn a_ladder_of_rates_has_no_slope_and_other_scenarios_are_none() {
        let found = ladder(&climbed([1, 1, 1], Ladder::Rate));
        assert!(found.slopes.is_empty() && found.rungs.len() == 3);
        assert!(analyse(&synthetic::run(2)).ladders.is_empty());
    }

    #[test]
    fn an_invalid_launch_is_no_rung_of_its_block_and_a_disturbed_one_is() {
        let mut run = climbed([700, 700, 700], Ladder::Connections);
        let mut own = run.launches.iter_mut().filter(|data| {
            data.launch.subject == "async" && data.launch.cell.starts_with("io-wait")
        });
        let bad = own.next().expect("a launch");
        bad.samples.iter_mut().for_each(|it| it.pss_bytes = 1);
        bad.launch.faults = vec!["died".into()];
        own.next().expect("a launch").launch.host.steal_ratio = 0.5;
        let found = ladder(&run);
        let slope = &found.slopes[&Size::Pss]["async"];
        assert!((slope.median - 701.0).abs() < 1e-6, "{slope:?}");
        assert_eq!(slope.blocks.len(), 3);
    }
}
