//! What may be typed: runc's commands and flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

mod flags;

use flags::{number, path, text, texts};

/// One call of the program.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) global: Global,
    pub(crate) command: Call,
}

/// The flags in front of the command.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) root: PathBuf,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
    pub(crate) debug: bool,
    pub(crate) systemd_cgroup: bool,
}

/// The form of a log's lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A command and its arguments.
#[derive(Debug)]
pub(crate) enum Call {
    Create(Create),
    Start(String),
    Run(Run),
    State(String),
    Kill {
        id: String,
        signal: String,
        all: bool,
    },
    Delete {
        id: String,
        force: bool,
    },
    Exec(Box<Exec>),
    List {
        json: bool,
        quiet: bool,
    },
    Ps {
        id: String,
        json: bool,
        options: Vec<String>,
    },
    Pause(String),
    Resume(String),
    Update(Box<Update>),
    Events {
        id: String,
        stats: bool,
        interval: u64,
    },
    Features,
    Spec {
        bundle: Option<PathBuf>,
        rootless: bool,
    },
    Unsupported(&'static str),
}

/// `create`, and what `run` shares with it.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) preserve_fds: u32,
}

/// `run`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) create: Create,
    pub(crate) detach: bool,
    pub(crate) keep: bool,
}

/// `exec`.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) command: Vec<String>,
    pub(crate) process: Option<PathBuf>,
    pub(crate) detach: bool,
    pub(crate) tty: bool,
    pub(crate) user: Option<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) caps: Vec<String>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) additional_gids: Vec<String>,
    pub(crate) apparmor: Option<String>,
    pub(crate) process_label: Option<String>,
    pub(crate) no_new_privs: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) ignore_paused: bool,
    pub(crate) cgroup: Vec<String>,
}

/// `update`: a file of resources, or single ones.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) id: String,
    pub(crate) resources: Option<PathBuf>,
    /// Flags by name, as they were typed.
    pub(crate) single: Vec<(&'static str, String)>,
}

/// Flags of `update` that set one value each, by runc's names.
pub(crate) const UPDATES: [(&str, &str); 16] = [
    ("blkio-weight", "Block IO weight, from 10 to 1000"),
    ("cpu-period", "CPU CFS period (in usecs)"),
    (
        "cpu-quota",
        "CPU CFS hardcap limit (in usecs) in one period",
    ),
    ("cpu-burst", "CPU CFS hardcap burst limit (in usecs)"),
    ("cpu-share", "CPU shares (relative weight)"),
    ("cpu-rt-period", "CPU realtime period (in usecs)"),
    ("cpu-rt-runtime", "CPU realtime hardcap limit (in usecs)"),
    (
        "cpu-idle",
        "Whether tasks run only when nothing else does (1)",
    ),
    ("cpuset-cpus", "CPUs to use"),
    ("cpuset-mems", "Memory nodes to use"),
    ("kernel-memory", "(obsoleted; do not use)"),
    ("kernel-memory-tcp", "Kernel memory limit for TCP buffers"),
    ("memory", "Memory limit"),
    ("memory-reservation", "Memory reservation, or soft limit"),
    (
        "memory-swap",
        "Limit of memory and swap together; -1 is none",
    ),
    ("pids-limit", "Most processes; -1 is no limit"),
];

/// Where the state lies unless `--root` says otherwise.
const DEFAULT_ROOT: &str = "/run/sampan-runtime";

pub(crate) fn parse(
    name: &'static str,
    arguments: Vec<OsString>,
) -> Result<Invocation, clap::Error> {
    let words = std::iter::once(OsString::from(name)).chain(arguments);
    let matches = command(name).try_get_matches_from(words)?;
    let global = Global {
        root: path(&matches, "root").unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT)),
        // runc writes to standard error where the flag is empty.
        log: path(&matches, "log").filter(|path| !path.as_os_str().is_empty()),
        log_format: match text(&matches, "log-format").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        debug: matches.get_flag("debug"),
        systemd_cgroup: matches.get_flag("systemd-cgroup"),
    };
    let (name, matches) = matches
        .subcommand()
        .expect("clap insists on one of the commands");
    Ok(Invocation {
        global,
        command: call(name, matches),
    })
}

fn call(name: &str, matches: &ArgMatches) -> Call {
    let id = || text(matches, "id").unwrap_or_default();
    match name {
        "create" => Call::Create(create(matches)),
        "start" => Call::Start(id()),
        "run" => Call::Run(Run {
            create: create(matches),
            detach: matches.get_flag("detach"),
            keep: matches.get_flag("keep"),
        }),
        "state" => Call::State(id()),
        "kill" => Call::Kill {
            id: id(),
            signal: text(matches, "signal").unwrap_or_else(|| "SIGTERM".to_owned()),
            all: matches.get_flag("all"),
        },
        "delete" => Call::Delete {
            id: id(),
            force: matches.get_flag("force"),
        },
        "exec" => Call::Exec(Box::new(exec(matches))),
        "list" => Call::List {
            json: text(matches, "format").as_deref() == Some("json"),
            quiet: matches.get_flag("quiet"),
        },
        "ps" => Call::Ps {
            id: id(),
            json: text(matches, "format").as_deref() == Some("json"),
            options: texts(matches, "options"),
        },
        "pause" => Call::Pause(id()),
        "resume" => Call::Resume(id()),
        "update" => Call::Update(Box::new(Update {
            id: id(),
            resources: path(matches, "resources"),
            single: UPDATES
                .iter()
                .filter_map(|(name, _)| Some((*name, text(matches, name)?)))
                .collect(),
        })),
        "events" => Call::Events {
            id: id(),
            stats: matches.get_flag("stats"),
            interval: text(matches, "interval")
                .and_then(|text| seconds(&text).ok())
                .unwrap_or(5),
        },
        "features" => Call::Features,
        "spec" => Call::Spec {
            bundle: path(matches, "bundle"),
            rootless: matches.get_flag("rootless"),
        },
        "checkpoint" => Call::Unsupported("checkpoint"),
        _ => Call::Unsupported("restore"),
    }
}

fn create(matches: &ArgMatches) -> Create {
    Create {
        id: text(matches, "id").unwrap_or_default(),
        bundle: path(matches, "bundle"),
        console_socket: path(matches, "console-socket"),
        pid_file: path(matches, "pid-file"),
        no_pivot: matches.get_flag("no-pivot"),
        no_new_keyring: matches.get_flag("no-new-keyring"),
        preserve_fds: number(matches, "preserve-fds"),
    }
}

fn exec(matches: &ArgMatches) -> Exec {
    Exec {
        id: text(matches, "id").unwrap_or_default(),
        command: texts(matches, "command"),
        process: path(matches, "process"),
        detach: matches.get_flag("detach"),
        tty: matches.get_flag("tty"),
        user: text(matches, "user"),
        env: texts(matches, "env"),
        cwd: text(matches, "cwd"),
        caps: texts(matches, "cap"),
        pid_file: path(matches, "pid-file"),
        console_socket: path(matches, "console-socket"),
        additional_gids: texts(matches, "additional-gids"),
        apparmor: text(matches, "apparmor"),
        process_label: text(matches, "process-label"),
        no_new_privs: matches.get_flag("no-new-privs"),
        preserve_fds: number(matches, "preserve-fds"),
        ignore_paused: matches.get_flag("ignore-paused"),
        cgroup: texts(matches, "cgroup"),
    }
}

/// Seconds of a Go duration such as `5s` or `1m30s`, or a plain number of them.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("invalid duration {text:?}");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let (mut total, mut digits) = (0_u64, String::new());
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' => {
                digits.push(letter);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        let count: u64 = digits.parse().map_err(|_| bad())?;
        total = total.saturating_add(count.saturating_mul(unit));
        digits.clear();
    }
    if digits.is_empty() && !text.is_empty() {
        Ok(total)
    } else {
        Err(bad())
    }
}

fn command(name: &'static str) -> Command {
    use flags::{detach, id, list, option, toggle};
    let with_container =
        |name: &'static str, about: &'static str| Command::new(name).about(about).arg(id());
    let creates = |name: &'static str, about: &'static str| {
        with_container(name, about)
            .arg(
                option(
                    "bundle",
                    "Root of the bundle directory, by default the current one",
                )
                .short('b'),
            )
            .arg(option(
                "console-socket",
                "AF_UNIX socket which gets the master end of the terminal",
            ))
            .arg(option("pid-file", "File to write the process id to"))
            .arg(toggle(
                "no-pivot",
                "Do not use pivot_root, for a root file system in memory",
            ))
            .arg(toggle(
                "no-new-keyring",
                "Do not make a new session keyring",
            ))
            .arg(
                option("preserve-fds", "Pass that many more descriptors, from 3 on")
                    .value_parser(clap::value_parser!(u32)),
            )
    };
    let format = || {
        option("format", "table or json")
            .short('f')
            .default_value("table")
            .value_parser(["table", "json"])
    };
    Command::new(name)
        .about("Open Container Initiative runtime")
        .version(VERSION)
        .disable_version_flag(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("version")
                .long("version")
                .short('v')
                .help("Print the version")
                .action(ArgAction::Version),
        )
        .arg(
            option("root", "Directory of the state of containers").help(format!(
                "Directory of the state of containers [default: {DEFAULT_ROOT}]"
            )),
        )
        .arg(option(
            "log",
            "File to write the log to, by default standard error",
        ))
        .arg(
            option("log-format", "Form of the log")
                .default_value("text")
                .value_parser(["text", "json"]),
        )
        .arg(toggle("debug", "Log more"))
        .arg(toggle(
            "systemd-cgroup",
            "Have systemd make the cgroup of a new container, as a scope",
        ))
        .arg(
            option("rootless", "Taken for compatibility; root is needed")
                .value_parser(["auto", "true", "false"])
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        )
        .arg(option("criu", "Ignored").hide(true))
        .subcommand(creates("create", "Create a container"))
        .subcommand(with_container(
            "start",
            "Run the program of a created container",
        ))
        .subcommand(
            creates("run", "Create and run a container")
                .arg(detach())
                .arg(toggle(
                    "keep",
                    "Do not delete the container when it has ended",
                ))
                .arg(toggle("no-subreaper", "Ignored").hide(true)),
        )
        .subcommand(with_container("state", "Show the state of a container"))
        .subcommand(
            with_container("kill", "Send a signal to the container's first process")
                .arg(Arg::new("signal").help("Name or number [default: SIGTERM]"))
                .arg(toggle("all", "Send it to all processes of the container").short('a')),
        )
        .subcommand(
            with_container("delete", "Delete what a container holds")
                .arg(toggle("force", "Kill it first if it runs").short('f')),
        )
        .subcommand(
            with_container("exec", "Run a further process in a container")
                .arg(
                    Arg::new("command")
                        .num_args(0..)
                        .trailing_var_arg(true)
                        .allow_hyphen_values(true),
                )
                .arg(option("process", "File with the process in JSON").short('p'))
                .arg(detach())
                .arg(toggle("tty", "Give it a terminal").short('t'))
                .arg(option("user", "UID or UID:GID").short('u'))
                .arg(list("env", "Environment variables").short('e'))
                .arg(option("cwd", "Working directory"))
                .arg(list("cap", "Capabilities to add").short('c'))
                .arg(option("pid-file", "File to write the process id to"))
                .arg(option(
                    "console-socket",
                    "AF_UNIX socket which gets the master end of the terminal",
                ))
                .arg(list("additional-gids", "Supplementary groups").short('g'))
                .arg(option("apparmor", "AppArmor profile"))
                .arg(option("process-label", "SELinux label"))
                .arg(toggle("no-new-privs", "Forbid new privileges"))
                .arg(
                    option("preserve-fds", "Pass that many more descriptors, from 3 on")
                        .value_parser(clap::value_parser!(u32)),
                )
                .arg(toggle("ignore-paused", "Allow it in a paused container"))
                .arg(list("cgroup", "Run it in a cgroup below the container's")),
        )
        .subcommand(
            Command::new("list")
                .about("List containers")
                .arg(format())
                .arg(toggle("quiet", "Only ids").short('q')),
        )
        .subcommand(
            with_container("ps", "Show the processes of a container")
                .arg(format())
                .arg(
                    Arg::new("options")
                        .num_args(0..)
                        .trailing_var_arg(true)
                        .allow_hyphen_values(true)
                        .help("Options of ps(1) [default: -ef]"),
                ),
        )
        .subcommand(with_container("pause", "Stop all processes of a container"))
        .subcommand(with_container(
            "resume",
            "Let the processes of a container run on",
        ))
        .subcommand(
            UPDATES.iter().fold(
                with_container("update", "Change limits of a container").arg(
                    option(
                        "resources",
                        "File with the resources in JSON, - is standard input",
                    )
                    .short('r'),
                ),
                |command, (name, about)| command.arg(option(name, about).allow_hyphen_values(true)),
            ),
        )
        .subcommand(
            with_container(
                "events",
                "Show what a container uses, and when memory was short",
            )
            .arg(toggle("stats", "Show it once"))
            .arg(
                option("interval", "Time between two lines")
                    .default_value("5s")
                    .value_parser(|text: &str| seconds(text).map(|_| text.to_owned())),
            ),
        )
        .subcommand(Command::new("features").about("Show what this runtime can do, in JSON"))
        .subcommand(
            Command::new("spec")
                .about("Write a config.json to start from")
                .arg(option("bundle", "Directory to write it to").short('b'))
                .arg(toggle("rootless", "For a container with a user namespace")),
        )
        .subcommand(refused("checkpoint"))
        .subcommand(refused("restore"))
}

/// A command of runc's that is refused whatever follows.
fn refused(name: &'static str) -> Command {
    Command::new(name).hide(true).arg(
        Arg::new("rest")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true),
    )
}

/// What follows the name in answer to `--version`, in the form that podman reads.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1");

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Invocation {
        let words = words.split(' ').map(OsString::from).collect();
        parse("sampan-runtime", words).unwrap()
    }

    #[test]
    fn what_podman_and_containerd_type_is_taken() {
        let call = parsed(
            "--root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /c --no-pivot ctr",
        );
        assert_eq!(call.global.log_format, LogFormat::Json);
        let Call::Create(create) = call.command else {
            panic!("not create")
        };
        assert_eq!((create.id.as_str(), create.no_pivot), ("ctr", true));
        let call = parsed("exec -d --process /x --pid-file /p ctr");
        assert!(matches!(call.command, Call::Exec(exec) if exec.detach && exec.command.is_empty()));
        let call = parsed("exec -e A=1 --env B=2 ctr ls -l --all");
        assert!(matches!(call.command, Call::Exec(exec)
            if exec.env == ["A=1", "B=2"] && exec.command == ["ls", "-l", "--all"]));
        let call = parsed("kill --all ctr 9");
        assert!(matches!(call.command, Call::Kill { all: true, signal, .. } if signal == "9"));
        let call = parsed("update --memory-swap -1 --pids-limit=5 ctr");
        assert!(matches!(call.command, Call::Update(update)
            if update.single == [("memory-swap", "-1".to_owned()), ("pids-limit", "5".to_owned())]));
        assert!(matches!(
            parsed("--rootless=auto list -q").command,
            Call::List { quiet: true, .. }
        ));
        assert!(matches!(
            parsed("checkpoint --image-path x y").command,
            Call::Unsupported("checkpoint")
        ));
        let call = parsed("ps --format json ctr");
        assert!(matches!(call.command, Call::Ps { json: true, .. }));
    }

    #[test]
    fn the_version_names_the_specification() {
        assert!(VERSION.ends_with(crate::bundle::SPECIFICATION));
    }

    #[test]
    fn durations_are_go_s() {
        assert_eq!(seconds("5s"), Ok(5));
        assert_eq!(seconds("1m30s"), Ok(90));
        assert_eq!(seconds("7"), Ok(7));
        assert!(seconds("5x").is_err());
        assert!(seconds("").is_err());
    }
}
