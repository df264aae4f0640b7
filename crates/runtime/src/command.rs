//! Finds the program of a command the way a shell does.

use std::ffi::{CStr, CString};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, statat};
use rustix::io::Errno;
use sampan_kernel::exec::ArgumentList;

use crate::Error;

/// What is searched where the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with its arguments, environment and every path at which its
/// program may lie.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: String,
    candidates: Vec<CString>,
    /// Whether the candidates come from the search path.
    pub(crate) searched: bool,
    pub(crate) arguments: ArgumentList,
    pub(crate) environment: ArgumentList,
}

impl Command {
    pub(crate) fn plan(arguments: &[String], environment: &[String]) -> Result<Self, Error> {
        let name = match arguments.first() {
            Some(name) if !name.is_empty() => name.clone(),
            _ => return Err(Error::Invalid("no command specified".to_owned())),
        };
        let searched = !name.contains('/');
        let candidates = if searched {
            let path = environment
                .iter()
                .rev()
                .find_map(|entry| entry.strip_prefix("PATH="))
                .unwrap_or(DEFAULT_PATH);
            // An element that is relative would search the working directory.
            path.split(':')
                .filter(|element| element.starts_with('/'))
                .map(|element| c_string(&format!("{}/{name}", element.trim_end_matches('/'))))
                .collect::<Result<_, _>>()?
        } else {
            vec![c_string(&name)?]
        };
        Ok(Self {
            candidates,
            searched,
            arguments: argument_list(arguments)?,
            environment: argument_list(environment)?,
            name,
        })
    }

    /// Child code: the first candidate that this process may execute. The
    /// error is that of a command with a slash; a search that finds nothing is
    /// `ENOENT`.
    pub(crate) fn find(&self) -> Result<&CStr, Errno> {
        let mut last = Errno::NOENT;
        for candidate in &self.candidates {
            match executable(candidate) {
                Ok(()) => return Ok(candidate),
                Err(errno) => last = errno,
            }
        }
        Err(if self.searched { Errno::NOENT } else { last })
    }

    /// The failure of [`Command::find`] in Docker's words.
    pub(crate) fn not_found(&self, errno: Errno) -> Error {
        let name = self.name.clone();
        match errno {
            _ if self.searched => Error::CommandNotFound(name),
            Errno::NOENT | Errno::NOTDIR => Error::CommandMissing(name),
            Errno::ISDIR => Error::CommandIsDirectory(name),
            Errno::ACCESS | Errno::PERM => Error::CommandNotExecutable(name),
            other => Error::Execute {
                command: name,
                reason: other.into(),
            },
        }
    }
}

fn executable(path: &CStr) -> Result<(), Errno> {
    let status = statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

fn argument_list(strings: &[String]) -> Result<ArgumentList, Error> {
    let strings: Result<Vec<_>, _> = strings.iter().map(|s| c_string(s)).collect();
    Ok(ArgumentList::new(strings?))
}

/// A string for the kernel, which has no place for a NUL within.
pub(crate) fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text)
        .map_err(|_| Error::Invalid(format!("{:?} contains a NUL byte", shortened(text))))
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_elements_are_searched() {
        let environment = ["PATH=/bin::.:relative:/usr/bin/".to_owned()];
        let command = Command::plan(&["sh".to_owned()], &environment).unwrap();
        assert_eq!(command.candidates, [c"/bin/sh", c"/usr/bin/sh"]);
        assert!(Command::plan(&[], &[]).is_err());
        assert!(Command::plan(&["a\0b".to_owned()], &[]).is_err());
    }

    #[test]
    fn docker_s_words_for_what_cannot_run() {
        let words = |name: &str| {
            let command = Command::plan(&[name.to_owned()], &["PATH=/bin".to_owned()]).unwrap();
            let error = command.not_found(command.find().unwrap_err());
            (error.to_string(), error.exit_code())
        };
        assert_eq!(
            words("nope"),
            (
                "exec: \"nope\": executable file not found in $PATH".to_owned(),
                127
            )
        );
        assert_eq!(
            words("/nope"),
            (
                "exec: \"/nope\": stat /nope: no such file or directory".to_owned(),
                127
            )
        );
        assert_eq!(
            words("/etc"),
            ("exec: \"/etc\": is a directory".to_owned(), 126)
        );
        assert_eq!(
            words("/etc/passwd"),
            ("exec: \"/etc/passwd\": permission denied".to_owned(), 126)
        );
    }
}
