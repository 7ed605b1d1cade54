//! What a run is made of, fixed before its first launch.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::host;
use crate::load::SplitMix;
use crate::profile::Profile;
use crate::record::{BrokerFacts, METHOD_VERSION, Manifest};
use crate::scenario::Cell;
use crate::subject::BuiltSubject;

/// One launch of the plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    pub(super) block: u32,
    pub(super) cell: &'a Cell,
    pub(super) subject: &'a BuiltSubject,
}

/// The launches in order: in every block every cell once, in it every subject once, and its twin
/// where the scenario wants one.
///
/// Cells keep their order within a block, so that the subjects of one cell follow each other
/// and share the machine's mood; the order of the subjects is shuffled anew each time.
pub(super) fn slots<'a>(
    cells: &'a [Cell],
    subjects: &'a [BuiltSubject],
    blocks: u32,
    seed: u64,
) -> Vec<Slot<'a>> {
    let mut random = SplitMix(seed);
    let mut slots = Vec::new();
    for block in 0..blocks {
        let due = |cell: &&Cell| cell.blocks.is_none_or(|most| block < most);
        for cell in cells.iter().filter(due) {
            let takes_part = |it: &&BuiltSubject| !it.is_twin() || cell.scenario.twin;
            let mut order: Vec<_> = subjects.iter().filter(takes_part).collect();
            random.shuffle(&mut order);
            slots.extend(order.into_iter().map(|subject| Slot {
                block,
                cell,
                subject,
            }));
        }
    }
    slots
}

/// A seed for a run that was given none; it stands in the manifest.
pub(super) fn seed_of_the_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_secs())
}

/// The manifest as it is written before the first launch.
pub(super) fn manifest(
    profile: &Profile,
    seed: u64,
    root: &Path,
    cells: &[Cell],
    subjects: &[BuiltSubject],
    slots: &[Slot<'_>],
) -> Manifest {
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let (commit, dirty) = host::commit(root);
    let blocks = slots.last().map_or(0, |slot| slot.block + 1);
    Manifest {
        method_version: METHOD_VERSION,
        run_id: run_id(&started_at, profile),
        profile: profile.name.to_string(),
        started_at,
        elapsed_s: 0.0,
        interrupted: false,
        seed,
        threeways_version: env!("CARGO_PKG_VERSION").into(),
        commit,
        dirty,
        lock_hash: host::file_hash(&root.join("Cargo.lock")),
        rustc: host::rustc(),
        host: host::facts(),
        broker: BrokerFacts::default(),
        subjects: subjects.iter().map(|built| built.facts.clone()).collect(),
        cells: cells.iter().map(Cell::facts).collect(),
        order: (0..blocks).map(|block| order(slots, block)).collect(),
        lanes: 0,
        resolution: None,
    }
}

fn order(slots: &[Slot<'_>], block: u32) -> Vec<String> {
    slots
        .iter()
        .filter(|slot| slot.block == block)
        .map(|slot| format!("{} {}", slot.cell.name, slot.subject.subject.name))
        .collect()
}

/// `20260102T030405Z-smoke`: sorts by time and needs no quoting.
fn run_id(started_at: &str, profile: &Profile) -> String {
    let compact: String = started_at
        .chars()
        .filter(|character| !matches!(character, '-' | ':'))
        .collect();
    format!("{compact}-{}", profile.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ProfileName;
    use crate::record::SubjectFacts;
    use crate::scenario;
    use crate::subject;

    fn built() -> Vec<BuiltSubject> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("subjects");
        let all = subject::read_all(&folder).expect("the files are valid");
        let facts = SubjectFacts {
            name: String::new(),
            title: String::new(),
            model: String::new(),
            deviations: vec![],
            binary_bytes: 0,
            features: vec![],
            twin_of: None,
        };
        all.into_iter()
            .filter(|subject| subject.default)
            .map(|subject| BuiltSubject {
                subject,
                executable: "x".into(),
                facts: facts.clone(),
            })
            .collect()
    }

    fn cells() -> Vec<Cell> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let all = scenario::read_all(&folder).expect("the files are valid");
        let chosen = scenario::select(all, &[]).expect("no name was given");
        chosen
            .iter()
            .flat_map(|s| s.cells(ProfileName::Smoke))
            .collect()
    }

    #[test]
    fn a_block_holds_every_subject_once_per_cell_in_a_seeded_order() {
        let (cells, subjects) = (cells(), built());
        let slots = slots(&cells, &subjects, 3, 7);
        assert_eq!(slots.len(), 3 * cells.len() * 3);
        let mut first: Vec<_> = order(&slots, 0);
        assert_eq!(first, order(&super::slots(&cells, &subjects, 3, 7), 0));
        assert_ne!(first, order(&slots, 1));
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 24);
    }

    #[test]
    fn a_cell_with_fewer_blocks_is_left_out_of_the_others() {
        let (mut cells, subjects) = (cells(), built());
        cells[0].blocks = Some(1);
        let all = cells.len() * subjects.len();
        let slots = slots(&cells, &subjects, 3, 7);
        let of_block = |block| slots.iter().filter(|slot| slot.block == block).count();
        assert_eq!(
            [0, 1, 2].map(of_block),
            [all, all - subjects.len(), all - subjects.len()]
        );
    }

    #[test]
    fn a_twin_runs_only_where_the_scenario_wants_one() {
        let (mut cells, mut subjects) = (cells(), built());
        cells.iter_mut().for_each(|cell| cell.scenario.twin = false);
        cells[1].scenario.twin = true;
        subjects.push(subjects[0].twin());
        let slots = slots(&cells, &subjects, 1, 7);
        let twins: Vec<_> = slots.iter().filter(|it| it.subject.is_twin()).collect();
        assert_eq!(twins.len(), 1);
        assert_eq!(twins[0].cell.name, cells[1].name);
        assert_eq!(slots.len(), 3 * cells.len() + 1);
    }

    #[test]
    fn a_run_id_needs_no_quoting() {
        let id = run_id("2026-01-02T03:04:05Z", &ProfileName::Smoke.profile());
        assert_eq!(id, "20260102T030405Z-smoke");
    }
}
