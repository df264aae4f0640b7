//! What events tell, and their filters.

use sampan_testing::{TestEngine, until};
use serde_json::{Value, json};

use crate::effects::{encoded, start, wait};
use crate::engine_with_busybox;
use crate::http::{ask, tell};

/// What has been told so far, through a filter.
pub(crate) fn told(engine: &TestEngine, filters: &Value) -> Vec<Value> {
    // A moment ahead, so that what was told just now is asked for.
    let path = format!(
        "/events?since=1&until={}&filters={}",
        now() + 1,
        encoded(filters)
    );
    let answer = ask(engine, "GET", &path).expect(200);
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn events_are_told_with_their_attributes() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let body = json!({
        "Cmd": ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"], "Tty": true, "Labels": {"tier": "web"},
        "HostConfig": {"Binds": ["data:/d:ro"]},
    });
    let id = start(&engine, "box", body);
    let _ = ask(&engine, "POST", "/containers/box/resize?h=10&w=20").expect(200);
    let _ = ask(&engine, "POST", "/containers/box/pause").expect(204);
    let _ = ask(&engine, "POST", "/containers/box/unpause").expect(204);
    let _ = ask(&engine, "GET", "/containers/box/top").expect(200);
    let _ = engine.sampan(&["exec", "box", "sh", "-c", "exit 6"]);
    let _ = tell(
        &engine,
        "POST",
        "/containers/box/update",
        r#"{"CpuShares":100}"#,
    )
    .expect(200);
    let _ = ask(&engine, "POST", "/containers/box/rename?name=other").expect(204);
    let _ = ask(&engine, "GET", "/containers/other/export").expect(200);
    let _ = tell(
        &engine,
        "POST",
        "/commit?container=other&repo=taken&tag=v1&comment=c",
        "{}",
    )
    .expect(201);
    let _ = ask(&engine, "POST", "/containers/other/stop?t=20").expect(204);
    let _ = ask(&engine, "POST", "/containers/other/restart?t=20").expect(204);
    let _ = ask(&engine, "POST", "/containers/other/kill?signal=KILL").expect(204);
    let _ = wait(&engine, "other");
    let _ = ask(&engine, "DELETE", "/containers/other?v=1").expect(204);
    let _ = ask(&engine, "POST", "/images/taken:v1/tag?repo=again").expect(201);
    let _ = ask(&engine, "DELETE", "/images/again").expect(200);
    let _ = ask(&engine, "DELETE", "/images/taken:v1").expect(200);
    let _ = ask(&engine, "DELETE", "/volumes/data").expect(204);
    let _ = ask(&engine, "POST", "/containers/prune").expect(200);
    // The end may be told a moment after its answer.
    until("all is told", || {
        !told(&engine, &json!({"event": ["prune"]})).is_empty()
    });
    let all = told(&engine, &json!({}));
    let of = |kind: &str, action: &str| -> Vec<&Value> {
        let is = |event: &&Value| {
            event["Type"] == kind && event["Action"].as_str().unwrap().starts_with(action)
        };
        all.iter().filter(is).collect()
    };
    for event in &all {
        assert_eq!(event["scope"], "local", "{event}");
        assert!(
            event["time"].is_i64() && event["timeNano"].is_i64(),
            "{event}"
        );
        assert!(event["Actor"]["ID"].is_string(), "{event}");
    }
    for (kind, action, attributes) in [
        (
            "container",
            "create",
            json!({"image": "busybox", "name": "box", "tier": "web"}),
        ),
        ("container", "start", json!({"name": "box", "tier": "web"})),
        (
            "container",
            "resize",
            json!({"height": "10", "width": "20"}),
        ),
        ("container", "pause", json!({"name": "box"})),
        ("container", "unpause", json!({"name": "box"})),
        ("container", "top", json!({"name": "box"})),
        (
            "container",
            "exec_create: sh -c exit 6",
            json!({"name": "box"}),
        ),
        (
            "container",
            "exec_start: sh -c exit 6",
            json!({"name": "box"}),
        ),
        ("container", "exec_die", json!({"exitCode": "6"})),
        ("container", "update", json!({"name": "box"})),
        (
            "container",
            "rename",
            json!({"name": "other", "oldName": "/box"}),
        ),
        ("container", "export", json!({"name": "other"})),
        (
            "container",
            "commit",
            json!({"comment": "c", "imageRef": "taken:v1"}),
        ),
        ("container", "kill", json!({"signal": "15"})),
        (
            "container",
            "die",
            json!({"exitCode": "3", "execDuration": "0"}),
        ),
        ("container", "stop", json!({"name": "other"})),
        ("container", "restart", json!({"name": "other"})),
        (
            "container",
            "destroy",
            json!({"name": "other", "image": "busybox", "tier": "web"}),
        ),
        ("container", "prune", json!({"reclaimed": "0"})),
        (
            "network",
            "connect",
            json!({"container": id, "name": "bridge", "type": "bridge"}),
        ),
        (
            "network",
            "disconnect",
            json!({"container": id, "name": "bridge", "type": "bridge"}),
        ),
        ("volume", "create", json!({"driver": "local"})),
        (
            "volume",
            "mount",
            json!({"container": id, "destination": "/d", "driver": "local", "propagation": "", "read/write": "false"}),
        ),
        (
            "volume",
            "unmount",
            json!({"container": id, "driver": "local"}),
        ),
        ("volume", "destroy", json!({"driver": "local"})),
        ("image", "tag", json!({"name": "again:latest"})),
        ("image", "untag", json!({})),
        ("image", "delete", json!({})),
    ] {
        let fits = |event: &&Value| {
            let is = &event["Actor"]["Attributes"];
            let mut wanted = attributes.as_object().unwrap().iter();
            wanted.all(|(key, value)| {
                is[key] == *value || key == "execDuration" && is[key].is_string()
            })
        };
        let found = of(kind, action);
        assert!(
            found.iter().any(fits),
            "no {action} of a {kind} has {attributes}: {found:#?}"
        );
    }
    assert_eq!(of("container", "create")[0]["Actor"]["ID"], json!(id));
    // Those of the API of old.
    let start = of("container", "start")[0];
    assert_eq!(
        (&start["status"], &start["id"], &start["from"]),
        (&json!("start"), &json!(id), &json!("busybox"))
    );
    let count = |filters: Value| told(&engine, &filters).len();
    for (filters, at_least) in [
        (json!({"type": ["container"]}), 15),
        (json!({"type": ["network", "volume"]}), 6),
        (json!({"event": ["exec_create"]}), 1),
        (json!({"event": ["die", "destroy"]}), 3),
        (json!({"container": [&id[..12]]}), 15),
        (json!({"container": ["other"]}), 5),
        (json!({"image": ["busybox"]}), 15),
        (json!({"label": ["tier=web"]}), 15),
        (json!({"label": ["tier"]}), 15),
        (json!({"volume": ["data"]}), 4),
        (json!({"network": ["bridge"]}), 4),
        (json!({"scope": ["local"]}), 25),
    ] {
        assert!(
            count(filters.clone()) >= at_least,
            "{filters}: {}",
            count(filters.clone())
        );
    }
    for filters in [
        json!({"scope": ["swarm"]}),
        json!({"service": ["x"]}),
        json!({"node": ["x"]}),
        json!({"plugin": ["x"]}),
        json!({"secret": ["x"]}),
        json!({"config": ["x"]}),
        json!({"daemon": ["nonesuch"]}),
        json!({"label": ["tier=none"]}),
        json!({"container": ["box"], "event": ["destroy"]}),
        json!({"type": ["plugin"]}),
    ] {
        assert_eq!(count(filters.clone()), 0, "{filters}");
    }
    // Times: seconds with a fraction, and before anything was.
    let first = all[0]["timeNano"].as_i64().unwrap();
    let path = format!(
        "/events?since=1&until={}.{:09}",
        first / 1_000_000_000,
        first % 1_000_000_000
    );
    assert_eq!(ask(&engine, "GET", &path).text().lines().count(), 1);
}
