//! `sampan build ls`, `inspect`, `logs` and `rm`: builds that run or have ended.

use jiff::Timestamp;
use sampan_buildkit::control::{
    BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, StatusRequest, StatusResponse,
    UpdateBuildHistoryRequest,
};
use serde_json::{Value, json};
use tonic::Status;

use super::session;
use super::told::{Told, between, now};
use super::view::View;
use crate::cli::command::{Arguments, Command, Flag, Parsed};
use crate::cli::failure::Failure;
use crate::cli::format::units;
use crate::cli::output;
use crate::cli::session::Session;

/// Characters of a build's name in lists.
const SHORT: usize = 12;

pub(crate) const LIST: Command = Command {
    names: &["build ls"],
    usage: "[OPTIONS]",
    about: "List builds",
    flags: &[&[
        Flag::one("format", "string", "\"json\" for one object on each line"),
        Flag::switch("no-trunc", "Don't truncate output"),
        Flag::switch("quiet", "Only show names").short('q'),
    ]],
    arguments: Arguments::None,
    run: list,
    ..Command::PLAIN
};

pub(crate) const INSPECT: Command = Command {
    names: &["build inspect"],
    usage: "[OPTIONS] [BUILD]",
    about: "Show a build and its steps; the newest when none is named",
    flags: &[&[Flag::one(
        "format",
        "string",
        "\"json\" for all that is known",
    )]],
    arguments: Arguments::AtMost(1),
    run: inspect,
    ..Command::PLAIN
};

pub(crate) const LOGS: Command = Command {
    names: &["build logs"],
    usage: "[BUILD]",
    about: "Show what a build told; the newest when none is named",
    arguments: Arguments::AtMost(1),
    run: logs,
    ..Command::PLAIN
};

pub(crate) const REMOVE: Command = Command {
    names: &["build rm"],
    usage: "[OPTIONS] BUILD [BUILD...]",
    about: "Forget builds",
    flags: &[&[Flag::switch("all", "Forget all builds that have ended").short('a')]],
    arguments: Arguments::Any,
    run: remove,
    ..Command::PLAIN
};

/// A build as it was noted.
struct Build {
    record: BuildHistoryRecord,
    runs: bool,
}

impl Build {
    fn status(&self) -> &'static str {
        match &self.record.error {
            _ if self.runs => "Running",
            None => "Completed",
            Some(error) if error.code == i32::from(tonic::Code::Cancelled) => "Canceled",
            Some(_) => "Error",
        }
    }

    fn seconds(&self) -> f64 {
        let end = self.record.completed_at.unwrap_or_else(now);
        self.record
            .created_at
            .map_or(0.0, |start| between(&start, &end))
    }

    fn title(&self) -> String {
        let text = |name: &str| self.record.frontend_attrs.get(name).map(String::as_str);
        let names = self
            .record
            .exporters
            .iter()
            .filter_map(|e| e.attrs.get("name"));
        let names: Vec<&str> = names.map(String::as_str).collect();
        match (names.is_empty(), text("target")) {
            (false, _) => names.join(","),
            (true, Some(target)) => format!("target {target}"),
            (true, None) => text("filename").unwrap_or("Dockerfile").to_owned(),
        }
    }

    fn created(&self) -> Option<Timestamp> {
        let time = self.record.created_at?;
        Timestamp::new(time.seconds, time.nanos).ok()
    }

    fn json(&self) -> Value {
        let record = &self.record;
        json!({
            "ref": record.r#ref,
            "name": self.title(),
            "status": self.status(),
            "created_at": self.created().map(|time| time.to_string()),
            "duration_seconds": self.seconds(),
            "total_steps": record.num_total_steps,
            "completed_steps": record.num_completed_steps,
            "cached_steps": record.num_cached_steps,
            "warnings": record.num_warnings,
            "error": record.error.as_ref().map(|error| &error.message),
        })
    }
}

fn failed(status: Status) -> Failure {
    Failure::message(format!("Error response from daemon: {}", status.message()))
}

async fn builds(builder: &mut session::Builder) -> Result<Vec<Build>, Failure> {
    let request = BuildHistoryRequest {
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let events = builder
        .listen_build_history(request)
        .await
        .map_err(failed)?;
    let mut events = events.into_inner();
    let mut builds = Vec::new();
    while let Some(event) = events.message().await.map_err(failed)? {
        let runs = event.r#type() == BuildHistoryEventType::Started;
        if let Some(record) = event.record {
            builds.push(Build { record, runs });
        }
    }
    Ok(builds)
}

/// The build of a name, or of the beginning of one; the newest without.
fn find(builds: Vec<Build>, name: Option<&str>) -> Result<Build, Failure> {
    let Some(name) = name else {
        let mut builds = builds.into_iter();
        return builds
            .next()
            .ok_or_else(|| Failure::message("there are no builds yet"));
    };
    let fits = builds
        .into_iter()
        .filter(|build| build.record.r#ref.starts_with(name));
    let mut fits: Vec<Build> = fits.collect();
    if let Some(exact) = fits.iter().position(|build| build.record.r#ref == name) {
        return Ok(fits.swap_remove(exact));
    }
    match fits.len() {
        1 => Ok(fits.remove(0)),
        0 => Err(Failure::message(format!("no such build: {name}"))),
        _ => Err(Failure::message(format!(
            "{name} is the beginning of several builds: give more of it"
        ))),
    }
}

fn list(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let builds = session.wait(async {
        let mut builder = session::builder(client).await?;
        builds(&mut builder).await
    })?;
    let whole = parsed.switch("no-trunc")?;
    let name = |build: &Build| match whole {
        true => build.record.r#ref.clone(),
        false => build.record.r#ref.chars().take(SHORT).collect(),
    };
    if parsed.switch("quiet")? {
        for build in &builds {
            output::line(&name(build));
        }
        return Ok(0);
    }
    match parsed.text("format") {
        None | Some("" | "table") => {}
        Some("json") => {
            for build in &builds {
                output::line(&build.json().to_string());
            }
            return Ok(0);
        }
        Some(other) => {
            return Err(Failure::message(format!(
                "unknown format {other}: there are table and json"
            )));
        }
    }
    let mut text = String::from("BUILD ID\tNAME\tSTATUS\tSTEPS\tCACHED\tCREATED\tDURATION\n");
    let now = Timestamp::now();
    for build in &builds {
        let created = build
            .created()
            .map_or(String::new(), |time| units::ago(time.as_second(), now));
        text.push_str(&format!(
            "{}\t{}\t{}\t{}/{}\t{}\t{created}\t{:.1}s\n",
            name(build),
            build.title(),
            build.status(),
            build.record.num_completed_steps,
            build.record.num_total_steps,
            build.record.num_cached_steps,
            build.seconds(),
        ));
    }
    output::text(&crate::cli::format::table::align(&text));
    Ok(0)
}

/// A build and what it told so far.
fn look(session: &Session, parsed: &Parsed<'_>) -> Result<(Build, Vec<StatusResponse>), Failure> {
    let client = session.client()?;
    session.wait(async {
        let mut builder = session::builder(client).await?;
        let all = builds(&mut builder).await?;
        let build = find(all, parsed.arguments().first().copied())?;
        let request = StatusRequest {
            r#ref: build.record.r#ref.clone(),
        };
        let mut told = builder.status(request).await.map_err(failed)?.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = told.message().await.map_err(failed)? {
            messages.push(message);
        }
        Ok((build, messages))
    })
}

fn logs(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let (build, messages) = look(session, parsed)?;
    output::text(&View::lines().replay(messages));
    if let Some(error) = &build.record.error {
        output::line(&format!("ERROR: {}", error.message.trim_end()));
    }
    Ok(0)
}

fn inspect(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let (build, messages) = look(session, parsed)?;
    let mut told = Told::default();
    for message in messages {
        told.hear(message);
    }
    let now = now();
    let state = |step: &super::told::Step| match (step.error.as_str(), step.cached) {
        ("context canceled", _) => "CANCELED",
        ("", true) => "CACHED",
        ("", false) if step.completed.is_none() => "RUNNING",
        ("", false) => "DONE",
        _ => "ERROR",
    };
    match parsed.text("format") {
        None | Some("") => {}
        Some("json") => {
            let mut json = build.json();
            let steps = told.steps.iter().map(|step| {
                json!({
                    "number": step.number,
                    "name": step.name,
                    "state": state(step),
                    "seconds": step.seconds(&now),
                    "error": step.error,
                })
            });
            json["steps"] = Value::Array(steps.collect());
            json["options"] = json!(build.record.frontend_attrs);
            json["outputs"] = json!(build.record.exporter_response);
            output::line(&format!("{json:#}"));
            return Ok(0);
        }
        Some(other) => {
            return Err(Failure::message(format!(
                "unknown format {other}: there is json"
            )));
        }
    }
    let mut text = format!(
        "ID:        {}\nName:      {}\nStatus:    {}\nCreated:   {}\nDuration:  {:.1}s\nSteps:     {} of {}, {} cached\n",
        build.record.r#ref,
        build.title(),
        build.status(),
        build
            .created()
            .map_or(String::new(), |time| time.to_string()),
        build.seconds(),
        build.record.num_completed_steps,
        build.record.num_total_steps,
        build.record.num_cached_steps,
    );
    if build.record.num_warnings > 0 {
        text.push_str(&format!("Warnings:  {}\n", build.record.num_warnings));
    }
    if let Some(error) = &build.record.error {
        text.push_str(&format!("Error:     {}\n", error.message.trim_end()));
    }
    let id = "containerimage.config.digest";
    if let Some(image) = build.record.exporter_response.get(id) {
        text.push_str(&format!("Image:     {image}\n"));
    }
    let mut steps = String::from("#\tSTATE\tDURATION\tSTEP\n");
    for step in &told.steps {
        let name = step.name.replace('\t', " ");
        let seconds = step.seconds(&now);
        steps.push_str(&format!(
            "{}\t{}\t{seconds:.1}s\t{name}\n",
            step.number,
            state(step)
        ));
    }
    text.push('\n');
    text.push_str(&crate::cli::format::table::align(&steps));
    output::text(&text);
    Ok(0)
}

fn remove(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let given = parsed.arguments();
    let all = parsed.switch("all")?;
    if given.is_empty() != all {
        return Err(Failure::message("name the builds to forget, or say --all"));
    }
    session.wait(async {
        let mut builder = session::builder(client).await?;
        let known = builds(&mut builder).await?;
        let names: Vec<String> = match all {
            true => {
                let ended = known.iter().filter(|build| !build.runs);
                ended.map(|build| build.record.r#ref.clone()).collect()
            }
            false => given.iter().map(|name| (*name).to_owned()).collect(),
        };
        let mut failures = Vec::new();
        for name in names {
            let full = known
                .iter()
                .filter(|build| build.record.r#ref.starts_with(&name));
            let full: Vec<&Build> = full.collect();
            let removed = match full.as_slice() {
                [build] => {
                    let request = UpdateBuildHistoryRequest {
                        r#ref: build.record.r#ref.clone(),
                        delete: true,
                        ..UpdateBuildHistoryRequest::default()
                    };
                    let removed = builder.update_build_history(request).await;
                    removed.map(|_| ()).map_err(failed)
                }
                [] => Err(Failure::message(format!("no such build: {name}"))),
                _ => Err(Failure::message(format!(
                    "{name} is the beginning of several builds: give more of it"
                ))),
            };
            match removed {
                Ok(()) => output::line(&name),
                Err(failure) => failures.push(failure.text()),
            }
        }
        match failures.is_empty() {
            true => Ok(0),
            false => Err(Failure::message(failures.join("\n"))),
        }
    })
}
