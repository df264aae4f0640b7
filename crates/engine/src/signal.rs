//! Signals as requests name them.

pub(crate) use sampan_oci::signal::{INT, KILL, QUIT, TERM};

use crate::{Error, Result};

/// Reads a signal; see [`sampan_oci::signal::parse`].
pub(crate) fn parse(text: &str) -> Result<i32> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    sampan_oci::signal::parse(text).ok_or_else(invalid)
}
