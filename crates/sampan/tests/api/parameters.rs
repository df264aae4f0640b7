//! Every parameter of the endpoints about containers, processes in them and the system has a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Parameters of Docker's API, by endpoint, with the file and the test that shows what each does.
const PARAMETERS: &[(&str, &[&str], &str, &str)] = &[
    (
        "GET /containers/json",
        &["all", "limit", "size", "filters"],
        "api/effects.rs",
        "lists_show_what_is_asked_for",
    ),
    (
        "POST /containers/create",
        &["name", "platform"],
        "api/effects.rs",
        "names_and_platforms_are_taken",
    ),
    (
        "GET /containers/{id}/json",
        &["size"],
        "api/shapes.rs",
        "container_has_dockers_shape",
    ),
    (
        "GET /containers/{id}/top",
        &["ps_args"],
        "e2e/inside.rs",
        "processes_are_listed",
    ),
    (
        "GET /containers/{id}/logs",
        &[
            "stdout",
            "stderr",
            "since",
            "until",
            "timestamps",
            "tail",
            "follow",
            "details",
        ],
        "api/effects.rs",
        "logs_are_cut_and_adorned",
    ),
    (
        "GET /containers/{id}/stats",
        &["stream", "one-shot"],
        "e2e/inside.rs",
        "usage_is_counted",
    ),
    (
        "POST /containers/{id}/resize",
        &["h", "w"],
        "api/effects.rs",
        "terminals_have_the_size_that_was_set",
    ),
    (
        "POST /containers/{id}/start",
        &["detachKeys"],
        "e2e/every_flag.rs",
        "detach_keys_of_ones_own_leave_every_session",
    ),
    (
        "POST /containers/{id}/stop",
        &["signal", "t"],
        "api/effects.rs",
        "ends_are_as_asked_for",
    ),
    (
        "POST /containers/{id}/restart",
        &["signal", "t"],
        "api/effects.rs",
        "ends_are_as_asked_for",
    ),
    (
        "POST /containers/{id}/kill",
        &["signal"],
        "api/effects.rs",
        "ends_are_as_asked_for",
    ),
    (
        "POST /containers/{id}/update",
        &["body"],
        "api/effects.rs",
        "every_limit_can_be_updated",
    ),
    (
        "POST /containers/{id}/rename",
        &["name"],
        "api/effects.rs",
        "names_and_platforms_are_taken",
    ),
    (
        "POST /containers/{id}/attach",
        &["detachKeys", "logs", "stream", "stdin", "stdout", "stderr"],
        "api/streams.rs",
        "attach_gives_the_streams_that_are_asked_for",
    ),
    (
        "GET /containers/{id}/attach/ws",
        &["detachKeys", "logs", "stream", "stdin", "stdout", "stderr"],
        "api/websocket.rs",
        "containers_are_attached_by_websocket",
    ),
    (
        "POST /containers/{id}/wait",
        &["condition"],
        "api/effects.rs",
        "waits_end_at_their_condition",
    ),
    (
        "DELETE /containers/{id}",
        &["v", "force", "link"],
        "api/effects.rs",
        "removals_take_what_is_named",
    ),
    (
        "HEAD /containers/{id}/archive",
        &["path"],
        "api/effects.rs",
        "archives_go_where_they_are_sent",
    ),
    (
        "GET /containers/{id}/archive",
        &["path"],
        "api/effects.rs",
        "archives_go_where_they_are_sent",
    ),
    (
        "PUT /containers/{id}/archive",
        &["path", "noOverwriteDirNonDir", "copyUIDGID"],
        "api/effects.rs",
        "archives_go_where_they_are_sent",
    ),
    (
        "POST /containers/prune",
        &["filters"],
        "api/effects.rs",
        "prunes_take_what_is_named",
    ),
    (
        "POST /containers/{id}/exec",
        &["body"],
        "api/effects.rs",
        "execs_are_as_described",
    ),
    (
        "POST /exec/{id}/start",
        &["body"],
        "api/effects.rs",
        "execs_are_as_described",
    ),
    (
        "POST /exec/{id}/resize",
        &["h", "w"],
        "api/effects.rs",
        "terminals_have_the_size_that_was_set",
    ),
    (
        "GET /events",
        &["since", "until", "filters"],
        "api/events.rs",
        "events_are_told_with_their_attributes",
    ),
    (
        "GET /system/df",
        &["type"],
        "api/system.rs",
        "disk_usage_is_told_of_the_types_that_are_asked_for",
    ),
];

#[test]
fn every_parameter_has_a_test_that_exists() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut endpoints = BTreeSet::new();
    for (endpoint, parameters, file, test) in PARAMETERS {
        assert!(
            endpoints.insert(endpoint) && !parameters.is_empty(),
            "{endpoint}"
        );
        let source = fs::read_to_string(tests.join(file)).unwrap();
        assert!(
            source.contains(&format!("fn {test}()")),
            "{file} has no test {test}"
        );
    }
}
