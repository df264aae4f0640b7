//! The configuration of registries: mirrors, certificates, and reloading.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use sampan_testing::{Fixture, Registry, TestEngine, fixture, free_port, until};

use crate::{SAMPAN, engine};

fn write(engine: &TestEngine, text: &str) {
    fs::write(engine.scratch().join("registries.toml"), text).unwrap();
}

#[test]
fn a_mirror_of_any_registry_is_used_from_the_next_pull_on() {
    let (engine, mirror) = (engine(), Registry::start());
    let pushed = mirror.push(&fixture(Fixture::Busybox));
    let repository = pushed.split_once('/').unwrap().1;
    // Nobody is there: only the mirror can have it.
    let origin = format!("127.0.0.1:{}", free_port());
    let name = format!("{origin}/team/{repository}");
    assert_eq!(engine.sampan(&["pull", "-q", &name]).code, 1);
    write(
        &engine,
        &format!(
            "[[registry]]\nprefix = \"{origin}/team\"\nmirrors = [\"http://{}\"]\n",
            mirror.address()
        ),
    );
    assert_eq!(engine.sampan(&["pull", "-q", &name]).ok(), name);
    assert_eq!(
        engine
            .docker(&["image", "inspect", "-f", "{{.RepoTags}}", &name])
            .ok(),
        format!("[{name}]")
    );
    let _ = engine.sampan(&["rmi", &name]).ok();
    // A bad file changes nothing, and the log says why.
    write(&engine, "[[registry]]\nprefix = 5\n");
    let _ = engine.sampan(&["pull", "-q", &name]).ok();
    let log = engine.log();
    assert!(log.contains("stays as it was"), "{log}");
    assert!(log.contains("registries.toml: "), "{log}");
    let _ = engine.sampan(&["rmi", &name]).ok();
    write(&engine, "");
    assert_eq!(engine.sampan(&["pull", "-q", &name]).code, 1);
}

#[test]
fn certificates_of_a_registry_are_taken_from_either_place() {
    let (engine, registry) = (engine(), Registry::with_client_certificates());
    let image = registry.push(&fixture(Fixture::Busybox));
    let certificates = registry.certificates();
    // The registry wants to know the client.
    assert_eq!(engine.sampan(&["pull", "-q", &image]).code, 1);
    let directory = engine.scratch().join("certs.d").join(registry.address());
    fs::create_dir_all(&directory).unwrap();
    for (from, name) in [
        (&certificates.authority, "ca.crt"),
        (&certificates.client, "client.cert"),
        (&certificates.client_key, "client.key"),
    ] {
        fs::copy(from, directory.join(name)).unwrap();
    }
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    let _ = engine.sampan(&["rmi", &image]).ok();
    // Another authority's certificate is none.
    fs::copy(&certificates.client, directory.join("ca.crt")).unwrap();
    assert_eq!(engine.sampan(&["pull", "-q", &image]).code, 1);
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(engine.sampan(&["pull", "-q", &image]).code, 1);
    write(
        &engine,
        &format!(
            "[host.\"{}\"]\nca = [{:?}]\nclient-certificate = {:?}\nclient-key = {:?}\n",
            registry.address(),
            certificates.authority,
            certificates.client,
            certificates.client_key
        ),
    );
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
}

#[test]
fn a_name_is_rewritten_to_where_it_moved() {
    let (engine, registry) = (engine(), Registry::start());
    let _ = registry.push_as(&fixture(Fixture::Busybox), "archive/team/app", &[]);
    write(
        &engine,
        &format!(
            "[[registry]]\nprefix = \"old.invalid/team\"\nlocation = \"{}/archive/team\"\n",
            registry.address()
        ),
    );
    let name = "old.invalid/team/app:latest";
    for client in [TestEngine::sampan, TestEngine::docker] {
        assert_eq!(client(&engine, &["pull", "-q", name]).ok(), name);
        let _ = engine.sampan(&["rmi", name]).ok();
    }
}

#[test]
fn mirrors_of_dockers_own_file_are_asked_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("daemon.json");
    fs::write(&file, "{}").unwrap();
    let engine = TestEngine::start_with(SAMPAN, &["--config-file", file.to_str().unwrap()]);
    let (first, second) = (Registry::start(), Registry::start());
    let busybox = fixture(Fixture::Busybox);
    let _ = first.push_as(&busybox, "library/first", &[]);
    let _ = second.push_as(&busybox, "library/first", &[]);
    let _ = second.push_as(&busybox, "library/second", &[]);
    let mirrors = |registries: &[&Registry]| {
        let mirrors: Vec<_> = registries
            .iter()
            .map(|registry| format!("\"http://{}\"", registry.address()))
            .collect();
        let json = format!(r#"{{"registry-mirrors":[{}]}}"#, mirrors.join(","));
        fs::write(&file, json).unwrap();
    };
    mirrors(&[&first, &second]);
    for client in [TestEngine::sampan, TestEngine::docker] {
        // The first has only one of them.
        for name in ["first:latest", "second:latest"] {
            let _ = client(&engine, &["pull", "-q", name]).ok();
            let _ = engine.sampan(&["rmi", name]).ok();
        }
    }
    assert!(engine.log().contains("a mirror does not have the image"));
    let info = engine.docker(&["info", "-f", "{{.RegistryConfig.Mirrors}}"]);
    assert_eq!(
        info.ok(),
        format!("[http://{}/ http://{}/]", first.address(), second.address())
    );
}

#[test]
fn verification_is_given_up_only_where_that_is_said() {
    let (engine, plain) = (engine(), Registry::start());
    let image = plain.push(&fixture(Fixture::Busybox));
    let strict = Registry::with_client_certificates();
    let certificates = strict.certificates();
    // Who names an authority wants the certificate verified, on loopback too.
    let host = format!(
        "[host.\"{}\"]\nca = [{:?}]\n",
        plain.address(),
        certificates.authority
    );
    write(&engine, &host);
    let refused = engine.sampan(&["pull", "-q", &image]).failed(1);
    assert!(refused.contains("https://"), "{refused}");
    for word in ["insecure", "plain-http"] {
        write(&engine, &format!("{host}{word} = true\n"));
        let _ = engine.docker(&["pull", "-q", &image]).ok();
        let _ = engine.sampan(&["rmi", &image]).ok();
    }
    // With a wrong authority, too, when any will do.
    let image = strict.push(&fixture(Fixture::Busybox));
    let host = format!(
        "[host.\"{}\"]\nca = [{:?}]\nclient-certificate = {:?}\nclient-key = {:?}\n",
        strict.address(),
        certificates.client,
        certificates.client,
        certificates.client_key
    );
    write(&engine, &host);
    assert_eq!(engine.sampan(&["pull", "-q", &image]).code, 1);
    write(&engine, &format!("{host}insecure = true\n"));
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
}

#[test]
fn info_shows_mirrors_and_insecure_registries() {
    let engine = engine();
    write(
        &engine,
        "[[registry]]\nprefix = \"docker.io\"\nmirrors = [\"mirror.invalid\"]\n\
         [host.\"lax.invalid:5000\"]\ninsecure = true\n",
    );
    for ran in [engine.sampan(&["info"]), engine.docker(&["info"])] {
        let text = ran.ok();
        assert!(
            text.contains(
                " Insecure Registries:\n  lax.invalid:5000\n  ::1/128\n  127.0.0.0/8\n Registry Mirrors:\n  https://mirror.invalid/\n"
            ),
            "{text}"
        );
    }
}

#[test]
fn a_hangup_reloads_and_ends_nothing() {
    let engine = engine();
    let before = engine.pid();
    // To the keeper, as the service's reload does; it tells the engine.
    let status = fs::read_to_string(format!("/proc/{}/status", before.as_raw_nonzero())).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .and_then(|text| text.trim().parse().ok())
        .and_then(Pid::from_raw)
        .unwrap();
    kill_process(parent, Signal::HUP).unwrap();
    until("the engine has read its files again", || {
        engine
            .log()
            .contains("read the configuration of registries again")
    });
    assert_eq!(engine.pid(), before);
    let _ = engine.sampan(&["ps"]).ok();
}

#[test]
fn a_bad_file_is_told_when_an_engine_is_started() {
    let directory = tempfile::tempdir().unwrap();
    let registries = directory.path().join("registries.toml");
    fs::write(&registries, "[[registry]]\n").unwrap();
    let output = std::process::Command::new(SAMPAN)
        .args(["daemon", "--root"])
        .arg(directory.path().join("root"))
        .arg("--run")
        .arg(directory.path().join("run"))
        .arg("--registries")
        .arg(&registries)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(
        stderr,
        format!(
            "sampan daemon: {}: missing field `prefix`\n",
            registries.display()
        )
    );
}
