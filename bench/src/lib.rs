//! The instrument: launches a subject, verifies it, drives load, samples it, analyses and reports.
//!
//! It reads like a pipeline, and only [`pipeline`] knows the order:
//! `scenario → launch → verify → (load ∥ sample) → analyse → report`.
//! Each stage is a function from the previous stage's value.
//! Only [`report`] formats and only [`run_dir`] writes below `results/`.

pub mod amqp;
pub mod analyse;
pub mod broker;
pub mod calibrate;
pub mod cli;
pub mod device;
pub mod faults;
pub mod handicap;
pub mod host;
pub mod http;
pub mod launch;
pub mod load;
pub mod pipeline;
pub mod profile;
pub mod proxy;
pub mod random;
pub mod record;
pub mod report;
pub mod run_dir;
pub mod sample;
pub mod scenario;
pub mod subject;
pub mod truth;
pub mod verify;
