//! Who causes a fault, and who heals it.

pub(super) mod broker;
pub(super) mod client;
pub(super) mod host;
pub(super) mod service;

use super::stage::{Setup, Stage};

/// One fault at work.
///
/// An error that is a [`Skip`](super::stage::Skip) means that it cannot be tried here.
pub(super) trait Cause {
    /// Changes how the subject is launched.
    ///
    /// # Errors
    /// If the fault cannot be prepared.
    fn prepare(&mut self, _setup: &mut Setup<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    /// Makes it happen.
    ///
    /// # Errors
    /// If it cannot be made to.
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()>;

    /// Makes it end; the fault's end is when this returns, unless [`Stage::ended`] says otherwise.
    ///
    /// # Errors
    /// If it cannot be made to.
    fn heal(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    /// Looks at what only shows at the end, and notes it.
    fn look(&self, _stage: &mut Stage<'_>) {}
}
