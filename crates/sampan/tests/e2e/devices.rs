//! Devices that vendors describe in files (Container Device Interface).

use std::os::unix::fs::PermissionsExt;

use sampan_testing::{Fixture, TestEngine};

use crate::SAMPAN;

/// An engine whose descriptions of devices lie in a directory of the test, in YAML and JSON.
fn engine() -> (TestEngine, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let hook = path("hook");
    let script = r#"#!/bin/sh
bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
echo "$WORD" > "$root/from-hook"
"#;
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(path("library"), "library").unwrap();
    let yaml = format!(
        "cdiVersion: 0.6.0\n\
         kind: vendor.com/thing\n\
         devices:\n\
         - name: one\n\
         \x20 containerEdits:\n\
         \x20   env: [\"THING=one\"]\n\
         \x20   deviceNodes:\n\
         \x20   - {{path: /dev/thing0, hostPath: /dev/fuse, permissions: r, fileMode: 292}}\n\
         - name: hooked\n\
         \x20 containerEdits:\n\
         \x20   hooks:\n\
         \x20   - {{hookName: createContainer, path: {hook}, env: [WORD=hooked, 'PATH=/usr/bin:/bin']}}\n\
         - name: late\n\
         \x20 containerEdits:\n\
         \x20   hooks: [{{hookName: poststop, path: /bin/true}}]\n\
         containerEdits:\n\
         \x20 mounts:\n\
         \x20 - {{hostPath: {library}, containerPath: /usr/lib/thing, options: [ro, nosuid, nodev]}}\n\
         \x20 additionalGIDs: [4321]\n",
        hook = hook.display(),
        library = path("library").display(),
    );
    std::fs::write(path("thing.yaml"), yaml).unwrap();
    let gpus = r#"{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[
        {"name":"0","containerEdits":{"env":["GPU0=yes"]}},
        {"name":"1","containerEdits":{"env":["GPU1=yes"]}},
        {"name":"all","containerEdits":{"env":["GPU0=yes","GPU1=yes"]}}]}"#;
    std::fs::write(path("gpus.json"), gpus).unwrap();
    let place = directory.path().to_str().unwrap();
    let engine = TestEngine::start_with(SAMPAN, &["--cdi-spec-dir", place]);
    engine.load(Fixture::Busybox);
    (engine, directory)
}

#[test]
fn a_described_device_brings_all_that_goes_with_it() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let (engine, directory) = engine();
    let look = "echo $THING; stat -c '%F %t:%T %a' /dev/thing0; (: < /dev/thing0) && echo opened; \
                (: > /dev/thing0) 2>/dev/null || echo read-only; cat /usr/lib/thing; echo; id -G; \
                touch /usr/lib/thing 2>/dev/null || echo fixed";
    for runtime in ["sampan", "runc"] {
        let words = [
            "--rm",
            "--runtime",
            runtime,
            "--device",
            "vendor.com/thing=one",
            "busybox",
        ];
        let words = [&["run"], &words[..], &["sh", "-c", look]].concat();
        let expected =
            "one\ncharacter special file a:e5 444\nopened\nread-only\nlibrary\n0 4321\nfixed";
        assert_eq!(engine.docker(&words).ok(), expected, "{runtime}");
        assert_eq!(engine.sampan(&words).ok(), expected, "{runtime}");
        let words = [
            "--rm",
            "--runtime",
            runtime,
            "--device",
            "vendor.com/thing=hooked",
            "busybox",
        ];
        let words = [&["run"], &words[..], &["cat", "/from-hook"]].concat();
        assert_eq!(engine.sampan(&words).ok(), "hooked", "{runtime}");
    }
    let refused = |device: &str, words: &str| {
        let said = engine.docker(&["run", "--rm", "--device", device, "busybox", "true"]);
        let said = said.failed(125);
        assert!(said.contains(words), "{said}");
    };
    refused(
        "vendor.com/thing=two",
        "unresolvable CDI devices vendor.com/thing=two",
    );
    refused(
        "vendor.com/thing=late",
        "asks for a hook at \"poststop\", which is not supported",
    );
    let info = engine.sampan(&["info"]).ok();
    assert!(
        info.contains(&format!(
            " CDI spec directories:\n  {}\n",
            directory.path().display()
        )),
        "{info}"
    );
    assert!(info.contains("  cdi: vendor.com/thing=one"), "{info}");
    engine.ledger().assert_no_container();
}

#[test]
fn gpus_are_devices_of_one_vendor() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let (engine, _directory) = engine();
    for (gpus, seen) in [("all", "yes yes"), ("1", "yes"), ("device=1", " yes")] {
        let words = [
            "run",
            "--rm",
            "--gpus",
            gpus,
            "busybox",
            "sh",
            "-c",
            "echo \"$GPU0 $GPU1\"",
        ];
        assert_eq!(engine.docker(&words).ok().trim_end(), seen, "{gpus}");
        assert_eq!(engine.sampan(&words).ok().trim_end(), seen, "{gpus}");
    }
    let _ = engine
        .docker(&["create", "--name", "one", "--gpus", "2", "busybox"])
        .ok();
    let shown = engine
        .docker(&[
            "inspect",
            "-f",
            "{{json .HostConfig.DeviceRequests}}",
            "one",
        ])
        .ok();
    assert_eq!(
        shown,
        r#"[{"Driver":"","Count":2,"DeviceIDs":null,"Capabilities":[["gpu"]],"Options":{}}]"#
    );
    let _ = engine.docker(&["rm", "one"]).ok();
    let none = TestEngine::start_with(SAMPAN, &["--cdi-spec-dir", "/nowhere"]);
    none.load(Fixture::Busybox);
    let said = none
        .docker(&["run", "--rm", "--gpus", "all", "busybox", "true"])
        .failed(125);
    let words = "could not select device driver \"\" with capabilities: [[gpu]]";
    assert!(said.contains(words), "{said}");
}
