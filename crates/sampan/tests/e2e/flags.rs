//! Flags of `run` and `create`, typed with `docker` and with `sampan`: what was asked is what the
//! kernel shows.

use std::fs;
use std::path::Path;

use sampan_testing::run;

use crate::engine_with_busybox;
use crate::table::Expect::{Has, Id, Same, Text};
use crate::table::{line, play, play_in, wrong};

#[test]
fn namespaces_and_names() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        line(
            "run --rm --domainname example.org busybox cat /proc/sys/kernel/domainname",
            Text("example.org"),
        ),
        line(
            "run --rm --uts host --pid host busybox sh -c 'test -e /proc/2/comm && echo all'",
            Same,
        ),
        line(
            "run -d --name donor --ipc shareable --shm-size 1m busybox sh -c 'echo word > /dev/shm/x; sleep 1000'",
            Same,
        ),
        line(
            "run --rm --ipc container:donor --pid container:donor busybox sh -c 'until cat /dev/shm/x; do sleep 0.1; done'",
            Text("word"),
        ),
        line("run -d --name private busybox sleep 1000", Same),
        wrong(
            "run --rm --ipc container:private busybox true",
            125,
            &["non-shareable IPC"],
        ),
        wrong(
            "run --rm --pid container:nobody busybox true",
            125,
            &["No such container: nobody"],
        ),
        line("rm -f donor private", Text("donor\nprivate")),
        line(
            "run --rm --cgroupns private busybox sh -c 'grep -c . /proc/self/cgroup > /dev/null && echo private'",
            Text("private"),
        ),
        wrong(
            "run --rm --uts container:x busybox true",
            125,
            &["invalid UTS mode"],
        ),
        wrong(
            "run --rm --cgroupns maybe busybox true",
            125,
            &["invalid", "mode"],
        ),
    ]);
}

#[test]
fn names_of_others() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        line(
            "run --rm --dns-search example.org --dns-option ndots:3 --dns 9.9.9.9 busybox grep -v '^#' /etc/resolv.conf",
            Has(&[
                "nameserver 9.9.9.9",
                "search example.org",
                "options ndots:3",
            ]),
        ),
        line(
            "run -d --name db --expose 80 -e WORD=yes busybox sleep 1000",
            Same,
        ),
        line(
            "run --rm --link db:data busybox sh -c 'grep -c data /etc/hosts; echo $DATA_ENV_WORD; echo $DATA_PORT_80_TCP_PORT; ping -c 1 -w 5 data > /dev/null && echo reached'",
            Text("1\nyes\n80\nreached"),
        ),
        line("stop -t 0 db", Text("db")),
        wrong(
            "run --rm --link db:data busybox true",
            125,
            &["Cannot link to a non running container: /db AS"],
        ),
        wrong(
            "run --rm --network-alias x busybox true",
            125,
            &["network-scoped aliases are only supported for user-defined networks"],
        ),
        wrong(
            "run --rm --ip 172.17.0.99 busybox true",
            125,
            &["user specified IP address is supported on user defined networks only"],
        ),
        line(
            "run --rm --mac-address 02:42:ac:11:00:99 busybox cat /sys/class/net/eth0/address",
            Text("02:42:ac:11:00:99"),
        ),
        line("rm db", Text("db")),
    ]);
}

#[test]
fn process_and_limits() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        line(
            "run --rm --oom-score-adj 321 busybox cat /proc/self/oom_score_adj",
            Text("321"),
        ),
        line("run --rm --group-add 4321 busybox id -G", Text("0 4321")),
        line(
            "run --rm --sysctl net.ipv4.ip_default_ttl=77 busybox cat /proc/sys/net/ipv4/ip_default_ttl",
            Text("77"),
        ),
        line(
            "run --rm --cpu-period 50000 --cpu-quota 25000 --cpuset-mems 0 --memory-reservation 32m -m 64m busybox echo limited",
            Text("limited"),
        ),
        line(
            "run --rm --device-cgroup-rule 'c 10:229 rw' busybox echo ruled",
            Text("ruled"),
        ),
        line(
            "create --name one --annotation a.b=c --log-driver none --volume-driver local --expose 81-83/udp --restart on-failure:3 --health-cmd true --health-retries 4 --health-interval 2s busybox",
            Same,
        ),
        line(
            "inspect -f '{{index .HostConfig.Annotations \"a.b\"}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.VolumeDriver}} {{len .Config.ExposedPorts}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{json .Config.Healthcheck}}' one",
            Text(
                "c none local 3 on-failure 3 {\"Test\":[\"CMD-SHELL\",\"true\"],\"Interval\":2000000000,\"Retries\":4}",
            ),
        ),
        line("rm one", Text("one")),
        wrong(
            "run --rm --memory-swappiness 101 busybox true",
            125,
            &["memory swappiness range is 0-100"],
        ),
        wrong(
            "run --rm --oom-score-adj 2000 busybox true",
            125,
            &["range for oom score adj is [-1000, 1000]"],
        ),
        wrong(
            "run --rm --isolation hyperv busybox true",
            125,
            &["isolation"],
        ),
        wrong(
            "run --rm --runtime nothing busybox true",
            125,
            &["unknown or invalid runtime name: nothing"],
        ),
        wrong("run --rm --userns strange busybox true", 125, &["invalid"]),
        wrong(
            "run --rm --device-read-bps /dev/null:1mb busybox true",
            125,
            &["not a block device"],
        ),
        line(
            "run --rm -a stdout busybox sh -c 'echo out; echo err >&2'",
            Text("out"),
        ),
        wrong(
            "run --rm -a stdout -d busybox true",
            1,
            &["--attach and --detach"],
        ),
    ]);
}

#[test]
fn starts_that_fail_say_why() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let make = r##"run --name maker busybox sh -c 'printf "#!/no/such -e\n" > /bad; printf "#!/bin/sh\r\ntrue\r\n" > /dos; echo true > /text; printf "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\267\0\1\0\0\0" > /arm; head -c 100 /dev/zero >> /arm; chmod +x /bad /dos /text /arm'"##;
    let prepare = |directory: &Path| {
        let source = directory.join("main.c");
        fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let (source, out) = (source.display().to_string(), directory.join("loaded"));
        let loader = "-Wl,--dynamic-linker=/no/loader.so";
        let _ = run("cc", &[loader, "-o", out.to_str().unwrap(), &source]).ok();
        fs::write(directory.join("file"), "").unwrap();
    };
    let rows = [
        line(make, Text("")),
        line("cp {dir}/loaded maker:/loaded", Text("")),
        line("commit maker bad", Same),
        line("rm maker", Text("maker")),
        wrong(
            "run --rm bad /bad",
            127,
            &[
                "exec /bad: no such file or directory",
                "the interpreter /no/such that its first line names is not in the image",
            ],
        ),
        wrong(
            "run --rm bad /dos",
            127,
            &["its first line \"#!/bin/sh\" ends with a carriage return"],
        ),
        wrong(
            "run --rm bad /text",
            125,
            &["exec format error", "neither a program nor a script"],
        ),
        wrong(
            "run --rm bad /arm",
            125,
            &["exec format error", "it is a program for aarch64"],
        ),
        wrong(
            "run --rm bad /nothing",
            127,
            &["stat /nothing: no such file or directory"],
        ),
        wrong(
            "run --rm bad nothing",
            127,
            &["executable file not found in $PATH"],
        ),
        wrong("run --rm bad /etc", 126, &["is a directory"]),
        wrong("run --rm bad /etc/passwd", 126, &["permission denied"]),
        wrong(
            "run --rm -u nobody-such bad true",
            125,
            &["unable to find user nobody-such: no matching entries in passwd file"],
        ),
        wrong(
            "run --rm --mount type=bind,src=/no/such/place,dst=/x bad true",
            125,
            &["bind source path does not exist: /no/such/place"],
        ),
        wrong(
            "run --rm bad /loaded",
            127,
            &["the loader /no/loader.so that it needs is not in the image"],
        ),
        wrong(
            "run --rm -u 5:nogroup-such bad true",
            125,
            &["unable to find group nogroup-such: no matching entries in group file"],
        ),
        wrong(
            "run --rm -u 4294967296 bad true",
            125,
            &["uids and gids must be in range 0-2147483647"],
        ),
        wrong(
            "run --rm -v {dir}/file:/etc bad true",
            125,
            &[
                "cannot mount",
                "Are you trying to mount a directory onto a file (or vice-versa)?",
            ],
        ),
        wrong(
            "run --rm -v {dir}:/etc/passwd bad true",
            125,
            &[
                "cannot mount",
                "Are you trying to mount a directory onto a file (or vice-versa)?",
            ],
        ),
        wrong(
            "run --rm -w /etc/passwd bad true",
            125,
            &["chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory"],
        ),
        wrong(
            "run --rm --ulimit nofile=5000000000 bad true",
            125,
            &["cannot set RLIMIT_NOFILE (it is above what this host allows"],
        ),
        wrong(
            "run --rm --cpuset-cpus 4000 bad true",
            125,
            &["this machine, or the cgroup above it, does not have them all"],
        ),
        wrong(
            "run --rm --sysctl net.no.such=1 bad true",
            127,
            &["cannot set a kernel parameter (net.no.such): no such file or directory"],
        ),
        line(
            "run -d --name holder -p 127.0.0.1:48090:80 bad sleep 1000",
            Id,
        ),
        wrong(
            "run --name second -p 48090:80 bad true",
            125,
            &["Bind for 0.0.0.0:48090 failed: port is already allocated by container holder"],
        ),
        line(
            "inspect -f '{{.State.Status}} {{.State.ExitCode}} {{if .State.Error}}told{{end}}' second",
            Text("created 128 told"),
        ),
        line("rm -f holder second", Text("holder\nsecond")),
        line("run --name gone bad /nothing", Same).ends(127),
        line(
            "inspect -f '{{.State.Status}} {{.State.ExitCode}} {{if .State.Error}}told{{end}}' gone",
            Text("created 127 told"),
        ),
        line("rm gone", Same),
        line("rmi bad", Same),
    ];
    play_in(&engine_with_busybox(), &prepare, &rows);
}

#[test]
fn what_is_asked_for_in_vain_is_warned_of() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut rows = vec![
        wrong(
            "run --rm --security-opt label=type:foo busybox true",
            0,
            &["The label \"type:foo\" is not applied"],
        ),
        wrong("run --rm --security-opt label=disable busybox true", 0, &[]),
    ];
    if !Path::new("/sys/module/apparmor").exists() {
        rows.push(wrong(
            "run --rm --security-opt apparmor=foo busybox true",
            0,
            &["The AppArmor profile \"foo\" is not applied: AppArmor is not enabled on this host"],
        ));
    }
    play(&rows);
}
