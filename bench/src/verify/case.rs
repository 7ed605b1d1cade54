//! One case, and the small words that cases are written with.

use std::time::{Duration, Instant};

use super::{Class, Context};

/// Rounds of a case that measures time.
const ROUNDS: usize = 5;

/// A named check.
#[derive(Debug)]
pub(super) struct Case {
    /// The case as a sentence.
    pub name: &'static str,
    /// Whether a subject may fail it.
    pub class: Class,
    /// The check itself; an error says what was seen instead.
    pub check: fn(&mut Context<'_>) -> anyhow::Result<()>,
}

impl Case {
    /// A case that no subject may fail.
    pub(super) const fn required(
        name: &'static str,
        check: fn(&mut Context<'_>) -> anyhow::Result<()>,
    ) -> Self {
        Self {
            name,
            class: Class::Required,
            check,
        }
    }

    /// A case that a subject may fail if it declares so.
    pub(super) const fn hardening(
        name: &'static str,
        check: fn(&mut Context<'_>) -> anyhow::Result<()>,
    ) -> Self {
        Self {
            name,
            class: Class::Hardening,
            check,
        }
    }
}

/// Why a case cannot be tried here; it is not the subject's fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Skip(pub String);

/// Asks again and again until `question` says yes.
///
/// # Errors
/// Its own error, or one that names `what` after `limit`.
pub(super) fn eventually(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !question()? {
        anyhow::ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Checks that the median of what `measure` yields lies below `limit` in one round of several:
/// a delay that a library adds is there in every round, one of a busy machine is not.
///
/// # Errors
/// The error of `measure`, or one with the best median.
pub(super) fn median_below(
    limit: Duration,
    mut measure: impl FnMut() -> anyhow::Result<Vec<Duration>>,
) -> anyhow::Result<()> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let mut durations = measure()?;
        durations.sort_unstable();
        best = best.min(durations.get(durations.len() / 2).copied().unwrap_or(best));
        if best < limit {
            return Ok(());
        }
    }
    anyhow::bail!("p50 is {best:?} in the best of {ROUNDS} rounds")
}
