//! The conversation with systemd's manager (org.freedesktop.systemd1(5)).

use std::os::unix::net::UnixStream;

use futures_util::StreamExt as _;
use zbus::connection::Builder;
use zbus::wire::OwnedObjectPath;
use zbus::{Connection, MatchRule, Message, MessageStream, Variant, message};

use crate::{Error, Scope};

/// The system bus.
const BUS: &str = "/run/dbus/system_bus_socket";
const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// How long processes of a scope that is stopped may take to end by themselves, in microseconds.
const STOP_TIMEOUT: u64 = 10_000_000;
/// No limit.
const INFINITY: u64 = u64::MAX;

/// A connection to systemd.
pub(crate) struct Manager {
    connection: Connection,
}

impl Manager {
    pub(crate) async fn connect() -> Result<Self, Error> {
        let failed = |error| Error::Connect(Box::new(error));
        // Connected here: the crate would do it on a thread of its own.
        let stream = UnixStream::connect(BUS).map_err(|error| failed(error.into()))?;
        let connection = Builder::unix_stream(stream).build().await.map_err(failed)?;
        let manager = Self { connection };
        // It tells of jobs only while somebody wants to hear it.
        manager.call("Subscribe", &()).await.map_err(failed)?;
        Ok(manager)
    }

    /// Makes a scope over a process.
    pub(crate) async fn start(
        &self,
        scope: &Scope,
        description: &str,
        process: u32,
    ) -> Result<(), Error> {
        let begin = async || self.begin_start(scope, description, process).await;
        let doing = "make";
        match self.job(doing, scope.name(), begin).await {
            Err(Error::Refused { source, .. }) if is_named(&source, UNIT_EXISTS) => {
                // One that has failed stays until somebody has taken note.
                self.forget(scope.name()).await;
                self.job(doing, scope.name(), begin).await
            }
            other => other,
        }
    }

    async fn begin_start(
        &self,
        scope: &Scope,
        description: &str,
        process: u32,
    ) -> zbus::Result<Message> {
        let properties = [
            ("Description", Variant::from(description)),
            ("Slice", Variant::from(scope.slice().as_str())),
            ("PIDs", Variant::from(vec![process])),
            ("Delegate", Variant::from(true)),
            // systemd's way to shut the system down does not end it before its engine.
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("TimeoutStopUSec", Variant::from(STOP_TIMEOUT)),
            // Scopes have a limit by default; the container's own is set below.
            ("TasksMax", Variant::from(INFINITY)),
        ];
        let more: [(&str, Vec<(&str, Variant<'_>)>); 0] = [];
        let body = (scope.name(), "fail", &properties[..], &more[..]);
        self.call("StartTransientUnit", &body).await
    }

    /// Stops a scope, unless there is none.
    pub(crate) async fn stop(&self, name: &str) -> Result<(), Error> {
        let begin = async || self.call("StopUnit", &(name, "replace")).await;
        let stopped = self.job("stop", name, begin).await;
        match stopped {
            Err(Error::Refused { source, .. }) if is_named(&source, NO_SUCH_UNIT) => Ok(()),
            // Its processes had to be killed.
            other => {
                self.forget(name).await;
                other
            }
        }
    }

    /// The control group of a scope that is there.
    pub(crate) async fn control_group(&self, name: &str) -> Result<Option<String>, Error> {
        let failed = |source| Error::Refused {
            doing: "find",
            name: name.to_owned(),
            source: Box::new(source),
        };
        let unit = match self.call("GetUnit", &(name,)).await {
            Err(error) if is_named(&error, NO_SUCH_UNIT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let unit: OwnedObjectPath = unit.body().deserialize().map_err(failed)?;
        let answer = self
            .connection
            .call_method(
                Some(DESTINATION),
                unit,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &(SCOPE, "ControlGroup"),
            )
            .await
            .map_err(failed)?;
        let body = answer.body();
        let found: Variant<'_> = body.deserialize().map_err(failed)?;
        let found: String = found.try_into().map_err(failed)?;
        Ok(Some(found).filter(|path| !path.is_empty()))
    }

    /// Makes systemd forget that a unit has failed.
    async fn forget(&self, name: &str) {
        // It need not have failed, and need not be there.
        let _ = self.call("ResetFailedUnit", &(name,)).await;
    }

    /// Carries out what begins a job, and waits for its end.
    async fn job(
        &self,
        doing: &'static str,
        name: &str,
        begin: impl AsyncFnOnce() -> zbus::Result<Message>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Refused {
            doing,
            name: name.to_owned(),
            source: Box::new(source),
        };
        // Before the call: the job may end before its answer is read.
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()
            .map_err(failed)?;
        let mut ends = MessageStream::for_match_rule(rule, &self.connection, None)
            .await
            .map_err(failed)?;
        let answer = begin().await.map_err(failed)?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(failed)?;
        while let Some(signal) = ends.next().await {
            let signal = signal.map_err(failed)?;
            let body = signal.body();
            let (_, ended, _, result): (u32, OwnedObjectPath, &str, &str) =
                body.deserialize().map_err(failed)?;
            if ended != job {
                continue;
            }
            return match result {
                "done" => Ok(()),
                other => Err(Error::Job {
                    doing,
                    name: name.to_owned(),
                    result: other.to_owned(),
                }),
            };
        }
        Err(Error::Closed)
    }

    async fn call(
        &self,
        method: &str,
        body: &(impl serde::Serialize + zbus::DynamicType),
    ) -> zbus::Result<Message> {
        self.connection
            .call_method(Some(DESTINATION), PATH, Some(MANAGER), method, body)
            .await
    }
}

/// Whether this is the error of that name.
fn is_named(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == name)
}
