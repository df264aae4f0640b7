//! Credentials for registries: `config.json` and credential helpers.

use docker_credential::{CredentialRetrievalError, DockerCredential};
use sampan_api::types::auth::{AuthConfig, AuthFields};
use sampan_oci::reference::Reference;

use super::session::Session;

/// Docker Hub's key in `config.json`.
const HUB: &str = "https://index.docker.io/v1/";

/// The credentials for the registry of an image; none when there are none. A helper that fails
/// is told on standard error: the pull goes on without.
pub(crate) fn find(session: &Session, image: &Reference) -> Option<AuthConfig> {
    let file = std::fs::File::open(session.configuration().join("config.json")).ok()?;
    let registry = match image.registry() {
        "docker.io" | "index.docker.io" => HUB,
        other => other,
    };
    let fields = match docker_credential::get_credential_from_reader(file, registry) {
        Ok(DockerCredential::UsernamePassword(username, password)) => AuthFields {
            username,
            password,
            server_address: registry.to_owned(),
            ..AuthFields::default()
        },
        Ok(DockerCredential::IdentityToken(identity_token)) => AuthFields {
            identity_token,
            server_address: registry.to_owned(),
            ..AuthFields::default()
        },
        Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
            if !stdout.contains("not found") =>
        {
            eprintln!(
                "WARNING: the credential helper failed: {}{}",
                stdout.trim(),
                stderr.trim()
            );
            return None;
        }
        Err(_) => return None,
    };
    let empty = fields.username.is_empty() && fields.identity_token.is_empty();
    (!empty).then_some(AuthConfig(fields))
}
