//! Real services in real images pulled from a registry on loopback, with both
//! clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sampan_testing::{Fixture, Ran, Registry, TestEngine, fixture, free_port, until};

use crate::engine;

type Client = fn(&TestEngine, &[&str]) -> Ran;

const CLIENTS: [(&str, Client); 2] = [
    ("sampan", |engine, arguments| engine.sampan(arguments)),
    ("docker", |engine, arguments| engine.docker(arguments)),
];

/// Asks over TCP and returns what comes back, empty when nobody answers.
fn ask(port: u16, question: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return String::new();
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut answer = Vec::new();
    if stream.write_all(question.as_bytes()).is_ok() {
        // A reset is an answer that is not there yet.
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Runs an image with a published port and waits until a question to that
/// port is answered as expected.
fn serves(image: Fixture, port: u16, question: &str, expected: &str) {
    let registry = Registry::start();
    let reference = registry.push(&fixture(image));
    let engine = engine();
    for (name, client) in CLIENTS {
        let host_port = free_port();
        let publish = format!("127.0.0.1:{host_port}:{port}");
        let _ = client(&engine, &["pull", "-q", &reference]).ok();
        let id = client(&engine, &["run", "-d", "-p", &publish, &reference]).ok();
        until(&format!("{} run by {name} answers", image.name()), || {
            ask(host_port, question).contains(expected)
        });
        let shown = client(&engine, &["ps", "--format", "{{.Ports}}"]).ok();
        assert!(
            shown.contains(&format!("127.0.0.1:{host_port}->{port}/tcp")),
            "{shown}"
        );
        let _ = client(&engine, &["stop", "-t", "5", &id]).ok();
        let _ = client(&engine, &["rm", &id]).ok();
        let _ = client(&engine, &["rmi", &reference]).ok();
        assert_eq!(engine.sampan(&["images", "-q"]).ok(), "");
    }
}

#[test]
fn flask_answers_on_a_published_port() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    serves(
        Fixture::Flask,
        5000,
        "GET / HTTP/1.0\r\n\r\n",
        "hello from flask",
    );
}

#[test]
fn nginx_serves_a_page() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    serves(
        Fixture::Nginx,
        80,
        "GET / HTTP/1.0\r\n\r\n",
        "served by nginx",
    );
}

#[test]
fn redis_answers() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    serves(Fixture::Redis, 6379, "PING\r\nQUIT\r\n", "+PONG");
}

#[test]
fn postgres_keeps_its_named_volume_over_removal() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::Postgres));
    let engine = engine();
    for (name, client) in CLIENTS {
        let volume = format!("{name}-data:/var/lib/postgresql/15/main");
        let run = |engine: &TestEngine| {
            let arguments = ["run", "-d", "--name", "db", "-v", &volume, &reference];
            let _ = client(engine, &arguments).ok();
            until(&format!("postgres run by {name} is ready"), || {
                client(engine, &["exec", "db", "pg_isready", "-h", "/tmp"]).code == 0
            });
        };
        let sql = |statement: &str| {
            let arguments = ["exec", "db", "psql", "-h", "/tmp", "-tA", "-c", statement];
            client(&engine, &arguments).ok()
        };
        run(&engine);
        let _ = sql("create table t (n int)");
        let _ = sql("insert into t values (42)");
        let _ = client(&engine, &["stop", "db"]).ok();
        let _ = client(&engine, &["rm", "db"]).ok();
        run(&engine);
        assert_eq!(sql("select n from t"), "42");
        let _ = client(&engine, &["rm", "-f", "db"]).ok();
        let _ = client(&engine, &["volume", "rm", &format!("{name}-data")]).ok();
    }
}

#[test]
fn debian_runs_its_package_manager() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::Debian));
    let engine = engine();
    for (_, client) in CLIENTS {
        let script = "dpkg --list | grep -c '^ii' && echo ok > /etc/new && cat /etc/new";
        let ran = client(&engine, &["run", "--rm", &reference, "sh", "-c", script]).ok();
        assert!(ran.ends_with("\nok"), "{ran}");
    }
}
