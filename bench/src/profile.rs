//! Profiles: how thorough a run is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The three profiles, from quick to thorough.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// 3 blocks, at most 90 s: does everything work?
    Smoke,
    /// 10 blocks (fewer where little scatters), at most 15 min: the figures of the README.
    Standard,
    /// 20 blocks with longer windows, at most 90 min.
    Full,
}

impl ProfileName {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Smoke, Self::Standard, Self::Full];

    /// Name as written in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Standard => "standard",
            Self::Full => "full",
        }
    }

    /// What the profile sets.
    #[must_use]
    pub fn profile(self) -> Profile {
        match self {
            Self::Smoke => Profile::new(self, 3, 10.0, 50.0, 2.0),
            Self::Standard => Profile::new(self, 10, 5.0, 25.0, 60.0),
            Self::Full => Profile::new(self, 20, 5.0, 25.0, 180.0),
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::str::FromStr for ProfileName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == text)
            .ok_or_else(|| format!("unknown profile `{text}`; known are: smoke, standard, full"))
    }
}

/// What a profile sets besides the lengths, which stand in the scenarios.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Which.
    pub name: ProfileName,
    /// Repetitions: each is a fresh launch of every subject in every cell.
    pub blocks: u32,
    /// Samples of the process tree per second.
    pub sample_rate_per_s: f64,
    /// Readings of a drain's progress per second.
    pub progress_rate_per_s: f64,
    /// Longest wait for a quiet machine before the first launch, in seconds.
    pub quiet_wait_s: f64,
}

impl Profile {
    fn new(
        name: ProfileName,
        blocks: u32,
        sample_rate_per_s: f64,
        progress_rate_per_s: f64,
        quiet_wait_s: f64,
    ) -> Self {
        Self {
            name,
            blocks,
            sample_rate_per_s,
            progress_rate_per_s,
            quiet_wait_s,
        }
    }
}
