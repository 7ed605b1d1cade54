//! What the generator can do at all, measured where the run will be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::RunError;
use crate::calibrate;
use crate::record::Layout;
use crate::scenario::Cell;

/// Window of each measurement: the rates are held against a third of what comes out.
const WINDOW: Duration = Duration::from_millis(500);
/// Measurements in each layout, of which the highest counts: whatever else happens on the machine
/// can only lower what the generator reaches, and a ceiling is what it can reach.
const ATTEMPTS: usize = 3;

/// REST requests per second that the generator reaches against the null server, in each layout in
/// which the cells send any; over the fewest connections that one of them has.
///
/// # Errors
/// [`RunError::Ceiling`] if the null server or the generator cannot begin.
pub(super) fn measure(
    cells: &[Cell],
    interrupt: &AtomicBool,
) -> Result<BTreeMap<Layout, f64>, RunError> {
    let mut ceilings = BTreeMap::new();
    for (layout, connections) in connections(cells) {
        for _ in 0..ATTEMPTS {
            let found = calibrate::ceiling(layout, connections, WINDOW, interrupt)?;
            if interrupt.load(Ordering::Relaxed) {
                return Ok(ceilings);
            }
            let highest = ceilings.entry(layout).or_insert(0.0_f64);
            *highest = found.rate_per_s.max(*highest);
        }
    }
    Ok(ceilings)
}

fn connections(cells: &[Cell]) -> BTreeMap<Layout, usize> {
    let mut fewest = BTreeMap::new();
    for scenario in cells.iter().map(|cell| &cell.scenario) {
        if scenario.load.rest.is_some() {
            let least = fewest.entry(scenario.layout).or_insert(usize::MAX);
            *least = scenario.connections.min(*least);
        }
    }
    fewest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::profile::ProfileName;
    use crate::scenario;

    #[test]
    fn each_layout_with_rest_load_is_measured_over_its_fewest_connections() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let all = scenario::read_all(&folder).expect("the files are valid");
        let cell = |name: &str| {
            let found = all.iter().find(|it| it.name == name);
            found
                .expect("a scenario")
                .cells(ProfileName::Smoke)
                .remove(0)
        };
        let mut native = cell("soak");
        native.scenario.connections = 3;
        let cells = [cell("io-wait"), cell("steady-mixed"), native];
        let expected = [(Layout::Isolated, 16), (Layout::Native, 3)];
        assert_eq!(connections(&cells), expected.into());
        assert!(connections(&[cell("idle"), cell("ingest")]).is_empty());
    }

    #[test]
    fn a_ceiling_is_found() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let all = scenario::read_all(&folder).expect("the files are valid");
        let soak = all.iter().find(|it| it.name == "soak").expect("a scenario");
        let cells = soak.cells(ProfileName::Smoke);
        let found = measure(&cells, &AtomicBool::new(false)).expect("loopback");
        assert!(found[&Layout::Native] > 100.0, "{found:?}");
    }
}
