//! Subjects that take turns: what happens to all of them when one dies, or when the user has enough.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use threeways::sample::descendants;

/// From the announcement of a block until its subjects are under load: they start within a second
/// each, and the load takes some ten more.
const UNDER_LOAD: Duration = Duration::from_secs(7);
/// Longest time from then to the end of the program, which makes a disturbed block again.
const PATIENCE: Duration = Duration::from_secs(180);

/// Launches of a block: both subjects, and the twin of the first.
const TOGETHER: usize = 3;

/// One run at a time: each would wait for the other one's end and call itself disturbed.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_RUN: Mutex<()> = Mutex::new(());
    ONE_RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A comparison of two subjects, at the begin of its first block.
struct Run {
    program: Child,
    out: PathBuf,
}

impl Run {
    fn begin(name: &str) -> Self {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&out);
        let mut program = Command::new(env!("CARGO_BIN_EXE_threeways"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["run", "--scenario", "steady-mixed", "--profile", "standard"])
            .args(["--subject", "async", "--subject", "multi-thread"])
            .args(["--blocks", "1", "--out"])
            .arg(&out)
            .env_remove("AMQP_URL")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let stderr = BufReader::new(program.stderr.take().expect("piped"));
        let mut lines = stderr.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("block 0")), "no block");
        // Somebody has to read on, or the program would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        std::thread::sleep(UNDER_LOAD);
        Self { program, out }
    }

    /// Waits for its end: how it went, and what the report says of each launch, of which those of the
    /// first attempt at the block are not valid. If the host disturbed them, they were made again.
    fn end(mut self) -> (ExitStatus, Vec<String>) {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.program.try_wait().expect("our own child") {
                break status;
            }
            assert!(since.elapsed() < PATIENCE, "it hangs");
            std::thread::sleep(Duration::from_millis(50));
        };
        let run = std::fs::read_dir(&self.out).expect("made by it").flatten();
        let run = run.map(|entry| entry.path()).next().expect("one run");
        assert!(run.join("report.html").exists());
        let summary = std::fs::read(run.join("summary.json")).expect("written");
        let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
        let launches = summary["launches"].as_array().expect("a list");
        for launch in &launches[..TOGETHER] {
            assert_eq!(launch["standing"], "invalid", "{launch}");
        }
        let gates = launches.iter().map(|launch| launch["gates"].to_string());
        (status, gates.collect())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn pid(number: u32) -> Pid {
    let number = i32::try_from(number).expect("process ids are positive i32");
    Pid::from_raw(number).expect("not 0")
}

/// The process below `parent` that runs this executable.
fn child(parent: u32, executable: &str) -> Option<Pid> {
    let below = descendants(pid(parent).as_raw_nonzero().get()).into_iter();
    let mut found = below.filter(|pid| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        exe.ends_with(executable)
    });
    found.next().and_then(Pid::from_raw)
}

#[test]
fn a_subject_that_dies_in_its_turns_voids_the_block_and_ends_nothing_else() {
    let _alone = alone();
    let run = Run::begin("turns-killed");
    let victim = child(run.program.id(), "service-async").expect("it is up");
    kill_process(victim, Signal::KILL).expect("it lives");
    let (status, launches) = run.end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(launches.len() % TOGETHER, 0);
    let died = launches.iter().filter(|launch| launch.contains("died"));
    assert_eq!(died.count(), 1);
}

#[test]
fn an_interrupted_block_is_kept_and_marked() {
    let _alone = alone();
    let run = Run::begin("turns-interrupted");
    // Both without a pause, as `timeout` sends its one twice: that is no second wish.
    for signal in [Signal::INT, Signal::TERM] {
        kill_process(pid(run.program.id()), signal).expect("it runs");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (status, launches) = run.end();
    assert_eq!(status.code(), Some(130));
    assert_eq!(launches.len(), TOGETHER);
    for launch in launches {
        assert!(launch.contains("interrupted"), "{launch}");
    }
}
