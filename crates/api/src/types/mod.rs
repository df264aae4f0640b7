//! Requests and responses, one module per noun. Field comments give units and the versions of
//! the API in which a field appears, where that is not all of them; meanings are Docker's.

pub mod auth;
pub mod container;
pub mod event;
pub mod exec;
pub mod host_config;
pub mod image;
pub mod message;
pub mod mount;
pub mod network;
pub mod sampan;
pub mod stats;
pub mod system;
pub mod volume;

use crate::wire;

/// The time that Docker writes for "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";

wire! {
    /// The body of every reply that is an error.
    pub struct ErrorResponse {
        /// One sentence for a person.
        "message" message: String,
        /// What a person can do about it. Not Docker's.
        omitempty "hint" hint: Option<String>,
    }

    /// The identity of something that was made.
    pub struct IdResponse {
        /// The identity.
        "Id" id: String,
    }
}
