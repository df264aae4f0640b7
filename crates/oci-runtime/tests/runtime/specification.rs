//! A table of what the runtime specification asks: a configuration is changed, and what the
//! container sees inside is what was asked. runc and crun stand in the same table.
//!
//! Where one of them comes out elsewhere the row says why; the versions are those of the system
//! that the tests are written on (Debian 12: runc 1.1.5, crun 1.8.1).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sampan_kernel::requires;
use sampan_testing::Ran;
use serde_json::{Value, json};

use crate::bundle::{Bundle, SAMPAN};

/// How another runtime comes out in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// As asked.
    Same,
    /// Otherwise, for this reason.
    Differs(&'static str),
}
use Other::{Differs, Same};

/// What a row wants to see.
enum Expected {
    /// This output.
    Output(&'static str),
    /// This exit code of the container.
    Code(i32),
    /// Failure of the runtime, with these words in its message.
    Refused(&'static str),
}
use Expected::{Code, Output, Refused};

struct Row {
    name: &'static str,
    change: fn(&mut Value, &Path),
    shell: &'static str,
    expected: Expected,
    runc: Other,
    crun: Other,
}

fn push(list: &mut Value, value: Value) {
    match list {
        Value::Array(list) => list.push(value),
        other => *other = json!([value]),
    }
}

fn namespace(config: &mut Value, kind: &str, value: Option<Value>) {
    let list = config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|namespace| namespace["type"] != kind);
    list.extend(value);
}

/// Users of its own, and an image that is theirs.
fn users(config: &mut Value, bundle: &Path) {
    namespace(config, "user", Some(json!({"type": "user"})));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    let owner = std::process::Command::new("chown")
        .args(["-hR", "100000:100000"])
        .arg(bundle.join("rootfs"))
        .status();
    assert!(owner.unwrap().success());
}

fn writable(config: &mut Value) {
    config["root"]["readonly"] = false.into();
}

const ROWS: &[Row] = &[
    Row {
        name: "user, group, supplementary groups and umask",
        change: |config, _| {
            config["process"]["user"] =
                json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27});
        },
        shell: "id -u; id -g; id -G; umask",
        expected: Output("1000\n1001\n1001 5 6\n0027"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "working directory and environment",
        change: |config, _| {
            config["process"]["cwd"] = "/srv/data".into();
            push(&mut config["process"]["env"], "BOAT=sampan".into());
        },
        shell: "pwd; echo $BOAT",
        expected: Output("/srv/data\nsampan"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "a working directory that is missing is made",
        change: |config, _| {
            writable(config);
            config["process"]["cwd"] = "/new/place".into();
        },
        shell: "pwd",
        expected: Output("/new/place"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "host name",
        change: |config, _| config["hostname"] = "boat".into(),
        shell: "hostname",
        expected: Output("boat"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "domain name",
        change: |config, _| config["domainname"] = "harbour".into(),
        shell: "cat /proc/sys/kernel/domainname",
        expected: Output("harbour"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Same,
    },
    Row {
        name: "a host name needs a namespace of its own",
        change: |config, _| namespace(config, "uts", None),
        shell: "true",
        expected: Refused("unable to set hostname without a private UTS namespace"),
        runc: Same,
        crun: Differs("other words"),
    },
    Row {
        name: "a root that cannot be written",
        change: |_, _| {},
        shell: "touch /x 2>&1 | grep -o 'Read-only'",
        expected: Output("Read-only"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "resource limits",
        change: |config, _| {
            config["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]);
        },
        shell: "ulimit -Sn; ulimit -Hn; ulimit -c",
        expected: Output("123\n456\n0"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "no new privileges",
        change: |config, _| config["process"]["noNewPrivileges"] = true.into(),
        shell: "grep NoNewPrivs /proc/self/status",
        expected: Output("NoNewPrivs:\t1"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "capability sets",
        change: |config, _| {
            config["process"]["capabilities"] = json!({
                "bounding": ["CAP_KILL", "CAP_CHOWN"],
                "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
            });
            config["process"]["user"] = json!({"uid": 1, "gid": 1});
        },
        shell: "grep ^Cap /proc/self/status",
        expected: Output(
            "CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
             CapBnd:\t0000000000000021\nCapAmb:\t0000000000000020",
        ),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "out-of-memory score",
        change: |config, _| config["process"]["oomScoreAdj"] = 123.into(),
        shell: "cat /proc/self/oom_score_adj",
        expected: Output("123"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "a command that does not exist",
        change: |config, _| config["process"]["args"] = json!(["nope"]),
        shell: "",
        expected: Refused("executable file not found in $PATH"),
        runc: Same,
        crun: Differs("quotes the name by ` and says No such file or directory, too"),
    },
    Row {
        name: "tmpfs with size and mode",
        change: |config, _| {
            push(
                &mut config["mounts"],
                json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "nodev", "size=1m", "mode=700"]}),
            );
        },
        shell: "stat -c %a /tmp; df -k /tmp | awk 'END { print $2 }'; \
                grep -o ' /tmp tmpfs rw,nosuid,nodev,relatime' /proc/mounts",
        expected: Output("700\n1024\n /tmp tmpfs rw,nosuid,nodev,relatime"),
        runc: Differs("1.1.5 gives it the mode of what it covers all the same"),
        crun: Same,
    },
    Row {
        name: "tmpfs takes the mode of what it covers",
        change: |config, _| {
            push(
                &mut config["mounts"],
                json!({"destination": "/srv/data", "type": "tmpfs", "source": "tmpfs"}),
            );
        },
        shell: "stat -c %a /srv/data; ls /srv/data",
        expected: Output("755"),
        runc: Same,
        crun: Differs("keeps the kernel's 1777"),
    },
    Row {
        name: "tmpfs starts with what it covers",
        change: |config, _| {
            push(
                &mut config["mounts"],
                json!({"destination": "/srv", "type": "tmpfs", "source": "tmpfs",
                    "options": ["tmpcopyup"]}),
            );
        },
        shell: "cat /srv/data/file; touch /srv/data/new && ls /srv/data",
        expected: Output("of the image\nfile\nnew"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "bind mount of a file, and one that cannot be written",
        change: |config, bundle| {
            fs::write(bundle.join("file"), "outside\n").unwrap();
            push(
                &mut config["mounts"],
                json!({"destination": "/tmp/file", "type": "bind",
                    "source": bundle.join("file"), "options": ["bind", "ro"]}),
            );
            writable(config);
        },
        shell: "cat /tmp/file; echo x 2>/dev/null > /tmp/file || echo kept",
        expected: Output("outside\nkept"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "rro reaches what is mounted below",
        change: |config, bundle| {
            fs::create_dir(bundle.join("tree")).unwrap();
            push(
                &mut config["mounts"],
                json!({"destination": "/tmp", "type": "bind", "source": "/dev",
                    "options": ["rbind", "rro"]}),
            );
        },
        shell: "grep -c ' /tmp/[^ ]* [^ ]* rw' /proc/mounts; true",
        expected: Output("0"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "mounts come in order, and the last is on top",
        change: |config, bundle| {
            for name in ["a", "b"] {
                fs::create_dir(bundle.join(name)).unwrap();
                fs::write(bundle.join(name).join("name"), name).unwrap();
                push(
                    &mut config["mounts"],
                    json!({"destination": "/tmp", "type": "bind",
                        "source": bundle.join(name), "options": ["rbind"]}),
                );
            }
        },
        shell: "cat /tmp/name",
        expected: Output("b"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "masked and read-only paths",
        change: |config, bundle| {
            writable(config);
            fs::write(bundle.join("rootfs/etc/secret"), "secret").unwrap();
            config["linux"]["maskedPaths"] = json!(["/etc/secret", "/srv/data", "/missing"]);
            config["linux"]["readonlyPaths"] = json!(["/tmp", "/missing"]);
        },
        shell: "cat /etc/secret; ls /srv/data; touch /tmp/x 2>/dev/null || echo kept",
        expected: Output("kept"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "kernel parameters of own namespaces",
        change: |config, _| {
            config["linux"]["sysctl"] =
                json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"});
        },
        shell: "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax",
        expected: Output("1\n65536"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "kernel parameters of the host are refused",
        change: |config, _| config["linux"]["sysctl"] = json!({"vm.swappiness": "1"}),
        shell: "true",
        expected: Refused("is not in a separate kernel namespace"),
        runc: Same,
        crun: Differs("other words"),
    },
    Row {
        name: "device nodes",
        change: |config, _| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/boat/tun", "type": "c", "major": 10, "minor": 200,
                    "fileMode": 0o640, "uid": 7, "gid": 8},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
            ]);
        },
        shell: "stat -c '%F %a %u %g %t %T' /dev/boat/tun /dev/pipe /dev/null /dev/tty",
        expected: Output(
            "character special file 640 7 8 a c8\nfifo 600 0 0 0 0\n\
             character special file 666 0 0 1 3\ncharacter special file 666 0 0 5 0",
        ),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "device rules: what is not allowed is refused, what every container has is allowed",
        change: |config, _| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]);
        },
        shell: "head -c 1 /dev/zero | wc -c; cat /dev/kmsg 2>&1 | grep -o 'Operation not permitted'",
        expected: Output("1\nOperation not permitted"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "links of /dev",
        change: |_, _| {},
        shell: "for name in fd stdin ptmx; do readlink /dev/$name; done",
        expected: Output("/proc/self/fd\n/proc/self/fd/0\npts/ptmx"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "users of its own",
        change: users,
        shell: "id -u; cat /proc/self/uid_map | tr -s ' '; stat -c %u /dev/mqueue /dev/shm /tmp; \
                echo x > /dev/null && echo null",
        expected: Output("0\n 0 100000 65536\n0\n0\n0\nnull"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "a user of a user namespace that is not root",
        change: |config, bundle| {
            users(config, bundle);
            config["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [35]});
        },
        shell: "id -u; id -G",
        expected: Output("33\n34 35"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "id maps need a user namespace",
        change: |config, _| {
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
        },
        shell: "true",
        expected: Refused("user namespace mappings specified, but user namespace isn't enabled"),
        runc: Differs("1.1.5 ignores the maps"),
        crun: Differs("ignores the maps"),
    },
    Row {
        name: "a bind mount with mapped owners",
        change: |config, bundle| {
            fs::write(bundle.join("file"), "").unwrap();
            let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
            push(
                &mut config["mounts"],
                json!({"destination": "/tmp", "type": "bind", "source": bundle,
                    "options": ["bind"], "uidMappings": map, "gidMappings": map}),
            );
        },
        shell: "stat -c '%u %g' /tmp/file",
        expected: Output("1000 1000"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Same,
    },
    Row {
        name: "a bind mount with owners mapped as the container's users are",
        change: |config, bundle| {
            fs::write(bundle.join("file"), "").unwrap();
            users(config, bundle);
            push(
                &mut config["mounts"],
                json!({"destination": "/tmp", "type": "bind", "source": bundle,
                    "options": ["rbind", "ridmap"]}),
            );
        },
        shell: "stat -c '%u %g' /tmp/file",
        expected: Output("0 0"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Differs("1.8.1 knows idmap, not ridmap"),
    },
    Row {
        name: "memory and process limits",
        change: |config, _| {
            config["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
            config["linux"]["resources"]["pids"] = json!({"limit": 77});
        },
        shell: "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max 2>/dev/null || \
                cat memory.max pids.max",
        expected: Output("67108864\n77"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "processor limits",
        change: |config, _| {
            config["linux"]["resources"]["cpu"] =
                json!({"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0"});
        },
        shell: "cd /sys/fs/cgroup; \
                cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us 2>/dev/null || tr ' ' '\n' < cpu.max; \
                cat cpuset/cpuset.cpus 2>/dev/null || cat cpuset.cpus",
        expected: Output("50000\n100000\n0"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "a system call that fails",
        change: |config, _| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
            });
        },
        shell: "hostname x 2>&1 | grep -o 'No space left'; grep Seccomp: /proc/self/status",
        expected: Output("No space left\nSeccomp:\t2"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "a filter that names architectures of other machines",
        change: |config, _| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_S390X", "SCMP_ARCH_PPC64", "SCMP_ARCH_RISCV64"],
                "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}],
            });
        },
        shell: "grep Seccomp: /proc/self/status",
        expected: Output("Seccomp:\t2"),
        runc: Differs("its library refuses those of another byte order"),
        crun: Differs("its library refuses those of another byte order"),
    },
    Row {
        name: "propagation of the root",
        change: |config, _| config["linux"]["rootfsPropagation"] = "shared".into(),
        shell: "grep -o ' / / .* shared:' /proc/self/mountinfo | wc -l; \
                awk '$5 == \"/\" { print $7 ~ /shared/ }' /proc/self/mountinfo",
        expected: Output("0\n1"),
        runc: Differs("1.1.5 leaves the root private"),
        crun: Same,
    },
    Row {
        name: "offsets of clocks",
        change: |config, _| {
            namespace(config, "time", Some(json!({"type": "time"})));
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7200, "nanosecs": 5}});
        },
        shell: "awk '/boottime/ { print $2, $3 }' /proc/self/timens_offsets",
        expected: Output("7200 5"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Differs("1.8.1 fails at it on newer kernels"),
    },
    Row {
        name: "execution domain",
        change: |config, _| config["linux"]["personality"] = json!({"domain": "LINUX32"}),
        shell: "uname -m",
        expected: Output("i686"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Same,
    },
    Row {
        name: "scheduler",
        change: |config, _| {
            config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        },
        shell: "awk '{ print $19, $41 }' /proc/self/stat",
        expected: Output("5 3"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Differs("1.8.1 does not know it yet"),
    },
    Row {
        name: "priority of input and output",
        change: |config, _| {
            config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        },
        shell: "ionice -p $$",
        expected: Output("best-effort: prio 6"),
        runc: Differs("1.1.5 does not know it yet"),
        crun: Differs("1.8.1 does not know it yet"),
    },
    Row {
        name: "an AppArmor profile that is not there",
        change: |config, _| config["process"]["apparmorProfile"] = "boat".into(),
        shell: "true",
        expected: Refused("apparmor"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "resource director technology where the kernel has none",
        change: |config, _| config["linux"]["intelRdt"] = json!({"closID": "boat"}),
        shell: "true",
        expected: Refused("intelRdt"),
        runc: Differs("1.1.5 ignores it"),
        crun: Differs("ignores it"),
    },
    Row {
        name: "block devices",
        change: |config, _| {
            let root = fs::metadata("/").unwrap().dev();
            let (major, minor) = (rustix::fs::major(root), rustix::fs::minor(root));
            config["linux"]["resources"]["blockIO"] = json!({
                "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1_048_576}]});
        },
        shell: "cd /sys/fs/cgroup; if [ -d blkio ]; then cut -d' ' -f2 blkio/blkio.throttle.read_bps_device; \
                else grep -o 'rbps=[0-9]*' io.max | cut -d= -f2; fi",
        expected: Output("1048576"),
        runc: Same,
        crun: Same,
    },
    Row {
        name: "a mount that would hide a part of /proc",
        change: |config, _| {
            push(
                &mut config["mounts"],
                json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}),
            );
        },
        shell: "true",
        expected: Refused("/proc"),
        runc: Differs("1.1.5 lets a tmpfs through"),
        crun: Differs("mounts it"),
    },
    Row {
        name: "an exit code",
        change: |_, _| {},
        shell: "exit 7",
        expected: Code(7),
        runc: Same,
        crun: Same,
    },
];

fn run(runtime: &str, row: &Row) -> Ran {
    let bundle = Bundle::new(runtime);
    bundle.shell(row.shell);
    bundle.change(|config| (row.change)(config, bundle.path()));
    bundle.call(&["run", &bundle.id])
}

fn complaint(row: &Row, ran: &Ran) -> Option<String> {
    let good = match row.expected {
        Output(expected) => ran.code == 0 && ran.stdout.trim_end() == expected,
        Code(code) => ran.code == code && ran.stderr.is_empty(),
        Refused(words) => {
            ran.code != 0 && ran.stderr.to_lowercase().contains(&words.to_lowercase())
        }
    };
    (!good).then(|| format!("{}: {ran:?}", row.name))
}

#[test]
fn what_is_asked_is_seen_inside() {
    requires!(root, cgroups);
    let complaints: Vec<String> = ROWS
        .iter()
        .filter_map(|row| complaint(row, &run(SAMPAN, row)))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn other_runtimes_come_out_as_the_table_says() {
    requires!(root, cgroups);
    let mut complaints = Vec::new();
    for (runtime, how) in [
        ("runc", (|row| row.runc) as fn(&Row) -> Other),
        ("crun", |row| row.crun),
    ] {
        let version = std::process::Command::new(runtime)
            .arg("--version")
            .output();
        let known = ["1.1.5", "1.8.1"];
        match version {
            Ok(version)
                if known
                    .iter()
                    .any(|known| String::from_utf8_lossy(&version.stdout).contains(known)) => {}
            _ => {
                eprintln!("SKIP: {runtime} is not here, or of another version than the table's");
                continue;
            }
        }
        for row in ROWS {
            let complaint = complaint(row, &run(runtime, row));
            match (complaint, how(row)) {
                (None, Same) | (Some(_), Differs(_)) => {}
                (Some(complaint), Same) => complaints.push(format!("{runtime}: {complaint}")),
                (None, Differs(why)) => {
                    complaints.push(format!("{runtime}: {} came out as asked ({why})", row.name));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
