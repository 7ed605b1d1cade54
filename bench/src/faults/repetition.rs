//! The order of one repetition, whatever the fault:
//! `prepare → launch → load → cause → hold → heal → recover → drain → account`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE};

use super::account::{Remains, account, missing};
use super::catalogue::Fault;
use super::cause::Cause;
use super::journal::{Id, Operation, Source};
use super::record::Repetition;
use super::recovery::{CALM, failed, failed_before, recovered, tally};
use super::stage::{Setup, Skip, Stage};
use crate::broker::Broker;
use crate::sample::read_metric;
use crate::subject::BuiltSubject;

/// Load before the fault: every key is visible then, and the process tree has settled.
const WARM_UP: Duration = Duration::from_millis(700);
/// From the end of the fault to the second look at the memory.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Longest wait for recovery. The contract's longest pause before a reconnect is 3 s and the target
/// for a broker that is back is 5 s; what takes longer is to be measured and not cut off.
const RECOVERY_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait until every message is accounted for after the load has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for poison that is on its way to the dead-letter queue.
const DEAD_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What all repetitions of a run stand on.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The broker, its queues empty; a private node is disturbed as a whole.
    pub broker: &'a mut Broker,
    /// A folder for the subjects' stderr and the faults' own files; it must exist.
    pub scratch: &'a Path,
    /// Gives the current repetition up.
    pub interrupt: &'a AtomicBool,
    /// Tells this run's messages from those of others.
    pub seed: u64,
}

/// Causes a fault to a subject and accounts for the result; `None` if it was interrupted.
///
/// What goes wrong is written into the record: the next repetition may fare better.
pub fn perform(
    ground: &mut Ground<'_>,
    fault: &Fault,
    subject: &BuiltSubject,
    repetition: u32,
) -> Option<Repetition> {
    let mut record = Repetition {
        fault: fault.name.to_owned(),
        subject: subject.subject.name.clone(),
        repetition,
        ..Repetition::default()
    };
    let mut cause = (fault.make)();
    let attempted = attempt(ground, fault, subject, cause.as_mut(), &mut record);
    if ground.interrupt.load(Ordering::Relaxed) {
        return None;
    }
    if let Err(error) = attempted {
        match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => record.skipped = Some(reason.clone()),
            None => record.problems.push(format!("{error:#}")),
        }
    }
    Some(record)
}

fn attempt(
    ground: &mut Ground<'_>,
    fault: &Fault,
    subject: &BuiltSubject,
    cause: &mut dyn Cause,
    record: &mut Repetition,
) -> anyhow::Result<()> {
    let mut setup = Setup {
        broker: ground.broker,
        model: &subject.subject.model,
        environment: BTreeMap::new(),
        proxied: false,
        scratch: ground.scratch.to_owned(),
    };
    cause.prepare(&mut setup)?;
    let (environment, proxied) = (setup.environment, setup.proxied);
    let (name, repetition) = (&record.subject, record.repetition);
    let id = format!("{:x}-{}-{name}-{repetition}", ground.seed, fault.name);
    let at = (ground.scratch, id.as_str());
    let mut stage = Stage::start(subject, ground.broker, environment, proxied, at)?;
    let played = play(&mut stage, fault, cause, ground.interrupt, record)
        .and_then(|()| conclude(&mut stage, cause, &id, record));
    record.figures = std::mem::take(&mut stage.figures);
    record.problems = std::mem::take(&mut stage.problems);
    played
}

/// From the warm-up to the recovery, or to the end of the patience with it.
fn play(
    stage: &mut Stage<'_>,
    fault: &Fault,
    cause: &mut dyn Cause,
    interrupt: &AtomicBool,
    record: &mut Repetition,
) -> anyhow::Result<()> {
    pause(WARM_UP, interrupt);
    if interrupt.load(Ordering::Relaxed) {
        return Ok(());
    }
    record.pss_before_bytes = stage.pss_bytes();
    let begun = Instant::now();
    cause.cause(stage)?;
    pause(fault.hold, interrupt);
    cause.heal(stage)?;
    let healed = stage.ended.unwrap_or_else(Instant::now);
    record.fault_s = healed.duration_since(begun).as_secs_f64();
    let after = stage.load.at(healed);
    while !interrupt.load(Ordering::Relaxed) && healed.elapsed() < RECOVERY_LIMIT {
        let operations = stage.load.operations();
        let now = stage.load.at(Instant::now());
        let time_of = |is_rest| {
            let operations = operations.iter().filter(|it| it.kind.is_rest() == is_rest);
            let at = recovered(operations, after, now)?;
            Some((at - after).as_secs_f64())
        };
        record.rest_recovery_s = time_of(true);
        record.amqp_recovery_s = time_of(false);
        let is_recovered = record.rest_recovery_s.is_some() && record.amqp_recovery_s.is_some();
        if stage.note_death() || is_recovered && healed.elapsed() >= AFTERMATH {
            break;
        }
        std::thread::sleep(LOOK);
    }
    record.pss_after_bytes = stage.pss_bytes();
    let begun = stage.load.at(begun);
    note_early_failures(stage, begun);
    Ok(())
}

/// What fails before the fault is not its doing, and must be told.
fn note_early_failures(stage: &mut Stage<'_>, begun: Duration) {
    let early = failed_before(&stage.load.operations(), begun);
    if early > 0 {
        stage.note("operations that failed before the fault", early as f64);
    }
}

/// From the end of the load to the account.
fn conclude(
    stage: &mut Stage<'_>,
    cause: &dyn Cause,
    id: &str,
    record: &mut Repetition,
) -> anyhow::Result<()> {
    stage.load.finish();
    let operations: Vec<Operation> = stage.load.operations();
    record.operations = tally(&operations);
    record.failed = failed(&operations);
    stage.replace(None)?;
    if let Err(error) = drain(stage) {
        // Another one takes what is still queued, so that the messages can be accounted for.
        stage.replace(Some(&error))?;
        drain(stage)?;
    }
    note_reconnects(stage);
    cause.look(stage);
    stage.stop_service()?;
    let remains = remains(stage, id)?;
    let journal = stage.load.journal();
    record.messages = account(&journal, &stage.testimony, &remains, stage.excuse);
    drop(journal);
    Ok(())
}

/// How often the service had to connect again, in its last life.
fn note_reconnects(stage: &mut Stage<'_>) {
    let metrics = stage.get("/metrics").unwrap_or_default();
    let count = read_metric(&metrics, "amqp_reconnects_total", "");
    if count > 0 {
        stage.note("reconnects", count as f64);
    }
}

/// Waits until every message has had its effect; what has not by then is looked for elsewhere.
fn drain(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        // A service that has just been started may not know its store yet.
        let asked = stage.testify();
        let left = missing(&stage.load.journal(), &stage.testimony).len();
        if left == 0 && asked.is_ok() || Instant::now() > deadline {
            return asked;
        }
        std::thread::sleep(LOOK);
    }
}

/// What the queues hold now that the service has ended.
fn remains(stage: &Stage<'_>, id: &str) -> anyhow::Result<Remains> {
    let mut session = stage.broker.session()?;
    let poison = stage.load.journal().poison.len();
    let deadline = Instant::now() + DEAD_LIMIT;
    let mut take_all = |queue: &str, found: &mut BTreeSet<Id>| {
        while let Some(delivery) = session.get(queue)? {
            let own = delivery.properties.message_id().as_ref();
            let own = own.and_then(|own| own.as_str().strip_prefix(id)?.strip_prefix('-'));
            let own = own.and_then(|seq| seq.parse().ok()).map(|seq| Id {
                source: Source::Amqp,
                seq,
            });
            found.extend(own.or_else(|| Id::of_body(&delivery.body)));
        }
        Ok::<_, crate::amqp::Error>(())
    };
    let mut remains = Remains::default();
    take_all(INGEST_QUEUE, &mut remains.queued)?;
    loop {
        take_all(DEAD_LETTER_QUEUE, &mut remains.dead)?;
        if remains.dead.len() >= poison || Instant::now() > deadline {
            return Ok(remains);
        }
        std::thread::sleep(CALM / 20);
    }
}

/// Waits, unless the run is interrupted.
fn pause(length: Duration, interrupt: &AtomicBool) {
    let until = Instant::now() + length;
    while !interrupt.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}
