//! A record for tests.

use std::sync::Arc;

use jiff::Timestamp;
use sampan_oci::{Digest, ImageId};

use super::id::ContainerId;
use super::lifecycle::Lifecycle;
use super::record::Record;

/// A container in the given state, created at second 50 of 1970.
pub(crate) fn record(lifecycle: Lifecycle) -> Record {
    Record {
        id: ContainerId::random(),
        name: "test".parse().unwrap(),
        created: Timestamp::from_second(50).unwrap(),
        image: "busybox".into(),
        image_id: ImageId::from(Digest::of(b"")),
        layers: Vec::new(),
        path: "true".into(),
        args: Vec::new(),
        config: Arc::default(),
        host: Arc::default(),
        lifecycle,
        mounts: Vec::new(),
        users: None,
        slice: None,
        network: Default::default(),
        restart_count: 0,
        health: None,
        stopped_by_hand: false,
        launching: false,
        of_build: false,
    }
}
