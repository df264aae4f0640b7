//! The log that a caller reads failures from (`--log`, `--log-format`), in logrus' two forms.

use std::fs::File;
use std::io::Write as _;

use anyhow::Context as _;

use crate::arguments::{Global, LogFormat};

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let file = match &global.log {
            Some(path) => {
                let file = File::options().append(true).create(true).open(path);
                Some(file.with_context(|| format!("cannot open the log {}", path.display()))?)
            }
            None => None,
        };
        Ok(Self {
            file,
            format: global.log_format,
            debug: global.debug,
        })
    }

    /// The failure that the program ends with: in the log, and for a person on standard error.
    pub(crate) fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    pub(crate) fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    pub(crate) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = jiff::Timestamp::now();
        let time = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let line = match self.format {
            LogFormat::Json => {
                let line = serde_json::json!({"level": level, "msg": message, "time": time});
                line.to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        // A log that cannot be written must not keep the work from being done.
        let _ = match &self.file {
            Some(file) => writeln!(&mut &*file, "{line}"),
            None => writeln!(std::io::stderr(), "{line}"),
        };
    }
}
