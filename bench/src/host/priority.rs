//! Who comes first on a core that several share.

use std::process::{Command, Stdio};

use rustix::thread::gettid;

/// Asks that the calling thread comes first on its core: in the real-time class if that is wanted and
/// granted, else by a better nice value. What it got, in words.
///
/// An ordinary thread that wakes up waits until the running one has used up its slice:
/// milliseconds. `chrt` is part of util-linux, which every distribution has; the system call behind
/// it has no safe binding here.
pub fn prefer_thread(real_time: bool) -> String {
    let tid = gettid();
    let ask = || {
        Command::new("chrt")
            .args(["--fifo", "--pid", "10", &tid.as_raw_nonzero().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if real_time && ask() {
        return "fifo 10".into();
    }
    for nice in [-20, -10, -5] {
        if rustix::process::setpriority_process(Some(tid), nice).is_ok() {
            return format!("nice {nice}");
        }
    }
    "none".into()
}
