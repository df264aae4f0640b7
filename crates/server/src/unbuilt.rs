//! Docker's endpoints that are not built yet, each with what it would do.
//!
//! A client that asks for one of them is told so by a 501. The table shrinks as features come;
//! a test holds it against Docker's list of endpoints, so that none is forgotten.

use axum::Router;
use axum::routing::{MethodFilter, on};

use crate::error::ApiError;

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;
const PUT: MethodFilter = MethodFilter::PUT;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// Method, path and what is missing. A path with a method that is built stands here only for
/// its other methods.
#[rustfmt::skip]
const UNBUILT: &[(MethodFilter, &str, &str)] = &[
    (GET, "/containers/{id}/checkpoints", "checkpoints"),
    (POST, "/containers/{id}/checkpoints", "checkpoints"),
    (DELETE, "/containers/{id}/checkpoints/{checkpoint}", "checkpoints"),
    (POST, "/build/cancel", "cancelling builds by name"),
    (POST, "/networks/create", "making networks"),
    (POST, "/networks/{id}/connect", "connecting a container to a further network"),
    (POST, "/networks/{id}/disconnect", "disconnecting a container from a network"),
    (PUT, "/volumes/{name}", "cluster volumes"),
    (GET, "/plugins", "plugins"),
    (GET, "/plugins/{*rest}", "plugins"),
    (POST, "/plugins/{*rest}", "plugins"),
    (DELETE, "/plugins/{*rest}", "plugins"),
    (GET, "/nodes", "swarm mode"),
    (GET, "/nodes/{id}", "swarm mode"),
    (DELETE, "/nodes/{id}", "swarm mode"),
    (POST, "/nodes/{id}/update", "swarm mode"),
    (GET, "/swarm", "swarm mode"),
    (POST, "/swarm/init", "swarm mode"),
    (POST, "/swarm/join", "swarm mode"),
    (POST, "/swarm/leave", "swarm mode"),
    (POST, "/swarm/update", "swarm mode"),
    (GET, "/swarm/unlockkey", "swarm mode"),
    (POST, "/swarm/unlock", "swarm mode"),
    (GET, "/services", "swarm mode"),
    (POST, "/services/create", "swarm mode"),
    (GET, "/services/{id}", "swarm mode"),
    (DELETE, "/services/{id}", "swarm mode"),
    (POST, "/services/{id}/update", "swarm mode"),
    (GET, "/services/{id}/logs", "swarm mode"),
    (GET, "/tasks", "swarm mode"),
    (GET, "/tasks/{id}", "swarm mode"),
    (GET, "/tasks/{id}/logs", "swarm mode"),
    (GET, "/secrets", "swarm mode"),
    (POST, "/secrets/create", "swarm mode"),
    (GET, "/secrets/{id}", "swarm mode"),
    (DELETE, "/secrets/{id}", "swarm mode"),
    (POST, "/secrets/{id}/update", "swarm mode"),
    (GET, "/configs", "swarm mode"),
    (POST, "/configs/create", "swarm mode"),
    (GET, "/configs/{id}", "swarm mode"),
    (DELETE, "/configs/{id}", "swarm mode"),
    (POST, "/configs/{id}/update", "swarm mode"),
];

/// Adds the table to `router`.
pub(crate) fn add(router: Router) -> Router {
    UNBUILT
        .iter()
        .fold(router, |router, &(method, path, what)| {
            router.route(path, on(method, async move || refusal(what)))
        })
}

/// The answer for something that is missing.
pub(crate) fn refusal(what: &str) -> ApiError {
    ApiError::not_implemented(format!("{what} is not supported by this engine yet"))
}
