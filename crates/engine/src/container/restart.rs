//! Containers that are started again: by their supervisor, which this only follows; and by the
//! engine, at its start and where a supervisor was lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sampan_oci::runtime::LinuxResources;
use sampan_shim_protocol as shim;
use sampan_shim_protocol::{Health, HealthStatus, Request};

use super::config::RestartPolicy;
use super::lifecycle::{Change, Ended, Lifecycle, Run};
use super::record::Record;
use super::registry::Container;
use super::service::Inner;
use crate::event::Mark;
use crate::{Action, ErrorKind, Result};

/// The pause before a container is started again whose supervisor was lost.
const PAUSE: Duration = Duration::from_secs(1);
/// File in the run directory: containers have been started by an engine of this session.
const MARKER: &str = "containers.started";

impl RestartPolicy {
    /// What a supervisor has to do. It is told of every end by hand, so that two are one to it.
    pub(crate) fn of_shim(self) -> shim::RestartPolicy {
        match self {
            Self::No => shim::RestartPolicy::No,
            Self::Always | Self::UnlessStopped => shim::RestartPolicy::Always,
            Self::OnFailure(most) => shim::RestartPolicy::OnFailure(most),
        }
    }
}

/// On which occasion it is asked whether a container should be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A session of engines begins: the host or the service was started.
    SessionBegins,
    /// The supervisor was lost.
    ShimLost,
}

/// Whether a container that has ended should be started again.
pub(crate) fn wants_start(record: &Record, occasion: Occasion) -> bool {
    let Lifecycle::Exited(last) = &record.lifecycle else {
        return false;
    };
    let by_hand = record.stopped_by_hand;
    match record.host.restart_policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => occasion == Occasion::SessionBegins || !by_hand,
        RestartPolicy::UnlessStopped => !by_hand,
        RestartPolicy::OnFailure(most) => {
            !by_hand && last.code != 0 && (most == 0 || record.restart_count < most)
        }
    }
}

/// Begins a new session in a run directory: the next engine starts the containers whose policy
/// asks for it. Blocks.
pub fn begin_session(run: &Path) {
    // One that cannot be removed is in a directory in which no engine can start.
    let _ = std::fs::remove_file(marker(run));
}

fn marker(run: &Path) -> PathBuf {
    run.join(MARKER)
}

impl Inner {
    /// Takes note that a run ended and another one will follow.
    pub(crate) fn restarting(&self, container: &Container, ended: Ended, restarts: u32) {
        let change = ended.clone();
        let record = self.registry.show(container, move |record| {
            let lifecycle = record.lifecycle.after(Change::Restarting(change))?;
            Some(Record {
                restart_count: restarts,
                health: record.health_at_end(),
                ..record.with(lifecycle)
            })
        });
        self.tell_ended(&record, &ended);
        container.live().end_execs();
        container.tell_end();
    }

    /// Takes note that a container runs again.
    pub(crate) fn restarted(&self, container: &Container, pid: i32, started_at: &str) {
        let started_at = started_at.parse().unwrap_or_else(|_| Timestamp::now());
        let record = self.registry.show(container, move |record| {
            let run = Run { pid, started_at };
            let lifecycle = record.lifecycle.after(Change::Started(run))?;
            Some(Record {
                health: record.health_at_start(),
                ..record.with(lifecycle)
            })
        });
        self.tell_started(&record, started_at);
    }

    /// Takes note of a health check that has ended.
    pub(crate) fn probe_ended(
        &self,
        container: &Container,
        entry: u64,
        id: &str,
        health: Health,
        changed: bool,
    ) {
        let code = health.log.last().map_or(-1, |probe| probe.exit_code);
        let status = health.status;
        let record = self.registry.show(container, move |record| {
            Some(Record {
                health: Some(health),
                ..record.clone()
            })
        });
        let told = (code, changed.then_some(status));
        let mark = Self::mark_of(&record, entry);
        self.tell_probe_ended(&record, mark, Timestamp::now(), id, told);
    }

    /// Starts a container again whose supervisor was lost, if its policy asks for it.
    pub(crate) fn start_instead_of_shim(self: &Arc<Self>, container: Arc<Container>) {
        if !wants_start(&container.record(), Occasion::ShimLost) {
            return;
        }
        let inner = self.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(PAUSE).await;
            inner.start_by_policy(container, Occasion::ShimLost).await;
        });
    }

    /// Starts what should run when a session of engines begins; in one that goes on, only what has
    /// ended without its supervisor's doing. Does not wait for the starts.
    pub(crate) fn start_by_policies(self: &Arc<Self>, lost: Vec<Arc<Container>>) {
        let marker = marker(self.paths.run());
        let (wanted, occasion) = if marker.exists() {
            (lost, Occasion::ShimLost)
        } else {
            (self.registry.all(), Occasion::SessionBegins)
        };
        if let Err(error) = sampan_fs::write_file(&marker, b"", sampan_fs::Sync::Volatile) {
            tracing::warn!(%error, marker = %marker.display(), "could not note that containers were started");
        }
        for container in wanted {
            if wants_start(&container.record(), occasion) {
                let inner = self.clone();
                self.tasks
                    .spawn(async move { inner.start_by_policy(container, occasion).await });
            }
        }
    }

    /// The engine is ended, not killed: its session is over. Blocks.
    pub(crate) fn end_session(&self) {
        begin_session(self.paths.run());
    }

    async fn start_by_policy(self: &Arc<Self>, container: Arc<Container>, occasion: Occasion) {
        let Ok(_guard) = container.operate().await else {
            return;
        };
        // Somebody may have started or stopped it meanwhile.
        if !wants_start(&container.record(), occasion) {
            return;
        }
        if let Err(error) = self.start(&container).await {
            tracing::error!(container = %container.id, error = error.message(), "could not start a container again");
        }
    }

    /// Hands what holds for further runs to the supervisor of a container, if it has one. Returns
    /// why it holds only once the container is started anew, where that is so.
    pub(crate) async fn hand_to_shim(
        &self,
        container: &Container,
        policy: RestartPolicy,
        limits: LinuxResources,
    ) -> Result<Option<String>> {
        let Some(shim) = container.shim() else {
            return Ok(None);
        };
        let update = Request::Update {
            restart: policy.of_shim(),
            limits: Box::new(limits),
        };
        match shim.tell(update, Vec::new()).await {
            // It ended meanwhile.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotImplemented => {
                Ok(Some(error.message().to_owned()))
            }
            told => told.map(|()| None),
        }
    }

    /// Tells that a health check began, as an exec.
    pub(crate) fn tell_probe_started(
        &self,
        record: &Record,
        mark: Option<Mark>,
        at: Timestamp,
        id: &str,
    ) {
        let check = record.config.healthcheck.as_ref();
        let command = check
            .and_then(|check| super::health::command(check, &record.config))
            .unwrap_or_default()
            .join(" ");
        let id = || vec![("execID", id.to_owned())];
        let parts = vec![
            (Action::ExecCreate(command.clone()), id()),
            (Action::ExecStart(command), id()),
        ];
        self.tell_probe(record, mark, at, parts);
    }

    /// Tells that a health check ended with a code, and of a new status.
    pub(crate) fn tell_probe_ended(
        &self,
        record: &Record,
        mark: Option<Mark>,
        at: Timestamp,
        id: &str,
        (code, changed): (i32, Option<HealthStatus>),
    ) {
        let more = vec![("exitCode", code.to_string()), ("execID", id.to_owned())];
        let mut parts = vec![(Action::ExecDie, more)];
        if let Some(status) = changed {
            parts.push((Action::HealthStatus(word(status).to_owned()), Vec::new()));
        }
        self.tell_probe(record, mark, at, parts);
    }
}

/// Docker's word for a status.
pub(crate) fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::HostConfig;
    use crate::container::test_record::record;

    fn ended(policy: RestartPolicy, code: i32, by_hand: bool) -> Record {
        let lifecycle = Lifecycle::Exited(Ended {
            code,
            oom_killed: false,
            started_at: None,
            finished_at: None,
            error: None,
        });
        Record {
            stopped_by_hand: by_hand,
            host: Arc::new(HostConfig {
                restart_policy: policy,
                ..HostConfig::default()
            }),
            ..record(lifecycle)
        }
    }

    #[test]
    fn policies_decide_what_is_started() {
        use Occasion::{SessionBegins, ShimLost};
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        for (policy, code, by_hand, at_session, at_loss) in [
            (No, 1, false, false, false),
            (Always, 0, false, true, true),
            (Always, 0, true, true, false),
            (UnlessStopped, 0, false, true, true),
            (UnlessStopped, 0, true, false, false),
            (OnFailure(0), 1, false, true, true),
            (OnFailure(0), 0, false, false, false),
            (OnFailure(0), 137, true, false, false),
        ] {
            let record = ended(policy, code, by_hand);
            let found = [SessionBegins, ShimLost].map(|on| wants_start(&record, on));
            assert_eq!(found, [at_session, at_loss], "{policy:?} {code} {by_hand}");
        }
        let tired = Record {
            restart_count: 3,
            ..ended(OnFailure(3), 1, false)
        };
        assert!(!wants_start(&tired, SessionBegins));
        let created = Record {
            lifecycle: Lifecycle::Created { failure: None },
            ..ended(Always, 0, false)
        };
        assert!(!wants_start(&created, SessionBegins));
    }
}
