//! Whether a core that has nothing to do goes to sleep.
//!
//! A core that sleeps takes its time to wake up, and on a virtual machine the host gives it to
//! somebody else meanwhile, who empties its caches: both are charged to the subject, and neither
//! is the same twice. Linux lets a process forbid it for as long as it keeps
//! `/dev/cpu_dma_latency` open (kernel documentation, "PM Quality of Service Interface").

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

/// The kernel's file; only root may open it.
const FILE: &str = "/dev/cpu_dma_latency";

/// Keeps the machine's cores from sleeping until it is dropped.
#[derive(Debug)]
pub struct Awake {
    _request: File,
}

impl Awake {
    /// Asks the kernel; `None`, with a warning, if it refuses.
    #[must_use]
    pub fn hold() -> Option<Self> {
        match request() {
            Ok(_request) => Some(Self { _request }),
            Err(error) => {
                log::warn!(
                    "idle cores may sleep, and figures scatter more by it: cannot open {FILE} \
                     ({error}), which takes root and a kernel with power management"
                );
                None
            }
        }
    }
}

fn request() -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(FILE)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

/// Whether somebody, this process or another one, forbids every core to sleep.
#[must_use]
pub fn cores_stay_awake() -> bool {
    let read = || -> std::io::Result<i32> {
        let mut bytes = [0; 4];
        File::open(FILE)?.read_exact(&mut bytes)?;
        Ok(i32::from_ne_bytes(bytes))
    };
    read().is_ok_and(|longest_us| longest_us == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_stay_awake_as_long_as_that_is_held() {
        let held = Awake::hold();
        assert_eq!(cores_stay_awake(), held.is_some());
    }
}
