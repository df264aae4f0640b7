//! What is inside of containers: processes, usage, limits, ports; typed with the real `docker`
//! client and with `sampan`.

use sampan_testing::TestEngine;
use serde_json::Value;

use crate::engine_with_busybox;
use crate::table::Expect::{Id, Same, Text};
use crate::table::{line, play_in, wrong};

#[test]
fn processes_are_listed() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "sleep 1000 & sleep 2000";
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    let _ = engine
        .sampan(&["create", "--name", "made", "busybox", "true"])
        .ok();
    sampan_testing::until("all run", || {
        engine
            .sampan(&["top", "box"])
            .stdout
            .matches("sleep")
            .count()
            == 2
    });
    // As the host's own ps shows them.
    let host = sampan_testing::run("ps", &["-ef"]).ok();
    for client in [TestEngine::sampan, TestEngine::docker] {
        let top = client(&engine, &["top", "box"]).ok();
        let words = |line: &str| -> Vec<String> {
            line.split_ascii_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(
            words(top.lines().next().unwrap()),
            words(host.lines().next().unwrap())
        );
        for line in top.lines().skip(1) {
            let row = words(line);
            let same = host
                .lines()
                .map(words)
                .find(|other| other[1] == row[1])
                .unwrap();
            assert_eq!(row[..3], same[..3], "{top}");
            assert_eq!(row[4..], same[4..], "{top}");
        }
        let some = client(&engine, &["top", "box", "-o", "pid,comm"]).ok();
        assert!(some.starts_with("PID") && some.contains("sleep"), "{some}");
        for (words, code, says) in [
            (
                &["top", "box", "-o", "ppid=PID"][..],
                1,
                "specifying \"ppid=PID\" is not allowed",
            ),
            (
                &["top", "box", "-o", "comm"],
                1,
                "Couldn't find PID field in ps output",
            ),
            (&["top", "made"], 1, "is not running"),
            (&["top", "nonesuch"], 1, "No such container: nonesuch"),
        ] {
            let refused = client(&engine, words).failed(code);
            assert!(refused.contains(says), "{refused}");
        }
    }
    engine.remove_all();
}

#[test]
fn ports_are_told() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play_in(
        &engine_with_busybox(),
        &|_| {},
        &[
            line(
                "run -d --name box -p 127.0.0.1:48080:80 -p 127.0.0.1:48443:443 -p 127.0.0.1:48053:53/udp busybox sleep 1000",
                Id,
            ),
            line(
                "port box",
                Text(
                    "53/udp -> 127.0.0.1:48053\n80/tcp -> 127.0.0.1:48080\n443/tcp -> 127.0.0.1:48443",
                ),
            ),
            line("port box 80", Text("127.0.0.1:48080")),
            line("port box 53/udp", Text("127.0.0.1:48053")),
            wrong("port box 53", 1, &["No public port '53' published for box"]),
            wrong("port box x", 1, &["invalid port (x)"]),
            wrong("port", 1, &["requires at least 1 and at most 2 arguments"]),
            line("rm -f box", Same),
        ],
    );
}

#[test]
fn limits_change_while_it_runs() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play_in(
        &engine_with_busybox(),
        &|_| {},
        &[
            line("run -d --name box -m 64m busybox sleep 1000", Id),
            line(
                "update -m 128m --memory-swap 256m --pids-limit 50 --cpu-shares 512 box",
                Text("box"),
            ),
            line(
                "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.CpuShares}}' box",
                Text("134217728 268435456 50 512"),
            ),
            line(
                "exec box sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'",
                Text("134217728"),
            ),
            line(
                "exec box sh -c 'cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max'",
                Text("50"),
            ),
            line("update --cpus 0.5 box", Text("box")),
            wrong(
                "update --cpu-quota 5000 box",
                1,
                &["CPU Quota cannot be updated as NanoCPUs has already been set"],
            ),
            wrong(
                "update -m 1k box",
                1,
                &["Minimum memory limit allowed is 6MB"],
            ),
            wrong(
                "update -m 512m box",
                1,
                &["update the memoryswap at the same time"],
            ),
            wrong("update box", 1, &["you must provide one or more flags"]),
            wrong(
                "update --cpus 1 nonesuch",
                1,
                &["No such container: nonesuch"],
            ),
            line("stop -t 0 box", Same),
            line("update -m 200m --memory-swap -1 box", Text("box")),
            line("start box", Same),
            line(
                "exec box sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'",
                Text("209715200"),
            ),
            line("rm -f box", Same),
        ],
    );
}

/// One reading.
fn stats(engine: &TestEngine, query: &str) -> Value {
    let path = format!("/containers/box/stats?{query}");
    let answer = crate::raw::ask(engine, "GET", &path, b"");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn usage_is_counted() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20; ping -c 3 -W 1 172.17.0.1 & while :; do :; done";
    let words = [
        "run", "-d", "--name", "box", "-m", "100m", "busybox", "sh", "-c", script,
    ];
    let _ = engine.sampan(&words).ok();
    sampan_testing::until("it is busy", || {
        let reading = stats(&engine, "stream=0&one-shot=1");
        reading["memory_stats"]["usage"].as_u64() > Some(20 << 20)
            && reading["cpu_stats"]["cpu_usage"]["total_usage"].as_u64() > Some(300_000_000)
    });
    let reading = stats(&engine, "stream=false");
    let number = |path: &str| reading.pointer(path).and_then(Value::as_u64);
    let before = number("/precpu_stats/cpu_usage/total_usage").unwrap();
    assert!(
        number("/cpu_stats/cpu_usage/total_usage").unwrap() > before,
        "{reading:#}"
    );
    assert!(number("/cpu_stats/system_cpu_usage") > number("/precpu_stats/system_cpu_usage"));
    assert_eq!(number("/memory_stats/limit"), Some(100 << 20));
    assert!(
        number("/memory_stats/stats/inactive_file").is_some(),
        "{reading:#}"
    );
    assert!(number("/pids_stats/current") >= Some(1));
    assert!(number("/cpu_stats/online_cpus") >= Some(1));
    assert!(number("/networks/eth0/tx_bytes") > Some(0), "{reading:#}");
    assert!(reading["preread"].as_str() < reading["read"].as_str());
    let shot = stats(&engine, "stream=0&one-shot=1");
    assert_eq!(shot["preread"], "0001-01-01T00:00:00Z");
    let refused = crate::raw::ask(&engine, "GET", "/containers/box/stats?one-shot=1", b"");
    assert!(
        refused.contains("cannot have stream=true and one-shot=true"),
        "{refused}"
    );
    for client in [TestEngine::sampan, TestEngine::docker] {
        let table = client(&engine, &["stats", "--no-stream"]).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[0]
                .split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .collect::<Vec<_>>(),
            [
                "CONTAINER ID",
                "NAME",
                "CPU %",
                "MEM USAGE / LIMIT",
                "MEM %",
                "NET I/O",
                "BLOCK I/O",
                "PIDS"
            ]
        );
        assert!(
            lines[1].contains(" box ") && lines[1].contains("/ 100MiB"),
            "{table}"
        );
        let format = "{{.Name}} {{.PIDs}} {{.Container}}";
        let row = client(
            &engine,
            &["stats", "--no-stream", "--format", format, "box"],
        )
        .ok();
        assert!(
            row.starts_with("box ") && row.trim_end().ends_with(" box"),
            "{row}"
        );
        let json = client(&engine, &["stats", "--no-stream", "--format", "json"]).ok();
        assert!(json.contains("\"MemPerc\":\""), "{json}");
        let missing = client(&engine, &["stats", "--no-stream", "nonesuch"]).failed(1);
        assert!(missing.contains("No such container: nonesuch"), "{missing}");
    }
    let _ = engine.sampan(&["stop", "-t", "0", "box"]).ok();
    let reading = stats(&engine, "stream=0");
    assert_eq!(reading["read"], "0001-01-01T00:00:00Z");
    assert_eq!(reading["name"], "/box");
    let table = engine.sampan(&["stats", "--all", "--no-stream"]).ok();
    assert!(table.contains("0B / 0B"), "{table}");
    engine.remove_all();
}

#[test]
fn usage_is_streamed_until_the_container_goes() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| crate::raw::ask(&engine, "GET", "/containers/box/stats", b""));
        std::thread::sleep(std::time::Duration::from_millis(2500));
        let _ = engine.sampan(&["rm", "-f", "box"]).ok();
        let lines = stream.join().unwrap();
        assert!(lines.matches("\"preread\"").count() >= 2, "{lines}");
    });
}

#[test]
fn events_tell_of_what_is_done_inside() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let file = engine.scratch().join("file");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let _ = engine.sampan(&["cp", file, "box:/x"]).ok();
    let _ = engine.sampan(&["cp", "box:/x", "-"]).ok();
    let _ = engine.sampan(&["top", "box"]).ok();
    let _ = engine
        .sampan(&["update", "--cpu-shares", "100", "box"])
        .ok();
    let _ = engine.sampan(&["exec", "box", "true"]).ok();
    let _ = engine.sampan(&["rename", "box", "other"]).ok();
    let now = engine.sampan(&[
        "events",
        "--since",
        "1",
        "--until",
        "0s",
        "--format",
        "{{.Action}}",
        "-f",
        "type=container",
    ]);
    let told = now.ok();
    let mut told = told.lines();
    for action in [
        "create",
        "start",
        "extract-to-dir",
        "archive-path",
        "top",
        "update",
        "exec_create: true",
        "exec_start: true",
        "exec_die",
        "rename",
    ] {
        assert!(told.any(|line| line.starts_with(action)), "{action}");
    }
    engine.remove_all();
}
