//! What this engine can do, in BuildKit's names. Clients leave out, or refuse by themselves, what
//! is not in these lists.

use sampan_buildkit::gateway::ApiCap;

/// Of the bridge.
const BRIDGE: &[&str] = &[
    "solve.base",
    "return",
    "returnmap",
    "proto.refarray",
    "readfile",
    "readdir",
    "statfile",
    "resolveimage",
    "source.metaresolver",
    "frontend.inputs",
    "frontend.caps",
    "gateway.solve.metadata",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "gateway.warnings",
    "importcaches",
];

/// Of builds. Attestations are not among them.
const BUILDS: &[&str] = &[
    "source.local",
    "source.local.sessionid",
    "source.local.excludepatterns",
    "source.local.followpaths",
    "source.local.sharedkeyhint",
    "source.image",
    "source.image.resolvemode",
    "exec.meta.base",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "file.base",
    "constraints",
    "platform",
    "meta.ignorecache",
    "exporter.multiple",
];

fn all(names: &[&str]) -> Vec<ApiCap> {
    let capability = |name: &&str| ApiCap {
        id: (*name).to_owned(),
        enabled: true,
        ..ApiCap::default()
    };
    names.iter().map(capability).collect()
}

pub(super) fn of_bridge() -> Vec<ApiCap> {
    all(BRIDGE)
}

pub(super) fn of_builds() -> Vec<ApiCap> {
    all(BUILDS)
}
