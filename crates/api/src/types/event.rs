//! News.

use std::collections::BTreeMap;

use crate::wire;

wire! {
    /// One line of `GET /events`.
    pub struct Event {
        /// Old name of the action, for containers and images.
        omitempty "status" status: String,
        /// Old name of the object, for containers and images.
        omitempty "id" id: String,
        /// Old name of the image, for containers.
        omitempty "from" from: String,
        /// `container`, `image`, `network`, `volume`, `daemon`, ...
        "Type" kind: String,
        /// What happened.
        "Action" action: String,
        /// To what.
        "Actor" actor: Actor,
        /// `local`.
        omitempty "scope" scope: String,
        /// Seconds since 1970.
        omitempty "time" time: i64,
        /// Nanoseconds since 1970.
        omitempty "timeNano" time_nano: i64,
    }

    /// What an event is about.
    pub struct Actor {
        /// Identity.
        "ID" id: String,
        /// Name, image, labels, exit code and so on.
        "Attributes" attributes: BTreeMap<String, String>,
    }
}
