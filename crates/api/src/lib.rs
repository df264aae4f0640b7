//! The Docker Engine API as data: the types that travel on the wire and a typed client.
//!
//! The types follow API 1.51 exactly where clients look: which fields are `null`, which are
//! empty and which are absent is part of the type (see [`wire`]). Requests are read as Go reads
//! them: field names in any case, unknown fields ignored, the last of two equal keys wins.
//!
//! This crate knows nothing of engines, containers' life cycles or HTTP servers. It holds no
//! state beside open connections and never prints.
//!
//! * [`types`]: requests and responses, one module per noun.
//! * [`filters`]: the `filters=` query argument in both of its encodings.
//! * [`frames`]: several output streams in one connection.
//! * [`version`]: API versions and the range that is answered.
//! * [`client`]: the typed client over a unix or TCP socket, including hijacked streams.

pub mod client;
pub mod filters;
pub mod frames;
pub mod types;
pub mod version;
pub mod wire;

pub use client::Client;
pub use filters::Filters;
pub use version::ApiVersion;
