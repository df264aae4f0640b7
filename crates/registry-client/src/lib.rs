//! The pulling side of the distribution protocol.

mod credentials;
mod error;

pub use credentials::Credentials;
pub use error::{Cause, Error, ErrorKind};

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
