//! What the launches that take turns have in common: the mood of the machine.
//!
//! Of subjects that take turns of a fraction of a second, whatever moves in all of them alike is the
//! machine's. So the course of a launch is divided by the mean course of the others before it is
//! judged. What all subjects do alike, as a warm-up that all of them need, does not show any more; it
//! does not sway their comparison either.

use super::{LaunchData, Quantity};

/// For each launch those that took turns with it; none for a launch that had the machine for itself.
///
/// They follow each other; the same subject once more is another attempt.
pub fn companies(launches: &[LaunchData]) -> Vec<Vec<&LaunchData>> {
    let mut groups: Vec<Vec<&LaunchData>> = Vec::new();
    for data in launches {
        let launch = &data.launch;
        let belongs = |group: &Vec<&LaunchData>| {
            let first = &group[0].launch;
            let is_turn = launch.turns > 1 && first.turns > 1;
            let is_new = group.iter().all(|it| it.launch.subject != launch.subject);
            is_turn && is_new && first.block == launch.block && first.cell == launch.cell
        };
        match groups.last_mut().filter(|group| belongs(group)) {
            Some(group) => group.push(data),
            None => groups.push(vec![data]),
        }
    }
    groups
        .iter()
        .flat_map(|group| (0..group.len()).map(move |place| without(group, place)))
        .collect()
}

fn without<'a>(group: &[&'a LaunchData], place: usize) -> Vec<&'a LaunchData> {
    let kept = group.iter().enumerate().filter(|(it, _)| *it != place);
    kept.map(|(_, data)| *data).collect()
}

/// The course without what the others have in common with it; memory is not the machine's to change.
pub(super) fn without_mood(
    quantity: Quantity,
    mut values: Vec<f64>,
    others: &[Vec<(Quantity, Vec<f64>)>],
) -> Vec<f64> {
    if quantity == Quantity::Pss {
        return values;
    }
    let of = |series: &Vec<(Quantity, Vec<f64>)>| {
        let found = series.iter().find(|(other, _)| *other == quantity)?;
        (found.1.len() == values.len()).then(|| logarithms(&found.1))
    };
    let courses: Vec<Vec<f64>> = others.iter().filter_map(of).collect();
    for (place, value) in values.iter_mut().enumerate() {
        let sum: f64 = courses.iter().map(|course| course[place]).sum();
        *value /= (sum / courses.len().max(1) as f64).exp();
    }
    values
}

/// Logarithms of the values over their geometric mean.
fn logarithms(values: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    logs.iter().map(|log| log - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::synthetic;

    fn launch(subject: &str, turns: u32) -> LaunchData {
        let mut data = synthetic::one_launch();
        data.launch.subject = subject.to_owned();
        data.launch.turns = turns;
        data
    }

    #[test]
    fn what_moves_in_all_alike_is_the_machines_and_what_moves_in_one_is_its_own() {
        let mood = [1.0, 1.1, 1.3, 0.9, 1.0, 1.2, 1.4, 1.0];
        let of = |level: f64| mood.iter().map(|it| level * it).collect::<Vec<f64>>();
        let others = [
            vec![(Quantity::Cpu, of(7.0))],
            vec![(Quantity::Cpu, of(3.0)), (Quantity::Pss, of(1.0))],
        ];
        let flat = without_mood(Quantity::Cpu, of(5.0), &others);
        assert!(flat.iter().all(|it| (it / flat[0] - 1.0).abs() < 1e-12));
        let mut own = of(5.0);
        own[6] *= 1.5;
        let shown = without_mood(Quantity::Cpu, own, &others);
        assert!((shown[6] / shown[0] - 1.5).abs() < 1e-12);
        assert_eq!(without_mood(Quantity::Pss, of(2.0), &others), of(2.0));
        assert_eq!(without_mood(Quantity::Cpu, of(2.0), &[]), of(2.0));
    }

    #[test]
    fn only_launches_of_one_attempt_are_company() {
        let launches = [
            launch("a", 20),
            launch("b", 20),
            launch("a", 20),
            launch("b", 20),
            launch("a", 1),
            launch("b", 1),
        ];
        let companies = companies(&launches);
        let sizes: Vec<usize> = companies.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 1, 1, 0, 0]);
        assert!(std::ptr::eq(companies[3][0], &launches[2]));
    }
}
