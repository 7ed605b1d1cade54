//! What the bare client loops share: arguments and the stopwatch.

use std::{fs, time::Instant};

use anyhow::Context;

/// Arguments of a bare client loop.
pub struct Arguments {
    /// Broker's host.
    pub host: String,
    /// Broker's port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
    /// Queue to drain.
    pub queue: String,
    /// Deliveries in flight.
    pub prefetch: u16,
    /// Deliveries per ack.
    pub ack_batch: u64,
    /// Messages to take.
    pub messages: u64,
}

impl Arguments {
    /// Parses `URL QUEUE PREFETCH ACK_BATCH MESSAGES`.
    pub fn parse() -> anyhow::Result<Self> {
        let all: Vec<String> = std::env::args().skip(1).collect();
        let [url, queue, prefetch, ack_batch, messages] = all.as_slice() else {
            anyhow::bail!("usage: URL QUEUE PREFETCH ACK_BATCH MESSAGES");
        };
        let (credentials, address) = url
            .strip_prefix("amqp://")
            .and_then(|rest| rest.split_once('@'))
            .context("a URL like amqp://user:password@host:port")?;
        let (user, password) = credentials
            .split_once(':')
            .context("a user and a password")?;
        let (host, port) = address
            .split('/')
            .next()
            .unwrap_or(address)
            .split_once(':')
            .context("a port")?;
        Ok(Self {
            host: host.into(),
            port: port.parse()?,
            user: user.into(),
            password: password.into(),
            queue: queue.clone(),
            prefetch: prefetch.parse()?,
            ack_batch: ack_batch.parse()?,
            messages: messages.parse()?,
        })
    }
}

/// What to do with the delivery that was just counted.
pub struct Tag {
    /// Ack everything up to it.
    pub ack: bool,
    /// It is the last.
    pub last: bool,
}

/// Counts deliveries from a tenth of the messages on, so that the start does not count.
#[derive(Default)]
pub struct Stopwatch {
    seen: u64,
    counted: u64,
    start: Option<(Instant, u64)>,
}

impl Stopwatch {
    /// Counts one delivery.
    pub fn count(&mut self, arguments: &Arguments) -> Tag {
        self.seen += 1;
        if self.start.is_none() && self.seen >= arguments.messages / 10 {
            self.start = Some((Instant::now(), cpu_ns()));
        } else if self.start.is_some() {
            self.counted += 1;
        }
        let last = self.seen == arguments.messages;
        let batch = arguments
            .ack_batch
            .min(u64::from(arguments.prefetch / 2).max(1));
        Tag {
            ack: last || self.seen.is_multiple_of(batch),
            last,
        }
    }

    /// Prints the figures.
    #[allow(clippy::cast_precision_loss)]
    pub fn print(&self) {
        let Some((start, cpu)) = self.start else {
            return;
        };
        let seconds = start.elapsed().as_secs_f64();
        let (rate, cpu_us) = (
            self.counted as f64 / seconds,
            (cpu_ns() - cpu) as f64 / 1e3 / self.counted as f64,
        );
        println!(r#"{{"messages_per_s":{rate:.0},"cpu_us_per_message":{cpu_us:.3}}}"#);
    }
}

/// On-CPU time of all threads of this process.
fn cpu_ns() -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let times = tasks
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("schedstat")));
    times
        .flatten()
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
