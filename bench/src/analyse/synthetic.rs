//! Runs made up for tests: every figure is planted, so that what comes out can be foretold.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hdrhistogram::Histogram;

use super::metric::tag;
use super::statistics::seed_for;
use super::{LaunchData, RunData};
use crate::record::{
    BrokerFacts, CellFacts, Conservation, Drain, GeneratorFacts, Host, HostDuring, Kind, Launch,
    Layout, METHOD_VERSION, Manifest, OperationCounts, Pinning, Placement, Resources, Sample,
    Slice, SubjectFacts,
};

const SUBJECTS: [(&str, &str); 3] = [
    ("async", "asynchronous"),
    ("multi-process", "multi-process"),
    ("multi-thread", "multi-thread"),
];

/// On-CPU time per operation of each subject.
pub static CPU_NS_PER_OPERATION: LazyLock<BTreeMap<&str, f64>> = LazyLock::new(|| {
    BTreeMap::from([
        ("async", 41_000.0),
        ("multi-process", 88_000.0),
        ("multi-thread", 59_000.0),
    ])
});

/// A run of every scenario with three subjects in `blocks` blocks, all valid.
pub fn run(blocks: u32) -> RunData {
    let cells = cells();
    let order = (0..blocks).map(|block| order(block, &cells)).collect();
    let manifest = manifest(cells, order);
    let mut launches = Vec::new();
    for (block, entries) in (0..).zip(&manifest.order) {
        for entry in entries {
            let (cell, subject) = entry.split_once(' ').expect("written below");
            let facts = manifest.cells.iter().find(|c| c.cell == cell);
            let ordinal = u32::try_from(launches.len()).expect("few");
            launches.push(launch(ordinal, block, facts.expect("a cell"), subject));
        }
    }
    RunData { manifest, launches }
}

/// The first launch of the cell with both protocols.
pub fn one_launch() -> LaunchData {
    launch(0, 0, &cells()[2], "async")
}

fn cells() -> Vec<CellFacts> {
    let both = |rate| BTreeMap::from([(Kind::Rest, rate), (Kind::Amqp, rate)]);
    let mut cells = vec![
        cell("idle", None, "What does waiting cost?", BTreeMap::new(), 0),
        cell(
            "low-load",
            None,
            "Does it differ at low load?",
            both(5.0),
            0,
        ),
        cell(
            "steady-mixed",
            None,
            "What does an operation cost?",
            both(250.0),
            0,
        ),
    ];
    cells.extend(["pool=1", "pool=16", "pool=64"].map(|pool| {
        let rest = BTreeMap::from([(Kind::Rest, 60.0)]);
        cell("io-wait", Some(pool), "How many waits overlap?", rest, 0)
    }));
    let ingest = [("prefetch=1", 20_000), ("prefetch=100", 100_000)];
    cells.extend(ingest.map(|(prefetch, prefill)| {
        let question = "What does a consumed message cost?";
        cell("ingest", Some(prefetch), question, BTreeMap::new(), prefill)
    }));
    cells
}

fn cell(
    scenario: &str,
    axis: Option<&str>,
    question: &str,
    arrival_rate_per_s: BTreeMap<Kind, f64>,
    prefill: u64,
) -> CellFacts {
    CellFacts {
        cell: axis.map_or_else(|| scenario.to_owned(), |axis| format!("{scenario}/{axis}")),
        scenario: scenario.to_owned(),
        question: question.to_owned(),
        axis: axis.map(str::to_owned),
        layout: Layout::Isolated,
        arrival_rate_per_s,
        window_s: 60.0,
        prefill,
        closed_loop: false,
        ladder: None,
        connections: None,
    }
}

fn order(block: u32, cells: &[CellFacts]) -> Vec<String> {
    let mut entries: Vec<String> = cells
        .iter()
        .flat_map(|c| SUBJECTS.map(|(name, _)| format!("{} {name}", c.cell)))
        .collect();
    let turn = block as usize % entries.len();
    entries.rotate_left(turn);
    entries
}

fn manifest(cells: Vec<CellFacts>, order: Vec<Vec<String>>) -> Manifest {
    Manifest {
        method_version: METHOD_VERSION,
        run_id: "2026-01-31-made-up".into(),
        profile: "standard".into(),
        started_at: "2026-01-31T12:00:00Z".into(),
        elapsed_s: 3_725.0,
        interrupted: false,
        seed: 20_260_131,
        threeways_version: "0.1.0".into(),
        commit: "0123456789abcdef".into(),
        dirty: false,
        lock_hash: "00ff00ff00ff00ff".into(),
        rustc: "rustc 1.95.0".into(),
        host: Host {
            kernel: "6.1.0".into(),
            cpu_model: "Made-up CPU".into(),
            cores: 2,
            memory_bytes: 8 << 30,
            open_files_limit: 20_000,
            cores_stay_awake: true,
        },
        broker: BrokerFacts {
            version: "RabbitMQ 3.10.8".into(),
            origin: "private-node".into(),
            pinned: true,
        },
        subjects: SUBJECTS.map(subject).to_vec(),
        cells,
        order,
        ceiling_per_s: BTreeMap::from([(Layout::Isolated, 30_000.0)]),
        lanes: 0,
        objectives: vec![],
        search: None,
        resolution: None,
    }
}

fn subject((name, title): (&str, &str)) -> SubjectFacts {
    SubjectFacts {
        name: name.into(),
        title: title.into(),
        model: name.into(),
        deviations: match name {
            "async" => vec![],
            _ => vec!["tiny_http limits no header line (tiny-http#1)".into()],
        },
        binary_bytes: 2_345_678,
        features: vec![
            "serde_json v1".into(),
            "└── serde feature \"derive\"".into(),
        ],
        twin_of: None,
    }
}

fn launch(ordinal: u32, block: u32, cell: &CellFacts, subject: &str) -> LaunchData {
    let noise = Noise(seed_for(u64::from(block), &[&cell.cell, subject]));
    let histograms = histograms(cell, subject, noise);
    let in_flight = histograms
        .iter()
        .filter(|(tag, _)| tag.ends_with("service"))
        .map(|(_, h)| h.len() as f64 / cell.window_s * h.mean() / 1e9)
        .sum();
    LaunchData {
        launch: Launch {
            ordinal,
            block,
            cell: cell.cell.clone(),
            subject: subject.to_owned(),
            layout: cell.layout,
            command: vec![format!("target/release/service-{subject}")],
            environment: BTreeMap::from([("BC_PROFILE".into(), "shared".into())]),
            ready_s: noise.around(0.08, 1),
            stop_s: 0.05,
            turns: 1,
            window_s: cell.window_s,
            arrival_rate_per_s: cell.arrival_rate_per_s.clone(),
            poisson: vec![],
            operations: operations(cell),
            resources: resources(cell, subject, noise),
            drain: drain(cell, subject, noise),
            conservation: conservation(cell),
            generator: GeneratorFacts {
                busy_ratio: noise.around(0.2, 2),
                polling_ratio: 0.1,
                wait_ratio: 0.004,
                max_in_flight: 12,
                mean_in_flight: in_flight,
                priority: String::new(),
            },
            host: HostDuring {
                steal_ratio: 0.001,
                foreign_cores: noise.around(0.008, 3),
                broker_cores: 0.12,
            },
            pinning: Some(pinning()),
            sampler_ratio: Some(noise.around(0.002, 11)),
            faults: vec![],
        },
        samples: samples(cell, subject, noise),
        slices: slices(&histograms, cell.window_s, noise),
        histograms,
    }
}

/// Twenty equal parts of the window; only the scatter tells them apart.
fn slices(
    histograms: &BTreeMap<String, Histogram<u64>>,
    window_s: f64,
    noise: Noise,
) -> BTreeMap<String, Vec<Slice>> {
    let part = |histogram: &Histogram<u64>, place: u64| Slice {
        start_s: window_s / 20.0 * place as f64,
        length_s: window_s / 20.0,
        operations: histogram.len() / 20,
        median_ns: super::metric::to_u64(
            noise.around(histogram.value_at_quantile(0.5) as f64, 100 + place),
        ),
    };
    let in_parts =
        |it: &(&String, &Histogram<u64>)| it.0.ends_with("response") || it.0.ends_with("send_lag");
    let course = |histogram| (0..20).map(|place| part(histogram, place)).collect();
    histograms
        .iter()
        .filter(in_parts)
        .map(|(tag, histogram)| (tag.clone(), course(histogram)))
        .collect()
}

/// As it must be in the isolated layout.
fn pinning() -> Pinning {
    let on = |cpu| Placement {
        allowed: Some(vec![cpu]),
        threads: 3,
        migrations: Some(0),
        ..Placement::default()
    };
    Pinning {
        subject: on(0),
        generator: Some(on(1)),
        broker: None,
    }
}

/// Scatter of a launch; the same launch always scatters alike.
#[derive(Clone, Copy)]
struct Noise(u64);

impl Noise {
    /// A value within ± 0.8 % of `centre`; `what` tells the figures of a launch apart.
    fn around(self, centre: f64, what: u64) -> f64 {
        let mixed = seed_for(self.0, &[&what.to_string()]) >> 40;
        centre * (0.992 + 0.016 * mixed as f64 / f64::from(1 << 24))
    }
}

fn planned(cell: &CellFacts, kind: Kind) -> u64 {
    let rate = cell.arrival_rate_per_s.get(&kind);
    rate.map_or(0, |rate| super::metric::to_u64(rate * cell.window_s))
}

fn operations(cell: &CellFacts) -> BTreeMap<Kind, OperationCounts> {
    let counts = |kind| OperationCounts {
        planned: planned(cell, kind),
        issued: planned(cell, kind),
        ok: planned(cell, kind),
        bytes: planned(cell, kind) * 120,
        ..OperationCounts::default()
    };
    let kinds = cell.arrival_rate_per_s.keys();
    kinds.map(|&kind| (kind, counts(kind))).collect()
}

fn histograms(cell: &CellFacts, subject: &str, noise: Noise) -> BTreeMap<String, Histogram<u64>> {
    let mut histograms = BTreeMap::new();
    for &kind in cell.arrival_rate_per_s.keys() {
        let n = planned(cell, kind);
        let centre = noise.around(centre_ns(cell, subject, kind), 4 + kind as u64);
        let mut record = |what: &str, median, spread| {
            histograms.insert(tag(kind, what), histogram(n, median, spread));
        };
        record("response", centre, 0.35);
        record("service", centre * 0.99, 0.35);
        record("send_lag", 2_000.0, 0.8);
    }
    histograms
}

fn centre_ns(cell: &CellFacts, subject: &str, kind: Kind) -> f64 {
    let wait = if cell.scenario == "io-wait" {
        10e6
    } else {
        0.0
    };
    let queue = if cell.cell == "io-wait/pool=1" {
        8e6
    } else {
        0.0
    };
    let work = match subject {
        "async" => 180_000.0,
        "multi-process" => 260_000.0,
        _ => 181_000.0,
    };
    let broker = if kind == Kind::Amqp { 900_000.0 } else { 0.0 };
    wait + queue + work + broker
}

/// Log-logistic: heavy enough a tail to look like response times.
fn histogram(n: u64, median: f64, spread: f64) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_max(60_000_000_000, 3).expect("valid bounds");
    let strata = n.clamp(1, 2_000);
    for stratum in 0..strata {
        let q = (stratum as f64 + 0.5) / strata as f64;
        let value = median * (q / (1.0 - q)).powf(spread / 2.0);
        let share = n * (stratum + 1) / strata - n * stratum / strata;
        histogram.saturating_record_n(super::metric::to_u64(value), share);
    }
    histogram
}

fn pss_bytes(subject: &str, noise: Noise) -> u64 {
    let mebibytes = match subject {
        "async" => 4.1,
        "multi-process" => 7.6,
        _ => 4.3,
    };
    super::metric::to_u64(noise.around(mebibytes, 6) * 1_048_576.0)
}

fn resources(cell: &CellFacts, subject: &str, noise: Noise) -> Resources {
    let done: u64 = operations(cell).values().map(|c| c.ok).sum();
    let cpu = noise.around(CPU_NS_PER_OPERATION[subject] * done.max(100) as f64, 7);
    let pss = pss_bytes(subject, noise);
    Resources {
        page_table_bytes: 200_000,
        cpu_ns: super::metric::to_u64(cpu),
        user_ns: super::metric::to_u64(cpu * 0.6),
        system_ns: super::metric::to_u64(cpu * 0.4),
        run_queue_wait_ns: 1_000_000,
        voluntary_switches: super::metric::to_u64(noise.around(2.5 * done.max(40) as f64, 8)),
        involuntary_switches: 12,
        pss_bytes: pss,
        uss_bytes: pss * 9 / 10,
        rss_bytes: pss * 14 / 10,
        pss_max_bytes: pss + 100_000,
        threads: if subject == "async" { 3 } else { 11 },
        processes: if subject == "multi-process" { 3 } else { 1 },
    }
}

fn drain(cell: &CellFacts, subject: &str, noise: Noise) -> Option<Drain> {
    let rate = if cell.axis.as_deref() == Some("prefetch=1") {
        7_000.0
    } else {
        42_000.0
    };
    let counted = cell.prefill * 9 / 10;
    (cell.prefill > 0).then(|| Drain {
        prefilled: cell.prefill,
        acked: cell.prefill,
        counted,
        counted_s: counted as f64 / noise.around(rate, 9),
        counted_cpu_ns: super::metric::to_u64(
            noise.around(CPU_NS_PER_OPERATION[subject] / 5.0, 10) * counted as f64,
        ),
    })
}

fn conservation(cell: &CellFacts) -> Option<Conservation> {
    let events = cell.prefill + planned(cell, Kind::Amqp);
    (events > 0).then(|| Conservation {
        published: events,
        confirmed: events,
        acked: events,
        ..Conservation::default()
    })
}

fn samples(cell: &CellFacts, subject: &str, noise: Noise) -> Vec<Sample> {
    let end = super::metric::to_u64(cell.window_s) * 5;
    let pss = pss_bytes(subject, noise);
    (0..=end + 10)
        .map(|row| Sample {
            t_ms: row as f64 * 200.0 - 2_000.0,
            pss_bytes: pss - (300_000 / (row + 1)) + (row % 7) * 4_096,
            uss_bytes: pss * 9 / 10,
            rss_bytes: pss * 14 / 10,
            threads: 3,
            processes: 1,
            ..Sample::default()
        })
        .collect()
}
