//! What each parameter of the endpoints about containers and processes in them does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sampan_testing::{TestEngine, until};
use serde_json::{Value, json};

use crate::engine_with_busybox;
use crate::events::told;
use crate::http::{Answer, ask, send, tell};

/// Makes a container of busybox and returns its identity.
pub(crate) fn create(engine: &TestEngine, name: &str, body: Value) -> String {
    let mut whole = json!({"Image": "busybox"});
    for (key, value) in body.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let path = format!("/containers/create?name={name}");
    let made = tell(engine, "POST", &path, &whole.to_string()).expect(201);
    made.json()["Id"].as_str().unwrap().to_owned()
}

/// The same, started.
pub(crate) fn start(engine: &TestEngine, name: &str, body: Value) -> String {
    let id = create(engine, name, body);
    let _ = ask(engine, "POST", &format!("/containers/{name}/start")).expect(204);
    id
}

/// Waits for the end and returns the exit code.
pub(crate) fn wait(engine: &TestEngine, name: &str) -> i64 {
    let ended = ask(engine, "POST", &format!("/containers/{name}/wait")).expect(200);
    ended.json()["StatusCode"].as_i64().unwrap()
}

/// A query's value.
pub(crate) fn encoded(filters: &Value) -> String {
    let bytes = filters.to_string().into_bytes();
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Names that a list shows, without the slash, in its order.
fn listed(engine: &TestEngine, query: &str) -> Vec<String> {
    let list = ask(engine, "GET", &format!("/containers/json?{query}"))
        .expect(200)
        .json();
    let names = list.as_array().unwrap().iter();
    names
        .map(|line| line["Names"][0].as_str().unwrap()[1..].to_owned())
        .collect()
}

/// Runs a command inside and returns what it says.
fn inside(engine: &TestEngine, name: &str, script: &str) -> String {
    engine.sampan(&["exec", name, "sh", "-c", script]).ok()
}

pub(crate) const SLEEP: [&str; 2] = ["sleep", "1000"];

#[test]
fn lists_show_what_is_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let place = engine.scratch().join("place");
    fs::create_dir(&place).unwrap();
    let place = place.display().to_string();
    let first = start(
        &engine,
        "runs",
        json!({
            "Cmd": SLEEP, "Labels": {"tier": "web", "bare": ""}, "ExposedPorts": {"81/udp": {}},
            "HostConfig": {"Binds": ["data:/d", format!("{place}:/p")], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}},
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 200_000_000},
        }),
    );
    let _ = start(
        &engine,
        "ended",
        json!({"Cmd": ["sh", "-c", "exit 4"], "Labels": {"tier": "db"}}),
    );
    assert_eq!(wait(&engine, "ended"), 4);
    let _ = create(
        &engine,
        "made",
        json!({"HostConfig": {"NetworkMode": "none", "PortBindings": {"90/tcp": [{}]}}}),
    );
    let _ = start(
        &engine,
        "frozen",
        json!({"Cmd": SLEEP, "HostConfig": {"Tmpfs": {"/t": ""}}}),
    );
    let _ = ask(&engine, "POST", "/containers/frozen/pause").expect(204);
    until("it is healthy", || {
        listed(
            &engine,
            &format!("filters={}", encoded(&json!({"health": ["healthy"]}))),
        ) == ["runs"]
    });
    assert_eq!(listed(&engine, ""), ["frozen", "runs"]);
    assert_eq!(
        listed(&engine, "all=1"),
        ["frozen", "made", "ended", "runs"]
    );
    assert_eq!(listed(&engine, "limit=2"), ["frozen", "made"]);
    assert_eq!(listed(&engine, "limit=-1"), ["frozen", "runs"]);
    assert_eq!(
        listed(&engine, "all=true&limit=0"),
        ["frozen", "made", "ended", "runs"]
    );
    let sized = ask(&engine, "GET", "/containers/json?size=1").json();
    assert!(sized[1]["SizeRootFs"].as_u64() > Some(0), "{sized}");
    let image = ask(&engine, "GET", "/images/busybox/json").json()["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    let all = &["frozen", "made", "ended", "runs"][..];
    for (filters, expected) in [
        (json!({"ancestor": ["busybox"]}), all),
        (json!({"ancestor": ["busybox:latest"]}), all),
        (json!({"ancestor": [image]}), all),
        (json!({"ancestor": [&image["sha256:".len()..][..12]]}), all),
        (json!({"ancestor": ["nonesuch"]}), &[]),
        (json!({"before": ["made"]}), &["ended", "runs"]),
        (json!({"since": ["ended"]}), &["frozen", "made"]),
        (
            json!({"before": ["frozen"], "since": ["runs"]}),
            &["made", "ended"],
        ),
        (json!({"exited": ["4"]}), &["ended"]),
        (json!({"exited": ["0"]}), &[]),
        (json!({"expose": ["81/udp"]}), &["runs"]),
        (json!({"expose": ["70-90/udp"]}), &["runs"]),
        (json!({"expose": ["81"]}), &[]),
        (json!({"publish": ["80"]}), &["runs"]),
        (json!({"publish": ["80-90/tcp"]}), &["made", "runs"]),
        (json!({"publish": ["80/udp"]}), &[]),
        (json!({"health": ["healthy"]}), &["runs"]),
        (json!({"health": ["none"]}), &["frozen", "made", "ended"]),
        (json!({"id": [&first[..8]]}), &["runs"]),
        (json!({"id": [first]}), &["runs"]),
        (json!({"is-task": ["false"]}), all),
        (json!({"is-task": ["true"]}), &[]),
        (json!({"isolation": ["default"]}), all),
        (json!({"label": ["tier"]}), &["ended", "runs"]),
        (json!({"label": ["tier=web", "bare"]}), &["runs"]),
        (json!({"label": ["tier=none"]}), &[]),
        (json!({"name": ["un"]}), &["runs"]),
        (json!({"name": ["^/made$", "frozen"]}), &["frozen", "made"]),
        (json!({"network": ["none"]}), &["made"]),
        (json!({"network": ["bridge"]}), &["frozen", "ended", "runs"]),
        (json!({"status": ["running"]}), &["runs"]),
        (
            json!({"status": ["paused", "created"]}),
            &["frozen", "made"],
        ),
        (json!({"status": ["exited"]}), &["ended"]),
        (json!({"volume": ["data"]}), &["runs"]),
        (json!({"volume": ["/d"]}), &["runs"]),
        (json!({"volume": [place]}), &["runs"]),
        (json!({"volume": ["/p"]}), &["runs"]),
        (json!({"volume": ["nonesuch"]}), &[]),
        (json!({"label": ["tier"], "status": ["exited"]}), &["ended"]),
    ] {
        let found = listed(&engine, &format!("all=1&filters={}", encoded(&filters)));
        assert_eq!(found, expected, "{filters}");
    }
    // These mean containers that have ended, too, without being told.
    let filter = encoded(&json!({"status": ["exited"]}));
    assert_eq!(listed(&engine, &format!("filters={filter}")), ["ended"]);
    for (filters, status) in [
        (json!({"status": ["flying"]}), 400),
        (json!({"exited": ["x"]}), 400),
        (json!({"publish": ["x"]}), 400),
        (json!({"health": ["x"]}), 400),
        (json!({"is-task": ["x"]}), 400),
        (json!({"nonesuch": ["x"]}), 400),
        (json!({"before": ["nonesuch"]}), 404),
        (json!({"since": ["nonesuch"]}), 404),
    ] {
        let path = format!("/containers/json?all=1&filters={}", encoded(&filters));
        assert_eq!(ask(&engine, "GET", &path).status, status, "{filters}");
    }
}

#[test]
fn names_and_platforms_are_taken() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = create(&engine, "one", json!({}));
    let body = r#"{"Image":"busybox"}"#;
    let taken = tell(&engine, "POST", "/containers/create?name=one", body).expect(409);
    assert!(taken.message().contains(&id), "{}", taken.message());
    // One is chosen where none is given.
    let other = tell(
        &engine,
        "POST",
        "/containers/create?platform=linux/amd64",
        body,
    )
    .expect(201);
    let other = other.json()["Id"].as_str().unwrap().to_owned();
    let name = ask(&engine, "GET", &format!("/containers/{other}/json")).json();
    assert!(name["Name"].as_str().unwrap().contains('_'), "{name}");
    for (platform, status) in [("linux/s390x", 404), ("a/b/c/d", 400)] {
        let path = format!("/containers/create?platform={platform}");
        assert_eq!(
            tell(&engine, "POST", &path, body).status,
            status,
            "{platform}"
        );
    }
    let _ = ask(&engine, "POST", "/containers/one/rename?name=uno").expect(204);
    let _ = ask(&engine, "GET", "/containers/one/json").expect(404);
    let _ = ask(&engine, "GET", "/containers/uno/json").expect(200);
    for (path, status) in [
        ("/containers/uno/rename?name=", 400),
        ("/containers/uno/rename", 400),
        ("/containers/uno/rename?name=a%20b", 400),
        ("/containers/nonesuch/rename?name=x1", 404),
    ] {
        assert_eq!(ask(&engine, "POST", path).status, status, "{path}");
    }
    let path = format!("/containers/{other}/rename?name=uno");
    let _ = ask(&engine, "POST", &path).expect(409);
}

/// The lines of a log, without frames.
fn log(engine: &TestEngine, name: &str, query: &str) -> Vec<String> {
    let answer = ask(engine, "GET", &format!("/containers/{name}/logs?{query}")).expect(200);
    let mut rest = &answer.body[..];
    let mut text = Vec::new();
    while let [_, 0, 0, 0, a, b, c, d, behind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        text.extend_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    String::from_utf8(text)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn logs_are_cut_and_adorned() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "echo one; sleep 1.2; echo two; echo bad >&2; sleep 1.2; echo three";
    let options = json!({"labels": "tier", "env": "WORD", "tag": "mine"});
    let _ = start(
        &engine,
        "talker",
        json!({
            "Cmd": ["sh", "-c", script], "Labels": {"tier": "web", "other": "x"}, "Env": ["WORD=a b"],
            "HostConfig": {"LogConfig": {"Type": "json-file", "Config": options}},
        }),
    );
    // Until the end, as it comes.
    let both = "stdout=1&stderr=1";
    assert_eq!(log(&engine, "talker", &format!("{both}&follow=1")).len(), 4);
    let all = ["one", "two", "bad", "three"];
    assert_eq!(log(&engine, "talker", both), all);
    assert_eq!(log(&engine, "talker", "stdout=1"), ["one", "two", "three"]);
    assert_eq!(log(&engine, "talker", "stderr=true"), ["bad"]);
    for (tail, lines) in [
        ("0", &all[4..]),
        ("1", &all[3..]),
        ("3", &all[1..]),
        ("all", &all),
        ("-1", &all),
        ("99", &all),
    ] {
        assert_eq!(
            log(&engine, "talker", &format!("{both}&tail={tail}")),
            lines,
            "{tail}"
        );
    }
    let timed = log(&engine, "talker", &format!("{both}&timestamps=1"));
    let times: Vec<&str> = timed
        .iter()
        .map(|line| line.split_once(' ').unwrap().0)
        .collect();
    assert!(
        times
            .iter()
            .all(|time| time.len() == 30 && time.ends_with('Z')),
        "{timed:?}"
    );
    // In seconds with a fraction.
    let epoch = |time: &str| {
        let date = sampan_testing::run("date", &["-d", time, "+%s.%N"]).ok();
        date.trim().to_owned()
    };
    let (second, third) = (epoch(times[1]), epoch(times[2]));
    let found = log(&engine, "talker", &format!("{both}&since={second}"));
    assert_eq!(found, all[1..]);
    let found = log(&engine, "talker", &format!("{both}&until={second}"));
    assert!(found[0] == "one" && found.len() <= 2, "{found:?}");
    let between = format!("{both}&since={second}&until={third}");
    assert_eq!(log(&engine, "talker", &between), ["two", "bad"]);
    let detailed = log(&engine, "talker", &format!("{both}&details=1&tail=1"));
    assert_eq!(detailed, ["WORD=a%20b,tag=mine,tier=web three"]);
    assert_eq!(ask(&engine, "GET", "/containers/talker/logs").status, 400);
    let bad = format!("/containers/talker/logs?{both}&since=x");
    assert_eq!(ask(&engine, "GET", &bad).status, 400);
}

#[test]
fn terminals_have_the_size_that_was_set() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = start(
        &engine,
        "screen",
        json!({"Cmd": SLEEP, "Tty": true, "HostConfig": {"ConsoleSize": [30, 100]}}),
    );
    assert_eq!(
        inside(&engine, "screen", "stty size < /dev/pts/0"),
        "30 100"
    );
    let _ = ask(&engine, "POST", "/containers/screen/resize?h=41&w=123").expect(200);
    assert_eq!(
        inside(&engine, "screen", "stty size < /dev/pts/0"),
        "41 123"
    );
    let body = r#"{"Cmd":["sleep","1000"],"Tty":true,"ConsoleSize":[12,34]}"#;
    let made = tell(&engine, "POST", "/containers/screen/exec", body)
        .expect(201)
        .json();
    let exec = made["Id"].as_str().unwrap();
    let _ = tell(
        &engine,
        "POST",
        &format!("/exec/{exec}/start"),
        r#"{"Detach":true,"Tty":true}"#,
    )
    .expect(200);
    assert_eq!(inside(&engine, "screen", "stty size < /dev/pts/1"), "12 34");
    let _ = ask(&engine, "POST", &format!("/exec/{exec}/resize?h=5&w=6")).expect(200);
    assert_eq!(inside(&engine, "screen", "stty size < /dev/pts/1"), "5 6");
    for path in [
        "/containers/screen/resize",
        "/containers/screen/resize?h=1",
        "/containers/screen/resize?h=x&w=1",
        "/containers/screen/resize?h=70000&w=1",
    ] {
        assert_eq!(ask(&engine, "POST", path).status, 400, "{path}");
    }
    assert_eq!(
        ask(&engine, "POST", "/exec/nonesuch/resize?h=1&w=1").status,
        404
    );
}

#[test]
fn ends_are_as_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script =
        "trap 'exit 7' TERM; trap 'exit 8' USR1; touch /ready; while :; do sleep 0.05; done";
    let begin = || {
        let _ = ask(&engine, "POST", "/containers/box/start").expect(204);
        until("the traps are set", || {
            engine.sampan(&["exec", "box", "rm", "/ready"]).code == 0
        });
    };
    let _ = create(&engine, "box", json!({"Cmd": ["sh", "-c", script]}));
    for (path, code) in [
        ("/containers/box/stop", 7),
        ("/containers/box/stop?signal=USR1&t=20", 8),
        ("/containers/box/stop?signal=SIGUSR1", 8),
        ("/containers/box/stop?t=0", 137),
        ("/containers/box/kill", 137),
        ("/containers/box/kill?signal=USR1", 8),
        ("/containers/box/kill?signal=15", 7),
        ("/v1.41/containers/box/stop?signal=USR1", 7),
    ] {
        begin();
        let _ = ask(&engine, "POST", path).expect(204);
        assert_eq!(wait(&engine, "box"), code, "{path}");
    }
    assert_eq!(ask(&engine, "POST", "/containers/box/stop").status, 304);
    assert_eq!(ask(&engine, "POST", "/containers/box/kill").status, 409);
    begin();
    assert_eq!(ask(&engine, "POST", "/containers/box/start").status, 304);
    assert_eq!(
        ask(&engine, "POST", "/containers/box/kill?signal=BOGUS").status,
        400
    );
    let pid = || ask(&engine, "GET", "/containers/box/json").json()["State"]["Pid"].clone();
    let before = pid();
    let _ = ask(&engine, "POST", "/containers/box/restart?signal=USR1&t=20").expect(204);
    assert_ne!(pid(), before);
    let died = told(&engine, &json!({"event": ["die"]}));
    let codes: Vec<&Value> = died
        .iter()
        .map(|event| &event["Actor"]["Attributes"]["exitCode"])
        .collect();
    assert_eq!(**codes.last().unwrap(), json!("8"));
    let _ = ask(&engine, "POST", "/containers/box/restart?t=0").expect(204);
    let _ = ask(&engine, "DELETE", "/containers/box?force=1").expect(204);
}

#[test]
fn waits_end_at_their_condition() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = create(
        &engine,
        "box",
        json!({"Cmd": ["sh", "-c", "exit 3"], "HostConfig": {"AutoRemove": false}}),
    );
    // One that has never run is not running.
    assert_eq!(wait(&engine, "box"), 0);
    std::thread::scope(|scope| {
        let condition = |name: &'static str| {
            let path = format!("/containers/box/wait?condition={name}");
            let engine = &engine;
            scope.spawn(move || ask(engine, "POST", &path).expect(200).json()["StatusCode"].clone())
        };
        let (next, removed) = (condition("next-exit"), condition("removed"));
        std::thread::sleep(Duration::from_millis(200));
        let _ = ask(&engine, "POST", "/containers/box/start").expect(204);
        assert_eq!(next.join().unwrap(), 3);
        assert_eq!(wait(&engine, "box"), 3);
        assert!(!removed.is_finished());
        let _ = ask(&engine, "DELETE", "/containers/box").expect(204);
        assert_eq!(removed.join().unwrap(), 3);
    });
    assert_eq!(ask(&engine, "POST", "/containers/box/wait").status, 404);
    let _ = create(&engine, "other", json!({}));
    assert_eq!(
        ask(&engine, "POST", "/containers/other/wait?condition=x").status,
        400
    );
}

#[test]
fn removals_take_what_is_named() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let volumes = || -> Vec<String> {
        let list = ask(&engine, "GET", "/volumes").json();
        let names = list["Volumes"].as_array().unwrap().iter();
        names
            .map(|volume| volume["Name"].as_str().unwrap().to_owned())
            .collect()
    };
    let with_volumes =
        json!({"Cmd": SLEEP, "Volumes": {"/anonymous": {}}, "HostConfig": {"Binds": ["named:/n"]}});
    let _ = start(&engine, "box", with_volumes.clone());
    assert_eq!(ask(&engine, "DELETE", "/containers/box").status, 409);
    assert_eq!(ask(&engine, "DELETE", "/containers/box?link=1").status, 501);
    let _ = ask(&engine, "DELETE", "/containers/box?force=1").expect(204);
    assert_eq!(volumes().len(), 2);
    let _ = start(&engine, "box", with_volumes);
    assert_eq!(volumes().len(), 3);
    let _ = ask(&engine, "DELETE", "/containers/box?force=true&v=true").expect(204);
    assert_eq!(volumes().len(), 2);
    assert_eq!(ask(&engine, "DELETE", "/containers/box").status, 404);
    let _ = tell(
        &engine,
        "POST",
        "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D",
        "",
    )
    .expect(200);
}

#[test]
fn prunes_take_what_is_named() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = start(&engine, "runs", json!({"Cmd": SLEEP}));
    for (name, labels) in [
        ("plain", json!({})),
        ("kept", json!({"keep": "yes"})),
        ("old", json!({"age": "1"})),
    ] {
        let _ = create(&engine, name, json!({"Labels": labels}));
    }
    let left = || listed(&engine, "all=1");
    let prune = |filters: &Value| {
        let path = format!("/containers/prune?filters={}", encoded(filters));
        ask(&engine, "POST", &path).expect(200).json()
    };
    assert_eq!(
        prune(&json!({"until": ["1h"]}))["ContainersDeleted"],
        Value::Null
    );
    assert_eq!(
        prune(&json!({"until": ["2001-01-01"]}))["ContainersDeleted"],
        Value::Null
    );
    let pruned = prune(&json!({"label": ["age=1"]}));
    assert_eq!(pruned["ContainersDeleted"].as_array().unwrap().len(), 1);
    assert_eq!(left(), ["kept", "plain", "runs"]);
    let pruned = prune(&json!({"label!": ["keep"]}));
    assert_eq!(pruned["ContainersDeleted"].as_array().unwrap().len(), 1);
    assert_eq!(left(), ["kept", "runs"]);
    assert!(pruned["SpaceReclaimed"].is_u64());
    let _ = prune(&json!({"until": ["2100-01-01T00:00:00Z"]}));
    assert_eq!(left(), ["runs"]);
    for filters in [
        json!({"nonesuch": ["x"]}),
        json!({"until": ["x"]}),
        json!({"until": ["1h", "2h"]}),
    ] {
        let path = format!("/containers/prune?filters={}", encoded(&filters));
        assert_eq!(ask(&engine, "POST", &path).status, 400, "{filters}");
    }
}

fn file_stat(answer: &Answer) -> Value {
    let text = answer.header("x-docker-container-path-stat").unwrap();
    let decoded = sampan_testing::run("sh", &["-c", &format!("echo {text} | base64 -d")]).ok();
    serde_json::from_str(&decoded).unwrap()
}

#[test]
fn archives_go_where_they_are_sent() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "mkdir -p /d/sub; echo text > /d/file; ln -s file /d/link; sleep 1000";
    let _ = start(&engine, "box", json!({"Cmd": ["sh", "-c", script]}));
    until("the files are there", || {
        engine
            .sampan(&["exec", "box", "test", "-L", "/d/link"])
            .code
            == 0
    });
    let stat = file_stat(&ask(&engine, "HEAD", "/containers/box/archive?path=/d/link").expect(200));
    assert_eq!(
        (&stat["name"], &stat["linkTarget"]),
        (&json!("link"), &json!("/d/file"))
    );
    let answer = ask(&engine, "GET", "/containers/box/archive?path=/d/file").expect(200);
    assert_eq!(file_stat(&answer)["size"], 5);
    assert_eq!(answer.header("content-type"), Some("application/x-tar"));
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o640);
    header.set_uid(1234);
    header.set_gid(5678);
    header.set_cksum();
    tar.append_data(&mut header, "sub", &b"x\n"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let put = |query: &str| {
        send(
            &engine,
            "PUT",
            &format!("/containers/box/archive?{query}"),
            &[],
            &tar,
        )
    };
    // A file in the place of a directory.
    let refused = put("path=/d&noOverwriteDirNonDir=1").expect(400);
    assert!(refused.message().contains("sub"), "{}", refused.message());
    let _ = put("path=/tmp&noOverwriteDirNonDir=true").expect(200);
    assert_eq!(
        inside(&engine, "box", "stat -c '%u:%g %a' /tmp/sub"),
        "1234:5678 640"
    );
    for (query, status) in [
        ("path=", 400),
        ("path=/nonesuch", 404),
        ("path=/d/file", 400),
        ("path=/proc/nonesuch", 404),
    ] {
        assert_eq!(put(query).status, status, "{query}");
    }
    for (method, path, status) in [
        ("HEAD", "/containers/box/archive?path=/nonesuch", 404),
        ("HEAD", "/containers/box/archive", 400),
        ("GET", "/containers/box/archive?path=", 400),
        ("GET", "/containers/nonesuch/archive?path=/", 404),
    ] {
        assert_eq!(ask(&engine, method, path).status, status, "{method} {path}");
    }
    // Its owner as the container's own user.
    let _ = start(&engine, "user", json!({"Cmd": SLEEP, "User": "1000:2000"}));
    let path = "/containers/user/archive?path=/tmp&copyUIDGID=1";
    let _ = send(&engine, "PUT", path, &[], &tar).expect(200);
    assert_eq!(
        inside(&engine, "user", "stat -c %u:%g /tmp/sub"),
        "1000:2000"
    );
}

#[test]
fn every_limit_can_be_updated() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let device = Path::new("/sys/block/loop0/dev").exists();
    let _ = start(
        &engine,
        "box",
        json!({"Cmd": SLEEP, "HostConfig": {"Memory": 64 << 20}}),
    );
    let rate = |number: u64| json!([{"Path": "/dev/loop0", "Rate": number}]);
    let mut body = json!({
        "CpuShares": 512, "Memory": 128 << 20, "MemorySwap": 256 << 20, "MemoryReservation": 32 << 20,
        "CpuPeriod": 50000, "CpuQuota": 25000, "CpusetCpus": "0", "CpusetMems": "0", "PidsLimit": 50,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
    });
    if device {
        body["BlkioDeviceReadBps"] = rate(1_000_001);
        body["BlkioDeviceWriteBps"] = rate(1_000_002);
        body["BlkioDeviceReadIOps"] = rate(103);
        body["BlkioDeviceWriteIOps"] = rate(104);
    }
    let answer = tell(&engine, "POST", "/containers/box/update", &body.to_string()).expect(200);
    assert_eq!(answer.json(), json!({"Warnings": null}));
    let inspect = ask(&engine, "GET", "/containers/box/json").json();
    for (key, value) in body.as_object().unwrap() {
        assert_eq!(inspect["HostConfig"][key], *value, "{key}");
    }
    // What the kernel has, of the process itself.
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", inspect["State"]["Pid"])).unwrap();
    let read = |controller: &str, v1: &str, v2: &str| {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let line = groups.lines().find(|line| match unified {
            true => line.starts_with("0::"),
            false => line
                .split(':')
                .nth(1)
                .unwrap()
                .split(',')
                .any(|name| name == controller),
        });
        let path = line.unwrap().splitn(3, ':').nth(2).unwrap();
        let file = match unified {
            true => format!("/sys/fs/cgroup{path}/{v2}"),
            false => format!("/sys/fs/cgroup/{controller}{path}/{v1}"),
        };
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    assert_eq!(
        read("memory", "memory.limit_in_bytes", "memory.max").trim(),
        (128 << 20).to_string()
    );
    assert_eq!(
        read("memory", "memory.soft_limit_in_bytes", "memory.low").trim(),
        (32 << 20).to_string()
    );
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus").trim(), "0");
    assert_eq!(read("pids", "pids.max", "pids.max").trim(), "50");
    assert!(read("cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("25000"));
    if device {
        let reads = read("blkio", "blkio.throttle.read_bps_device", "io.max");
        assert!(reads.contains("1000001"), "{reads}");
        let writes = read("blkio", "blkio.throttle.write_iops_device", "io.max");
        assert!(writes.contains("104"), "{writes}");
    }
    for (body, says) in [
        (json!({"Memory": 1}), "Minimum memory limit allowed is 6MB"),
        (json!({"CpuShares": -1}), "CPU shares"),
        (
            json!({"NanoCpus": 1_000_000_000}),
            "CPU Period has already been set",
        ),
        (
            json!({"CpusetCpus": "x"}),
            "Invalid value x for cpuset cpus",
        ),
        (
            json!({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}]}),
            "not a block device",
        ),
        (json!({"RestartPolicy": {"Name": "sometimes"}}), "sometimes"),
    ] {
        let refused = tell(&engine, "POST", "/containers/box/update", &body.to_string());
        assert!(
            (400..=500).contains(&refused.status),
            "{body}: {}",
            refused.text()
        );
        assert!(
            refused.message().contains(says),
            "{body}: {}",
            refused.message()
        );
    }
}

#[test]
fn execs_are_as_described() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = start(&engine, "box", json!({"Cmd": SLEEP, "Env": ["OF_BOX=1"]}));
    let body = json!({
        "Cmd": ["sh", "-c", "id -u; pwd; echo $A$OF_BOX; grep CapEff /proc/self/status > /caps; exit 5"],
        "Env": ["A=2"], "User": "1000", "WorkingDir": "/tmp", "AttachStdout": true, "AttachStderr": true,
        "DetachKeys": "ctrl-a",
    });
    let made = tell(&engine, "POST", "/containers/box/exec", &body.to_string())
        .expect(201)
        .json();
    let id = made["Id"].as_str().unwrap();
    let shown = ask(&engine, "GET", &format!("/exec/{id}/json"))
        .expect(200)
        .json();
    assert_eq!(
        (&shown["Running"], &shown["ExitCode"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(shown["ProcessConfig"]["entrypoint"], "sh");
    assert_eq!(shown["ProcessConfig"]["user"], "1000");
    let said = tell(&engine, "POST", &format!("/exec/{id}/start"), "{}");
    let text = said.text();
    assert!(
        text.contains("1000\n") && text.contains("/tmp\n") && text.contains("21\n"),
        "{text}"
    );
    until("its end is noted", || {
        ask(&engine, "GET", &format!("/exec/{id}/json")).json()["ExitCode"] == 5
    });
    assert_eq!(
        tell(&engine, "POST", &format!("/exec/{id}/start"), "{}").status,
        409
    );
    // All that the host has, where it is asked for.
    let body = r#"{"Cmd":["sh","-c","grep CapEff /proc/self/status > /caps"],"Privileged":true}"#;
    let made = tell(&engine, "POST", "/containers/box/exec", body)
        .expect(201)
        .json();
    let id = made["Id"].as_str().unwrap();
    let _ = tell(
        &engine,
        "POST",
        &format!("/exec/{id}/start"),
        r#"{"Detach":true}"#,
    )
    .expect(200);
    until("it ran", || {
        let caps = engine.sampan(&["exec", "box", "cat", "/caps"]).stdout;
        caps.contains("CapEff") && !caps.contains("00000000a80425fb")
    });
    for (body, status) in [
        (r#"{"Cmd":[]}"#, 400),
        ("{}", 400),
        (r#"{"Cmd":["true"],"WorkingDir":"relative"}"#, 400),
        (r#"{"Cmd":["true"],"DetachKeys":"ctrl-bogus"}"#, 400),
    ] {
        assert_eq!(
            tell(&engine, "POST", "/containers/box/exec", body).status,
            status,
            "{body}"
        );
    }
    let _ = ask(&engine, "POST", "/containers/box/pause").expect(204);
    let body = r#"{"Cmd":["true"]}"#;
    assert_eq!(
        tell(&engine, "POST", "/containers/box/exec", body).status,
        409
    );
    let _ = ask(&engine, "POST", "/containers/box/kill").expect(204);
    let _ = wait(&engine, "box");
    assert_eq!(
        tell(&engine, "POST", "/containers/box/exec", body).status,
        409
    );
    assert_eq!(
        tell(&engine, "POST", "/containers/nonesuch/exec", body).status,
        404
    );
}
