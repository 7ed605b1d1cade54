//! Gates on the instrument itself: where the threads ran, and what the sampler used.

use super::{Gate, GateUnit, LaunchData, Limit, TICK_S};
use crate::record::Pinning;

/// Samples of a launch that has none between the edges of its window.
const AT_THE_EDGES: usize = 2;

/// Threads that may run elsewhere than the layout says, and moves of a generator that has a core of
/// its own: each makes the figures those of another layout.
pub(super) fn pinning(pinning: &Pinning) -> Gate {
    let subject = &pinning.subject;
    let (mut wrong, mut notes) = (u64::from(subject.strays), vec![]);
    if subject.strays > 0 {
        notes.push(format!("subject: {}", subject.example));
    }
    if let Some(generator) = pinning.generator.as_ref().filter(|it| it.allowed.is_some()) {
        let moves = generator.migrations.unwrap_or(0);
        wrong += u64::from(generator.strays) + moves;
        if generator.strays > 0 {
            notes.push(format!("generator: {}", generator.example));
        }
        if moves > 0 {
            notes.push(format!("the generator moved {moves} times"));
        }
    }
    let mut gate = Gate::new(
        "pinning",
        GateUnit::Count,
        Limit::at_most(0.0),
        wrong as f64,
    );
    // A subject must not change its own affinity.
    gate.blames_subject = subject.strays > 0;
    if notes.is_empty() {
        gate
    } else {
        gate.noted(notes.join("; "))
    }
}

/// The sampler must not be what is measured. It may use a tick of a short window, in which its first
/// sample weighs more; and it must look at the window's edges, without which there is no CPU figure:
/// at 64 processes that alone takes 20 ms each time, on the instrument's core.
pub(super) fn sampler(data: &LaunchData, ratio: f64) -> Gate {
    let tick = TICK_S / data.launch.window_s.max(TICK_S);
    if data.samples.len() == AT_THE_EDGES {
        let open = Limit {
            min: None,
            max: None,
        };
        let gate = Gate::new("sampler", GateUnit::Cores, open, ratio);
        return gate.noted("it looked at the edges of the window only");
    }
    let limit = Limit::at_most(tick.max(0.005));
    Gate::new("sampler", GateUnit::Cores, limit, ratio)
}
