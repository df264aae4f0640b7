//! Which times an image has: those of the build, or such as are the same each time.

use jiff::Timestamp;

use crate::cache::KeyMaker;
use crate::{Error, Result};

/// The build argument that names the time of a build.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// How times are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// When the build takes place, in seconds since 1970; else now.
    epoch: Option<i64>,
    /// No file of a layer is younger.
    clamp: bool,
}

impl Times {
    /// Reads what is asked for. Images that shall be the same each time are of 1970 where nothing
    /// else is said.
    pub(crate) fn new(epoch: Option<&str>, reproducible: bool) -> Result<Self> {
        let epoch = match epoch.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let wrong = || {
                    Error::Step(format!(
                        "invalid {SOURCE_DATE_EPOCH} {text:?}: it is a number of seconds since 1970"
                    ))
                };
                let seconds: i64 = text.parse().map_err(|_| wrong())?;
                Timestamp::from_second(seconds).map_err(|_| wrong())?;
                Some(seconds)
            }
        };
        Ok(Self {
            epoch: epoch.or(reproducible.then_some(0)),
            clamp: reproducible,
        })
    }

    /// The time of what is made.
    pub(crate) fn now(self) -> (i64, u32) {
        let now = || Timestamp::now().as_second();
        (self.epoch.unwrap_or_else(now), 0)
    }

    /// The time of what is made, as an image has it.
    pub(crate) fn created(self) -> String {
        self.fixed().unwrap_or_else(Timestamp::now).to_string()
    }

    /// No file of a layer is younger.
    pub(crate) fn latest(self) -> Option<i64> {
        self.epoch.filter(|_| self.clamp)
    }

    /// The time that the image has, and nothing in its history is younger.
    pub(crate) fn fixed(self) -> Option<Timestamp> {
        self.epoch
            .and_then(|epoch| Timestamp::from_second(epoch).ok())
    }

    /// Adds to a key what decides the times of files.
    pub(crate) fn describe(self, key: &mut KeyMaker) {
        if let Some(epoch) = self.epoch {
            key.text("epoch", &epoch.to_string());
            key.number("clamp", u64::from(self.clamp));
        }
    }
}
