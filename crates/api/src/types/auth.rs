//! Registry credentials.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::wire;

wire! {
    /// Answer of `POST /auth`.
    pub struct AuthResponse {
        /// What to tell the person.
        "Status" status: String,
        /// A token to use in place of the password, or empty.
        omitempty "IdentityToken" identity_token: String,
    }

    /// The fields of [`AuthConfig`] as they travel.
    pub struct AuthFields {
        /// User.
        omitempty "username" username: String,
        /// Password.
        omitempty "password" password: String,
        /// Base64 of `user:password`, as in a configuration file.
        omitempty "auth" auth: String,
        /// The registry that the rest is for.
        omitempty "serveraddress" server_address: String,
        /// OAuth2 refresh token, in place of a password.
        omitempty "identitytoken" identity_token: String,
        /// Bearer token that the registry takes as it is.
        omitempty "registrytoken" registry_token: String,
    }
}

/// Credentials of the `X-Registry-Auth` header and of `POST /auth`. `Debug` hides them.
#[derive(Clone, Default, PartialEq)]
pub struct AuthConfig(pub AuthFields);

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.0.username)
            .field("server_address", &self.0.server_address)
            .finish_non_exhaustive()
    }
}

const LENIENT_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl AuthConfig {
    /// Writes the value of the header: base64url of JSON.
    #[must_use]
    pub fn to_header(&self) -> String {
        let json = serde_json::to_vec(&self.0).expect("strings are always valid JSON");
        LENIENT_URL.encode(json)
    }

    /// Reads the value of `X-Registry-Config`: credentials by registry.
    #[must_use]
    pub fn all_from_header(value: &str) -> Option<std::collections::BTreeMap<String, AuthFields>> {
        let value = value.trim().replace('+', "-").replace('/', "_");
        let json = LENIENT_URL.decode(value).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Reads the header. Both base64 alphabets are taken, with padding or without; a value that
    /// is not credentials is none, as Docker treats it, so that the request goes on anonymously.
    #[must_use]
    pub fn from_header(value: &str) -> Option<Self> {
        let value = value.trim().replace('+', "-").replace('/', "_");
        let json = LENIENT_URL.decode(value).ok()?;
        let fields: AuthFields = serde_json::from_slice(&json).ok()?;
        (fields != AuthFields::default()).then_some(Self(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_in_every_base64_dialect() {
        let auth = AuthConfig(AuthFields {
            username: "u?>~".into(),
            password: "p".into(),
            ..AuthFields::default()
        });
        let header = auth.to_header();
        assert_eq!(AuthConfig::from_header(&header), Some(auth.clone()));
        assert_eq!(
            AuthConfig::from_header(header.trim_end_matches('=')),
            Some(auth.clone())
        );
        let standard = header.replace('-', "+").replace('_', "/");
        assert_eq!(AuthConfig::from_header(&standard), Some(auth));
    }

    #[test]
    fn bad_header_is_anonymous() {
        for value in ["", "e30=", "null", "%%%", "bm90IGpzb24="] {
            assert_eq!(AuthConfig::from_header(value), None, "{value}");
        }
    }

    #[test]
    fn debug_hides_secrets() {
        let auth = AuthConfig(AuthFields {
            username: "me".into(),
            password: "hunter2".into(),
            ..AuthFields::default()
        });
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
