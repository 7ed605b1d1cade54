//! One case, and the small words that cases are written with.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Class, Context, Target};
use crate::{broker::Origin, http::Response};

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
    pub check: Check,
}

/// What a check needs for itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    /// The broker with its queues, or the machine's quiet: nothing but sleepers runs at the same time.
    Alone(fn(&mut Context<'_>) -> anyhow::Result<()>),
    /// Neither: it launches a subject without a broker and waits for most of its time, so that
    /// several of them run at once, beside the others.
    Beside(fn(&Target) -> anyhow::Result<()>),
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
            check: Check::Alone(check),
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
            check: Check::Alone(check),
        }
    }

    /// A sleeper that no subject may fail.
    pub(super) const fn required_beside(
        name: &'static str,
        check: fn(&Target) -> anyhow::Result<()>,
    ) -> Self {
        Self {
            name,
            class: Class::Required,
            check: Check::Beside(check),
        }
    }

    /// A sleeper that a subject may fail if it declares so.
    pub(super) const fn hardening_beside(
        name: &'static str,
        check: fn(&Target) -> anyhow::Result<()>,
    ) -> Self {
        Self {
            name,
            class: Class::Hardening,
            check: Check::Beside(check),
        }
    }
}

/// Why a case cannot be tried here; it is not the subject's fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Skip(pub String);

/// What is done to the broker as a whole is done to a private node only.
///
/// # Errors
/// [`Skip`] for any other broker.
pub(super) fn need_private_node(context: &Context<'_>) -> Result<(), Skip> {
    match context.broker.origin() {
        Origin::PrivateNode => Ok(()),
        _ => Err(Skip(
            "only a private node may be disturbed as a whole".to_owned(),
        )),
    }
}

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
        ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Checks the status of an answer; the error repeats its body, which says why.
///
/// # Errors
/// If it is another one.
pub(super) fn expect_status(what: &str, response: &Response, status: u16) -> anyhow::Result<()> {
    let (seen, text) = (response.status, response.text());
    ensure!(seen == status, "{what}: {seen} instead of {status}: {text}");
    Ok(())
}

/// Checks that a refusal for want of room says when to come back.
///
/// # Errors
/// If it is no 503 or has no `Retry-After`.
pub(super) fn expect_later(what: &str, response: &Response) -> anyhow::Result<()> {
    expect_status(what, response, 503)?;
    let retry = response.header("Retry-After").unwrap_or_default();
    ensure!(
        retry.parse::<u32>().is_ok(),
        "{what}: Retry-After is {retry:?}"
    );
    Ok(())
}

/// Checks that something took between `least` and `most`.
///
/// # Errors
/// If it did not.
pub(super) fn expect_between(
    what: &str,
    took: Duration,
    least: Duration,
    most: Duration,
) -> anyhow::Result<()> {
    let fits = (least..=most).contains(&took);
    ensure!(fits, "{what}: {took:?}, not within {least:?} to {most:?}");
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
