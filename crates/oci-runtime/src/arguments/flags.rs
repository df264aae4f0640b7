//! Makes and reads single flags.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches};

/// The container's name.
pub(super) fn id() -> Arg {
    Arg::new("id").value_name("CONTAINER").required(true)
}

/// A flag with a value.
pub(super) fn option(name: &'static str, about: &'static str) -> Arg {
    Arg::new(name).long(name).help(about).num_args(1)
}

/// A flag with a value that may come often.
pub(super) fn list(name: &'static str, about: &'static str) -> Arg {
    option(name, about).action(ArgAction::Append)
}

/// A flag that is there or not.
pub(super) fn toggle(name: &'static str, about: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(about)
        .action(ArgAction::SetTrue)
}

/// What `run` and `exec` share.
pub(super) fn detach() -> Arg {
    toggle("detach", "Do not wait for the process").short('d')
}

pub(super) fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

pub(super) fn texts(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .get_many::<String>(name)
        .map(|values| values.cloned().collect())
        .unwrap_or_default()
}

pub(super) fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    text(matches, name).map(PathBuf::from)
}

pub(super) fn number(matches: &ArgMatches, name: &str) -> u32 {
    matches.get_one::<u32>(name).copied().unwrap_or_default()
}
