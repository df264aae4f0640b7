//! The values of flags: pure parsers in Docker's words.

pub(crate) mod device;
pub(crate) mod duration;
pub(crate) mod environment;
pub(crate) mod filter;
pub(crate) mod gpus;
pub(crate) mod health;
pub(crate) mod host;
pub(crate) mod keys;
pub(crate) mod mount;
pub(crate) mod port;
pub(crate) mod restart;
pub(crate) mod security;
pub(crate) mod size;
pub(crate) mod ulimit;
pub(crate) mod volume;

/// A whole number, as `strconv.ParseInt` reads it.
pub(crate) fn integer(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
}
