//! Where an archive that the engine sends goes: standard output or a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sampan_api::client::ByteStream;

use super::container::describe_io;
use super::failure::Failure;
use super::terminal;

/// Where an archive goes. A file appears only when it is whole.
pub(crate) enum Archive {
    Stdout,
    /// What is no regular file, such as a pipe, is written as it is.
    Direct(File),
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
    },
}

impl Archive {
    /// Checks the target before anything is asked for; absent and empty is standard output.
    /// `doing` is what fails, as in `failed to save image`.
    pub(crate) fn open(path: Option<&str>, doing: &str) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            if terminal::stdout_is_terminal() {
                return Err(Failure::message(
                    "cowardly refusing to save to a terminal. Use the -o flag or redirect",
                ));
            }
            return Ok(Self::Stdout);
        };
        let failed = |why: String| Failure::message(format!("{doing}: {why}"));
        let path = Path::new(path);
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !directory.is_dir() {
            return Err(failed(format!(
                "invalid output path: stat {}: no such file or directory",
                directory.display()
            )));
        }
        let broken =
            |error: io::Error| failed(format!("open {}: {}", path.display(), describe_io(&error)));
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(failed("cannot write to a directory".to_owned()));
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(broken)?;
                return Ok(Self::Direct(file));
            }
            _ => {}
        }
        let temporary = directory.join(format!(".sampan_temp_{}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(broken)?;
        Ok(Self::File {
            file,
            temporary,
            path: path.to_owned(),
        })
    }

    /// Writes all that comes.
    pub(crate) async fn write(mut self, mut stream: ByteStream) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::message(format!("write: {}", describe_io(&error)));
        while let Some(piece) = stream.next().await? {
            match &mut self {
                Self::Stdout => io::stdout().lock().write_all(&piece),
                Self::Direct(file) | Self::File { file, .. } => file.write_all(&piece),
            }
            .map_err(failed)?;
        }
        if let Self::Stdout = self {
            io::stdout().lock().flush().map_err(failed)?;
        }
        if let Self::File {
            temporary, path, ..
        } = &self
        {
            fs::rename(temporary, path).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Self::File { temporary, .. } = self {
            // It is gone when it was finished.
            let _ = fs::remove_file(temporary);
        }
    }
}
