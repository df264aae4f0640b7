//! Flags and commands one by one, typed with the real `docker` client and with
//! `sampan`: what they print, what they do, and how they fail.

use std::fs;
use std::path::Path;

use sampan_testing::{Fixture, Registry, fixture, free_port};

use crate::table::Expect::{Has, Id, Same, Text};
use crate::table::{line, normal, play_in, wrong};
use crate::{engine, engine_with_busybox};

#[test]
fn environment_identity_and_files_of_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let prepare = |directory: &Path| {
        fs::write(
            directory.join("env"),
            "# a comment\nA=1\n\nB=two words\nSET_NOWHERE_AT_ALL\nC=x=y\n",
        )
        .unwrap();
        fs::write(directory.join("bad-env"), "A B=1\n").unwrap();
    };
    play_in(
        &engine_with_busybox(),
        &prepare,
        &[
            line(
                "run --rm --env-file {dir}/env -e A=2 busybox sh -c 'echo $A-$B-$C-${SET_NOWHERE_AT_ALL-unset}'",
                Text("2-two words-x=y-unset"),
            ),
            line(
                "run --rm -e PATH busybox sh -c 'echo ${PATH:+set}'",
                Text("set"),
            ),
            line(
                "run --rm -e NOT_SET_HERE busybox sh -c 'echo ${NOT_SET_HERE-unset}'",
                Text("unset"),
            ),
            line(
                "run --rm -e EMPTY= busybox sh -c 'echo ${EMPTY-unset}'",
                Text(""),
            ),
            wrong(
                "run --rm --env-file {dir}/none busybox true",
                125,
                &["no such file or directory"],
            ),
            wrong(
                "run --rm --env-file {dir}/bad-env busybox true",
                125,
                &["contains whitespace"],
            ),
            line(
                "run --rm --cidfile {dir}/cid -v {dir}:/d busybox sh -c 'wc -c < /d/cid'",
                Text("64"),
            ),
            wrong(
                "run --rm --cidfile {dir}/cid busybox true",
                125,
                &["container ID file found"],
            ),
            line(
                "run --rm -h box.example busybox sh -c 'hostname; cat /etc/hostname'",
                Text("box.example\nbox.example"),
            ),
            wrong(
                "run --rm -h 'bad name' busybox true",
                125,
                &["invalid hostname format: bad name"],
            ),
            line("run --rm --entrypoint '' busybox echo plain", Text("plain")),
            line(
                "run --rm --user 1000:2000 busybox sh -c 'id -u; id -g; id -G'",
                Text("1000\n2000\n2000"),
            ),
            wrong(
                "run --rm -u user:nogroup-here busybox true",
                125,
                &["nogroup-here"],
            ),
            wrong(
                "run --rm -w relative busybox pwd",
                125,
                &["needs to be an absolute path"],
            ),
            line("run --rm --workdir /tmp busybox pwd", Text("/tmp")),
            line(
                "run --name labelled -l a=1 --label b busybox true",
                Text(""),
            ),
            line(
                "inspect -f '{{json .Config.Labels}}' labelled",
                Text(r#"{"a":"1","b":""}"#),
            ),
            wrong(
                "run --name labelled busybox true",
                125,
                &["The container name \"/labelled\" is already in use by container"],
            ),
            wrong(
                "run --name 'a b' busybox true",
                125,
                &["Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"],
            ),
            wrong(
                "run --name x busybox true",
                125,
                &["Invalid container name (x)"],
            ),
            line("run --rm --pull missing busybox echo here", Text("here")),
            line("run --rm --pull never busybox echo here", Text("here")),
            wrong(
                "run --rm --pull sometimes busybox true",
                125,
                &["invalid pull option: 'sometimes'"],
            ),
            wrong(
                "run --rm --pull never --platform linux/s390x busybox true",
                125,
                &["linux/s390x"],
            ),
            wrong(
                "run --rm --platform a/b/c/d busybox true",
                125,
                &["a/b/c/d"],
            ),
            wrong(
                "run --bogus busybox",
                125,
                &["unknown flag: --bogus", "--help' for more information"],
            ),
            wrong(
                "run -y busybox",
                125,
                &["unknown shorthand flag: 'y' in -y"],
            ),
            wrong("run --name", 125, &["flag needs an argument: --name"]),
            wrong(
                "run",
                1,
                &[
                    "requires at least 1 argument",
                    "Usage:",
                    "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
                ],
            ),
            wrong("run --rm busybox /tmp", 126, &["is a directory"]),
            wrong(
                "run --rm busybox /no/such",
                127,
                &["no such file or directory"],
            ),
            line("run --rm busybox sh -c 'exit 255'", Text("")).ends(255),
        ],
    );
}

#[test]
fn terminals_and_input_of_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play_in(
        &engine_with_busybox(),
        &|_| {},
        &[
            line("run --rm -i busybox cat", Text("hello")).input("hello\n"),
            line("run --rm -i busybox wc -c", Text("0")),
            line("run --rm busybox wc -c", Text("0")).input("not for it\n"),
            line("run --rm -t busybox tty", Text("/dev/pts/0\r")),
            line("run --rm -t busybox sh -c 'echo $TERM'", Text("xterm\r")),
            wrong(
                "run --rm -it busybox true",
                1,
                &["the input device is not a TTY"],
            ),
            line("run --rm --interactive --tty=false busybox cat", Text("x")).input("x"),
            line("create -i --name cat busybox cat", Id),
            line("start -ai cat", Text("through")).input("through\n"),
            line("start -i cat", Text("again")).input("again\n"),
            line(
                "inspect -f '{{.State.ExitCode}} {{.Config.OpenStdin}} {{.Config.StdinOnce}} {{.Config.AttachStdin}}' cat",
                Same,
            ),
            line(
                "run -d --name talker busybox sh -c 'sleep 0.5; echo said; exit 4'",
                Id,
            ),
            line("attach --no-stdin talker", Text("said")).ends(4),
            wrong(
                "attach talker",
                1,
                &["cannot attach to a stopped container"],
            ),
            wrong("attach nonesuch", 1, &["No such container: nonesuch"]),
            wrong("attach --detach-keys ctrl-bogus talker", 1, &[]),
        ],
    );
}

#[test]
fn limits_of_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let cgroup = |v1: &str, v2: &str| {
        format!("sh -c 'cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}'")
    };
    let run = |flags: &str, command: &str| format!("run --rm {flags} busybox {command}");
    let memory = cgroup("memory/memory.limit_in_bytes", "memory.max");
    let pids = cgroup("pids/pids.max", "pids.max");
    let processors = cgroup("cpuset/cpuset.cpus", "cpuset.cpus");
    let all = "create --name all -m 64m --memory-swap 128m --cpus 0.5 -c 512 --cpuset-cpus 0 --pids-limit 50 \
               --shm-size 32m --stop-signal USR1 --stop-timeout 3 --ulimit nofile=10:20 --ulimit core=0 \
               --init --read-only --privileged busybox";
    let shown = "inspect -f '{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.NanoCPUs}} {{.CPUShares}} {{.CpusetCpus}} \
                 {{.PidsLimit}} {{.ShmSize}} {{json .Ulimits}} {{.Init}} {{.ReadonlyRootfs}} {{.Privileged}}{{end}} \
                 {{.Config.StopSignal}} {{.Config.StopTimeout}}' all";
    play_in(
        &engine_with_busybox(),
        &|_| {},
        &[
            line(all, Id),
            line(
                shown,
                Text(
                    "67108864 134217728 500000000 512 0 50 33554432 \
                     [{\"Name\":\"core\",\"Hard\":0,\"Soft\":0},{\"Name\":\"nofile\",\"Hard\":20,\"Soft\":10}] \
                     true true true USR1 3",
                ),
            ),
            line(&run("-m 64m", &memory), Text("67108864")),
            line(&run("--pids-limit 33", &pids), Text("33")),
            line(&run("--pids-limit -1", &pids), Text("max")),
            line(&run("--cpuset-cpus 0", &processors), Text("0")),
            line(&run("--cpuset-cpus 0", "nproc"), Text("1")),
            line(
                &run("--ulimit core=-1", "sh -c 'ulimit -c'"),
                Text("unlimited"),
            ),
            line(
                &run(
                    "--shm-size 8388608",
                    "sh -c 'df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2'",
                ),
                Text("8192"),
            ),
            wrong(
                &run("-m 1k", "true"),
                125,
                &["Minimum memory limit allowed is 6MB"],
            ),
            wrong(
                &run("-m much", "true"),
                125,
                &["invalid argument \"much\" for \"-m, --memory\" flag: invalid size: 'much'"],
            ),
            wrong(
                &run("-m 64m --memory-swap 32m", "true"),
                125,
                &["Minimum memoryswap limit should be larger than memory limit"],
            ),
            wrong(
                &run("--cpus 5000", "true"),
                125,
                &["ange of CPUs is from 0.01 to"],
            ),
            wrong(
                &run("--cpus x", "true"),
                125,
                &["invalid argument \"x\" for \"--cpus\" flag"],
            ),
            wrong(
                &run("--cpuset-cpus 0-4294967295", "true"),
                125,
                &["0-4294967295"],
            ),
            wrong(&run("--cpuset-cpus x", "true"), 125, &["x"]),
            wrong(
                &run("--pids-limit x", "true"),
                125,
                &["invalid argument \"x\" for \"--pids-limit\" flag"],
            ),
            wrong(&run("--ulimit bogus=1", "true"), 125, &["bogus"]),
            wrong(
                &run("--shm-size x", "true"),
                125,
                &["invalid argument \"x\" for \"--shm-size\" flag"],
            ),
            wrong(&run("--stop-signal BOGUS", "true"), 125, &["BOGUS"]),
            wrong(
                &run("--stop-timeout x", "true"),
                125,
                &["invalid argument \"x\" for \"--stop-timeout\" flag"],
            ),
        ],
    );
}

#[test]
fn privileges_of_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let prepare = |directory: &Path| {
        fs::write(directory.join("profile.json"), profile).unwrap();
        fs::write(directory.join("broken.json"), "{").unwrap();
    };
    play_in(
        &engine_with_busybox(),
        &prepare,
        &[
            line("run --rm --security-opt seccomp={dir}/profile.json busybox sh -c 'mkdir /x 2>/dev/null || echo refused'", Text("refused")),
            line("run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status", Text("Seccomp:\t0")),
            line("run --rm --security-opt no-new-privileges:true busybox grep NoNewPrivs /proc/self/status", Text("NoNewPrivs:\t1")),
            line("run --rm --security-opt apparmor=unconfined busybox echo ran", Text("ran")),
            line("run --rm --security-opt label=disable busybox echo ran", Text("ran")),
            line("run --rm --security-opt systempaths=unconfined busybox sh -c 'grep -c \" /proc/\" /proc/self/mountinfo'", Text("0")).ends(1),
            wrong("run --rm --security-opt seccomp={dir}/none busybox true", 125, &["no such file or directory"]),
            wrong("run --rm --security-opt seccomp={dir}/broken.json busybox true", 125, &[]),
            wrong("run --rm --security-opt bogus busybox true", 125, &["bogus"]),
            line("run --rm --cap-drop NET_RAW --cap-drop CAP_CHOWN busybox grep CapEff /proc/self/status", Text("CapEff:\t00000000a80405fa")),
            line("run --rm --cap-add ALL --cap-drop ALL --cap-add CAP_KILL busybox grep CapPrm /proc/self/status", Same),
            line("run --rm --cap-drop all busybox grep CapEff /proc/self/status", Text("CapEff:\t0000000000000000")),
            wrong("run --rm --cap-add BOGUS busybox true", 125, &["CAP_BOGUS"]),
            line("run --rm --privileged busybox sh -c 'mount -t tmpfs x /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs x /mnt && echo mounted'", Text("mounted")),
            line("run --rm --device /dev/fuse:/dev/mine:r busybox sh -c '(: < /dev/mine) && echo read; (: > /dev/mine) 2>/dev/null || echo refused'", Text("read\nrefused")),
            wrong("run --rm --device /no/such busybox true", 127, &["/no/such"]),
            line("run --rm --read-only --tmpfs /t busybox sh -c 'touch /t/x && echo written'", Text("written")),
            line("run --rm -u nobody busybox grep -E 'Cap(Prm|Eff|Inh)' /proc/self/status", Text("CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000")),
        ],
    );
}

#[test]
fn networks_of_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let port = free_port();
    let published = format!("run -d --name web -p 127.0.0.1:{port}:80/tcp busybox sleep 1000");
    let rows = [
        line(&published, Id),
        line("ps --format '{{.Names}} {{.Ports}}'", Same),
        line(
            "inspect -f '{{json .HostConfig.PortBindings}} {{json .Config.ExposedPorts}}' web",
            Same,
        ),
        line("run --rm --network container:web busybox hostname", Same),
        line("run --rm --net none busybox ls /sys/class/net", Text("lo")),
        line(
            "run --rm --network host busybox readlink /proc/self/ns/net",
            Same,
        ),
        line(
            "run --rm --network bridge busybox sh -c 'ls /sys/class/net'",
            Text("eth0\nlo"),
        ),
        line(
            "run --rm --add-host one:10.1.2.3 --add-host two=::1 busybox sh -c 'grep -E \"one|two\" /etc/hosts'",
            Text("10.1.2.3\tone\n::1\ttwo"),
        ),
        line(
            "run --rm --dns 9.9.9.9 --dns 8.8.4.4 busybox grep -c nameserver /etc/resolv.conf",
            Text("2"),
        ),
        wrong(
            "run --rm --network nonesuch busybox true",
            125,
            &["network nonesuch not found"],
        ),
        wrong(
            "run --rm --network container:nonesuch busybox true",
            125,
            &["No such container: nonesuch"],
        ),
        wrong(
            "run --rm --network container:web -p 80:80 busybox true",
            125,
            &["conflicting options"],
        ),
        wrong(
            "run --rm --network container:web -h x busybox true",
            125,
            &["conflicting options"],
        ),
        wrong("run --rm -p bogus busybox true", 125, &["bogus"]),
        wrong("run --rm -p 70000:80 busybox true", 125, &["70000"]),
        wrong(
            "run --rm -p 1.2.3.4.5:80:80 busybox true",
            125,
            &["1.2.3.4.5"],
        ),
        wrong("run --rm --add-host bogus busybox true", 125, &["bogus"]),
        wrong("run --rm --add-host a:bogus busybox true", 125, &["bogus"]),
        wrong("run --rm --dns bogus busybox true", 125, &["bogus"]),
    ];
    play_in(&engine_with_busybox(), &|_| {}, &rows);
}

#[test]
fn mounts_of_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let prepare = |directory: &Path| fs::write(directory.join("file"), "of the host\n").unwrap();
    play_in(
        &engine_with_busybox(),
        &prepare,
        &[
            line(
                "run --rm -v {dir}:/d:ro busybox sh -c 'cat /d/file; touch /d/x 2>/dev/null || echo refused'",
                Text("of the host\nrefused"),
            ),
            line(
                "run --rm -v {dir}/file:/f busybox cat /f",
                Text("of the host"),
            ),
            line(
                "run --rm --mount type=bind,source={dir},target=/d,readonly busybox sh -c 'cat /d/file; touch /d/x 2>/dev/null || echo refused'",
                Text("of the host\nrefused"),
            ),
            line(
                "run --rm --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700 busybox sh -c 'df -k /t | tail -1 | tr -s \" \" | cut -d\" \" -f2; stat -c %a /t'",
                Text("1024\n700"),
            ),
            line(
                "run --rm --tmpfs /t:size=1m,mode=711 busybox sh -c 'df -k /t | tail -1 | tr -s \" \" | cut -d\" \" -f2; stat -c %a /t'",
                Text("1024\n711"),
            ),
            line(
                "run --name source -v named:/one -v /two -v {dir}:/three:ro busybox touch /one/made /two/made",
                Text(""),
            ),
            line("inspect -f '{{len .Mounts}}' source", Text("3")),
            line(
                "run --rm --volumes-from source busybox sh -c 'ls /one /two /three'",
                Text("/one:\nmade\n\n/three:\nfile\n\n/two:\nmade"),
            ),
            line(
                "run --rm --volumes-from source:ro busybox sh -c 'touch /one/x 2>/dev/null || echo refused'",
                Text("refused"),
            ),
            line("rm -v source", Text("source")),
            line("volume ls -q", Text("named")),
            line("volume rm named", Text("named")),
            wrong("volume rm named", 1, &["no such volume"]),
            wrong(
                "run --rm -v {dir}:relative busybox true",
                125,
                &["relative"],
            ),
            wrong("run --rm -v '{dir}:/a:bogus' busybox true", 125, &["bogus"]),
            wrong("run --rm -v 'bad name:/a' busybox true", 125, &["bad name"]),
            wrong(
                "run --rm -v {dir}:/ busybox true",
                125,
                &["destination can't be '/'"],
            ),
            wrong(
                "run --rm -v aa:/x -v bb:/x busybox true",
                125,
                &["Duplicate mount point: /x"],
            ),
            line("volume rm aa bb", Text("aa\nbb")),
            wrong(
                "run --rm --mount type=bind,source=/x busybox true",
                125,
                &["target is required"],
            ),
            wrong(
                "run --rm --mount type=bogus,target=/x busybox true",
                125,
                &["bogus"],
            ),
            wrong(
                "run --rm --mount type=volume,bogus=1,target=/x busybox true",
                125,
                &["bogus"],
            ),
            wrong(
                "run --rm --volumes-from nonesuch busybox true",
                125,
                &["nonesuch"],
            ),
            wrong("run --rm --tmpfs relative busybox true", 125, &["relative"]),
        ],
    );
}

#[test]
fn exec_and_signals() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let prepare = |directory: &Path| fs::write(directory.join("env"), "A=1\nB=2\n").unwrap();
    let trap = "run -d --name polite --stop-signal USR1 busybox sh -c \
                'trap \"exit 7\" USR1; trap \"exit 8\" USR2; touch /ready; while :; do sleep 0.05; done'";
    let ready = "exec polite sh -c 'while ! [ -e /ready ]; do sleep 0.05; done; rm /ready'";
    play_in(
        &engine_with_busybox(),
        &prepare,
        &[
            line("run -d --name box -e OWN=1 busybox sleep 1000", Id),
            line("exec -i box cat", Text("in")).input("in\n"),
            line("exec box cat", Text("")).input("not for it\n"),
            line("exec -t box tty", Text("/dev/pts/0\r")),
            wrong("exec -it box true", 1, &["the input device is not a TTY"]),
            line(
                "exec --env-file {dir}/env -e B=3 box sh -c 'echo $A$B$OWN'",
                Text("131"),
            ),
            line(
                "exec -u user:extra -w /tmp box sh -c 'id -u; id -g; pwd'",
                Text("1000\n2000\n/tmp"),
            ),
            line("exec --privileged box grep CapEff /proc/self/status", Same),
            line(
                "exec box grep CapEff /proc/self/status",
                Text("CapEff:\t00000000a80425fb"),
            ),
            line("exec -d box sh -c 'echo left > /left'", Text("")),
            line(
                "exec box sh -c 'while ! [ -s /left ]; do sleep 0.05; done; cat /left'",
                Text("left"),
            ),
            line(
                "exec box sh -c 'echo out; echo err >&2; exit 3'",
                Text("out"),
            )
            .ends(3),
            line("exec box no-such-command", Has(&["no-such-command"])).ends(127),
            line("exec box /etc/passwd", Has(&["permission denied"])).ends(126),
            line("exec -u nobody-here box true", Has(&["nobody-here"])).ends(126),
            wrong("exec -w relative box pwd", 1, &[]),
            wrong("exec nonesuch true", 1, &["No such container: nonesuch"]),
            wrong("exec box", 1, &["requires at least 2 arguments"]),
            wrong("kill -s 0 box", 1, &["invalid signal: 0"]),
            wrong("kill -s BOGUS box", 1, &["BOGUS"]),
            line("kill box", Text("box")),
            line("wait box", Text("137")),
            wrong("exec box true", 1, &["is not running"]),
            line("stop box", Text("box")),
            wrong("kill box", 1, &["is not running"]),
            line(trap, Id),
            line(ready, Text("")),
            line("stop polite", Text("polite")),
            line("inspect -f '{{.State.ExitCode}}' polite", Text("7")),
            line("start polite", Text("polite")),
            line(ready, Text("")),
            line("stop -s USR2 -t 20 polite", Text("polite")),
            line("wait polite", Text("8")),
            line("restart polite", Text("polite")),
            line(ready, Text("")),
            line("restart -s USR2 -t 20 polite", Text("polite")),
            line(
                "inspect -f '{{.State.Running}} {{.RestartCount}}' polite",
                Text("true 0"),
            ),
            line(
                "stop --time 0 polite box",
                Text("Flag --time has been deprecated, use --timeout instead\npolite\nbox"),
            ),
            line("wait box", Text("137")),
            wrong("wait nonesuch", 1, &["No such container: nonesuch"]),
            wrong("stop polite nonesuch", 1, &["No such container: nonesuch"]),
            wrong("start nonesuch", 1, &["No such container: nonesuch"]),
            wrong("pause box", 1, &["is not running"]),
            line("start box", Text("box")),
            line("pause box", Text("box")),
            wrong("pause box", 1, &["is already paused"]),
            line("ps --format '{{.Names}} {{.State}}'", Text("box paused")),
            line("stop -t 0 box", Text("box")),
            line("rename box case", Text("")),
            wrong("rename case polite", 1, &["already in use"]),
            wrong("rename nonesuch x1", 1, &["No such container: nonesuch"]),
            wrong("rename case ''", 1, &[]),
            wrong("rename case 'a b'", 1, &["Invalid container name"]),
            line("rm case polite", Text("case\npolite")),
            wrong("rm case", 1, &["No such container: case"]),
            wrong("inspect case", 1, &["No such object: case"]),
        ],
    );
}

#[test]
fn logs_and_their_flags() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let rows = [
        line(
            "run --name talker busybox sh -c 'for i in 1 2 3; do echo $i; done; echo oops >&2'",
            Text("1\n2\n3"),
        ),
        line("logs talker", Text("1\n2\n3")),
        line("logs -f talker", Text("1\n2\n3")),
        line("logs --tail 0 talker", Text("")),
        line("logs --tail all talker", Text("1\n2\n3")),
        line("logs -n 2 talker", Text("3")),
        line("logs --tail -1 talker", Text("1\n2\n3")),
        line("logs --since 2000-01-01T00:00:00Z talker", Text("1\n2\n3")),
        line(
            "logs --since 2000-01-01 --until 2001-01-01T00:00:00 talker",
            Text(""),
        ),
        line("logs --until 10m talker", Text("")),
        line("logs --since 10m --details talker", Has(&["1", "2", "3"])),
        wrong("logs --since bogus talker", 1, &["bogus"]),
        wrong("logs nonesuch", 1, &["No such container: nonesuch"]),
        wrong("logs", 1, &["requires 1 argument"]),
        line(
            "run -t --name screen busybox sh -c 'echo out; echo err >&2'",
            Text("out\r\nerr\r"),
        ),
        line("logs screen", Text("out\r\nerr\r")),
        line("run -d --name quiet busybox true", Id),
        line("wait quiet", Text("0")),
        line("logs -ft quiet", Text("")),
    ];
    play_in(&engine_with_busybox(), &|_| {}, &rows);
}

#[test]
fn images_come_and_go() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let archive = fixture(Fixture::Busybox).archive();
    let prepare = |directory: &Path| {
        let _ = fs::copy(&archive, directory.join("busybox.tar")).unwrap();
        fs::create_dir_all(directory.join("tree/bin")).unwrap();
        let _ = fs::copy("/bin/busybox", directory.join("tree/bin/sh")).unwrap();
        let tar = directory.join("root.tar.gz").display().to_string();
        let tree = directory.join("tree").display().to_string();
        let _ = sampan_testing::run("tar", &["-C", &tree, "--mtime=@0", "-czf", &tar, "."]).ok();
        fs::write(directory.join("nothing"), "").unwrap();
    };
    let rows = [
        line("images -q", Text("")),
        line(
            "load -i {dir}/busybox.tar",
            Text("Loaded image: busybox:latest"),
        ),
        line(
            "load -q -i {dir}/busybox.tar",
            Text("Loaded image: busybox:latest"),
        ),
        wrong("load -i {dir}/none", 1, &["no such file or directory"]),
        wrong("load -i {dir}/nothing", 1, &[]),
        wrong("load", 1, &[]).input("no archive"),
        line(
            "images --format '{{.Repository}} {{.Tag}}'",
            Text("busybox latest"),
        ),
        line(
            "tag busybox:latest registry.example:5000/team/box:v1",
            Text(""),
        ),
        line("tag busybox box:v2", Text("")),
        wrong("tag nonesuch x:y", 1, &["No such image: nonesuch"]),
        wrong("tag busybox", 1, &["requires 2 arguments"]),
        line(
            "images --filter reference=box --format '{{.Repository}}:{{.Tag}}'",
            Text("box:v2"),
        ),
        line(
            "images --filter 'reference=*/team/*' --format '{{.Repository}}:{{.Tag}}'",
            Text("registry.example:5000/team/box:v1"),
        ),
        line("images --filter dangling=true -q", Text("")),
        wrong("images --filter bogus=1", 1, &["invalid filter 'bogus'"]),
        line(
            "images registry.example:5000/team/box --format '{{.Tag}}'",
            Text("v1"),
        ),
        line(
            "image ls --digests --format '{{.Repository}} {{.Digest}}' busybox",
            Same,
        ),
        line(
            "image inspect -f '{{len .RepoTags}} {{.Architecture}} {{len .RootFS.Layers}}' busybox",
            Same,
        ),
        wrong("rmi nonesuch", 1, &["No such image: nonesuch"]),
        line("rmi box:v2", Text("Untagged: box:v2")),
        line("create --name user busybox", Id),
        wrong(
            "rmi busybox:latest registry.example:5000/team/box:v1",
            1,
            &["conflict"],
        ),
        line("rm user", Text("user")),
        line("tag busybox:latest busybox:other", Text("")).ends(1),
        line(
            "load -i {dir}/busybox.tar",
            Text("Loaded image: busybox:latest"),
        ),
        line("tag busybox again:1", Text("")),
        line(
            "rmi -f busybox again:1 registry.example:5000/team/box:v1",
            Has(&[
                "Untagged: busybox:latest",
                "Untagged: again:1",
                "Deleted: sha256:",
            ]),
        ),
        line("images -aq", Text("")),
        line(
            "import {dir}/root.tar.gz made:1 -c 'CMD [\"/bin/sh\",\"-c\",\"echo $A\"]' -c 'ENV A=imported' -m 'by hand'",
            Has(&["sha256:"]),
        ),
        line("run --rm made:1", Text("imported")),
        line(
            "image inspect -f '{{.Comment}} {{json .Config.Cmd}} {{.RepoTags}}' made:1",
            Same,
        ),
        line("history --format '{{.Comment}}' made:1", Text("by hand")),
        wrong("import {dir}/none", 1, &["no such file or directory"]),
        wrong("import - made:2 -c 'RUN true'", 1, &["RUN"]).input(""),
        wrong("import - 'Bad Name'", 1, &["invalid reference format"]).input(""),
        line("rmi made:1", Has(&["Untagged: made:1", "Deleted: sha256:"])),
        line("images -q", Text("")),
    ];
    play_in(&engine(), &prepare, &rows);
}

/// Errors without the names of the programs, and without our hints.
fn plain(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| !line.starts_with("hint: "));
    lines
        .collect::<Vec<_>>()
        .join("\n")
        .replace("docker", "sampan")
}

#[test]
fn pulls_tell_the_same_story() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::Busybox));
    let engine = engine();
    let story = |client: &dyn Fn(&[&str]) -> sampan_testing::Ran| {
        let name = reference.strip_suffix(":latest").unwrap();
        let mut told = Vec::new();
        for arguments in [
            &["pull", name][..],
            &["pull", &reference],
            &["rmi", &reference],
            &["pull", "-q", &reference],
            &[
                "images",
                "--digests",
                "--format",
                "{{.Repository}}:{{.Tag}}@{{.Digest}}",
            ],
            &["rmi", &reference],
            &["run", "--rm", &reference, "echo", "ran"],
            &["run", "--rm", "--pull", "always", &reference, "echo", "ran"],
            &["rmi", &reference],
            &["pull", &format!("{name}:nonesuch")],
            &["pull", &format!("{}/nonesuch", registry.address())],
            &["pull", "--platform", "linux/s390x", &reference],
            &["pull", "Bad//Name"],
        ] {
            let ran = client(arguments);
            let mut lines: Vec<String> = ran.stdout.lines().map(normal).collect();
            lines.push(format!("{}", ran.code));
            lines.extend(plain(&ran.stderr).lines().map(normal));
            told.push(format!("{arguments:?}\n{}", lines.join("\n")));
        }
        told.join("\n\n")
    };
    let ours = story(&|arguments| engine.sampan(arguments));
    let theirs = story(&|arguments| engine.docker(arguments));
    assert_eq!(ours, theirs);
}

/// Docker's flags of `run` that are for later or for other systems, with the reason.
pub(crate) const LATER: [(&str, &str); 7] = [
    ("cpu-count", "is only supported on Windows"),
    ("cpu-percent", "is only supported on Windows"),
    ("io-maxbandwidth", "is only supported on Windows"),
    ("io-maxiops", "is only supported on Windows"),
    (
        "kernel-memory",
        "does nothing on any kernel of today; use --memory",
    ),
    (
        "link-local-ip",
        "is only supported on user defined networks",
    ),
    ("use-api-socket", "would hand the engine to the container"),
];

#[test]
fn flags_for_later_are_refused_by_name() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for (flag, why) in LATER {
        for command in ["run", "create"] {
            let given = format!("--{flag}=x");
            let ran = engine.sampan(&[command, &given, "busybox", "true"]);
            let said = ran.failed(125);
            let expected = format!("--{flag} {why}");
            assert!(said.starts_with(&expected), "{command} {given}: {said}");
        }
    }
    assert_eq!(engine.sampan(&["ps", "-aq"]).ok(), "");
}
