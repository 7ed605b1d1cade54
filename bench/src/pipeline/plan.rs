//! What a run is made of, fixed before its first launch.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::analyse::statistics::seed_for;
use crate::host;
use crate::profile::Profile;
use crate::random::SplitMix;
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
/// and share the machine's mood. The orders of the subjects in successive blocks are the rows of
/// Williams squares, drawn for each cell by itself.
pub(super) fn slots<'a>(
    cells: &'a [Cell],
    subjects: &'a [BuiltSubject],
    blocks: u32,
    seed: u64,
) -> Vec<Slot<'a>> {
    let mut orders: Vec<_> = cells
        .iter()
        .map(|cell| Orders::new(cell, subjects, seed))
        .collect();
    let mut slots = Vec::new();
    for block in 0..blocks {
        let due = |(cell, _): &(&Cell, _)| cell.blocks.is_none_or(|most| block < most);
        for (cell, orders) in cells.iter().zip(&mut orders).filter(due) {
            slots.extend(orders.next().into_iter().map(|subject| Slot {
                block,
                cell,
                subject,
            }));
        }
    }
    slots
}

/// The slots that are filled at once: those of a cell and block whose subjects take turns, if they may;
/// else each by itself.
pub(super) fn groups<'s, 'a>(slots: &'s [Slot<'a>], may_take_turns: bool) -> Vec<&'s [Slot<'a>]> {
    let belong = |one: &Slot<'_>, next: &Slot<'_>| {
        let takes_turns = may_take_turns && one.cell.scenario.turns;
        takes_turns && one.block == next.block && one.cell.name == next.cell.name
    };
    slots.chunk_by(belong).collect()
}

/// The orders of one cell's subjects in successive blocks.
struct Orders<'a> {
    /// Which subject each letter of the square stands for, by chance.
    subjects: Vec<&'a BuiltSubject>,
    rows: Rows,
}

impl<'a> Orders<'a> {
    /// From the run's seed and the cell's name, so that another cell changes nothing here.
    fn new(cell: &Cell, subjects: &'a [BuiltSubject], seed: u64) -> Self {
        let mut random = SplitMix(seed_for(seed, &["order", &cell.name]));
        let takes_part = |it: &&BuiltSubject| !it.is_twin() || cell.scenario.twin;
        let mut subjects: Vec<_> = subjects.iter().filter(takes_part).collect();
        random.shuffle(&mut subjects);
        Self {
            rows: Rows::new(subjects.len(), random),
            subjects,
        }
    }

    /// The next order.
    fn next(&mut self) -> Vec<&'a BuiltSubject> {
        let row = self.rows.next();
        row.into_iter()
            .map(|letter| self.subjects[letter])
            .collect()
    }
}

/// Rows of Williams squares without end.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Vec<usize>>,
    /// Rows of the present cycle that are still to come.
    left: Vec<Vec<usize>>,
    random: SplitMix,
}

impl Rows {
    /// Rows of `count` letters, in an order by chance.
    pub(super) fn new(count: usize, random: SplitMix) -> Self {
        Self {
            rows: williams(count),
            left: Vec::new(),
            random,
        }
    }

    /// The next row; after each cycle all rows come again, in another order.
    pub(super) fn next(&mut self) -> Vec<usize> {
        if self.left.is_empty() {
            self.left.clone_from(&self.rows);
            self.random.shuffle(&mut self.left);
        }
        self.left.pop().unwrap_or_default()
    }
}

/// Rows of `count` letters in which each letter stands in each place equally often and follows each
/// other one equally often: a square for an even number, a pair of them for an odd one (Williams,
/// "Experimental designs balanced for the estimation of residual effects of treatments", 1949).
fn williams(count: usize) -> Vec<Vec<usize>> {
    // 0, 1, n − 1, 2, n − 2, …: every difference of neighbours comes once.
    let first = (0..count).map(|place| match place % 2 {
        1 => place.div_ceil(2),
        _ => (count - place / 2) % count,
    });
    let first: Vec<usize> = first.collect();
    let turned = |by| -> Vec<usize> { first.iter().map(|it| (it + by) % count).collect() };
    let mut rows: Vec<Vec<usize>> = (0..count).map(turned).collect();
    if count % 2 == 1 && count > 1 {
        let mirrored: Vec<_> = rows
            .iter()
            .map(|row| row.iter().rev().copied().collect())
            .collect();
        rows.extend::<Vec<_>>(mirrored);
    }
    rows
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
        ceiling_per_s: BTreeMap::new(),
        lanes: 0,
        objectives: vec![],
        search: None,
        resolution: None,
    }
}

/// The pairs `cell subject` of a block.
pub(super) fn order(slots: &[Slot<'_>], block: u32) -> Vec<String> {
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
                before: vec![],
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

    /// How often each letter stands in each place, and how often each follows each other one.
    fn counts(rows: &[Vec<usize>]) -> (Vec<usize>, Vec<usize>) {
        let count = rows[0].len();
        let (mut places, mut followers) = (vec![0; count * count], vec![0; count * count]);
        for row in rows {
            for (place, letter) in row.iter().enumerate() {
                places[letter * count + place] += 1;
            }
            for pair in row.windows(2) {
                followers[pair[0] * count + pair[1]] += 1;
            }
        }
        followers = (0..count * count)
            .filter(|it| it / count != it % count)
            .map(|it| followers[it])
            .collect();
        (places, followers)
    }

    #[test]
    fn in_a_square_each_stands_everywhere_and_follows_each_other_equally_often() {
        for count in 2..9 {
            let rows = williams(count);
            let cycles = if count % 2 == 1 { 2 } else { 1 };
            assert_eq!(rows.len(), cycles * count);
            let (places, followers) = counts(&rows);
            assert!(places.iter().all(|it| *it == cycles), "{count}: {places:?}");
            assert!(
                followers.iter().all(|it| *it == cycles),
                "{count}: {followers:?}"
            );
        }
        assert_eq!(williams(1), [[0]]);
        assert!(williams(0).is_empty());
    }

    #[test]
    fn only_the_subjects_of_one_cell_and_block_take_turns_and_only_if_they_may() {
        let (mut cells, subjects) = (cells(), built());
        cells
            .iter_mut()
            .for_each(|cell| cell.scenario.turns = false);
        cells[1].scenario.turns = true;
        let slots = slots(&cells, &subjects, 2, 7);
        let lengths = |may| -> Vec<usize> {
            let groups = groups(&slots, may);
            groups.iter().map(|group| group.len()).collect()
        };
        let alone = lengths(false);
        assert!(alone.iter().all(|length| *length == 1));
        let together = lengths(true);
        assert_eq!(together.iter().filter(|it| **it > 1).count(), 2);
        assert_eq!(together.iter().max(), Some(&subjects.len()));
        for group in groups(&slots, true) {
            assert!(group.iter().all(|it| it.block == group[0].block));
        }
    }

    #[test]
    fn the_blocks_of_a_cycle_are_such_squares_with_and_without_a_twin() {
        let (mut cells, mut subjects) = (cells(), built());
        cells.iter_mut().for_each(|cell| cell.scenario.twin = false);
        cells[1].scenario.twin = true;
        subjects.push(subjects[0].twin());
        let names: Vec<String> = subjects.iter().map(|it| it.subject.name.clone()).collect();
        let slots = slots(&cells, &subjects, 12, 7);
        for (cell, count) in [(0, 3), (1, 4)] {
            let here = |slot: &&Slot| slot.cell.name == cells[cell].name;
            let letter = |slot: &Slot| names.iter().position(|it| *it == slot.subject.subject.name);
            let letters: Vec<usize> = slots.iter().filter(here).filter_map(letter).collect();
            let rows: Vec<Vec<usize>> = letters.chunks(count).map(<[usize]>::to_vec).collect();
            // Twelve blocks are two cycles of three subjects and three of four.
            let (places, followers) = counts(&rows);
            assert!(places.iter().all(|it| *it == 12 / count), "{places:?}");
            let often = 12 / count;
            assert!(followers.iter().all(|it| *it == often), "{followers:?}");
        }
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
