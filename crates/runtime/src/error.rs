use std::io;

use rustix::io::Errno;

use sampan_text::with_causes;

use crate::failure::Step;

/// Why a container or a process in it could not be started or managed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command is nowhere in the search path.
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    CommandNotFound(String),
    /// The command is a path at which there is nothing.
    #[error("exec: \"{0}\": stat {0}: no such file or directory")]
    CommandMissing(String),
    /// The command is a path at which there is a directory.
    #[error("exec: \"{0}\": is a directory")]
    CommandIsDirectory(String),
    /// The command may not be executed.
    #[error("exec: \"{0}\": permission denied")]
    CommandNotExecutable(String),
    /// The kernel refused to run the command.
    #[error("exec {command}: {}", plain(.reason))]
    Execute {
        /// The command.
        command: String,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// No such user in the container.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// No such group in the container.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A user or group id that does not fit.
    #[error("uids and gids must be in range 0-2147483647")]
    IdRange(String),
    /// The container's user or group file cannot be used.
    #[error("cannot read /{path} of the container: {reason}")]
    UserDatabase {
        /// The file.
        path: &'static str,
        /// Why.
        reason: String,
    },
    /// A mount could not be made.
    #[error("cannot mount {what} at {destination}: {}", plain(.reason))]
    Mount {
        /// What was to be mounted.
        what: String,
        /// Where.
        destination: String,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// A mount was refused.
    #[error("cannot mount at {destination}: {reason}")]
    MountRefused {
        /// Where.
        destination: String,
        /// Why.
        reason: &'static str,
    },
    /// The working directory cannot be entered.
    #[error("chdir to cwd (\"{path}\") set in config.json failed: {}", plain(.reason))]
    WorkingDirectory {
        /// The directory.
        path: String,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// The host does not have the profile of AppArmor.
    #[error("the apparmor profile {0:?} is not loaded: load it first with apparmor_parser")]
    ProfileNotLoaded(String),
    /// The specification does not make sense.
    #[error("{0}")]
    Invalid(String),
    /// The specification asks for what this runtime does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A cgroup could not be made or changed.
    #[error("{}", with_causes(.0))]
    Cgroup(sampan_cgroups::Error),
    /// The container has ended.
    #[error("container is not running")]
    NotRunning,
    /// A hook failed.
    #[error("error running {point} hook #{number}: {reason}")]
    Hook {
        /// The point in the container's life.
        point: &'static str,
        /// Which of its hooks, from 0.
        number: usize,
        /// What it came to, with what it said.
        reason: String,
    },
    /// The kernel does not have a call that a step of the set-up takes.
    #[error("cannot {what}: this kernel is too old, it takes Linux {since} or a newer one")]
    KernelTooOld {
        /// What was being done.
        what: &'static str,
        /// The first version that has the call.
        since: &'static str,
    },
    /// A step of the set-up failed.
    #[error("cannot {what}: {}", plain(.reason))]
    Step {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// The container's process was killed for want of memory before its program ran.
    #[error("container init was OOM-killed: the memory limit is too low for it to start")]
    OutOfMemory,
    /// The container's process ended before its program ran.
    #[error("the container's process ended while it was set up ({0})")]
    Died(String),
}

/// Classes of [`Error`], for exit codes and answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// The command does not exist.
    CommandNotFound,
    /// The command exists and may not or cannot be executed.
    NotExecutable,
    /// The user or group does not exist or is out of range.
    BadUser,
    /// A mount cannot be made as asked.
    BadMount,
    /// The configuration makes no sense.
    Invalid,
    /// This runtime does not do that.
    Unsupported,
    /// A cgroup limit or directory was refused.
    Cgroup,
    /// The container has ended.
    NotRunning,
    /// Out of memory, processes or descriptors.
    OutOfResources,
    /// The kernel refused.
    System,
}

impl Error {
    /// The class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CommandNotFound(_) | Self::CommandMissing(_) => ErrorKind::CommandNotFound,
            Self::CommandIsDirectory(_) | Self::CommandNotExecutable(_) => ErrorKind::NotExecutable,
            Self::Execute { reason, .. } => match reason.kind() {
                io::ErrorKind::NotFound => ErrorKind::CommandNotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => {
                    ErrorKind::NotExecutable
                }
                _ => ErrorKind::System,
            },
            Self::UnknownUser(_)
            | Self::UnknownGroup(_)
            | Self::IdRange(_)
            | Self::UserDatabase { .. } => ErrorKind::BadUser,
            Self::Mount { .. } | Self::MountRefused { .. } => ErrorKind::BadMount,
            Self::WorkingDirectory { .. } | Self::ProfileNotLoaded(_) | Self::Invalid(_) => {
                ErrorKind::Invalid
            }
            Self::Unsupported(_) | Self::KernelTooOld { .. } => ErrorKind::Unsupported,
            Self::Cgroup(_) => ErrorKind::Cgroup,
            Self::NotRunning => ErrorKind::NotRunning,
            Self::Step { reason, .. } => {
                match reason.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(
                        Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOSPC,
                    ) => ErrorKind::OutOfResources,
                    _ => ErrorKind::System,
                }
            }
            Self::OutOfMemory => ErrorKind::OutOfResources,
            Self::Hook { .. } | Self::Died(_) => ErrorKind::System,
        }
    }

    /// The exit code that Docker records for a container that failed so: 127
    /// for what does not exist, 126 for what cannot be executed, 128 else.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.kind() {
            ErrorKind::CommandNotFound => 127,
            ErrorKind::NotExecutable => 126,
            ErrorKind::BadMount if self.says_not_a_directory() => 127,
            _ => 128,
        }
    }

    fn says_not_a_directory(&self) -> bool {
        matches!(self, Self::Mount { reason, .. } if reason.kind() == io::ErrorKind::NotADirectory)
    }

    /// One line that a person can act on, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Mount { .. } if self.says_not_a_directory() => Some(
                "Are you trying to mount a directory onto a file (or vice-versa)? \
                 Check if the specified host path exists and is the expected type",
            ),
            Self::Execute { reason, .. }
                if reason.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) =>
            {
                Some("the program is for another architecture or lacks a #! line")
            }
            _ => None,
        }
    }

    pub(crate) fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |errno| Self::Step {
            what,
            reason: errno.into(),
        }
    }

    pub(crate) fn io_step(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |reason| Self::Step { what, reason }
    }

    pub(crate) fn of_step(step: Step, errno: Errno) -> Self {
        if errno == Errno::NOSYS
            && let Some(since) = step.since()
        {
            return Self::KernelTooOld {
                what: step.doing(),
                since,
            };
        }
        Self::Step {
            what: step.doing().to_owned(),
            reason: errno.into(),
        }
    }
}

/// The kernel's answer in Docker's words: lower case, without a number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

impl From<sampan_cgroups::Error> for Error {
    fn from(error: sampan_cgroups::Error) -> Self {
        Self::Cgroup(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_lack_a_call_are_told_with_the_one_that_has_it() {
        let error = Error::of_step(Step::MountAttributes, Errno::NOSYS);
        assert_eq!(
            error.to_string(),
            "cannot set the attributes of the mount: this kernel is too old, it takes Linux 5.12 or a newer one"
        );
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = Error::of_step(Step::MountAttributes, Errno::INVAL);
        assert_eq!(error.kind(), ErrorKind::System);
    }
}
