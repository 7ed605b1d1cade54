//! A campaign: what must be true of a parser, tried on as many inputs as fit into a time, and
//! counted.
//!
//! Test code, and the one mechanism of every campaign: the crates that parse include it with
//! `#[path]`.
//! `THREEWAYS_CAMPAIGN_S` is the time of each campaign in seconds, one if it is not set.
//! A failure prints the smallest input that was found, and the seed with which it is found again
//! (`THREEWAYS_CAMPAIGN_SEED`).

use std::{
    cell::Cell,
    env,
    fmt::{self, Debug, Formatter},
    io::Write as _,
    str::FromStr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Inputs under one seed: where a failure is to be found again among so many.
const BATCH: u32 = 64;
/// What mutations insert: what means something in one of the formats.
const TOKENS: [&[u8]; 16] = [
    b"\0", b"\r", b"\n", b"\r\n", b" ", b":", b",", b";", b"0", b"-1", b"1e999", b"\"", b"{", b"[",
    b"\\u0000", b"\xff",
];

/// What a parser made of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Accepted,
    Refused,
}

/// Tries `check` on `inputs` until the time is over, and prints the counts.
///
/// An error or a panic of `check` is a finding and fails the test; so does a generator whose
/// inputs are hardly ever accepted or never refused, because it tries next to nothing.
pub fn run<S: Strategy>(
    name: &str,
    inputs: S,
    check: impl Fn(S::Value) -> Result<Seen, TestCaseError>,
) {
    let time = Duration::from_secs_f64(setting("THREEWAYS_CAMPAIGN_S").unwrap_or(1.0));
    let first = setting("THREEWAYS_CAMPAIGN_SEED").unwrap_or_else(fresh_seed);
    let (tried, accepted) = (Cell::new(0_u64), Cell::new(0_u64));
    let started = Instant::now();
    for seed in first.. {
        let outcome = runner(seed).run(&inputs, |input| {
            let seen = check(input)?;
            tried.set(tried.get() + 1);
            accepted.set(accepted.get() + u64::from(seen == Seen::Accepted));
            Ok(())
        });
        if let Err(finding) = outcome {
            panic!("campaign {name}: {finding}\nagain with THREEWAYS_CAMPAIGN_SEED={seed}");
        }
        if started.elapsed() >= time {
            break;
        }
    }
    let (tried, accepted) = (tried.get(), accepted.get());
    let (refused, percent) = (tried - accepted, accepted * 100 / tried);
    // Written and not printed: the test harness keeps what is printed by a test that passes.
    let _ = writeln!(
        std::io::stdout(),
        "campaign {name}: {tried} inputs in {:.1} s: {accepted} accepted ({percent} %), {refused} \
         refused, seed {first}",
        started.elapsed().as_secs_f64()
    );
    assert!(
        percent >= 5 && refused > 0,
        "the inputs of {name} are too uniform"
    );
}

fn runner(seed: u64) -> TestRunner {
    let config = Config {
        cases: BATCH,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn setting<T: FromStr<Err: Debug>>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Another one at every run: what one run does not find, the next may.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::from(since.unwrap_or_default().subsec_nanos())
}

/// Bytes that are shown as text.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

impl Debug for Bytes {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        write!(to, "b\"{}\"", self.0.escape_ascii())
    }
}

/// What is valid, and what is nearly so: every second input has one to three changes.
pub fn nearly(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Bytes> {
    let change = (any::<Index>(), any_edit());
    let edits = prop_oneof![Just(Vec::new()), prop::collection::vec(change, 1..4)];
    (valid, edits).prop_map(|(mut bytes, edits)| {
        for (at, edit) in edits {
            edit.apply(&mut bytes, at);
        }
        Bytes(bytes)
    })
}

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Insert(Vec<u8>),
    Replace(u8),
    Remove(usize),
    Repeat(usize),
    Cut,
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        prop::sample::select(&TOKENS[..]).prop_map(|token| Edit::Insert(token.to_vec())),
        any::<u8>().prop_map(Edit::Replace),
        (1..20_usize).prop_map(Edit::Remove),
        (1..40_usize).prop_map(Edit::Repeat),
        Just(Edit::Cut),
    ]
}

impl Edit {
    fn apply(self, bytes: &mut Vec<u8>, at: Index) {
        let at = at.index(bytes.len() + 1);
        let end = |count| bytes.len().min(at + count);
        match self {
            Self::Insert(more) => drop(bytes.splice(at..at, more)),
            Self::Replace(byte) => drop(bytes.splice(at..end(1), [byte])),
            Self::Remove(count) => drop(bytes.drain(at..end(count))),
            Self::Repeat(count) => {
                let more = bytes[at..end(count)].to_vec();
                drop(bytes.splice(at..at, more));
            }
            Self::Cut => bytes.truncate(at),
        }
    }
}
