//! Ports, hairpin, shared namespaces and the files about names.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sampan_testing::{TestEngine, free_port, until};

use crate::engine_with_busybox;

fn web(engine: &TestEngine, name: &str, flags: &[&str]) {
    let serve = "mkdir /www; echo served > /www/here; exec httpd -f -p 80 -h /www";
    let arguments = [
        &["run", "-d", "--name", name],
        flags,
        &["busybox", "sh", "-c", serve],
    ]
    .concat();
    let _ = engine.sampan(&arguments).ok();
}

fn answers(address: &str, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, port)) else {
        return false;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut answer = String::new();
    stream.write_all(b"GET /here HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains("served")
}

#[test]
fn a_published_port_is_reached_from_host_sibling_and_itself() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let port = free_port();
    web(&engine, "web", &["-p", &format!("{port}:80")]);
    until("the port answers on 127.0.0.1", || {
        answers("127.0.0.1", port)
    });
    let gateway = engine
        .sampan(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.bridge.Gateway}}",
            "web",
        ])
        .ok();
    assert!(
        answers(&gateway, port),
        "through the bridge's own address {gateway}"
    );
    let url = format!("http://{gateway}:{port}/here");
    // Hairpin: over the host's port back to itself, and from a sibling.
    assert_eq!(
        engine.sampan(&["exec", "web", "wget", "-qO-", &url]).ok(),
        "served"
    );
    assert_eq!(
        engine
            .sampan(&["run", "--rm", "busybox", "wget", "-qO-", &url])
            .ok(),
        "served"
    );
    let taken = engine.sampan(&[
        "run",
        "--rm",
        "-p",
        &format!("{port}:81"),
        "busybox",
        "true",
    ]);
    assert!(
        taken
            .failed(125)
            .contains("port is already allocated by container web")
    );
    let _ = engine.sampan(&["rm", "-f", "web"]).ok();
    assert!(!answers("127.0.0.1", port));
    web(&engine, "again", &["-p", &format!("{port}:80")]);
    until("the port can be used again", || answers("127.0.0.1", port));
}

#[test]
fn a_port_that_another_program_holds_is_refused_and_nothing_is_left() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let held = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let refused = engine.sampan(&[
        "run", "-d", "--name", "box", "-p", &publish, "busybox", "true",
    ]);
    let said = refused.failed(125);
    let holder = format!("{port}/tcp: address already in use by ");
    assert!(said.contains(&holder), "{said}");
    let own = format!("(process {})", std::process::id());
    assert!(said.contains(&own), "{said}");
    let state = engine
        .sampan(&["inspect", "-f", "{{.State.Status}}", "box"])
        .ok();
    assert_eq!(state, "created");
    let _ = engine.sampan(&["rm", "box"]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn all_exposed_ports_are_published_at_ports_of_the_systems_choice() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let tar = engine.scratch().join("root.tar").display().to_string();
    let _ = engine
        .sampan(&["create", "--name", "source", "busybox"])
        .ok();
    let tree = engine.scratch().join("tree/bin");
    std::fs::create_dir_all(&tree).unwrap();
    for name in ["sh", "mkdir", "httpd"] {
        std::fs::copy("/bin/busybox", tree.join(name)).unwrap();
    }
    let top = tree.parent().unwrap().display().to_string();
    let _ = sampan_testing::run("tar", &["-C", &top, "-cf", &tar, "."]).ok();
    let _ = engine
        .sampan(&["import", "--change", "EXPOSE 80", &tar, "exposing"])
        .ok();
    let serve = "mkdir /www; echo served > /www/here; exec httpd -f -p 80 -h /www";
    let run = [
        "run", "-d", "-P", "--name", "web", "exposing", "sh", "-c", serve,
    ];
    let _ = engine.sampan(&run).ok();
    let port = engine
        .sampan(&[
            "inspect",
            "-f",
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "web",
        ])
        .ok();
    let port: u16 = port.parse().unwrap();
    until("the chosen port answers", || answers("127.0.0.1", port));
}

#[test]
fn containers_share_a_namespace_with_container_and_host() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    web(&engine, "web", &[]);
    let shared = ["run", "--rm", "--network", "container:web", "busybox"];
    let ask = ["wget", "-qO-", "http://127.0.0.1/here"];
    until("the server listens", || {
        engine
            .sampan(&[&["exec", "web"], ask.as_slice()].concat())
            .code
            == 0
    });
    assert_eq!(
        engine.sampan(&[shared.as_slice(), &ask].concat()).ok(),
        "served"
    );
    let conflict = engine.sampan(&[
        "run",
        "--rm",
        "--network",
        "container:web",
        "-p",
        "1:1",
        "busybox",
    ]);
    assert!(conflict.failed(125).contains("conflicting options"));
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let seen = engine
        .sampan(&[
            "run",
            "--rm",
            "--network",
            "host",
            "busybox",
            "readlink",
            "/proc/self/ns/net",
        ])
        .ok();
    assert_eq!(seen, own.to_str().unwrap());
}

#[test]
fn names_are_in_the_files_that_a_container_reads() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "cat /etc/hosts; hostname; hostname -i";
    let said = engine
        .sampan(&["run", "--rm", "-h", "box", "busybox", "sh", "-c", script])
        .ok();
    assert!(said.contains("127.0.0.1\tlocalhost"), "{said}");
    let address = said.lines().last().unwrap();
    assert!(said.contains(&format!("{address}\tbox")), "{said}");
    let changed = "echo 1.2.3.4 x >> /etc/hosts && grep -c 1.2.3.4 /etc/hosts";
    assert_eq!(
        engine
            .sampan(&["run", "--rm", "busybox", "sh", "-c", changed])
            .ok(),
        "1"
    );
}
