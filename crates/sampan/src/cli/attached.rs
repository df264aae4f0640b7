//! Being attached to a container: streams, signals, window size, and how it ended.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use sampan_api::client::{self, Hijacked, PendingWait, WaitCondition};
use sampan_api::{Client, Filters};

use super::failure::Failure;
use super::signals::{self, Notice};
use super::stream::{self, End, Plan};
use super::terminal;

/// So many SIGINTs and SIGTERMs end the command itself.
const PATIENCE: u32 = 3;

/// What belongs to the window and the signals of an attached command.
pub(crate) struct Attached<'c> {
    pub(crate) client: &'c Client,
    /// Whose window and signals these are.
    pub(crate) target: Target,
    /// Hand signals to the container.
    pub(crate) proxy: bool,
    /// The container has a terminal.
    pub(crate) tty: bool,
    /// What is copied.
    pub(crate) plan: Plan,
}

/// What a command is attached to.
pub(crate) enum Target {
    /// A container.
    Container(String),
    /// A process beside its first one.
    Exec(String),
}

/// Why nobody is attached any longer.
pub(crate) enum Outcome {
    /// The output ended.
    Ended,
    /// The person detached.
    Detached,
}

impl Attached<'_> {
    /// Copies streams until the output ends. `started` is awaited first, with the streams
    /// connected and signals caught already.
    pub(crate) async fn run(
        self,
        hijacked: Hijacked,
        started: impl Future<Output = Result<(), Failure>>,
    ) -> Result<Outcome, Failure> {
        let mut notices = signals::listen(self.tty);
        if self.tty && self.plan.stdin {
            terminal::make_raw()
                .map_err(|error| Failure::message(format!("cannot set the terminal: {error}")))?;
        }
        let (client, target, proxy) = (self.client, self.target, self.proxy);
        let mut ended = stream::copy(hijacked, self.plan)
            .map_err(|error| Failure::message(format!("cannot copy streams: {error}")))?;
        if let Err(failure) = started.await {
            terminal::restore();
            return Err(failure);
        }
        let mut asked = 0;
        let outcome = loop {
            tokio::select! {
                end = &mut ended => break match end {
                    Ok(End::Closed) | Err(_) => Ok(Outcome::Ended),
                    Ok(End::Detached) => Ok(Outcome::Detached),
                    Ok(End::Failed(message)) => Err(Failure::message(message)),
                },
                Some(notice) = notices.recv() => match notice {
                    Notice::Resize => target.resize(client).await,
                    Notice::Signal(number) => {
                        asked += u32::from(matches!(number, 2 | 15));
                        if asked >= PATIENCE {
                            terminal::restore();
                            eprintln!("\ngot {PATIENCE} SIGTERM/SIGINTs, forcefully exiting");
                            return Err(Failure::Silent(1));
                        }
                        if let (true, Target::Container(id)) = (proxy, &target) {
                            // It may have ended by now.
                            let _ = client.kill_container(id, Some(&number.to_string())).await;
                        } else if !matches!(number, 18 | 20) {
                            terminal::restore();
                            return Err(Failure::Silent(u8::try_from(128 + number).unwrap_or(1)));
                        }
                    }
                },
            }
        };
        terminal::restore();
        outcome
    }
}

impl Target {
    /// Tells the terminal the size of the window.
    pub(crate) async fn resize(&self, client: &Client) {
        let Some((rows, columns)) = terminal::size() else {
            return;
        };
        // What has ended has no window.
        let _ = match self {
            Self::Container(id) => client.resize_container(id, rows, columns).await,
            Self::Exec(id) => client.resize_exec(id, rows, columns).await,
        };
    }
}

/// Waits for the end of a container and answers the exit code that a shell sees.
pub(crate) async fn exit_code(
    client: &Client,
    id: &str,
    condition: WaitCondition,
    pending: PendingWait,
) -> Result<u8, Failure> {
    let code = status(client, id, condition, pending).await?;
    Ok((code & 0xff) as u8)
}

/// Waits for the end of a container; an engine that dies meanwhile is asked again.
pub(crate) async fn status(
    client: &Client,
    id: &str,
    condition: WaitCondition,
    pending: PendingWait,
) -> Result<i64, Failure> {
    // The exit may have happened while nobody was asked.
    let again = match condition {
        WaitCondition::NextExit => WaitCondition::NotRunning,
        other => other,
    };
    let mut result = pending.finish().await;
    let mut tries = 0;
    while tries < TRIES && result.as_ref().is_err_and(is_lost) {
        if tries > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tries += 1;
        result = match client.wait_container(id, again).await {
            Ok(pending) => pending.finish().await,
            Err(error) => Err(error),
        };
    }
    let response = match result {
        // It ended and was removed before the new engine could be asked, which has told so.
        Err(error) if tries > 0 && error.kind() == client::Kind::NotFound => {
            return told_exit(client, id).await?.ok_or(error.into());
        }
        other => other?,
    };
    match response.error {
        Some(error) if !error.message.is_empty() => Err(Failure::Command {
            message: error.message,
            code: 125,
        }),
        _ => Ok(response.status_code),
    }
}

/// The exit code in the news that the engine remembers, if the end of the container is there.
async fn told_exit(client: &Client, id: &str) -> Result<Option<i64>, client::Error> {
    let mut filters = Filters::new();
    filters.add("container", id);
    filters.add("event", "die");
    let now = Timestamp::now();
    let now = format!("{}.{:09}", now.as_second(), now.subsec_nanosecond());
    let mut news = client.events(Some("1"), Some(&now), &filters).await?;
    let mut code = None;
    while let Some(event) = news.next().await? {
        let told = event.actor.attributes.get("exitCode");
        code = told.and_then(|text| text.parse().ok()).or(code);
    }
    Ok(code)
}

/// How often an engine that was lost is asked again.
const TRIES: u32 = 100;

/// Whether the engine went away, as against having answered.
pub(crate) fn is_lost(error: &client::Error) -> bool {
    match error {
        client::Error::Http(_)
        | client::Error::Io(_)
        | client::Error::Decode(_)
        | client::Error::Connect { .. } => true,
        client::Error::Request(_)
        | client::Error::Status { .. }
        | client::Error::NotUpgraded(_) => false,
    }
}
