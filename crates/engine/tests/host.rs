//! Networks, volumes and binds, on the real host.

#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod harness;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use harness::{EngineExt, Host, SOON, actions, import, script};
use sampan_engine::{
    CreateContainer, CreateVolume, ErrorKind, HostConfig, MountRequest, MountRequestKind,
    NetworkMode, PortBinding, RemoveOptions, RemoveRunning, RemoveVolumes,
};

fn on_bridge(text: &str) -> CreateContainer {
    let mut request = script(text);
    request.host.network_mode = NetworkMode::Default;
    request
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_on_the_bridge_reach_each_other_and_are_published() {
    needs_host!();
    sampan_kernel::requires!(nftables);
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request =
        on_bridge("mkdir /www; echo ahoy > /www/index.html; exec httpd -f -p 80 -h /www");
    request.name = Some("web".into());
    let port: sampan_engine::ContainerPort = "80/tcp".parse().unwrap();
    request.host.port_bindings = BTreeMap::from([(port, vec![PortBinding::default()])]);
    request.host.extra_hosts = vec!["db:10.9.8.7".into()];
    let id = engine.start_new(request).await;
    let view = engine.containers().inspect(&id).await.unwrap();
    let endpoint = view.network.endpoints["bridge"].clone();
    let address = endpoint.address.unwrap();
    let published = view.network.ports[&port][0];
    let deadline = Instant::now() + SOON;
    let text = loop {
        match get(published.port) {
            Ok(text) if text.contains("ahoy") => break text,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(text.starts_with("HTTP/1"), "{text}");
    let (code, log) = engine
        .run(on_bridge(&format!("wget -q -O - http://{address}/ && ip route | head -1 && cat /etc/resolv.conf | grep -c nameserver")))
        .await;
    assert_eq!(code, 0, "{log}");
    assert!(log.starts_with("ahoy\ndefault via "), "{log}");
    // The same port twice: the second stays created, and the message is Docker's.
    let mut second = on_bridge("true");
    second.host.port_bindings = BTreeMap::from([(
        port,
        vec![PortBinding {
            host_ip: String::new(),
            host_port: published.port.to_string(),
        }],
    )]);
    let second = EngineExt::create(&engine, second).await;
    let error = engine.containers().start(&second).await.unwrap_err();
    assert!(
        error.message().contains("port is already allocated"),
        "{}",
        error.message()
    );
    assert_eq!(error.kind(), ErrorKind::Internal);
    let (_, hosts) = engine.exec("web", &["cat", "/etc/hosts"]).await;
    assert!(hosts.contains("10.9.8.7\tdb\n"), "{hosts}");
    assert!(
        hosts.contains(&format!("{address}\t{}", &id[..12])),
        "{hosts}"
    );
    // Another container in the same namespace.
    let mut joined = script("wget -q -O - http://127.0.0.1/; hostname");
    joined.host.network_mode = NetworkMode::Container("web".into());
    let (_, log) = engine.run(joined).await;
    assert!(log.starts_with("ahoy\n"), "{log}");
    let networks = engine.networks().inspect("bridge").await.unwrap();
    assert_eq!(networks.containers.len(), 1);
    // Freed for the next one when the stop has been answered.
    engine.containers().kill("web", None).await.unwrap();
    engine.containers().start(&second).await.unwrap();
    engine.wait_end(&second).await;
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_and_no_network_are_what_they_say() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let (_, log) = engine
        .run(script(
            "ip -o link | grep -c .; cat /etc/hostname | head -c 3",
        ))
        .await;
    assert!(log.starts_with("1\n"), "{log}");
    let mut request = script("hostname; readlink /proc/self/ns/net");
    request.host.network_mode = NetworkMode::Host;
    let (_, log) = engine.run(request).await;
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(log.contains(&own.display().to_string()), "{log}");
    let mut unknown = script("true");
    unknown.host.network_mode = NetworkMode::Network("mine".into());
    let error = engine.containers().create(unknown).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Invalid, "network mine not found")
    );
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_filled_once_and_kept() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let with_volume = |text: &str| {
        let mut request = script(text);
        request.host.binds = vec!["keep:/data".parse().unwrap()];
        request
    };
    let (code, log) = engine.run(with_volume("ls /data; cat /data/file; stat -c '%a %u' /data /data/file; readlink /data/link; echo new > /data/file")).await;
    assert_eq!(
        (code, log.as_str()),
        (
            0,
            "file\nlink\nsub\nfrom the image\n750 1000\n640 1000\n/etc/passwd\n"
        )
    );
    engine.remove_all().await;
    let (_, log) = engine.run(with_volume("cat /data/file")).await;
    assert_eq!(log, "new\n");
    let view = engine.volumes().inspect("keep").await.unwrap();
    assert_eq!(view.references, 1);
    let error = engine.volumes().remove("keep", false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let mut read_only = script("echo x > /data/file; cat /data/file");
    read_only.host.binds = vec!["keep:/data:ro".parse().unwrap()];
    let (_, log) = engine.run(read_only).await;
    assert!(log.contains("Read-only") && log.contains("new\n"), "{log}");
    // Those of another container, and an empty one by choice.
    let mut source = script("true");
    source.name = Some("source".into());
    source.host.binds = vec![
        "keep:/data".parse().unwrap(),
        "bare:/data2:nocopy".parse().unwrap(),
    ];
    EngineExt::create(&engine, source).await;
    let mut heir = script("cat /data/file; ls /data2");
    heir.host.volumes_from = vec!["source:ro".into()];
    assert_eq!(engine.run(heir).await.1, "new\n");
    engine.remove_all().await;
    engine.volumes().remove("keep", false).await.unwrap();
    assert_eq!(
        engine
            .volumes()
            .remove("keep", false)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    engine.volumes().remove("keep", true).await.unwrap();
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_volumes_go_with_their_container() {
    needs_host!();
    let host = Host::new();
    let engine = host.open().await;
    import(&engine, "busybox", &["VOLUME /data /../../etc/escape"]).await;
    let mut events = engine.events().subscribe(None);
    let mut request = script("cat /data/file; ls -d /etc/escape");
    request.host.auto_remove = true;
    let id = engine.start_new(request).await;
    let wait = engine
        .containers()
        .wait(&id, sampan_engine::WaitCondition::Removed)
        .await;
    if let Ok(wait) = wait {
        wait.outcome().await.unwrap();
    }
    host.assert_nothing_left();
    assert!(
        engine
            .volumes()
            .list(&BTreeMap::new())
            .await
            .unwrap()
            .is_empty()
    );
    let told = actions(&mut events);
    for action in [
        "volume:create",
        "volume:mount",
        "volume:unmount",
        "volume:destroy",
    ] {
        assert_eq!(
            told.iter().filter(|told| *told == action).count(),
            2,
            "{told:?}"
        );
    }
    let id = EngineExt::create(&engine, script("true")).await;
    engine
        .containers()
        .remove(&id, RemoveOptions::default())
        .await
        .unwrap();
    assert_eq!(
        engine.volumes().list(&BTreeMap::new()).await.unwrap().len(),
        2
    );
    let id = EngineExt::create(&engine, script("true")).await;
    let with_volumes = RemoveOptions {
        running: RemoveRunning::Refuse,
        volumes: RemoveVolumes::Anonymous,
    };
    engine.containers().remove(&id, with_volumes).await.unwrap();
    assert_eq!(
        engine.volumes().list(&BTreeMap::new()).await.unwrap().len(),
        2
    );
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binds_are_nested_checked_and_made() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let outer = host.path().join("outer");
    std::fs::create_dir(&outer).unwrap();
    std::fs::write(outer.join("seen"), b"outer\n").unwrap();
    let missing = host.path().join("made/by/engine");
    let mut request =
        script("cat /a/seen; echo x > /a/b/c/new; ls /a/b; mount | grep -c ' /a'; cat /file");
    request.host.binds = vec![
        // The deeper one first: it must not be hidden.
        format!("{}:/a/b/c", missing.display()).parse().unwrap(),
        format!("{}:/a", outer.display()).parse().unwrap(),
        format!("{}:/file:ro", outer.join("seen").display())
            .parse()
            .unwrap(),
    ];
    let (code, log) = engine.run(request).await;
    assert_eq!((code, log.as_str()), (0, "outer\nc\n2\nouter\n"));
    assert_eq!(std::fs::read(missing.join("new")).unwrap(), b"x\n");
    assert_eq!(
        missing.metadata().unwrap().permissions().mode() & 0o777,
        0o755
    );
    let mut request = script("true");
    request.host.mounts = vec![MountRequest {
        kind: MountRequestKind::Bind {
            source: host.path().join("nowhere").display().to_string(),
            propagation: None,
            non_recursive: false,
            create: false,
        },
        target: "/x".into(),
        read_only: false,
    }];
    let error = engine.containers().create(request).await.unwrap_err();
    assert!(
        error.message().contains("bind source path does not exist"),
        "{}",
        error.message()
    );
    let mut twice = script("true");
    twice.host.binds = vec!["/tmp:/x".parse().unwrap(), "/var:/x/".parse().unwrap()];
    let error = engine.containers().create(twice).await.unwrap_err();
    assert_eq!(error.message(), "Duplicate mount point: /x");
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_init_and_privileges() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script(
        "head -c 3 /dev/fuller | stat -c %F /dev/fuller; cat /proc/1/cmdline; ls /sbin/docker-init",
    );
    request.host.resources.devices = vec![sampan_engine::DeviceMapping {
        path_on_host: "/dev/full".into(),
        path_in_container: "/dev/fuller".into(),
        cgroup_permissions: "r".into(),
    }];
    request.host.init = Some(true);
    let (_, log) = engine.run(request).await;
    assert!(
        log.starts_with("character special file\n/sbin/docker-init"),
        "{log}"
    );
    let mut request =
        script("grep CapEff /proc/self/status; mount -t tmpfs x /tmp && echo mounted");
    request.host.privileged = true;
    let (_, log) = engine.run(request).await;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:\t"))
        .unwrap();
    assert!(log.contains(&format!("CapEff:\t{all}\nmounted")), "{log}");
    let mut request = script("true");
    request.host.resources.devices = vec![sampan_engine::DeviceMapping {
        path_on_host: "/dev/nothing".into(),
        ..Default::default()
    }];
    let id = EngineExt::create(&engine, request).await;
    let error = engine.containers().start(&id).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("error gathering device information"),
        "{}",
        error.message()
    );
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold() {
    needs_host!();
    sampan_kernel::requires!(cgroups);
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script("dd if=/dev/zero of=/dev/shm/x bs=1M count=60; exit 1");
    request.host.resources.memory = 16 << 20;
    request.host.resources.memory_swap = 16 << 20;
    let id = engine.start_new(request).await;
    let outcome = engine.wait_end(&id).await;
    let view = engine.containers().inspect(&id).await.unwrap();
    assert!(
        view.lifecycle.last().unwrap().oom_killed,
        "{outcome:?} {:?}",
        view.lifecycle
    );
    let mut request = script("for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait");
    request.host.resources.pids_limit = Some(4);
    let (code, log) = engine.run(request).await;
    assert!(code != 0 && log.contains("can't fork"), "{code} {log}");
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volume_names_cannot_leave_their_place() {
    needs_host!();
    let host = Host::new();
    let engine = host.open().await;
    for name in ["../x", "/x", "a/b", ".", "..", ".hidden", "x", "a\0b"] {
        let request = CreateVolume {
            name: name.into(),
            ..CreateVolume::default()
        };
        let error = engine.volumes().create(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
        assert_eq!(
            engine
                .volumes()
                .remove(name, false)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound
        );
    }
    let named = engine.volumes().create(CreateVolume {
        name: "ok.1".into(),
        ..CreateVolume::default()
    });
    let view = named.await.unwrap();
    assert_eq!(view.mountpoint, host.root().join("volumes/ok.1/_data"));
    assert_eq!(
        host.root().join("volumes").metadata().unwrap().mode() & 0o077,
        0
    );
    let _ = HostConfig::default();
}
