//! Profiles of AppArmor, where the kernel has it: `cargo xtask test --vm`'s does.

use sampan_testing::{TestEngine, run};

use crate::engine_with_busybox;

const PROFILE: &str = "cat /proc/self/attr/current";

/// Loads or removes a profile of this text.
fn parser(option: &str, text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let _ = run("apparmor_parser", &[option, file.path().to_str().unwrap()]).ok();
}

fn confined(engine: &TestEngine, options: &str) -> String {
    let command = format!("run --rm {options} busybox {PROFILE}");
    let words: Vec<&str> = command.split_whitespace().collect();
    let by_docker = engine.docker(&words).ok();
    let by_sampan = engine.sampan(&words).ok();
    assert_eq!(by_docker, by_sampan, "{options}");
    by_sampan.trim().to_owned()
}

#[test]
fn containers_are_confined_unless_they_ask_for_another_profile() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        eprintln!("SKIP: this kernel has no AppArmor");
        return;
    }
    let engine = engine_with_busybox();
    let options = engine.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok();
    assert!(
        options.starts_with("[name=apparmor name=seccomp"),
        "{options}"
    );

    const CONFINED: &str = "sampan-default (enforce)";
    assert_eq!(confined(&engine, ""), CONFINED);
    assert_eq!(
        confined(&engine, "--user 5 --security-opt no-new-privileges"),
        CONFINED
    );
    assert_eq!(confined(&engine, "--privileged"), "unconfined");
    assert_eq!(
        confined(&engine, "--security-opt apparmor=unconfined"),
        "unconfined"
    );

    let health = format!("{PROFILE} > /health");
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "--health-interval",
        "100ms",
        "--health-cmd",
    ];
    let _ = engine
        .docker(&[&run[..], &[&health, "busybox", "sleep", "1000"]].concat())
        .ok();
    let exec = |option: &[&str]| {
        let words = [&["exec"][..], option, &["box", "sh", "-c", PROFILE]].concat();
        engine.docker(&words).ok().trim().to_owned()
    };
    assert_eq!(exec(&[]), CONFINED);
    assert_eq!(exec(&["--privileged"]), "unconfined");
    sampan_testing::until("a health check", || {
        engine
            .docker(&["exec", "box", "cat", "/health"])
            .ok()
            .trim()
            == CONFINED
    });
    let shown = ["inspect", "-f", "{{.AppArmorProfile}}", "box"];
    assert_eq!(engine.docker(&shown).ok(), "sampan-default");

    // What capabilities give the profile refuses.
    let mount = |option: &str| {
        let mount = [
            "--cap-add",
            "SYS_ADMIN",
            "busybox",
            "mount",
            "-t",
            "tmpfs",
            "x",
            "/tmp",
        ];
        engine.docker(&[&["run", "--rm", "--security-opt", option], &mount[..]].concat())
    };
    let said = mount("no-new-privileges=false").failed(255);
    assert!(said.contains("denied"), "{said}");
    let _ = mount("apparmor=unconfined").ok();

    let text =
        "profile sampan-test flags=(attach_disconnected) { file, signal, deny /etc/** r, }\n";
    parser("--replace", text);
    assert_eq!(
        confined(&engine, "--security-opt apparmor=sampan-test"),
        "sampan-test (enforce)"
    );
    let secret = ["busybox", "cat", "/etc/passwd"];
    let option = ["run", "--rm", "--security-opt", "apparmor=sampan-test"];
    let said = engine.docker(&[&option[..], &secret].concat()).failed(1);
    assert!(said.contains("Permission denied"), "{said}");
    parser("--remove", text);
    let said = engine.docker(&[&option[..], &secret].concat()).failed(125);
    assert!(
        said.contains("apparmor") && said.contains("is not loaded"),
        "{said}"
    );

    // Elsewhere containers of others may have it.
    if std::env::var_os("SAMPAN_MACHINE_IS_OURS").is_some() {
        parser("--remove", "profile sampan-default { }\n");
        assert_eq!(confined(&engine, ""), CONFINED);
    }
}
