//! All routes that are built.

use axum::Router;

use crate::app::App;
use crate::{build, buildkit, container, disk, image, network, system, volume};

/// The routes, working with `app`.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .merge(build::routes())
        .merge(buildkit::routes())
        .merge(system::routes())
        .merge(container::routes())
        .merge(disk::routes())
        .merge(image::routes())
        .merge(network::routes())
        .merge(volume::routes())
        .with_state(app)
}
