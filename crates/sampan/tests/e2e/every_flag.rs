//! Every flag of Docker's commands about containers, typed with `docker` and with `sampan`: what was
//! asked is what the kernel shows. No flag is without a row.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sampan_testing::{TestEngine, slowness, until};

use crate::engine_with_busybox;
use crate::sessions::on_terminal;
use crate::table::Expect::{Has, Id, Same, Text};
use crate::table::{Expect, Row, line, play, play_in, wrong};

/// Docker's flags: command, flag, its letter.
const FLAGS: &str = include_str!("flags.tsv");

/// Flags that are refused by one sentence, with the test that reads it.
const REFUSED: &[(&str, &str)] = &[
    ("start", "checkpoint"),
    ("start", "checkpoint-dir"),
    ("rm", "link"),
    ("update", "kernel-memory"),
    ("run", "storage-opt"),
    ("create", "storage-opt"),
];

/// Flags whose tests need more than a line: the file and the test.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("gpus", "devices.rs", "gpus_are_devices_of_one_vendor"),
    (
        "cgroup-parent",
        "limits.rs",
        "a_container_lies_in_the_control_group_that_was_asked_for",
    ),
];

/// Flags that some line of these tests types: command and flag, long or short.
fn typed() -> BTreeSet<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
    let mut typed = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for text in texts(&source) {
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            let (commands, flags): (&[&str], &[&str]) = match &words[..] {
                ["container", "prune", flags @ ..] => (&["container prune"], flags),
                [flag, ..] if flag.starts_with('-') => (&["run", "create"], &words),
                [command, flags @ ..] => (std::slice::from_ref(command), flags),
                [] => continue,
            };
            for word in flags.iter().filter(|word| word.starts_with('-')) {
                let names = match word.strip_prefix("--") {
                    Some(long) => vec![long.split('=').next().unwrap().to_owned()],
                    None => word[1..].chars().map(String::from).collect(),
                };
                for command in commands {
                    typed.extend(
                        names
                            .iter()
                            .map(|name| ((*command).to_owned(), name.clone())),
                    );
                }
            }
        }
    }
    typed
}

/// The texts of a source: what stands between quotation marks.
fn texts(source: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = source.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            // A character, which may be a quotation mark.
            '\'' if rest.peek() == Some(&'"') => drop(rest.next()),
            '"' => {
                let mut text = String::new();
                while let Some(c) = rest.next_if(|c| *c != '"') {
                    text.push(match c {
                        '\\' => rest.next().filter(|c| *c != '\n').unwrap_or(' '),
                        other => other,
                    });
                }
                let _ = rest.next();
                texts.push(text);
            }
            _ => {}
        }
    }
    texts
}

#[test]
fn no_flag_of_docker_is_without_a_row() {
    let typed = typed();
    let refused_of_run = crate::commands::LATER.map(|(flag, _)| flag);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
    for (flag, file, test) in ELSEWHERE {
        let source = fs::read_to_string(directory.join(file)).unwrap();
        assert!(
            source.contains(&format!("fn {test}()")),
            "{flag}: {file} {test}"
        );
    }
    let mut missing = Vec::new();
    for row in FLAGS.lines() {
        let fields: Vec<&str> = row.split('\t').collect();
        let [command, long, short] = fields[..] else {
            panic!("{row}");
        };
        let is_typed = [long, short]
            .iter()
            .any(|name| typed.contains(&(command.to_owned(), (*name).to_owned())));
        let is_refused = REFUSED.contains(&(command, long))
            || (matches!(command, "run" | "create")
                && (refused_of_run.contains(&long)
                    || ELSEWHERE.iter().any(|(flag, ..)| *flag == long)));
        if !is_typed && !is_refused {
            missing.push(format!("{command} --{long}"));
        }
    }
    assert_eq!(missing, [""; 0]);
}

/// A line that was put together.
fn made(line: String) -> &'static str {
    Box::leak(line.into_boxed_str())
}

/// A container of these flags in which a script runs: at once, and made first and started then.
fn in_container(flags: &str, script: &str, expect: &'static str) -> Vec<Row> {
    let both =
        |command: &str, more: &str| format!("{command} {flags} {more} busybox sh -c '{script}'");
    vec![
        line(&both("run --rm", ""), Text(expect)),
        line(&both("create", "--name made"), Id),
        line("start -a made", Text(expect)),
        line("rm made", Text("made")),
    ]
}

/// The same of which the flags alone are read back.
fn told(flags: &str, format: &str, expect: Expect) -> Vec<Row> {
    vec![
        line(&format!("create --name told {flags} busybox"), Id),
        line(&format!("inspect -f '{format}' told"), expect),
        line("rm told", Text("told")),
        line(&format!("run --name told {flags} busybox true"), Same),
        line(&format!("inspect -f '{format}' told"), Same),
        line("rm told", Text("told")),
    ]
}

/// What prints a file of the control groups: of version 1, else of version 2.
fn cgroup(v1: &str, v2: &str) -> String {
    format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}")
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn who_and_where_a_process_is() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let prepare = |directory: &Path| {
        fs::write(directory.join("env"), "B=two words\n").unwrap();
    };
    let rows = [
        in_container(
            "--hostname box --domainname example.org --user 1000:2000 --group-add 4321 --group-add extra \
             --workdir /w/x --env A=1 --env-file {dir}/env",
            "hostname; cat /proc/sys/kernel/domainname; id -u; id -G; pwd; echo $A $B",
            "box\nexample.org\n1000\n2000 4321\n/w/x\n1 two words",
        ),
        in_container(
            "-h short -u user -w /tmp -e A=2 --group-add 77",
            "hostname; id -u; id -g; id -G; pwd; echo $A",
            "short\n1000\n1000\n1000 77 2000\n/tmp\n2",
        ),
        vec![
            wrong(
                "run --rm --group-add nosuch busybox id",
                125,
                &["unable to find group nosuch: no matching entries in group file"],
            ),
            line("run --rm --entrypoint echo busybox by -x", Text("by -x")),
            line(
                "create --entrypoint echo --name entry busybox by itself",
                Id,
            ),
            line("start -a entry", Text("by itself")),
            line("rm entry", Same),
            line("run --rm --entrypoint '' busybox pwd", Text("/")),
        ],
        in_container(
            "--init",
            "tr \"\\000\" \" \" < /proc/1/cmdline | cut -c1-24; cat /proc/1/comm",
            "/sbin/docker-init -- sh \ndocker-init",
        ),
        in_container("--tty", "tty", "/dev/pts/0\r"),
        in_container("-t", "echo $TERM", "xterm\r"),
        vec![
            line("create --interactive --name reads busybox cat", Id),
            line("start --attach --interactive reads", Text("read")).input("read\n"),
            line("rm reads", Same),
            line("create -i --name reads busybox cat", Id),
            line("start -ai reads", Text("again")).input("again\n"),
            line("rm reads", Same),
            line("run --rm --interactive busybox cat", Text("read")).input("read\n"),
            // Attached to the errors alone.
            line(
                "run --rm --attach stderr busybox sh -c 'echo out; echo err >&2'",
                Text(""),
            ),
            line(
                "create --attach stdout --name one busybox sh -c 'echo out; echo err >&2'",
                Id,
            ),
            line(
                "inspect -f '{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}}' one",
                Text("false true false"),
            ),
            line("rm one", Same),
            // It is gone with its end.
            line("create --rm --name gone busybox true", Id),
            line("start -a gone", Text("")),
            wrong("inspect gone", 1, &["No such object: gone"]),
            line("run --detach --rm --name gone busybox true", Id),
            line(
                "create --cidfile {dir}/id --name named --quiet --pull never busybox",
                Id,
            ),
            line("run --rm -v {dir}:/d busybox wc -c /d/id", Text("64 /d/id")),
            line(
                "run --rm -q --pull missing busybox echo quiet",
                Text("quiet"),
            ),
            line("rm named", Same),
            wrong(
                "create --pull never nosuch-image",
                1,
                &["No such image: nosuch-image"],
            ),
        ],
    ];
    play_in(
        &engine_with_busybox(),
        &prepare,
        &rows.into_iter().flatten().collect::<Vec<_>>(),
    );
}

#[test]
fn limits_are_those_of_the_control_groups() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let shares = "cat /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || \
                  if [ $(cat /sys/fs/cgroup/cpu.weight) -lt 100 ]; then echo 512; fi";
    let quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us 2>/dev/null || \
                 tr \" \" \"\\n\" < /sys/fs/cgroup/cpu.max";
    let swap = "cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || \
                echo $(($(cat /sys/fs/cgroup/memory.max) + $(cat /sys/fs/cgroup/memory.swap.max)))";
    let show = [
        shares,
        quota,
        &cgroup("cpuset/cpuset.cpus", "cpuset.cpus"),
        &cgroup("cpuset/cpuset.mems", "cpuset.mems"),
        &cgroup("memory/memory.limit_in_bytes", "memory.max"),
        &cgroup("memory/memory.soft_limit_in_bytes", "memory.low"),
        swap,
        &cgroup("pids/pids.max", "pids.max"),
    ]
    .join("; ");
    let beside = "cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; \
                  df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2";
    let mut rows = [
        in_container(
            "--cpu-shares 512 --cpu-period 50000 --cpu-quota 25000 --cpuset-cpus 0 --cpuset-mems 0 \
             --memory 64m --memory-reservation 32m --memory-swap 128m --pids-limit 33",
            &show,
            "512\n25000\n50000\n0\n0\n67108864\n33554432\n134217728\n33",
        ),
        in_container("--cpus 0.5", quota, "50000\n100000"),
        in_container("-c 512 -m 32m", shares, "512"),
        in_container(
            "--oom-score-adj 321 --ulimit nofile=100:200 --shm-size 8m",
            beside,
            "321\n100\n200\n8192",
        ),
        vec![
            line("run -d --name box busybox sleep 1000", Id),
            line(
                "update --cpu-shares 512 --cpu-period 50000 --cpu-quota 25000 --cpuset-cpus 0 --cpuset-mems 0 \
                 --memory 64m --memory-reservation 32m --memory-swap 128m --pids-limit 33 box",
                Text("box"),
            ),
            // Before Linux 6.15 a root can only be kept from the start.
            match sampan_kernel::requires::kernel_at_least(6, 15) {
                true => line("update --restart always box", Text("box")),
                false => line(
                    "update --restart always box",
                    Text(
                        "box\nthis kernel cannot keep a root file system that was not kept from the \
                         start: the policy holds from the next start on",
                    ),
                ),
            },
            line(
                "inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.MemorySwap}} {{.HostConfig.CpusetCpus}}' box",
                Text("always 134217728 0"),
            ),
            line("restart -t 0 box", Text("box")),
            // A container sees the groups that it was started in.
            line(
                &format!("exec box sh -c '{show}'"),
                Text("512\n25000\n50000\n0\n0\n67108864\n33554432\n134217728\n33"),
            ),
            wrong("update --restart sometimes box", 1, &["invalid restart policy"]),
            line("rm -f box", Text("box")),
            line("run -d --name box busybox sleep 1000", Id),
            line("update --cpus 0.5 -c 512 -m 32m box", Text("box")),
            line("restart -t 0 box", Text("box")),
            line(&format!("exec box sh -c '{quota}'"), Text("50000\n100000")),
            line("rm -f box", Text("box")),
        ],
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    if !is_unified() {
        rows.extend(in_container(
            "--memory-swappiness 10 --oom-kill-disable -m 64m",
            "cd /sys/fs/cgroup/memory; cat memory.swappiness; head -1 memory.oom_control",
            "10\noom_kill_disable 1",
        ));
        // Of real time the group has what its parents have: nothing.
        for command in ["run --rm", "create --rm"] {
            let flags = "--cpu-rt-period 1000000 --cpu-rt-runtime 1000";
            if command.starts_with("create") {
                rows.push(line(
                    &format!("create --name real {flags} busybox true"),
                    Id,
                ));
                rows.push(wrong("start real", 1, &["no share of real time to give"]));
                rows.push(line("rm real", Same));
            } else {
                rows.push(wrong(
                    &format!("run --rm {flags} busybox true"),
                    125,
                    &["no share of real time to give"],
                ));
            }
        }
        rows.extend([
            line("run -d --name real busybox sleep 1000", Id),
            wrong(
                "update --cpu-rt-period 1000000 --cpu-rt-runtime 1000 real",
                1,
                &["no share of real time to give"],
            ),
            line("rm -f real", Same),
        ]);
    } else {
        rows.extend([
            wrong(
                "run --rm --memory-swappiness 10 --oom-kill-disable busybox true",
                0,
                &["Memory swappiness discarded.", "OomKillDisable discarded."],
            ),
            wrong(
                "run --rm --cpu-rt-runtime 1000 busybox true",
                125,
                &["limits of real-time CPU use are for cgroup v1 only"],
            ),
        ]);
    }
    play(&rows);
}

#[test]
fn limits_of_disks_are_those_of_the_control_groups() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let Ok(number) = fs::read_to_string("/sys/block/loop0/dev") else {
        eprintln!("SKIP: there is no /dev/loop0");
        return;
    };
    let number = number.trim();
    let (show, expect) = if is_unified() {
        (
            "cat /sys/fs/cgroup/io.max".to_owned(),
            format!("{number} rbps=1048576 wbps=2097152 riops=100 wiops=200"),
        )
    } else {
        (
            "cd /sys/fs/cgroup/blkio; cat blkio.throttle.read_bps_device blkio.throttle.write_bps_device \
             blkio.throttle.read_iops_device blkio.throttle.write_iops_device"
                .to_owned(),
            format!("{number} 1048576\n{number} 2097152\n{number} 100\n{number} 200"),
        )
    };
    let mut rows = in_container(
        "--device-read-bps /dev/loop0:1mb --device-write-bps /dev/loop0:2mb --device-read-iops /dev/loop0:100 \
         --device-write-iops /dev/loop0:200",
        &show,
        made(expect),
    );
    let weight = if is_unified() {
        "cut -d\" \" -f2 /sys/fs/cgroup/io.bfq.weight /sys/fs/cgroup/io.weight 2>/dev/null | head -1"
    } else {
        "cat /sys/fs/cgroup/blkio/blkio.bfq.weight /sys/fs/cgroup/blkio/blkio.weight 2>/dev/null | head -1"
    };
    if !is_unified() {
        rows.extend(in_container("--blkio-weight 300", weight, "300"));
        rows.extend([
            line("run -d --name box busybox sleep 1000", Id),
            line("update --blkio-weight 200 box", Text("box")),
            line("restart -t 0 box", Text("box")),
            line(&format!("exec box sh -c '{weight}'"), Text("200")),
            line("rm -f box", Text("box")),
        ]);
    }
    for command in ["run --rm", "create --name weighed"] {
        rows.push(if command.starts_with("run") {
            // This device has no scheduler.
            wrong(
                "run --rm --blkio-weight-device /dev/loop0:300 busybox true",
                125,
                &["the scheduler of this device does not weigh"],
            )
        } else {
            line(
                "create --name weighed --blkio-weight-device /dev/loop0:300 busybox",
                Id,
            )
        });
    }
    rows.extend([
        line(
            "inspect -f '{{json .HostConfig.BlkioWeightDevice}}' weighed",
            Text("[{\"Path\":\"/dev/loop0\",\"Weight\":300}]"),
        ),
        line("rm weighed", Same),
        wrong(
            "run --rm --blkio-weight-device /dev/loop0:5 busybox true",
            125,
            &["invalid weight for device: /dev/loop0:5"],
        ),
        wrong(
            "run --rm --blkio-weight 5 busybox true",
            125,
            &["10 to 1000"],
        ),
        wrong(
            "run --rm --device-read-iops /no/such:5 busybox true",
            125,
            &["/no/such"],
        ),
    ]);
    play(&rows);
}

#[test]
fn powers_are_what_was_given() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let fuse = "mknod /dev/f c 10 229; (: < /dev/f) 2>/dev/null && echo opened || echo refused";
    let rows = [
        in_container(
            "--cap-add NET_ADMIN --cap-drop CHOWN --security-opt no-new-privileges --read-only \
             --tmpfs /t:size=1m,mode=711 --sysctl net.ipv4.ip_default_ttl=77",
            "grep -E \"CapEff|NoNewPrivs\" /proc/self/status; touch /x 2>/dev/null || echo refused; \
             stat -c %a /t; cat /proc/sys/net/ipv4/ip_default_ttl",
            "CapEff:\t00000000a80435fa\nNoNewPrivs:\t1\nrefused\n711\n77",
        ),
        in_container(
            "--device /dev/fuse:/dev/mine:r",
            "(: < /dev/mine) && echo read; (: > /dev/mine) 2>/dev/null || echo refused",
            "read\nrefused",
        ),
        in_container(
            "--privileged",
            &format!("grep Seccomp: /proc/self/status; {fuse}"),
            "Seccomp:\t0\nopened",
        ),
        in_container("--cap-drop ALL", fuse, "refused"),
        vec![
            line(
                &format!("run --rm --device-cgroup-rule 'c 10:229 rw' busybox sh -c '{fuse}'"),
                Text("opened"),
            ),
            line(
                &format!(
                    "create --name ruled --device-cgroup-rule 'c 10:229 rw' busybox sh -c '{fuse}'"
                ),
                Id,
            ),
            line("start -a ruled", Text("opened")),
            line("rm ruled", Same),
            line(&format!("run --rm busybox sh -c '{fuse}'"), Text("refused")),
        ],
    ];
    play(&rows.into_iter().flatten().collect::<Vec<_>>());
}

/// All capabilities that this process can give.
fn capabilities_of_host() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("CapBnd:"));
    line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

/// The namespaces of this process, which are the host's, as a line each.
fn of_host(kinds: &[&str]) -> &'static str {
    let links = kinds.iter().map(|kind| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.display().to_string()
    });
    made(links.collect::<Vec<_>>().join("\n"))
}

#[test]
fn namespaces_are_shared_as_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let show = |kinds: &[&str]| {
        let links = kinds
            .iter()
            .map(|kind| format!("readlink /proc/self/ns/{kind}"));
        links.collect::<Vec<_>>().join("; ")
    };
    let differs = |kind: &str, of: &str| {
        let host = of_host(&[kind]);
        format!("[ \"$(readlink /proc/self/ns/{kind})\" != \"{host}\" ] && echo {of}")
    };
    let rows = [
        in_container(
            "--ipc host --pid host --uts host --cgroupns host --userns host --network host",
            &show(&["ipc", "pid", "uts", "cgroup", "user", "net"]),
            of_host(&["ipc", "pid", "uts", "cgroup", "user", "net"]),
        ),
        in_container(
            "--cgroupns private",
            &differs("cgroup", "private"),
            "private",
        ),
        in_container("--ipc private", &differs("ipc", "private"), "private"),
        in_container("--net none", "ls /sys/class/net", "lo"),
        in_container("--runtime sampan", "echo ran", "ran"),
        in_container(
            "--isolation default --platform linux/amd64",
            "uname -m",
            "x86_64",
        ),
        in_container("--disable-content-trust", "echo trusted", "trusted"),
    ];
    play(&rows.into_iter().flatten().collect::<Vec<_>>());
}

#[test]
fn names_and_ports_are_as_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let ports = "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}={{len $b}} {{end}}";
    let mut rows = [
        vec![line(
            "run -d --name db --expose 80 -e WORD=yes busybox sleep 1000",
            Id,
        )],
        in_container(
            "--dns 9.9.9.9 --dns-option ndots:3 --dns-search example.org --add-host other:10.1.2.3 \
             --mac-address 02:42:ac:11:00:99 --link db:data",
            "grep -v \"^#\" /etc/resolv.conf; grep other /etc/hosts; cat /sys/class/net/eth0/address; echo $DATA_ENV_WORD",
            "nameserver 9.9.9.9\nsearch example.org\noptions ndots:3\n10.1.2.3\tother\n02:42:ac:11:00:99\nyes",
        ),
        in_container("--dns-opt ndots:4", "grep options /etc/resolv.conf", "options ndots:4"),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    for (command, start) in [("run -d", None), ("create", Some("start web"))] {
        for flags in [
            "--publish 127.0.0.1::80 --publish-all --expose 81",
            "-p 127.0.0.1::80 -P --expose 81/udp",
        ] {
            rows.push(line(
                &format!("{command} --name web {flags} busybox sleep 1000"),
                Id,
            ));
            rows.extend(start.map(|start| line(start, Text("web"))));
            let expect = if flags.contains("udp") {
                "80/tcp=1 81/udp=1 "
            } else {
                "80/tcp=1 81/tcp=1 "
            };
            rows.push(line(&format!("inspect -f '{ports}' web"), Text(expect)));
            rows.push(line("rm -f web", Text("web")));
        }
        // Only networks of users have these.
        let (code, more) = if start.is_some() {
            (1, "--name x1")
        } else {
            (125, "--rm")
        };
        for (flags, code) in [
            ("--ip 172.17.0.99", code),
            ("--ip6 fd00::99", code),
            ("--network-alias alias", 125),
            ("--net-alias alias", 125),
        ] {
            rows.push(wrong(
                &format!(
                    "{} {more} {flags} busybox true",
                    command.trim_end_matches(" -d")
                ),
                code,
                &["user", "defined networks"],
            ));
        }
    }
    rows.push(line("rm -f db", Text("db")));
    play(&rows);
}

#[test]
fn files_are_mounted_as_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut rows = vec![line(
        "run --name donor -v /given busybox touch /given/file",
        Text(""),
    )];
    rows.extend(in_container(
        "--volume {dir}:/one:ro --mount type=tmpfs,dst=/two,tmpfs-size=1m,tmpfs-mode=700 --volumes-from donor \
         -v named:/three --volume-driver local",
        "touch /one/x 2>/dev/null || echo refused; stat -c %a /two; stat -f -c %T /two; ls /given; \
         touch /three/x && echo written",
        "refused\n700\ntmpfs\nfile\nwritten",
    ));
    rows.extend([
        line("volume inspect -f '{{.Driver}}' named", Text("local")),
        line("volume rm named", Text("named")),
        line("rm -v donor", Text("donor")),
        wrong(
            "run --rm --volume-driver other -v named:/x busybox true",
            125,
            &["plugin \"other\" not found"],
        ),
    ]);
    play(&rows);
}

#[test]
fn what_is_only_noted_is_told() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let prepare = |directory: &Path| {
        fs::write(directory.join("labels"), "file=1\n# no label\n").unwrap();
    };
    let rows = [
        told(
            "--annotation a.b=c --label l=1 --label-file {dir}/labels --stop-signal USR1 --stop-timeout 3",
            "{{json .HostConfig.Annotations}} {{json .Config.Labels}} {{.Config.StopSignal}} {{.Config.StopTimeout}}",
            Text("{\"a.b\":\"c\"} {\"file\":\"1\",\"l\":\"1\"} USR1 3"),
        ),
        told(
            "--health-cmd true --health-interval 2s --health-timeout 3s --health-retries 4 --health-start-period 5s \
             --health-start-interval 6s --restart on-failure:3",
            "{{json .Config.Healthcheck}} {{json .HostConfig.RestartPolicy}}",
            Text(
                "{\"Test\":[\"CMD-SHELL\",\"true\"],\"Interval\":2000000000,\"Timeout\":3000000000,\
                 \"StartPeriod\":5000000000,\"StartInterval\":6000000000,\"Retries\":4} \
                 {\"Name\":\"on-failure\",\"MaximumRetryCount\":3}",
            ),
        ),
        told(
            "--no-healthcheck -l x",
            "{{json .Config.Healthcheck}} {{json .State.Health}}",
            Text("{\"Test\":[\"NONE\"]} null"),
        ),
        vec![
            // Of much that was said the last piece is kept.
            line(
                "run --name talker --log-driver json-file --log-opt max-size=2k --log-opt max-file=1 busybox seq 1000 1999",
                Has(&["1000\n", "1999"]),
            ),
            line("run --rm busybox sh -c 'echo unrelated'", Text("unrelated")),
            line("logs --tail 1 talker", Text("1999")),
            line(
                "create --name talker2 --log-driver json-file --log-opt max-size=2k busybox seq 1000 1999",
                Id,
            ),
            line("start -a talker2", Has(&["1000\n", "1999"])),
            line("logs -n 1 talker2", Text("1999")),
            line("rm talker talker2", Same),
            line(
                "run --name silent --log-driver none busybox echo said",
                Text("said"),
            ),
            wrong(
                "logs silent",
                1,
                &["configured logging driver does not support reading"],
            ),
            line("rm silent", Same),
        ],
    ];
    play_in(
        &engine_with_busybox(),
        &prepare,
        &rows.into_iter().flatten().collect::<Vec<_>>(),
    );
}

#[test]
fn flags_of_the_other_commands() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let prepare = |directory: &Path| {
        fs::write(directory.join("file"), "copied\n").unwrap();
        std::os::unix::fs::chown(directory.join("file"), Some(1234), Some(5678)).unwrap();
        fs::write(directory.join("env"), "FROM_FILE=1\n").unwrap();
    };
    let trap = "run -d --name polite busybox sh -c 'trap \"echo usr1\" USR1; touch /ready; while :; do sleep 0.05; done'";
    let rows = [
        line("run -d --name box -u 1000 busybox sleep 1000", Id),
        // As it is, and with the owner that the container's user makes it.
        line("cp --archive {dir}/file box:/archived", Text("")),
        line("cp {dir}/file box:/plain", Text("")),
        line("exec -u 0 box stat -c %u:%g /archived /plain", Same),
        line("cp -aL {dir}/file box:/again", Text("")),
        line(
            "exec --user 0 --workdir /tmp --env A=1 --env-file {dir}/env box sh -c 'id -u; pwd; echo $A $FROM_FILE'",
            Text("0\n/tmp\n1 1"),
        ),
        line("exec --interactive box cat", Text("in")).input("in\n"),
        line("exec --tty box tty", Text("/dev/pts/0\r")),
        line(
            "exec --privileged -u 0 box grep CapEff /proc/self/status",
            Text(made(format!("CapEff:\t{}", capabilities_of_host()))),
        ),
        line("exec --detach box sleep 1", Text("")),
        line("export --output {dir}/out.tar box", Text("")),
        line(
            "run --rm -v {dir}:/d busybox sh -c 'tar tf /d/out.tar | grep -c ^plain'",
            Text("1"),
        ),
        line("export -o {dir}/again.tar box", Text("")),
        line(
            "inspect --size --type container --format '{{.SizeRw}} {{.SizeRootFs}}' box",
            Same,
        ),
        line(
            "inspect -s -f '{{if .SizeRootFs}}sized{{end}}' box",
            Text("sized"),
        ),
        line("inspect -f '{{.SizeRw}}' box", Text("<nil>")),
        wrong("inspect --type image box", 1, &["No such image: box"]),
        wrong("inspect --type bogus box", 1, &["bogus"]),
        line("ps --all --no-trunc --quiet --filter name=box --last 5", Id),
        line(
            "ps --latest --size --format '{{.Names}} {{.Size}}'",
            Has(&["box", "virtual"]),
        ),
        line("create --name idle busybox true", Id),
        line(
            "stats --all --no-stream --no-trunc --format '{{.Name}} {{.MemPerc}} {{.PIDs}}' idle",
            Text("idle 0.00% 0"),
        ),
        line(
            "stats --no-stream --format '{{.Name}} {{.PIDs}}' box",
            Text("box 1"),
        ),
        line(
            "container prune --force --filter label=nothing",
            Text("Total reclaimed space: 0B"),
        ),
        line(
            "container prune -f --filter until=1h",
            Text("Total reclaimed space: 0B"),
        ),
        line("inspect -f '{{.Name}}' idle", Text("/idle")),
        line(
            "container prune -f --filter label!=nothing",
            Has(&["Deleted Containers:"]),
        ),
        wrong("inspect idle", 1, &["No such object: idle"]),
        line("rename box other", Text("")),
        line("stop --timeout 0 --signal KILL other", Text("other")),
        line("restart --timeout 0 --signal KILL other", Text("other")),
        line("stop --time 0 other", Has(&["other"])),
        line("restart --time 0 other", Has(&["other"])),
        line("rm --force --volumes other", Text("other")),
        line(trap, Id),
        line(
            "exec polite sh -c 'until [ -e /ready ]; do sleep 0.05; done'",
            Text(""),
        ),
        line("kill --signal USR1 polite", Text("polite")),
        line("exec polite sh -c 'sleep 0.2'", Text("")),
        line(
            "logs --follow=false --timestamps=false --details=false --since 1h --until 2100-01-01 --tail 5 polite",
            Text("usr1"),
        ),
        line("kill polite", Text("polite")),
        line("wait polite", Text("137")),
        line("rm -v polite", Text("polite")),
        wrong(
            "attach --no-stdin --sig-proxy=false nobody",
            1,
            &["No such container: nobody"],
        ),
    ];
    play_in(&engine_with_busybox(), &prepare, &rows);
}

#[test]
fn flags_that_are_not_meant_are_refused_in_a_sentence() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = engine.sampan(&["create", "--name", "box", "busybox"]).ok();
    for (line, code, says) in [
        (
            "start --checkpoint c box",
            125,
            "--checkpoint is not supported",
        ),
        (
            "start --checkpoint-dir /c box",
            125,
            "--checkpoint-dir is not supported",
        ),
        ("rm --link box", 125, "--link is not supported"),
        (
            "update --kernel-memory 64m box",
            125,
            "--kernel-memory does nothing on any kernel of today",
        ),
        (
            "run --rm --storage-opt size=1g busybox",
            125,
            "--storage-opt size is not supported: the engine sets no project quotas",
        ),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let said = engine.sampan(&words).failed(code);
        assert!(said.contains(says), "{line}: {said}");
    }
}

#[test]
fn detach_keys_of_ones_own_leave_every_session() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for client in ["sampan", "docker"] {
        for (command, runs) in [
            (
                "run -it --detach-keys ctrl-a,x --name shell busybox sh",
                true,
            ),
            ("attach --detach-keys ctrl-a,x shell", true),
            ("exec -it --detach-keys ctrl-a,x shell sh", true),
            ("start -ai --detach-keys ctrl-a,x shell", true),
        ] {
            if command.starts_with("start") {
                let _ = engine.sampan(&["stop", "-t", "0", "shell"]).ok();
            }
            // Docker's own keys mean nothing then.
            let keys = [
                ("echo here\n", 500),
                ("\u{10}\u{11}", 100),
                ("\u{3}\u{1}x", 200),
            ];
            let (screen, code) = on_terminal(&engine, &format!("{client} {command}"), &keys);
            assert!(screen.contains("here"), "{client} {command}: {screen}");
            assert!(code <= 1, "{client} {command}: {code} {screen}");
            let running = engine
                .sampan(&["inspect", "-f", "{{.State.Running}}", "shell"])
                .ok();
            assert_eq!(running, runs.to_string(), "{client} {command}");
        }
        let _ = engine.sampan(&["rm", "-f", "shell"]).ok();
    }
}

#[test]
fn signals_of_a_client_reach_the_container_unless_told_otherwise() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "trap 'exit 9' TERM; touch /ready; while :; do sleep 0.05; done";
    // Docker's own client stays after a signal that it does not hand on.
    for (docker, proxied, verb) in [
        (false, true, "run"),
        (false, true, "attach"),
        (false, false, "run"),
        (false, false, "attach"),
        (true, true, "run"),
        (true, true, "attach"),
    ] {
        let flag = format!("--sig-proxy={proxied}");
        let own = ["--name", "box", "busybox", "sh", "-c", script];
        let words = if verb == "run" {
            [&["run", &flag], &own[..]].concat()
        } else {
            let _ = engine.sampan(&[&["run", "-d"], &own[..]].concat()).ok();
            vec!["attach", &flag, "box"]
        };
        let mut command = if docker {
            engine.docker_command(&words)
        } else {
            engine.command(&words)
        };
        let mut client = command.spawn().unwrap();
        until("the trap is set", || {
            let look = ["exec", "box", "test", "-e", "/ready"];
            engine.sampan(&look).code == 0
        });
        std::thread::sleep(Duration::from_millis(150 * slowness()));
        let pid = rustix::process::Pid::from_child(&client);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut ended = None;
        until("the client ends", || {
            ended = client.try_wait().unwrap();
            ended.is_some()
        });
        let code = ended.unwrap().code();
        let running = engine
            .sampan(&["inspect", "-f", "{{.State.Running}}", "box"])
            .ok();
        let what = format!("{words:?} {docker}");
        if proxied {
            assert_eq!((code, &*running), (Some(9), "false"), "{what}");
        } else {
            assert_eq!((code, &*running), (Some(143), "true"), "{what}");
        }
        let _ = engine.sampan(&["rm", "-f", "box"]).ok();
    }
}

/// A stop waits as long as was asked for, and no longer.
#[test]
fn stops_take_the_time_that_was_given() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let deaf = "trap '' TERM; touch /ready; while :; do sleep 0.05; done";
    for (flags, stop, least, most) in [
        (&["--stop-timeout", "1"][..], &["stop", "box"][..], 1.0, 4.0),
        (
            &["--stop-timeout", "60"],
            &["stop", "-t", "0", "box"],
            0.0,
            3.0,
        ),
        (
            &["--stop-timeout", "60", "--stop-signal", "KILL"],
            &["stop", "box"],
            0.0,
            3.0,
        ),
        (&["--stop-timeout", "0"], &["restart", "box"], 0.0, 3.0),
    ] {
        for client in [TestEngine::sampan, TestEngine::docker] {
            let run = [
                &["run", "-d", "--name", "box"],
                flags,
                &["busybox", "sh", "-c", deaf],
            ];
            let _ = client(&engine, &run.concat()).ok();
            until("the trap is set", || {
                engine.sampan(&["exec", "box", "test", "-e", "/ready"]).code == 0
            });
            let began = Instant::now();
            let _ = client(&engine, stop).ok();
            let took = began.elapsed().as_secs_f64();
            assert!(
                (least..most).contains(&took),
                "{flags:?} {stop:?}: {took} s"
            );
            let _ = engine.sampan(&["rm", "-f", "box"]).ok();
        }
    }
}
