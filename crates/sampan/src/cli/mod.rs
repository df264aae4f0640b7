//! The command line: Docker's commands, flags and output.
//!
//! A command is a file: its [`command::Command`] says what may be typed, its `run` does it. All
//! of them talk to the engine by the API, like any other client. Values of flags are parsed in
//! [`flags`], what is printed is made in [`format`]; both are pure.

mod archive;
mod attach;
mod attached;
mod build;
mod builder_cache;
mod builder_du;
mod command;
mod commit;
mod complete;
mod container;
mod container_flags;
mod cp;
mod create;
mod credentials;
mod df;
mod dial_stdio;
mod diff;
mod each;
mod events;
mod exec;
mod export;
mod failure;
mod flags;
mod format;
mod history;
mod image_diff;
mod image_gc;
mod image_tree;
mod image_verify;
mod images;
mod import;
mod info;
mod inspect;
mod kill;
mod load;
mod login;
mod logout;
mod logs;
mod man;
mod network;
mod output;
mod pause;
mod port;
mod progress;
mod prune;
mod ps;
mod pull;
mod push;
mod registry;
mod remote;
mod rename;
mod restart;
mod rm;
mod rmi;
mod run;
mod save;
mod search;
mod session;
mod signals;
mod start;
mod stats;
mod stop;
mod stream;
mod tag;
mod terminal;
mod top;
mod unpause;
mod update;
mod version;
mod volume;
mod wait;

use std::fmt::Write as _;
use std::process::ExitCode;

use command::{Arguments, Call, Command, Flag};
use failure::Failure;
use format::data::Data;
use remote::TlsFlags;
pub(crate) use remote::certificates;
use session::Session;

/// All commands.
static COMMANDS: &[Command] = &[
    attach::COMMAND,
    build::COMMAND,
    build::history::LIST,
    build::history::INSPECT,
    build::history::LOGS,
    build::history::REMOVE,
    commit::COMMAND,
    complete::COMPLETE,
    complete::COMPLETION,
    cp::COMMAND,
    create::COMMAND,
    df::COMMAND,
    dial_stdio::COMMAND,
    diff::COMMAND,
    events::COMMAND,
    exec::COMMAND,
    export::COMMAND,
    history::COMMAND,
    image_diff::COMMAND,
    image_gc::COMMAND,
    image_tree::COMMAND,
    image_verify::COMMAND,
    images::COMMAND,
    import::COMMAND,
    info::COMMAND,
    inspect::ANY,
    inspect::CONTAINER,
    inspect::IMAGE,
    inspect::NETWORK,
    inspect::VOLUME,
    kill::COMMAND,
    load::COMMAND,
    login::COMMAND,
    logout::COMMAND,
    logs::COMMAND,
    man::COMMAND,
    network::LS,
    pause::COMMAND,
    port::COMMAND,
    builder_cache::EXPORT,
    builder_cache::IMPORT,
    builder_cache::LS,
    builder_du::COMMAND,
    prune::BUILDER,
    prune::CONTAINER,
    prune::IMAGE,
    prune::NETWORK,
    prune::SYSTEM,
    prune::VOLUME,
    ps::COMMAND,
    pull::COMMAND,
    push::COMMAND,
    registry::SERVE,
    registry::USER,
    rename::COMMAND,
    restart::COMMAND,
    rm::COMMAND,
    rmi::COMMAND,
    run::COMMAND,
    save::COMMAND,
    search::COMMAND,
    start::COMMAND,
    stats::COMMAND,
    stop::COMMAND,
    tag::COMMAND,
    top::COMMAND,
    unpause::COMMAND,
    update::COMMAND,
    version::COMMAND,
    volume::CREATE,
    volume::LS,
    volume::RM,
    wait::COMMAND,
];

/// Groups of commands.
const GROUPS: &[(&str, &str)] = &[
    ("builder", "Manage builds"),
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("network", "Manage networks"),
    ("registry", "Run a registry"),
    ("runtime", "Run containers as an OCI runtime"),
    ("system", "Manage Sampan"),
    ("volume", "Manage volumes"),
];

/// The commands that help shows first.
const COMMON: &[&str] = &["run", "exec", "ps", "pull", "images", "version", "info"];

/// Docker's commands that do not work yet.
const NOT_YET: &[&str] = &[
    "buildx",
    "checkpoint",
    "compose",
    "config",
    "context",
    "manifest",
    "node",
    "plugin",
    "secret",
    "service",
    "stack",
    "swarm",
    "trust",
    "connect",
    "disconnect",
];

/// Flags in front of the command.
static ROOT: Command = Command {
    names: &[""],
    usage: "[OPTIONS] COMMAND [ARG...]",
    flags: &[&[
        Flag::one("config", "string", "Location of client config files"),
        Flag::switch("debug", "Enable debug mode").short('D'),
        Flag::many("host", "list", "Daemon socket to connect to").short('H'),
        Flag::one(
            "log-level",
            "string",
            "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")",
        )
        .short('l')
        .default("info"),
        Flag::switch("tls", "Use TLS; implied by --tlsverify"),
        Flag::one(
            "tlscacert",
            "string",
            "Trust certs signed only by this CA (default \"~/.docker/ca.pem\" or $DOCKER_CERT_PATH)",
        ),
        Flag::one(
            "tlscert",
            "string",
            "Path to TLS certificate file (default \"~/.docker/cert.pem\")",
        ),
        Flag::one(
            "tlskey",
            "string",
            "Path to TLS key file (default \"~/.docker/key.pem\")",
        ),
        Flag::switch("tlsverify", "Use TLS and verify the remote"),
        Flag::switch("version", "Print version information and quit").short('v'),
    ]],
    refused: &[("context", Some('c'))],
    arguments: Arguments::Any,
    trailing: true,
    ..Command::PLAIN
};

/// Runs the command line; answers the exit code.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    terminal::restore_on_panic();
    let code = match dispatch(arguments) {
        Ok(code) => code,
        Err(failure) => {
            let text = failure.text();
            if !text.is_empty() {
                eprintln!("{text}");
            }
            if let Some(hint) = failure.hint() {
                eprintln!("hint: {hint}");
            }
            failure.code()
        }
    };
    terminal::restore();
    // A thread may still wait for input.
    std::process::exit(code.into())
}

fn dispatch(arguments: &[String]) -> Result<u8, Failure> {
    let has_flags = arguments.first().is_some_and(|word| word.starts_with('-'));
    let mut tls = TlsFlags::default();
    let (host, configuration, words) = if has_flags {
        let parsed = match ROOT.parse("", arguments)? {
            Call::Help => return help(&[]),
            Call::Run(parsed) => parsed,
        };
        if parsed.switch("version")? {
            output::line(&format!("Sampan version {}", env!("CARGO_PKG_VERSION")));
            return Ok(0);
        }
        if parsed.switch("debug")? || parsed.text("log-level") == Some("debug") {
            tell_steps();
        }
        let hosts = parsed.texts("host");
        if hosts.len() > 1 {
            return Err(Failure::message("specify only one -H"));
        }
        let text = |long: &str| parsed.text(long).map(str::to_owned);
        tls = TlsFlags {
            on: parsed.switch("tls")?,
            verify: match parsed.given("tlsverify") {
                true => Some(parsed.switch("tlsverify")?),
                false => None,
            },
            authority: text("tlscacert"),
            certificate: text("tlscert"),
            key: text("tlskey"),
        };
        let count = parsed.arguments().len();
        (
            hosts.first().map(|host| (*host).to_owned()),
            parsed.text("config").map(str::to_owned),
            &arguments[arguments.len() - count..],
        )
    } else {
        (None, None, arguments)
    };
    let Some(first) = words.first() else {
        return help(&[]);
    };
    if first == "help" {
        return help(&words[1..]);
    }
    let (command, called, rest) = match find(words) {
        Found::Command(command, called, rest) => (command, called, rest),
        Found::Group(group) => return group_help(group, &words[1..]),
        Found::Nothing => return Err(unknown(words)),
    };
    match command.parse(called, rest)? {
        Call::Help => {
            command::print_help(command, called);
            Ok(0)
        }
        Call::Run(parsed) => {
            tracing::debug!("arguments parsed");
            let session = Session::open(host.as_deref(), configuration.as_deref(), &tls)?;
            (command.run)(&session, &parsed).map_err(|failure| point_to_help(failure, called))
        }
    }
}

/// Tells on standard error what the command does and when.
fn tell_steps() {
    tracing_subscriber::fmt()
        .with_env_filter("warn,sampan=debug")
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// Makes the message of `run` and its like complete.
fn point_to_help(failure: Failure, called: &str) -> Failure {
    match failure {
        Failure::Command { message, code } => Failure::Usage {
            message: format!(
                "sampan: {message}\n\nRun 'sampan {called} --help' for more information"
            ),
            code,
        },
        other => other,
    }
}

enum Found<'w> {
    Command(&'static Command, &'static str, &'w [String]),
    Group(&'static (&'static str, &'static str)),
    Nothing,
}

/// Finds the command that the first one, two or three words name.
fn find(words: &[String]) -> Found<'_> {
    let named = |name: &str| {
        COMMANDS.iter().find_map(|command| {
            let called = command.names.iter().find(|known| **known == name)?;
            // What is said about it names the first of its names in the group.
            let same_group = |known: &&&str| {
                known.contains(' ')
                    && called.contains(' ')
                    && known.split(' ').next() == called.split(' ').next()
            };
            let first = command.names.iter().find(same_group);
            Some((command, *first.unwrap_or(called)))
        })
    };
    let Some(first) = words.first() else {
        return Found::Nothing;
    };
    if let Some(group) = GROUPS.iter().find(|(name, _)| name == first) {
        let Some(second) = words.get(1) else {
            return Found::Group(group);
        };
        if let Some((command, called)) = words
            .get(2)
            .and_then(|third| named(&format!("{first} {second} {third}")))
        {
            return Found::Command(command, called, &words[3..]);
        }
        return match named(&format!("{first} {second}")) {
            Some((command, called)) => Found::Command(command, called, &words[2..]),
            None if matches!(second.as_str(), "--help" | "-h") => Found::Group(group),
            None => Found::Nothing,
        };
    }
    // Of a command that is no group, but has some below it.
    if let Some(second) = words.get(1)
        && let Some((command, called)) = named(&format!("{first} {second}"))
    {
        return Found::Command(command, called, &words[2..]);
    }
    match named(first) {
        Some((command, called)) => Found::Command(command, called, &words[1..]),
        None => Found::Nothing,
    }
}

fn unknown(words: &[String]) -> Failure {
    let in_group = GROUPS.iter().any(|(name, _)| *name == words[0]) && words.len() > 1;
    let (name, last, group) = if in_group {
        (
            format!("{} {}", words[0], words[1]),
            &words[1],
            words[0].as_str(),
        )
    } else {
        (words[0].clone(), &words[0], "")
    };
    let help = format!("sampan {group}").trim_end().to_owned();
    let usage = if in_group {
        format!("\n\nUsage:  sampan {group}")
    } else {
        String::new()
    };
    let message = if NOT_YET.contains(&last.as_str()) {
        format!("sampan: '{name}' is not supported yet by sampan")
    } else {
        format!("sampan: unknown command: sampan {name}")
    };
    Failure::Usage {
        message: format!("{message}{usage}\n\nRun '{help} --help' for more information"),
        code: 1,
    }
}

/// `sampan help` and `sampan help COMMAND`.
fn help(words: &[String]) -> Result<u8, Failure> {
    if !words.is_empty() {
        return match find(words) {
            Found::Command(command, called, _) => {
                command::print_help(command, called);
                Ok(0)
            }
            Found::Group(group) => group_help(group, &["--help".to_owned()]),
            Found::Nothing => Err(unknown(words)),
        };
    }
    output::text(&root_help(terminal::width()));
    Ok(0)
}

fn root_help(width: usize) -> String {
    let mut out = "\
Usage:  sampan [OPTIONS] COMMAND

A container engine: images, containers, registries

Common Commands:
"
    .to_owned();
    let row = |out: &mut String, name: &str, about: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {name:<12}{about}");
    };
    let plain = |name: &str| {
        COMMANDS
            .iter()
            .find(|command| command.names.contains(&name))
            .map_or("", |command| command.about)
    };
    for name in COMMON {
        row(&mut out, name, plain(name));
    }
    out.push_str("\nManagement Commands:\n");
    for (name, about) in GROUPS {
        row(&mut out, name, about);
    }
    out.push_str("\nCommands:\n");
    let mut others: Vec<(&str, &str)> = COMMANDS
        .iter()
        .filter(|command| !command.hidden)
        .map(|command| (command.short_name(), command.about))
        .filter(|(name, _)| !name.contains(' ') && !COMMON.contains(name))
        .collect();
    others.push(("daemon", "Run the engine"));
    others.sort_unstable();
    for (name, about) in others {
        row(&mut out, name, about);
    }
    let flags: Vec<&Flag> = ROOT.flags.iter().copied().flatten().collect();
    out.push_str("\nGlobal Options:\n");
    out.push_str(&command::flag_usages(&flags, width));
    out.push_str("\nRun 'sampan COMMAND --help' for more information on a command.\n");
    out
}

fn group_help(group: &(&str, &str), rest: &[String]) -> Result<u8, Failure> {
    if let Some(word) = rest
        .first()
        .filter(|word| !matches!(word.as_str(), "--help" | "-h"))
    {
        return Err(unknown(&[group.0.to_owned(), word.clone()]));
    }
    let (name, about) = group;
    let mut out = format!("Usage:  sampan {name} COMMAND\n\n{about}\n\nCommands:\n");
    let mut verbs: Vec<(&str, &str)> = COMMANDS
        .iter()
        .filter(|command| !command.hidden)
        .filter_map(|command| {
            let first = command
                .names
                .iter()
                .find_map(|known| known.strip_prefix(name)?.strip_prefix(' '));
            Some((first?, command.about))
        })
        .collect();
    verbs.sort_unstable();
    for (verb, about) in verbs {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {verb:<12}{about}");
    }
    let _ = write!(
        out,
        "\nRun 'sampan {name} COMMAND --help' for more information on a command.\n"
    );
    if rest.is_empty() {
        eprint!("{out}");
    } else {
        output::text(&out);
    }
    Ok(0)
}

/// Reads Go's durations, such as `1h30m`.
pub(crate) fn go_duration(text: &str) -> Option<jiff::SignedDuration> {
    sampan_text::duration::parse(text).map(jiff::SignedDuration::from_nanos)
}

/// Reads an answer for formatting.
async fn read_data(response: sampan_api::client::Response) -> Result<Data, Failure> {
    let bytes = response.bytes().await?;
    Data::parse(&bytes).map_err(|error| Failure::Client(error.into()))
}

/// An image's name as part of a path: its slashes stay.
fn encode_image(name: &str) -> String {
    let parts: Vec<String> = name
        .split('/')
        .map(sampan_api::client::encode_segment)
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_one_command() {
        for command in COMMANDS {
            for name in command.names {
                let words: Vec<String> = name.split(' ').map(str::to_owned).collect();
                match find(&words) {
                    Found::Command(found, called, []) => {
                        assert!(std::ptr::eq(found, command), "{name}");
                        // By its first name in the group that was typed.
                        assert!(command.names.contains(&called), "{name}: {called}");
                        assert_eq!(called.split(' ').next(), name.split(' ').next());
                    }
                    _ => panic!("{name}"),
                }
            }
        }
    }

    #[test]
    fn flags_of_every_command_are_sound() {
        // clap checks its arguments itself in a debug build.
        for command in COMMANDS {
            let parsed = command.parse(command.names[0], &["--help".to_owned()]);
            assert!(matches!(parsed, Ok(Call::Help)), "{}", command.names[0]);
        }
    }

    #[test]
    fn refused_flags_are_not_there() {
        for command in COMMANDS {
            let help = command.help("x", 200);
            for (long, _) in command.refused {
                let shown = help
                    .lines()
                    .any(|line| line.contains(&format!("--{long} ")));
                let run_has_it = matches!(*long, "detach" | "detach-keys" | "sig-proxy")
                    && command.short_name() == "run";
                assert!(!shown || run_has_it, "{} --{long}", command.short_name());
            }
        }
    }

    #[test]
    fn help_texts() {
        insta::with_settings!({prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!("help", root_help(80));
            for name in ["run", "ps", "exec", "logs", "pull"] {
                let words = [name.to_owned()];
                let Found::Command(command, called, _) = find(&words) else {
                    panic!("{name}");
                };
                insta::assert_snapshot!(format!("help_{name}"), command.help(called, 80));
            }
        });
    }
}
