//! Faults of what the service stands on: device, descriptors, disk.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::super::stage::{Setup, Skip, Stage};
use super::Cause;
use crate::device::Simulator;
use crate::sample::read_metric;

/// The device closes its connections and its port, and comes back at the same address.
#[derive(Default)]
pub(in crate::faults) struct DeviceGone {
    address: Option<SocketAddr>,
}

impl Cause for DeviceGone {
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let device = stage.device.take().context("there is no device")?;
        self.address = Some(device.address());
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let address = self.address.context("it was not gone")?;
        let device = Simulator::start(address, super::super::stage::DEVICE_LATENCY);
        stage.device = Some(device.context("the device's address is taken")?);
        Ok(())
    }
}

/// Clients that take what descriptors are left.
const CROWD: usize = 64;

/// Every process of the service may have no more descriptors than the busiest of them has, as
/// under a limit that was set too low, and clients take the rest.
#[derive(Default)]
pub(in crate::faults) struct NoDescriptors {
    before: Vec<(Pid, Rlimit)>,
    crowd: Vec<TcpStream>,
}

impl Cause for NoDescriptors {
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let mut open = Vec::new();
        for pid in stage.processes()? {
            let count = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
            open.push((pid, count));
        }
        let busiest = open.iter().map(|(_, count)| *count).max();
        for (number, _) in &open {
            let pid = Pid::from_raw(*number).context("a process number is positive")?;
            // The kernel gives the lowest free number, so this many leave the busiest none.
            let low = Rlimit {
                current: busiest,
                maximum: limit_of(*number)?,
            };
            let before = prlimit(Some(pid), Resource::Nofile, low)?;
            self.before.push((pid, before));
        }
        let address = stage.address()?;
        let knock = |_| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
        self.crowd = (0..CROWD).filter_map(knock).collect();
        stage.note(
            "descriptors of the busiest process",
            busiest.unwrap_or_default() as f64,
        );
        Ok(())
    }

    fn heal(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        for (pid, before) in self.before.drain(..) {
            // One that has ended needs none.
            let _ = prlimit(Some(pid), Resource::Nofile, before);
        }
        self.crowd.clear();
        Ok(())
    }
}

/// The hard limit of a process; it must not be lowered, or it could not be raised again.
fn limit_of(pid: i32) -> anyhow::Result<Option<u64>> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(4));
    Ok(hard.context("no limit of open files")?.parse().ok())
}

/// Size of the disk that is filled; far more than the sink writes in a repetition.
const DISK_BYTES: usize = 1 << 20;

/// The file sink's disk is full, and then has room again.
#[derive(Default)]
pub(in crate::faults) struct DiskFull {
    disk: Option<Disk>,
}

impl Cause for DiskFull {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        let disk = Disk::mount(&setup.scratch.join("disk"))?;
        let sink = disk.path.join("events.jsonl").display().to_string();
        setup.environment.insert("BC_SINK".to_owned(), sink);
        self.disk = Some(disk);
        Ok(())
    }

    fn cause(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let disk = self.disk.as_ref().context("no disk was mounted")?;
        let filled = fs::write(disk.filler(), vec![0; 2 * DISK_BYTES]);
        ensure!(filled.is_err(), "the disk takes more than its size");
        Ok(())
    }

    fn heal(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let disk = self.disk.as_ref().context("no disk was mounted")?;
        fs::remove_file(disk.filler()).context("the disk stays full")
    }

    fn look(&self, stage: &mut Stage<'_>) {
        let dropped = stage.get("/metrics").map(|text| {
            let failed = r#"task="flush",ok="false""#;
            (
                read_metric(&text, "sink_dropped_total", ""),
                read_metric(&text, "task_runs_total", failed),
            )
        });
        match dropped {
            Ok((lines, runs)) => {
                stage.note("lines dropped", lines as f64);
                stage.note("writes failed", runs as f64);
                if runs == 0 {
                    let problem = "the full disk was not noticed".to_owned();
                    stage.problems.push(problem);
                }
            }
            Err(error) => stage.problems.push(format!("{error:#}")),
        }
    }
}

/// A small disk in memory; unmounted when it is dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)?;
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            let path = path.to_owned();
            return Ok(Self { path });
        }
        Err(Skip("this user may not mount a small disk".to_owned()).into())
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a subject that is still stopping may have the file open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            log::warn!("cannot unmount {}", self.path.display());
        }
    }
}
