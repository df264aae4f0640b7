//! BuildKit's gRPC interfaces: messages, clients and servers, compiled from `proto/`.
//!
//! Knows nothing of what they are used for, nor of how the bytes between the two sides get there.
//!
//! * [`control`]: what `docker build` asks of a daemon: `Control` and its progress messages.
//! * [`gateway`]: `LLBBridge`, by which a client drives a build.
//! * [`session`]: what a daemon asks of the client: files, credentials, secrets, agents.
//! * [`transport`]: HTTP/2 for both, on any stream. [`go_mode`]: modes of files on the wire.

pub mod go_mode;
pub mod transport;

#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// The largest message that is taken, in bytes, as BuildKit has it.
pub const MAX_MESSAGE: usize = 16 << 20;

/// `moby.buildkit.v1`.
pub mod control {
    pub use crate::generated::moby::buildkit::v1::*;
}

/// `moby.buildkit.v1.frontend` and the capabilities it tells of.
pub mod gateway {
    pub use crate::generated::moby::buildkit::v1::apicaps::ApiCap;
    pub use crate::generated::moby::buildkit::v1::frontend::*;
}

/// `moby.buildkit.v1.types`.
pub mod worker {
    pub use crate::generated::moby::buildkit::v1::types::*;
}

/// `pb`: what definitions of builds are made of.
pub mod ops {
    pub use crate::generated::pb::*;
}

/// The services of a client's session.
pub mod session {
    pub use crate::generated::containerd::services::content::v1 as content;
    pub use crate::generated::fsutil::types as files;
    pub use crate::generated::grpc::health::v1 as health;
    pub use crate::generated::moby::buildkit::secrets::v1 as secrets;
    pub use crate::generated::moby::filesync::v1 as filesync;
    pub use crate::generated::moby::sshforward::v1 as ssh;
    pub use crate::generated::moby::upload::v1 as upload;
}

/// `google.rpc`: how a call failed.
pub mod rpc {
    pub use crate::generated::google::rpc::Status;
}
