//! What the engine says of itself, field by field.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::effects::{SLEEP, create, start};
use crate::engine_with_busybox;
use crate::http::ask;

/// Fields of `GET /info`, each with how its value can be told; `-` for one that is left out, with
/// the reason.
const INFO: &[(&str, &str)] = &[
    ("ID", "text"),
    ("Containers", "number"),
    ("ContainersRunning", "number"),
    ("ContainersPaused", "number"),
    ("ContainersStopped", "number"),
    ("Images", "number"),
    ("Driver", "text"),
    ("DriverStatus", "list"),
    ("DockerRootDir", "text"),
    ("Plugins", "object"),
    ("MemoryLimit", "truth"),
    ("SwapLimit", "truth"),
    ("CpuCfsPeriod", "truth"),
    ("CpuCfsQuota", "truth"),
    ("CPUShares", "truth"),
    ("CPUSet", "truth"),
    ("PidsLimit", "truth"),
    ("OomKillDisable", "truth"),
    ("IPv4Forwarding", "truth"),
    ("Debug", "truth"),
    ("NFd", "number"),
    ("NGoroutines", "zero: there are none of Go's routines"),
    ("SystemTime", "text"),
    ("LoggingDriver", "text"),
    ("CgroupDriver", "text"),
    ("CgroupVersion", "text"),
    ("NEventsListener", "number"),
    ("KernelVersion", "text"),
    ("OperatingSystem", "text"),
    ("OSVersion", "text"),
    ("OSType", "text"),
    ("Architecture", "text"),
    ("NCPU", "number"),
    ("MemTotal", "number"),
    ("IndexServerAddress", "text"),
    ("RegistryConfig", "object"),
    ("GenericResources", "null: resources of a swarm"),
    (
        "HttpProxy",
        "empty: it may hold a password and is in the engine's environment alone",
    ),
    ("HttpsProxy", "empty: as HttpProxy"),
    ("NoProxy", "empty: as HttpProxy"),
    ("Name", "text"),
    ("Labels", "list"),
    ("ExperimentalBuild", "truth"),
    ("ServerVersion", "text"),
    ("Runtimes", "object"),
    ("DefaultRuntime", "text"),
    ("Swarm", "object"),
    ("LiveRestoreEnabled", "truth"),
    ("Isolation", "empty: of Windows"),
    ("InitBinary", "text"),
    ("ContainerdCommit", "object"),
    ("RuncCommit", "object"),
    ("InitCommit", "object"),
    ("SecurityOptions", "list"),
    ("ProductLicense", "- no licence is sold"),
    ("DefaultAddressPools", "- none are configured"),
    ("FirewallBackend", "object"),
    ("DiscoveredDevices", "- newer than the API's version 1.51"),
    ("NRI", "- newer than the API's version 1.51"),
    (
        "Warnings",
        "null: this host has all that is needed, or a list",
    ),
    ("CDISpecDirs", "list"),
    ("Containerd", "- there is no containerd"),
];

#[test]
fn info_has_every_field_of_docker() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = start(&engine, "runs", json!({"Cmd": SLEEP}));
    let _ = create(&engine, "made", json!({}));
    let info = ask(&engine, "GET", "/v1.51/info").expect(200).json();
    let known: BTreeSet<&str> = INFO.iter().map(|(field, _)| *field).collect();
    for field in info.as_object().unwrap().keys() {
        assert!(
            known.contains(field.as_str()),
            "{field} is none of Docker's"
        );
    }
    for (field, kind) in INFO {
        let value = &info[field];
        let word = kind.split([':', ' ']).next().unwrap();
        let fits = match word {
            "-" => info.get(field).is_none(),
            "text" => value.as_str().is_some_and(|text| !text.is_empty()),
            "number" => value.as_u64().is_some(),
            "truth" => value.is_boolean(),
            "list" => value.is_array(),
            "object" => value.is_object(),
            "zero" => value == 0,
            "empty" => value == "",
            "null" => value.is_null() || value.is_array(),
            _ => panic!("{kind}"),
        };
        assert!(fits, "{field} is no {kind}: {value}");
    }
    let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
    assert_eq!(info["Containers"], 2);
    assert_eq!(
        (&info["ContainersRunning"], &info["ContainersStopped"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(info["Images"], 1);
    assert_eq!(info["KernelVersion"], read("/proc/sys/kernel/osrelease"));
    assert_eq!(info["Name"], read("/proc/sys/kernel/hostname"));
    assert_eq!(info["DockerRootDir"], engine.root().display().to_string());
    assert_eq!(
        info["IPv4Forwarding"],
        read("/proc/sys/net/ipv4/ip_forward") == "1"
    );
    let memory = read("/proc/meminfo");
    let kilobytes: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(info["MemTotal"], kilobytes << 10);
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert_eq!(info["CgroupVersion"], if unified { "2" } else { "1" });
    let default = info["DefaultRuntime"].as_str().unwrap();
    assert!(info["Runtimes"][default].is_object());
    // What is of a later version is not shown to an earlier one.
    let older = ask(&engine, "GET", "/v1.48/info").expect(200).json();
    assert!(older.get("FirewallBackend").is_none());
}

#[test]
fn version_has_every_field_of_docker() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let version = ask(&engine, "GET", "/version").expect(200).json();
    let info = ask(&engine, "GET", "/info").expect(200).json();
    assert_eq!(version["Version"], info["ServerVersion"]);
    assert_eq!(
        (&version["ApiVersion"], &version["MinAPIVersion"]),
        (&json!("1.51"), &json!("1.24"))
    );
    assert_eq!(
        (&version["Os"], &version["KernelVersion"]),
        (&json!("linux"), &info["KernelVersion"])
    );
    assert_eq!(version["Platform"]["Name"], "Sampan");
    assert!(
        version["Arch"]
            .as_str()
            .is_some_and(|arch| !arch.is_empty())
    );
    let engine_part = &version["Components"][0];
    assert_eq!(engine_part["Name"], "Engine");
    for detail in ["ApiVersion", "Arch", "KernelVersion", "MinAPIVersion", "Os"] {
        assert_eq!(engine_part["Details"][detail], version[detail], "{detail}");
    }
    // Of a compiler of Go; of a commit, where one is known; `Experimental` and `BuildTime` are left
    // out where they say nothing.
    assert!(version["GoVersion"].is_string() && version["GitCommit"].is_string());
    let known = [
        "Platform",
        "Components",
        "Version",
        "ApiVersion",
        "MinAPIVersion",
        "GitCommit",
        "GoVersion",
        "Os",
        "Arch",
        "KernelVersion",
        "Experimental",
        "BuildTime",
    ];
    for field in version.as_object().unwrap().keys() {
        assert!(known.contains(&field.as_str()), "{field}");
    }
}

#[test]
fn disk_usage_is_told_of_the_types_that_are_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    const TYPES: &[(&str, &str)] = &[
        ("image", "Images"),
        ("container", "Containers"),
        ("volume", "Volumes"),
        ("build-cache", "BuildCache"),
    ];
    let engine = engine_with_busybox();
    let told = |query: &str| -> BTreeSet<&str> {
        let usage = ask(&engine, "GET", &format!("/system/df{query}")).expect(200);
        let usage = usage.json();
        let fields = TYPES.iter().map(|(_, field)| *field);
        fields.filter(|field| usage[field].is_array()).collect()
    };
    let all: BTreeSet<&str> = TYPES.iter().map(|(_, field)| *field).collect();
    assert_eq!(told(""), all);
    for (kind, field) in TYPES {
        assert_eq!(told(&format!("?type={kind}")), BTreeSet::from([*field]));
    }
    let two = BTreeSet::from(["Images", "Volumes"]);
    assert_eq!(told("?type=image&type=volume"), two);
    let _ = ask(&engine, "GET", "/system/df?type=nonsense").expect(400);
}
