//! The flags of `run` and `create`: pure tables.

use super::command::Flag;

/// Flags of both commands.
pub(crate) const FLAGS: &[Flag] = &[
    Flag::many(
        "add-host",
        "list",
        "Add a custom host-to-IP mapping (host:ip)",
    ),
    Flag::many("cap-add", "list", "Add Linux capabilities"),
    Flag::many("cap-drop", "list", "Drop Linux capabilities"),
    Flag::one("cidfile", "string", "Write the container ID to the file"),
    Flag::one("cpu-shares", "int", "CPU shares (relative weight)").short('c'),
    Flag::one("cpus", "decimal", "Number of CPUs"),
    Flag::one(
        "cpuset-cpus",
        "string",
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    Flag::many("device", "list", "Add a host device to the container"),
    Flag::many("dns", "list", "Set custom DNS servers"),
    Flag::one(
        "entrypoint",
        "string",
        "Overwrite the default ENTRYPOINT of the image",
    ),
    Flag::many("env", "list", "Set environment variables").short('e'),
    Flag::many(
        "env-file",
        "list",
        "Read in a file of environment variables",
    ),
    Flag::one("hostname", "string", "Container host name").short('h'),
    Flag::switch(
        "init",
        "Run an init inside the container that forwards signals and reaps processes",
    ),
    Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
    Flag::many("label", "list", "Set meta data on a container").short('l'),
    Flag::one("memory", "bytes", "Memory limit").short('m'),
    Flag::one(
        "memory-swap",
        "bytes",
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    ),
    Flag::many(
        "mount",
        "mount",
        "Attach a filesystem mount to the container",
    ),
    Flag::one("name", "string", "Assign a name to the container"),
    Flag::one("net", "network", "").hidden(),
    Flag::one("network", "network", "Connect a container to a network"),
    Flag::one(
        "pids-limit",
        "int",
        "Tune container pids limit (set -1 for unlimited)",
    ),
    Flag::one(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
    Flag::switch("privileged", "Give extended privileges to this container"),
    Flag::many(
        "publish",
        "list",
        "Publish a container's port(s) to the host",
    )
    .short('p'),
    Flag::switch("publish-all", "Publish all exposed ports to random ports").short('P'),
    Flag::switch(
        "read-only",
        "Mount the container's root filesystem as read only",
    ),
    Flag::switch(
        "rm",
        "Automatically remove the container and its associated anonymous volumes when it exits",
    ),
    Flag::many("security-opt", "list", "Security Options"),
    Flag::one("shm-size", "bytes", "Size of /dev/shm"),
    Flag::one("stop-signal", "string", "Signal to stop the container"),
    Flag::one(
        "stop-timeout",
        "int",
        "Timeout (in seconds) to stop a container",
    ),
    Flag::many("tmpfs", "list", "Mount a tmpfs directory"),
    Flag::switch("tty", "Allocate a pseudo-TTY").short('t'),
    Flag::many("ulimit", "ulimit", "Ulimit options").default("[]"),
    Flag::one(
        "user",
        "string",
        "Username or UID (format: <name|uid>[:<group|gid>])",
    )
    .short('u'),
    Flag::many("volume", "list", "Bind mount a volume").short('v'),
    Flag::many(
        "volumes-from",
        "list",
        "Mount volumes from the specified container(s)",
    ),
    Flag::one(
        "workdir",
        "string",
        "Working directory inside the container",
    )
    .short('w'),
];

/// `--pull`, which says what comes after it.
pub(crate) const PULL_BEFORE_RUNNING: Flag = Flag::one(
    "pull",
    "string",
    "Pull image before running (\"always\", \"missing\", \"never\")",
)
.default("missing");

/// `--pull`, which says what comes after it.
pub(crate) const PULL_BEFORE_CREATING: Flag = Flag::one(
    "pull",
    "string",
    "Pull image before creating (\"always\", \"missing\", \"never\")",
)
.default("missing");

/// Further flags of both commands.
pub(crate) const MORE_FLAGS: &[Flag] = &[
    Flag::many(
        "annotation",
        "map",
        "Add an annotation to the container (passed through to the OCI runtime)",
    )
    .default("map[]"),
    Flag::many("attach", "list", "Attach to STDIN, STDOUT or STDERR").short('a'),
    Flag::one(
        "blkio-weight",
        "uint16",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
    ),
    Flag::many(
        "blkio-weight-device",
        "list",
        "Block IO weight (relative device weight)",
    )
    .default("[]"),
    Flag::one(
        "cgroup-parent",
        "string",
        "Optional parent cgroup for the container",
    ),
    Flag::one("cgroupns", "string", CGROUPNS_HELP),
    Flag::one(
        "cpu-period",
        "int",
        "Limit CPU CFS (Completely Fair Scheduler) period",
    ),
    Flag::one(
        "cpu-quota",
        "int",
        "Limit CPU CFS (Completely Fair Scheduler) quota",
    ),
    Flag::one(
        "cpu-rt-period",
        "int",
        "Limit CPU real-time period in microseconds",
    ),
    Flag::one(
        "cpu-rt-runtime",
        "int",
        "Limit CPU real-time runtime in microseconds",
    ),
    Flag::one(
        "cpuset-mems",
        "string",
        "MEMs in which to allow execution (0-3, 0,1)",
    ),
    Flag::many(
        "device-cgroup-rule",
        "list",
        "Add a rule to the cgroup allowed devices list",
    ),
    Flag::many(
        "device-read-bps",
        "list",
        "Limit read rate (bytes per second) from a device",
    )
    .default("[]"),
    Flag::many(
        "device-read-iops",
        "list",
        "Limit read rate (IO per second) from a device",
    )
    .default("[]"),
    Flag::many(
        "device-write-bps",
        "list",
        "Limit write rate (bytes per second) to a device",
    )
    .default("[]"),
    Flag::many(
        "device-write-iops",
        "list",
        "Limit write rate (IO per second) to a device",
    )
    .default("[]"),
    Flag::switch("disable-content-trust", "").hidden(),
    Flag::many("dns-opt", "list", "").hidden(),
    Flag::many("dns-option", "list", "Set DNS options"),
    Flag::many("dns-search", "list", "Set custom DNS search domains"),
    Flag::one("domainname", "string", "Container NIS domain name"),
    Flag::many("expose", "list", "Expose a port or a range of ports"),
    Flag::many(
        "gpus",
        "gpu-request",
        "GPU devices to add to the container ('all' to pass all GPUs)",
    ),
    Flag::many("group-add", "list", "Add additional groups to join"),
    Flag::one("health-cmd", "string", "Command to run to check health"),
    Flag::one(
        "health-interval",
        "duration",
        "Time between running the check (ms|s|m|h) (default 0s)",
    ),
    Flag::one(
        "health-retries",
        "int",
        "Consecutive failures needed to report unhealthy",
    ),
    Flag::one(
        "health-start-interval",
        "duration",
        "Time between running the check during the start period (ms|s|m|h) (default 0s)",
    ),
    Flag::one(
        "health-start-period",
        "duration",
        "Start period for the container to initialize before starting health-retries countdown \
         (ms|s|m|h) (default 0s)",
    ),
    Flag::one(
        "health-timeout",
        "duration",
        "Maximum time to allow one check to run (ms|s|m|h) (default 0s)",
    ),
    Flag::one("ip", "string", "IPv4 address (e.g., 172.30.100.104)"),
    Flag::one("ip6", "string", "IPv6 address (e.g., 2001:db8::33)"),
    Flag::one("ipc", "string", "IPC mode to use"),
    Flag::one("isolation", "string", "Container isolation technology"),
    Flag::many(
        "label-file",
        "list",
        "Read in a line delimited file of labels",
    ),
    Flag::many("link", "list", "Add link to another container"),
    Flag::one("log-driver", "string", "Logging driver for the container"),
    Flag::many("log-opt", "list", "Log driver options"),
    Flag::one(
        "mac-address",
        "string",
        "Container MAC address (e.g., 92:d0:c6:0a:29:33)",
    ),
    Flag::one("memory-reservation", "bytes", "Memory soft limit"),
    Flag::one(
        "memory-swappiness",
        "int",
        "Tune container memory swappiness (0 to 100)",
    )
    .default("-1"),
    Flag::many("net-alias", "list", "").hidden(),
    Flag::many(
        "network-alias",
        "list",
        "Add network-scoped alias for the container",
    ),
    Flag::switch(
        "no-healthcheck",
        "Disable any container-specified HEALTHCHECK",
    ),
    Flag::switch("oom-kill-disable", "Disable OOM Killer"),
    Flag::one(
        "oom-score-adj",
        "int",
        "Tune host's OOM preferences (-1000 to 1000)",
    ),
    Flag::one("pid", "string", "PID namespace to use"),
    Flag::switch("quiet", "Suppress the pull output").short('q'),
    Flag::one(
        "restart",
        "string",
        "Restart policy to apply when a container exits",
    )
    .default("no"),
    Flag::one("runtime", "string", "Runtime to use for this container"),
    Flag::many(
        "storage-opt",
        "list",
        "Storage driver options for the container",
    ),
    Flag::many("sysctl", "map", "Sysctl options").default("map[]"),
    Flag::one("userns", "string", "User namespace to use"),
    Flag::one("uts", "string", "UTS namespace to use"),
    Flag::one(
        "volume-driver",
        "string",
        "Optional volume driver for the container",
    ),
];

const CGROUPNS_HELP: &str = "\
Cgroup namespace to use (host|private)
'host':    Run the container in the Docker host's cgroup namespace
'private': Run the container in its own private cgroup namespace
'':        Use the cgroup namespace as configured by the
           default-cgroupns-mode option on the daemon (default)";

/// Docker's flags of both commands that are refused, each with its reason.
pub(crate) const REFUSED: &[(&str, Option<char>)] = &[
    ("cpu-count", None),
    ("cpu-percent", None),
    ("io-maxbandwidth", None),
    ("io-maxiops", None),
    ("kernel-memory", None),
    ("link-local-ip", None),
    ("use-api-socket", None),
];
