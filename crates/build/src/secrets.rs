//! What a client lends to the commands of a build.

use std::os::unix::net::UnixStream;

use crate::Result;

/// Secrets and SSH agents of whoever asks for a build. Their values are in no layer, key, history
/// or log.
pub trait Secrets: Send + Sync {
    /// The value of a secret; none where there is no such secret. Blocks.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;

    /// A new connection to an SSH agent; none where there is no such agent. Blocks.
    fn agent(&self, id: &str) -> Result<Option<UnixStream>>;
}

/// Of a client that lends nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn secret(&self, _id: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn agent(&self, _id: &str) -> Result<Option<UnixStream>> {
        Ok(None)
    }
}
