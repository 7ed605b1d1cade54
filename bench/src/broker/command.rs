//! Runs programs that may hang.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Error, error::io_error};

/// Characters of a program's output that an error repeats.
const TAIL: usize = 600;

/// Runs `command` to its end and returns what it printed on standard output.
///
/// # Errors
/// [`Error::Command`] with the end of its output if it fails or takes longer than `limit`, then
/// it is killed; [`Error::Io`] if it cannot be started.
pub(super) fn run(command: &mut Command, limit: Duration) -> Result<String, Error> {
    let what = shown(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(io_error(format!("cannot start {what}")))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().map_err(io_error(what.clone()))? {
            Some(status) => break Some(status),
            None if Instant::now() >= deadline => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        // What it started in turn may keep the pipes open, so its output is not waited for.
        let _ = child.kill();
        let _ = child.wait();
        let output = format!("no end within {limit:?}");
        return Err(Error::Command { what, output });
    }
    let (out, err) = (joined(stdout), joined(stderr));
    if status.is_some_and(|status| status.success()) {
        return Ok(out);
    }
    let output = tail(&format!("{out}{err}"));
    Err(Error::Command { what, output })
}

/// Whether `command` runs and succeeds within ten seconds.
pub(super) fn succeeds(command: &mut Command) -> bool {
    run(command, Duration::from_secs(10)).is_ok()
}

/// The last characters of a text.
pub(super) fn tail(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(TAIL);
    text.chars()
        .skip(skipped)
        .collect::<String>()
        .trim()
        .to_owned()
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args().take(4));
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

type Collector = Option<std::thread::JoinHandle<String>>;

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collector {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // Half an output is better than none.
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    })
}

fn joined(collector: Collector) -> String {
    collector
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default()
}
