//! Who asks.

use std::fmt;

/// What a user gave for one registry. Goes to that registry and to the token service that this
/// registry names, nowhere else.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The account.
    pub username: String,
    /// Its password or access token.
    pub password: String,
    /// A refresh token of the registry's token service, in place of the password.
    pub identity_token: String,
    /// A bearer token of the registry itself, in place of everything else.
    pub registry_token: String,
}

impl Credentials {
    /// Whether nothing was given.
    pub fn is_anonymous(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
