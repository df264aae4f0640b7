//! The known ways out of containers, one row each: what is tried, what must happen, and which test
//! tries it. What no other test has is tried here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use sampan_oci::Digest;
use sampan_testing::{TestEngine, run, until};
use serde_json::{Value, json};

use crate::hostile::{import, load};
use crate::raw::{ask, tell};
use crate::{engine, engine_with_busybox};

/// Who tries it.
enum Tried {
    /// These tests, by their files below `crates` and their names.
    By(&'static [(&'static str, &'static str)]),
    /// Nobody: why it cannot be tried here.
    Not(&'static str),
}

use Tried::{By, Not};

const BREAKOUT: &str = "sampan/tests/e2e/breakout.rs";
const HOSTILE: &str = "sampan/tests/e2e/hostile.rs";
const RUNTIME: &str = "runtime/tests/hostile.rs";
const LAYERS: &str = "layers/tests/hostile.rs";
const BUILD: &str = "sampan/tests/e2e/build_hostile.rs";
const SOURCES: &str = "sampan/tests/e2e/build_sources.rs";
const COPY: &str = "sampan/tests/e2e/copy.rs";
const API: &str = "sampan/tests/api/hostile.rs";
const PULL: &str = "images/tests/pull.rs";

/// The names under which a flaw is known; what is tried and what must come of it; who tries it.
const LIST: &[(&[&str], &str, Tried)] = &[
    // By /proc, descriptors and exec.
    (
        &["CVE-2016-9962"],
        "a container that may trace looks at every descriptor while processes join: none of the host's",
        By(&[(
            RUNTIME,
            "a_tracer_inside_sees_nothing_of_the_host_while_processes_join",
        )]),
    ),
    (
        &["CVE-2019-5736"],
        "the supervisor is overwritten through /proc/self/exe: its executable stays as it is",
        By(&[
            (HOSTILE, "the_supervisor_cannot_be_overwritten_from_inside"),
            (
                "shim/tests/shim/init.rs",
                "its_executable_cannot_be_written_from_inside",
            ),
        ]),
    ),
    (
        &["CVE-2024-21626"],
        "a working directory in a descriptor of the host: inside, or refused; only 0 to 2 are inherited",
        By(&[
            (HOSTILE, "working_directories_do_not_lead_out"),
            (HOSTILE, "a_default_container_has_the_default_privileges"),
            (BUILD, "builds_that_want_out_touch_nothing_of_the_host"),
        ]),
    ),
    (
        &[
            "CVE-2025-31133",
            "CVE-2025-52565",
            "CVE-2025-52881",
            "CVE-2026-41579",
            "CVE-2026-47766",
            "CVE-2025-54867",
            "CVE-2025-62161",
            "CVE-2025-62596",
        ],
        "/dev, /dev/null, /dev/console, /proc, /sys, /etc, /run are links, or are swapped at the start: nothing of the \
         host is masked, mounted on or written",
        By(&[
            (HOSTILE, "symlinks_where_the_runtime_mounts_stay_inside"),
            (RUNTIME, "linked_system_directories_never_reach_the_host"),
            (RUNTIME, "a_false_null_device_masks_nothing"),
            (
                RUNTIME,
                "paths_that_are_swapped_while_containers_start_stay_inside",
            ),
            (BREAKOUT, "a_neighbour_that_swaps_links_leads_nothing_out"),
        ]),
    ),
    (
        &[
            "CVE-2019-16884",
            "CVE-2019-19921",
            "CVE-2023-27561",
            "CVE-2023-28642",
        ],
        "a volume, or an image's link, in the place of /proc: refused",
        By(&[
            (BREAKOUT, "nothing_takes_the_place_of_proc_and_sys"),
            (HOSTILE, "volumes_of_an_image_stay_inside"),
            (RUNTIME, "linked_proc_and_sys_are_refused"),
        ]),
    ),
    (
        &["CVE-2022-0492"],
        "a release agent is written, by default and with every capability but SYS_ADMIN: none can be reached; with \
         SYS_ADMIN, which may mount /proc and the control groups anew, a container has the powers of the host unless it \
         has a user namespace of its own",
        By(&[
            (BREAKOUT, "release_agents_are_out_of_reach"),
            (HOSTILE, "a_default_container_cannot_break_out"),
        ]),
    ),
    (
        &["CVE-2022-0811"],
        "kernel parameters with separators and line breaks, core_pattern: refused unless they are the container's own",
        By(&[
            (BREAKOUT, "only_kernel_parameters_of_the_container_are_set"),
            (
                "runtime/src/sysctl.rs",
                "only_parameters_of_own_namespaces_are_set",
            ),
            (
                "oci/src/sysctl.rs",
                "the_hosts_parameters_and_paths_that_want_out_are_refused",
            ),
        ]),
    ),
    (
        &["CVE-2026-31431"],
        "AF_ALG sockets, directly, as a 32-bit program and by io_uring: refused; 32-bit programs keep their network, and \
         with it, where the kernel has AF_ALG, a way by i386's socketcall, whose arguments no filter sees",
        By(&[(HOSTILE, "a_default_container_cannot_break_out")]),
    ),
    (
        &["CVE-2023-25809"],
        "the control groups are writable, or have names that lead out: read-only; such names are refused",
        By(&[
            (HOSTILE, "a_default_container_cannot_break_out"),
            (
                "cgroups/src/path.rs",
                "paths_that_leave_or_confuse_are_refused",
            ),
        ]),
    ),
    // Races with a container that runs.
    (
        &[
            "CVE-2018-15664",
            "CVE-2019-14271",
            "CVE-2021-41089",
            "CVE-2026-42306",
            "GHSA-vp62-88p7-qqf5",
            "CVE-2021-30465",
            "CVE-2024-45310",
        ],
        "links are swapped in a shared volume and in the root while containers start in it, are copied from and to, \
         exported and committed: nothing of the host is read, written or mounted",
        By(&[
            (BREAKOUT, "a_neighbour_that_swaps_links_leads_nothing_out"),
            (COPY, "links_that_are_swapped_lead_copies_nowhere"),
        ]),
    ),
    (
        &["CVE-2026-41567", "CVE-2022-1227"],
        "a container has xz, tar, ps, nsenter of its own: the engine never runs them",
        By(&[(BREAKOUT, "no_program_of_a_container_is_run_by_the_engine")]),
    ),
    (
        &[
            "CVE-2024-1753",
            "CVE-2024-9407",
            "CVE-2024-9675",
            "CVE-2024-11218",
            "CVE-2024-23651",
            "CVE-2024-23652",
            "CVE-2024-23653",
            "CVE-2026-55686",
        ],
        "sources of mounts, caches, working directories of a build lead out: they stay inside, or are refused",
        By(&[
            (BUILD, "builds_that_want_out_touch_nothing_of_the_host"),
            (BUILD, "commands_that_race_on_a_shared_cache_stay_inside"),
            (HOSTILE, "working_directories_do_not_lead_out"),
        ]),
    ),
    (
        &["CVE-2026-33747"],
        "a frontend of one's own writes outside of its state: no foreign frontend is run",
        By(&[(SOURCES, "a_foreign_frontend_is_refused")]),
    ),
    (
        &["CVE-2026-33748"],
        "the directory of a Git context leads out of the repository: refused",
        By(&[(SOURCES, "repositories_are_fetched_at_what_is_named")]),
    ),
    (
        &["CVE-2025-9566"],
        "a volume of `podman kube play` is a link",
        Not("there is no such command"),
    ),
    (
        &["CVE-2025-62725"],
        "an artifact of compose names files outside of its cache",
        Not("compose is a client; files of artifacts are not unpacked by the engine"),
    ),
    // What is in an image.
    (
        &[
            "CVE-2025-47290",
            "CVE-2021-32760",
            "CVE-2026-17106",
            "CVE-2020-27534",
        ],
        "names, links and modes in a layer lead out of it: refused, and no file of a layer is made on the host",
        By(&[
            (LAYERS, "paths_that_leave_the_layer_are_refused"),
            (LAYERS, "links_to_what_is_not_there_are_refused"),
            (LAYERS, "parents_that_are_no_directories_are_refused"),
            (
                SOURCES,
                "archives_that_want_out_stay_inside_and_bombs_are_refused",
            ),
        ]),
    ),
    (
        &["CVE-2019-18837"],
        "the root of an image has links where mounts go: they stay inside",
        By(&[(HOSTILE, "symlinks_where_the_runtime_mounts_stay_inside")]),
    ),
    (
        &["CVE-2024-3727"],
        "a digest that is none is used as a path: only the canonical form is one",
        By(&[("oci/src/digest.rs", "only_the_canonical_form_parses")]),
    ),
    (
        &["CVE-2025-62518"],
        "sizes in extended and plain header differ: the extended one counts, nothing is smuggled in between",
        By(&[
            (
                LAYERS,
                "the_pax_size_counts_so_nothing_is_smuggled_in_the_difference",
            ),
            (LAYERS, "malformed_archives_are_refused"),
        ]),
    ),
    (
        &["CVE-2021-41190", "GHSA-5j5w-g665-5m35"],
        "a document is a manifest and an index: refused",
        By(&[(PULL, "manifests_that_contradict_themselves_are_refused")]),
    ),
    (
        &["CVE-2026-53488"],
        "labels of an image that other engines obey: they do nothing",
        By(&[(HOSTILE, "labels_of_an_image_do_nothing")]),
    ),
    (
        &["CVE-2026-53492", "CVE-2026-50195", "CVE-2026-53489"],
        "archives of checkpoints are trusted",
        Not("checkpoints are not supported"),
    ),
    (
        &["CVE-2026-57231"],
        "an image names variables without values: none of the host's comes in",
        By(&[(HOSTILE, "the_environment_of_the_host_does_not_leak")]),
    ),
    (
        &[
            "CVE-2026-46680",
            "CVE-2016-3697",
            "CVE-2026-30892",
            "CVE-2024-40635",
            "CVE-2026-47262",
        ],
        "numeric names in the users' file, numbers that wrap: numbers are numbers, others are refused",
        By(&[(HOSTILE, "users_are_what_numbers_and_files_say_or_refused")]),
    ),
    (
        &["CVE-2024-9676"],
        "the users' file is endless, huge, a link, a device: refused at once",
        By(&[(HOSTILE, "user_files_that_are_no_files_are_refused_at_once")]),
    ),
    (
        &[
            "CVE-2022-24769",
            "CVE-2022-27649",
            "CVE-2022-27650",
            "CVE-2022-27651",
            "CVE-2022-27652",
            "CVE-2022-29162",
            "CVE-2025-27612",
        ],
        "inheritable capabilities: none, in run and exec",
        By(&[
            (HOSTILE, "a_default_container_has_the_default_privileges"),
            (HOSTILE, "a_default_container_cannot_break_out"),
        ]),
    ),
    (
        &[
            "CVE-2022-2989",
            "CVE-2022-2990",
            "CVE-2022-36109",
            "CVE-2023-25173",
        ],
        "supplementary groups are those of the user, and the primary one is among them",
        By(&[(HOSTILE, "users_are_what_numbers_and_files_say_or_refused")]),
    ),
    (
        &["CVE-2022-23648"],
        "a volume of an image with .. copies files of the host in: its own at most",
        By(&[(HOSTILE, "volumes_of_an_image_stay_inside")]),
    ),
    (
        &["CVE-2020-1726"],
        "an image's files go into a volume that has some: they stay out",
        By(&[(
            "sampan/tests/e2e/storage.rs",
            "a_new_volume_takes_over_what_the_image_has_there",
        )]),
    ),
    (
        &["CVE-2021-21334", "CVE-2020-14370", "CVE-2021-3602"],
        "variables of one container show up in the next: each has its own",
        By(&[(BREAKOUT, "containers_do_not_inherit_from_each_other")]),
    ),
    (
        &[
            "CVE-2017-14992",
            "CVE-2021-21285",
            "CVE-2021-20291",
            "CVE-2023-25153",
        ],
        "layers and documents that never end, or unpack to much more: bounded and refused",
        By(&[
            (PULL, "bombs_do_not_go_off"),
            (
                API,
                "archives_that_are_bombs_or_never_end_are_refused_in_bounded_memory",
            ),
        ]),
    ),
    (
        &["CVE-2022-31030", "CVE-2022-23471", "CVE-2025-64329"],
        "clients resize, attach and run, and leave: memory and descriptors come back",
        By(&[
            (API, "resizes_and_attaches_that_are_left_cost_nothing"),
            (API, "execs_that_are_made_and_left_cost_little"),
        ]),
    ),
    (
        &["CVE-2018-20699"],
        "a set of four thousand million processors: refused at once",
        By(&[
            ("sampan/tests/e2e/commands.rs", "limits_of_run"),
            (
                "engine/src/container/validate.rs",
                "limits_are_checked_in_dockers_words",
            ),
        ]),
    ),
];

#[test]
fn every_way_out_is_tried_by_a_test_that_exists() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    for (names, about, tried) in LIST {
        known.extend(*names);
        let tests = match tried {
            By(tests) => *tests,
            Not(reason) => {
                assert!(!reason.is_empty(), "{about}");
                continue;
            }
        };
        for (file, test) in tests {
            let source = sources
                .entry(file)
                .or_insert_with(|| fs::read_to_string(crates.join(file)).unwrap_or_default());
            let head = format!("fn {test}()");
            let is_test = source.split_once(&head).is_some_and(|(before, _)| {
                before[before.len().saturating_sub(200)..].contains("test]")
            });
            if !is_test {
                wrong.push(format!("{file} has no test {test}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    let all = known.len();
    known.sort_unstable();
    known.dedup();
    assert_eq!(known.len(), all, "one is there twice");
}

/// A tree of the host in which nothing may change.
struct Canary {
    directory: PathBuf,
    digest: Digest,
}

impl Canary {
    fn new(engine: &TestEngine) -> Self {
        let directory = engine.scratch().join("canary");
        fs::create_dir_all(directory.join("inner/deep")).unwrap();
        fs::write(directory.join("secret"), "of the host").unwrap();
        fs::write(directory.join("inner/deep/file"), "of the host, too").unwrap();
        symlink("secret", directory.join("link")).unwrap();
        let digest = digest(&directory);
        Self { directory, digest }
    }

    fn path(&self) -> String {
        self.directory.display().to_string()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(
            digest(&self.directory),
            self.digest,
            "{}",
            run("find", &[&self.path(), "-ls"]).stdout
        );
    }
}

/// Of names, owners, modes, times and contents of a tree.
fn digest(top: &Path) -> Digest {
    let mut pending = vec![top.to_owned()];
    let mut lines = Vec::new();
    while let Some(path) = pending.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let content = match about.is_file() {
            true => fs::read(&path).unwrap(),
            false => Vec::new(),
        };
        lines.push(format!(
            "{path:?} {:o} {} {} {} {} {content:?}",
            about.mode(),
            about.uid(),
            about.nlink(),
            about.mtime_nsec(),
            about.ctime_nsec(),
        ));
    }
    lines.sort();
    Digest::of(lines.join("\n").as_bytes())
}

/// Compiles a program of this directory, for any image.
fn program(engine: &TestEngine, source: &str) -> PathBuf {
    let out = engine.scratch().join(source.trim_end_matches(".c"));
    let source = format!("{}/tests/e2e/{source}", env!("CARGO_MANIFEST_DIR"));
    let out_path = out.to_str().unwrap();
    let _ = run("cc", &["-static", "-O2", "-o", out_path, &source]).ok();
    out
}

#[test]
fn only_kernel_parameters_of_the_container_are_set() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    // One that this kernel does not have stays away.
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let watched = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/net/ipv4/ip_default_ttl",
        "/proc/sys/kernel/hostname",
    ];
    let before = watched.map(read);
    let start = |name: &str, value: &str, network: &str| {
        let body = json!({
            "Image": "busybox",
            "Cmd": ["true"],
            "HostConfig": {
                "AutoRemove": true,
                "NetworkMode": network,
                "Sysctls": {name: value},
            },
        });
        let (status, answer) = tell(&engine, "POST", "/containers/create", &body);
        if status != 201 {
            return (status, answer);
        }
        let id = answer["Id"].as_str().unwrap().to_owned();
        let started = tell(
            &engine,
            "POST",
            &format!("/containers/{id}/start"),
            &Value::Null,
        );
        let _ = ask(&engine, "DELETE", &format!("/containers/{id}?force=1"), b"");
        started
    };
    for (name, value) in [
        ("kernel.core_pattern", "|/bin/evil"),
        ("kernel/core_pattern", "|/bin/evil"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/bin/evil"),
        (
            "kernel.shm_rmid_forced",
            "1\nkernel.core_pattern=|/bin/evil",
        ),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "1"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/evil"),
        ("net/../kernel/core_pattern", "|/bin/evil"),
        ("net....kernel.core_pattern", "|/bin/evil"),
        ("net.ipv4/../../kernel/core_pattern", "|/bin/evil"),
        ("/net/../kernel/core_pattern", "|/bin/evil"),
        ("net.ipv4.conf./../../../kernel/modprobe", "/bin/evil"),
        ("kernel.modprobe", "/bin/evil"),
        ("vm.overcommit_memory", "1"),
        ("kernel.hostname", "evil"),
        ("fs.binfmt_misc.register", ":x:M::x::/bin/evil:"),
        ("user.max_user_namespaces", "0"),
        ("net.ipv4.ip_default_ttl\0", "9"),
        ("", "1"),
        ("net", "1"),
        ("net.ipv4", "1"),
    ] {
        let (status, answer) = start(name, value, "bridge");
        assert!((400..600).contains(&status), "{name:?}={value:?}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(
            !message.is_empty() && message.len() < 400,
            "{name:?}={value:?}: {message}"
        );
    }
    for (name, value) in [
        ("net.ipv4.ip_default_ttl", "77"),
        ("net/ipv4/ip_default_ttl", "77"),
        ("kernel.shmmax", "123456"),
        ("kernel.domainname", "inner"),
        ("fs.mqueue.msg_max", "20"),
    ] {
        let (status, answer) = start(name, value, "bridge");
        assert_eq!(status, 204, "{name}: {answer}");
    }
    // Of the network that it shares with the host.
    let (status, answer) = start("net.ipv4.ip_default_ttl", "77", "host");
    assert_eq!(status, 400, "{answer}");
    assert_eq!(watched.map(read), before);
    until("all are removed", || {
        engine.sampan(&["ps", "-aq"]).ok().is_empty()
    });
}

#[test]
fn nothing_takes_the_place_of_proc_and_sys() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let canary = Canary::new(&engine);
    let fake = engine.scratch().join("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    fs::create_dir_all(fake.join("sys/kernel")).unwrap();
    fs::write(fake.join("self/attr/exec"), "").unwrap();
    symlink(canary.path(), fake.join("proc")).unwrap();
    let fake = fake.display().to_string();
    for place in [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys",
        "/proc/1",
        "/proc/../proc",
    ] {
        for source in ["data", fake.as_str()] {
            let volume = format!("{source}:{place}");
            let script = "stat -f -c %T /proc /proc/self/attr /proc/sys";
            let run = ["run", "--rm", "-v", &volume, "busybox", "sh", "-c", script];
            let ran = engine.sampan(&run);
            assert_eq!(ran.code, 125, "{volume}: {ran:?}");
            assert!(ran.stderr.contains("/proc"), "{volume}: {ran:?}");
        }
    }
    // A volume in which /proc would be a link, on the whole root or beside it.
    let ran = engine.sampan(&["run", "--rm", "-v", &format!("{fake}:/"), "busybox", "true"]);
    assert!(ran.failed(125).contains("destination can't be '/'"));
    // Files of it that other engines allow, too.
    for place in ["/proc/cpuinfo", "/proc/meminfo", "/proc/uptime"] {
        let volume = format!("{fake}/self/attr/exec:{place}");
        let run = ["run", "--rm", "-v", &volume, "busybox", "cat", place];
        assert_eq!(engine.sampan(&run).ok(), "", "{place}");
    }
    canary.assert_untouched();
    engine.ledger().assert_no_container();
}

#[test]
fn release_agents_are_out_of_reach() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let hierarchies: Vec<String> = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("release_agent"))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    let agents = || -> Vec<String> {
        let read = |path: &String| fs::read_to_string(path).unwrap();
        hierarchies.iter().map(read).collect()
    };
    let before = agents();
    let names: Vec<&str> = hierarchies
        .iter()
        .filter_map(|path| Path::new(path).parent()?.file_name()?.to_str())
        .filter(|name| *name != "systemd")
        .collect();
    // Those that are there already, and every hierarchy mounted anew.
    let script = format!(
        "for f in $(find / -xdev -name release_agent 2>/dev/null; ls /sys/fs/cgroup/*/release_agent 2>/dev/null); do \
           echo /evil 2>/dev/null > $f && echo wrote $f; done; \
         for c in {}; do mkdir -p /m/$c; \
           mount -t cgroup -o $c none /m/$c 2>/dev/null || continue; \
           echo /evil 2>/dev/null > /m/$c/release_agent && echo wrote $c; \
         done; id -u",
        names.join(" ")
    );
    let powerful = ["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"];
    for flags in [&[][..], &powerful] {
        let run = [&["run", "--rm"], flags, &["busybox", "sh", "-c", &script]].concat();
        let said = engine.sampan(&run).ok();
        let after = agents();
        // Whatever was found, the machine stays as it was.
        for (path, (now, then)) in hierarchies.iter().zip(after.iter().zip(&before)) {
            if now != then {
                fs::write(path, format!("{then}\n")).unwrap();
            }
        }
        assert_eq!(said, "0", "{flags:?}");
        assert_eq!(after, before, "{flags:?}");
    }
    // A user namespace of one's own is none of the default container's.
    let run = ["run", "--rm", "busybox", "unshare", "-Ur", "true"];
    assert_ne!(engine.sampan(&run).code, 0);
}

/// Programs that other engines have run with the powers of the host.
const TEMPTATIONS: [&str; 16] = [
    "xz",
    "gzip",
    "gunzip",
    "unpigz",
    "pigz",
    "zstd",
    "bzip2",
    "tar",
    "ps",
    "nsenter",
    "mount",
    "umount",
    "ip",
    "iptables",
    "newuidmap",
    "ldconfig",
];

#[test]
fn no_program_of_a_container_is_run_by_the_engine() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let touch = format!(
        "#!/bin/busybox sh\necho ran > /ran\necho ran > {}/ran\n",
        canary.path()
    );
    import(&engine, |tree| {
        for directory in [
            "bin",
            "usr/bin",
            "sbin",
            "usr/sbin",
            "usr/local/bin",
            "etc",
            "lib",
            "run",
            "var",
        ] {
            fs::create_dir_all(tree.join(directory)).unwrap();
        }
        for program in TEMPTATIONS {
            for directory in ["usr/local/bin", "usr/bin", "usr/sbin"] {
                let path = tree.join(directory).join(program);
                fs::write(&path, &touch).unwrap();
                let _ = run("chmod", &["755", path.to_str().unwrap()]).ok();
            }
        }
        // What a library that looks up names or users would load.
        fs::write(
            tree.join("etc/nsswitch.conf"),
            "passwd: evil files\nhosts: evil\n",
        )
        .unwrap();
        fs::write(tree.join("lib/libnss_evil.so.2"), &touch).unwrap();
        fs::write(tree.join("etc/ld.so.preload"), "/lib/libnss_evil.so.2\n").unwrap();
        fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        symlink("/run", tree.join("var/run")).unwrap();
    });
    let start = [
        "run",
        "-d",
        "--name",
        "box",
        "--health-interval",
        "1s",
        "hostile",
        "/bin/busybox",
        "sleep",
        "1000",
    ];
    let _ = engine.sampan(&start).ok();
    let here = engine.scratch().join("here");
    fs::create_dir(&here).unwrap();
    fs::write(here.join("file"), "copied\n").unwrap();
    let plain = engine.scratch().join("plain.tar").display().to_string();
    let place = here.display().to_string();
    let _ = run("tar", &["-C", &place, "-cf", &plain, "."]).ok();
    for (program, end) in [
        ("gzip", "gz"),
        ("bzip2", "bz2"),
        ("xz", "xz"),
        ("zstd", "zst"),
    ] {
        let packed = run(
            "sh",
            &["-c", &format!("{program} -c {plain} > {plain}.{end}")],
        );
        assert_eq!(packed.code, 0, "{program}: {}", packed.stderr);
        let body = fs::read(format!("{plain}.{end}")).unwrap();
        let answer = ask(&engine, "PUT", "/containers/box/archive?path=/run", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{program}: {answer}");
    }
    // By a link that is a legitimate one.
    for container_path in ["/var/run/by-link", "/run/plain"] {
        let _ = engine
            .sampan(&[
                "cp",
                &format!("{place}/file"),
                &format!("box:{container_path}"),
            ])
            .ok();
        let back = engine.scratch().join("back").display().to_string();
        let _ = engine
            .sampan(&["cp", &format!("box:{container_path}"), &back])
            .ok();
        assert_eq!(fs::read_to_string(&back).unwrap(), "copied\n");
    }
    let exported = engine.scratch().join("out.tar").display().to_string();
    for command in [
        &["top", "box"][..],
        &["top", "box", "-o", "pid,user,comm"],
        &["stats", "--no-stream", "box"],
        &["diff", "box"],
        &["logs", "box"],
        &["export", "-o", &exported, "box"],
        &["commit", "box", "committed"],
        &["exec", "-u", "root", "box", "/bin/busybox", "true"],
        &["update", "--cpu-shares", "300", "box"],
        &["pause", "box"],
        &["unpause", "box"],
        &["restart", "-t", "0", "box"],
        &["inspect", "-s", "box"],
        &["stop", "-t", "0", "box"],
        &["start", "box"],
    ] {
        let _ = engine.sampan(command).ok();
    }
    let changes = engine.sampan(&["diff", "box"]).ok();
    assert!(!changes.contains("/ran"), "{changes}");
    assert!(changes.contains("/run/by-link"), "{changes}");
    canary.assert_untouched();
}

#[test]
fn containers_do_not_inherit_from_each_other() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    load(&engine, &json!({"Env": ["OF_IMAGE=1"]}), |_| {});
    let start = [
        "run",
        "-d",
        "--name",
        "one",
        "-e",
        "SECRET=x",
        "-e",
        "OF_IMAGE=2",
        "-u",
        "7",
        "--group-add",
        "9",
        "-w",
        "/w",
        "hostile",
        "/bin/busybox",
        "sleep",
        "1000",
    ];
    let _ = engine.sampan(&start).ok();
    let exec = ["exec", "-e", "MORE=y", "one", "/bin/busybox", "env"];
    assert!(engine.sampan(&exec).ok().contains("MORE=y"));
    let look = [
        "/bin/busybox",
        "sh",
        "-c",
        "env | grep -v ^SHLVL | sort; id -u; id -G; pwd",
    ];
    let said = engine
        .sampan(&[&["run", "--rm", "hostile"], &look[..]].concat())
        .ok();
    assert!(!said.contains("SECRET") && !said.contains("MORE"), "{said}");
    assert!(
        said.contains("OF_IMAGE=1") && said.ends_with("0\n0\n/"),
        "{said}"
    );
    // Nor does the next exec of what the last was given.
    let said = engine.sampan(&[&["exec", "one"], &look[..]].concat()).ok();
    assert!(
        said.contains("SECRET=x") && !said.contains("MORE"),
        "{said}"
    );
    // What was made of it with its variables has them, and nothing else has.
    let _ = engine.sampan(&["commit", "one", "made"]).ok();
    let env = ["image", "inspect", "-f", "{{json .Config.Env}}", "made"];
    assert!(engine.sampan(&env).ok().contains("SECRET=x"));
    let env = ["image", "inspect", "-f", "{{json .Config.Env}}", "hostile"];
    assert_eq!(engine.sampan(&env).ok(), "[\"OF_IMAGE=1\"]");
}

/// So many rounds of starting, and of copying, beside a container that swaps.
fn rounds() -> usize {
    std::env::var("SAMPAN_SWAP_ROUNDS").map_or(120, |rounds| rounds.parse().unwrap())
}

/// What is started, in turns, where a neighbour swaps `/vol/place` for a link to the host: mounts
/// on and below it, working directories in it, volumes of it.
fn swapped_starts(canary: &str) -> Vec<Value> {
    let script =
        "echo x > /vol/place/new; echo x > /vol/place/inner/new; cat /vol/place/secret; echo ran";
    let base = |more: Value| {
        let mut body = json!({
            "Image": "hostile",
            "Cmd": ["/bin/busybox", "sh", "-c", script],
            "HostConfig": {"Binds": ["shared:/vol"], "NetworkMode": "none"},
        });
        for (key, value) in more.as_object().unwrap() {
            if key == "HostConfig" {
                for (key, value) in value.as_object().unwrap() {
                    body["HostConfig"][key] = value.clone();
                }
            } else {
                body[key] = value.clone();
            }
        }
        body
    };
    vec![
        base(json!({"WorkingDir": "/vol/place/made/here"})),
        base(json!({"WorkingDir": "/vol/place"})),
        base(json!({"HostConfig": {"Binds": ["shared:/vol", "other:/vol/place"]}})),
        base(json!({"HostConfig": {"Binds": ["shared:/vol", "other:/vol/place/inner/a/b"]}})),
        base(json!({"HostConfig": {"Tmpfs": {"/vol/place/tmp": ""}}})),
        base(json!({"Volumes": {"/vol/place/anonymous": {}}})),
        base(
            json!({"HostConfig": {"Binds": ["shared:/vol", format!("{canary}/secret:/vol/place/file:ro")]}}),
        ),
    ]
}

/// While a container exchanges directories and links to the host, in a volume that others share
/// and in its own root, thousands of containers start in that volume and thousands of copies go
/// in and out: nothing of the host is read, written or mounted.
#[test]
fn a_neighbour_that_swaps_links_leads_nothing_out() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let swap = program(&engine, "swap.c");
    let outside = canary.path();
    import(&engine, |tree| {
        let _ = fs::copy(&swap, tree.join("swap")).unwrap();
    });
    let up = format!("{}{outside}", "../".repeat(20));
    // In each of the two a directory, and links to the host from here and upwards.
    let prepare = format!(
        "for d in /vol /w; do mkdir -p $d/place/inner/a/b; echo inside > $d/place/secret; \
         ln -s {outside} $d/other; ln -s {up} $d/upwards; done; \
         /swap /w place other place upwards & exec /swap /vol place other place upwards"
    );
    let neighbour = [
        "run",
        "-d",
        "--name",
        "neighbour",
        "--network",
        "none",
        "-v",
        "shared:/vol",
        "hostile",
        "/bin/busybox",
        "sh",
        "-c",
        &prepare,
    ];
    let _ = engine.sampan(&neighbour).ok();
    until("both swap", || {
        let logs = engine.sampan(&["logs", "neighbour"]).ok();
        logs.matches("swapping").count() == 2
    });
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["secret", "new", "inner/deep/file", "link"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(8);
        header.set_mode(0o666);
        header.set_cksum();
        archive
            .append_data(&mut header, name, &b"hostile!"[..])
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    // Of this engine: other tests have theirs.
    let own = engine.scratch().display().to_string();
    let mounts = || -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines = table.lines().filter(|line| line.contains(&own));
        lines.map(str::to_owned).collect()
    };
    let before = mounts();
    let bodies = swapped_starts(&outside);
    let rounds = rounds();
    let (starts, copies) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (started, ran, read, written) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let began = Instant::now();
    let start = |round: usize| {
        let body = &bodies[round % bodies.len()];
        let (status, made) = tell(&engine, "POST", "/containers/create", body);
        assert_eq!(status, 201, "{made}");
        let id = made["Id"].as_str().unwrap();
        let (status, answer) = tell(
            &engine,
            "POST",
            &format!("/containers/{id}/start"),
            &Value::Null,
        );
        if status == 204 {
            let _ = started.fetch_add(1, Ordering::Relaxed);
            let waited = ask(&engine, "POST", &format!("/containers/{id}/wait"), b"");
            assert!(waited.contains("StatusCode"), "{waited}");
            let log = ask(
                &engine,
                "GET",
                &format!("/containers/{id}/logs?stdout=1&stderr=1"),
                b"",
            );
            assert!(!log.contains("of the host"), "{body}: {log}");
            let _ = ran.fetch_add(usize::from(log.contains("ran\n")), Ordering::Relaxed);
        } else {
            // Whether it starts depends on the moment; that it says why does not.
            assert!((400..=500).contains(&status), "{status} {answer}");
            assert!(!answer["message"].as_str().unwrap().is_empty());
        }
        let gone = ask(
            &engine,
            "DELETE",
            &format!("/containers/{id}?force=1&v=1"),
            b"",
        );
        assert!(gone.starts_with("HTTP/1.1 204"), "{gone}");
    };
    let copy = |round: usize| {
        let top = ["/vol", "/w"][round % 2];
        let archive_of = |path: &str| format!("/containers/neighbour/archive?path={top}/{path}");
        let answer = match round % 8 {
            0 | 1 => ask(&engine, "GET", &archive_of("place/secret"), b""),
            2 => ask(&engine, "GET", &archive_of("place"), b""),
            3 => ask(&engine, "GET", &archive_of("."), b""),
            4 => ask(&engine, "HEAD", &archive_of("place/link"), b""),
            _ => {
                let answer = ask(&engine, "PUT", &archive_of("place"), &archive);
                let done = answer.starts_with("HTTP/1.1 200");
                let _ = written.fetch_add(usize::from(done), Ordering::Relaxed);
                answer
            }
        };
        assert!(!answer.contains("of the host"), "{round}: {answer}");
        let inside = answer.contains("inside") || answer.contains("hostile!");
        let _ = read.fetch_add(usize::from(inside), Ordering::Relaxed);
        // These read the whole root, which takes longer.
        if round % 100 == 50 {
            let exported = ask(&engine, "GET", "/containers/neighbour/export", b"");
            assert!(exported.contains("swap") && !exported.contains("of the host"));
        }
        if round % 100 == 99 {
            let path = "/commit?container=neighbour&repo=taken&pause=0";
            let (status, answer) = tell(&engine, "POST", path, &json!({}));
            assert_eq!(status, 201, "{answer}");
            let saved = ask(&engine, "GET", "/images/taken/get", b"");
            assert!(!saved.contains("of the host"));
        }
    };
    let turns = |what: &str, next: &AtomicUsize, act: &(dyn Fn(usize) + Sync)| {
        loop {
            let round = next.fetch_add(1, Ordering::Relaxed);
            if round >= rounds {
                return;
            }
            act(round);
            if round % 1000 == 999 {
                println!("{what} {}: {:.0?}", round + 1, began.elapsed());
                canary.assert_untouched();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let _ = scope.spawn(|| turns("starts", &starts, &start));
        }
        let _ = scope.spawn(|| turns("copies", &copies, &copy));
    });
    println!(
        "{rounds} starts, {started:?} of them done, {ran:?} to the end; {rounds} copies, {read:?} read and {written:?} \
         written inside: {:.0?}",
        began.elapsed()
    );
    canary.assert_untouched();
    assert_eq!(mounts(), before);
    for (what, count) in [
        ("started", started),
        ("ran", ran),
        ("read", read),
        ("written", written),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "none was {what}");
    }
    let _ = engine.sampan(&["rm", "-f", "neighbour"]).ok();
    engine.ledger().assert_no_container();
}
