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
pub(crate) mod sysctl;
pub(crate) mod ulimit;
pub(crate) mod volume;

/// A whole number, as `strconv.ParseInt` reads it.
pub(crate) fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = go_reason(error.kind());
        format!("strconv.ParseInt: parsing {text:?}: {why}")
    })
}

/// Why a text is no number, in the words of Go's `strconv`.
pub(crate) fn go_reason(kind: &std::num::IntErrorKind) -> &'static str {
    match kind {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            "value out of range"
        }
        _ => "invalid syntax",
    }
}
