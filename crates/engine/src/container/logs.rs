//! Reading logs.

use std::path::PathBuf;
use std::sync::Arc;

use sampan_logs::{Follower, Format, Next, Query, Reader, Stream, Streams, Tail};
use sampan_shim_protocol::LogDriver;
use tokio::sync::mpsc;

use super::log_config;
use super::record::Record;
use super::registry::Container;
use super::request::{LogControl, LogEntries, LogOptions, Logs};
use super::service::Inner;
use crate::{Error, Result, blocking};

/// Entries that are read ahead of a slow client.
const AHEAD: usize = 64;
/// Bytes of stack of a thread that reads a log.
const READER_STACK: usize = 256 << 10;

/// Where a container's log is.
#[derive(Debug)]
pub(crate) struct LogPlace {
    pub(crate) directory: PathBuf,
    pub(crate) name: String,
    pub(crate) format: Format,
}

impl Inner {
    /// Where a container's log is; none where it has none that can be read.
    pub(crate) fn log_of(&self, record: &Record) -> Result<Option<LogPlace>> {
        let driver = log_config::driver(&record.host.log)?;
        let place = driver.place(record.id.as_str());
        Ok(place.map(|(below, name)| LogPlace {
            directory: self.paths.container(&record.id).join(below),
            name,
            format: match driver {
                LogDriver::Local => Format::Local,
                LogDriver::JsonFile | LogDriver::None => Format::JsonFile,
            },
        }))
    }

    /// Opens a container's log.
    pub(crate) async fn logs(
        self: &Arc<Self>,
        container: Arc<Container>,
        options: LogOptions,
    ) -> Result<Logs> {
        let record = container.record();
        if !options.stdout && !options.stderr {
            return Err(Error::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let place = self.log_of(&record)?.ok_or_else(|| {
            Error::not_implemented("configured logging driver does not support reading")
        })?;
        let query = Query {
            format: place.format,
            since: options.since,
            until: options.until,
            tail: options.tail.map_or(Tail::All, Tail::Last),
            streams: match (options.stdout, options.stderr) {
                (true, false) => Streams::Only(Stream::Stdout),
                (false, true) => Streams::Only(Stream::Stderr),
                _ => Streams::Both,
            },
        };
        let LogPlace {
            directory, name, ..
        } = place;
        // Of a container that has not been started yet.
        sampan_fs::create_dir_all(&directory, 0o700)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let failed = |error: sampan_logs::Error| Error::because("read the log", &error);
        let control = if options.follow {
            let mut follower =
                blocking(move || Follower::open(&directory, &name, &query).map_err(failed)).await?;
            let control = follower.control();
            {
                // Looked at under the lock, so that the end is not missed.
                let mut live = container.live();
                if container.record().lifecycle.is_running() {
                    live.followers.push(control.clone());
                } else {
                    control.finish();
                }
            }
            let container = container.clone();
            reader_thread(move || {
                loop {
                    let entry = match follower.next_entry(None) {
                        Ok(Next::Entry(entry)) => Ok(entry),
                        Ok(Next::Idle) => continue,
                        Ok(Next::End) => break,
                        Err(error) => Err(failed(error)),
                    };
                    let broken = entry.is_err();
                    if sender.blocking_send(entry).is_err() || broken {
                        break;
                    }
                }
                // Each holds a descriptor, and the container may run for long.
                container
                    .live()
                    .followers
                    .retain(|follower| !follower.is_cancelled());
            })?;
            Some(LogControl(control))
        } else {
            let mut reader =
                blocking(move || Reader::open(&directory, &name, &query).map_err(failed)).await?;
            reader_thread(move || {
                for entry in &mut reader {
                    if sender.blocking_send(entry.map_err(failed)).is_err() {
                        break;
                    }
                }
            })?;
            None
        };
        Ok(Logs {
            tty: record.config.tty,
            entries: LogEntries {
                receiver,
                _control: control,
            },
        })
    }
}

/// Reads a log on a thread of its own. A client that reads slowly, or follows for days, holds it:
/// the runtime's threads are few and shared by all operations.
fn reader_thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new()
        .name("log reader".to_owned())
        .stack_size(READER_STACK)
        .spawn(work);
    thread
        .map(|_| ())
        .map_err(|error| Error::because("start to read the log", &error))
}
