//! Short questions to a running subject: is it the right one, what has it counted?

use std::time::{Duration, Instant};

use crate::http::{Client, Request};
use crate::launch::Running;
use crate::load::key;
use crate::sample::read_metric;

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(3);
/// Longest wait for an effect that should be there at once.
const LIMIT: Duration = Duration::from_secs(2);

/// The brief verification before each load: lives, is the model that it is said to be, and
/// computes rightly. The whole suite is `threeways verify`.
pub(super) fn verify(running: &Running, model: &str) -> Result<(), String> {
    let get = |path: &str| {
        running
            .get(path)
            .map_err(|error| format!("{path}: {:#}", anyhow::Error::from(error)))
    };
    let (status, _) = get("/healthz")?;
    if status != 200 {
        return Err(format!("/healthz says {status}"));
    }
    let (_, info) = get("/info")?;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap_or_default();
    if info["model"] != model {
        return Err(format!(
            "/info says model {}, expected {model}",
            info["model"]
        ));
    }
    flatten(running)
}

fn flatten(running: &Running) -> Result<(), String> {
    let ask = || {
        let mut client = Client::connect(running.address(), Duration::from_secs(1))?;
        client.exchange(&Request {
            headers: &[
                ("Content-Type", "application/json"),
                ("Connection", "close"),
            ],
            ..Request::post("/api/v1/flatten", br#"{"b":[1,{"c":"2.5"}],"a":true}"#)
        })
    };
    let response = ask().map_err(|error| format!("flatten: {:#}", anyhow::Error::from(error)))?;
    let expected = serde_json::json!({"a": 1.0, "b/0": 1.0, "b/1/c": 2.5});
    if response.status == 200 && response.json() == expected {
        return Ok(());
    }
    Err(format!(
        "flatten says {} {}",
        response.status,
        response.text()
    ))
}

/// Waits until every key of the load can be read.
pub(super) fn await_keys(running: &Running, keys: u64) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    for index in 0..keys {
        let path = format!("/api/v1/latest/{}", key(index));
        loop {
            match running.get(&path) {
                Ok((200, _)) => break,
                Ok((status, _)) if Instant::now() > deadline => {
                    return Err(format!(
                        "{path} says {status} after its event was confirmed"
                    ));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("{path}: {:#}", anyhow::Error::from(error)));
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }
    Ok(())
}

/// What the subject has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deliveries {
    /// Acked, duplicates included.
    pub(super) acked: u64,
    /// Duplicates.
    pub(super) duplicates: u64,
}

/// Its counts once they have reached `expected`, or when that takes too long.
pub(super) fn deliveries(running: &Running, expected: u64) -> Deliveries {
    let deadline = Instant::now() + LIMIT;
    let mut seen = Deliveries::default();
    loop {
        if let Ok((200, text)) = running.get("/metrics") {
            let count = |outcome: &str| {
                let label = format!("outcome=\"{outcome}\"");
                read_metric(&text, "amqp_deliveries_total", &label)
            };
            seen.duplicates = count("duplicate");
            seen.acked = count("ok") + seen.duplicates;
        }
        if seen.acked >= expected || Instant::now() > deadline {
            return seen;
        }
        std::thread::sleep(PAUSE);
    }
}
