//! What can be asked of a Dockerfile instead of building it: `--check` and `--call`.

use std::collections::BTreeMap;

use base64::Engine as _;
use sampan_dockerfile::{Dockerfile, Facts, Ignore, Instruction, Location, MountKind};
use sampan_engine::building::Written;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Status;

use super::options::Asked;

const VERSION: &str = "1.0.0";
const LINT: &str = "frontend.lint";
const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";
const DESCRIBE: &str = "frontend.subrequests.describe";

type Metadata = BTreeMap<String, Vec<u8>>;

/// Answers a request by its name.
pub(super) fn answer(request: &str, asked: &Asked, written: &Written) -> Result<Metadata, Status> {
    match request {
        LINT => lint(asked, written),
        OUTLINE => outline(asked, written),
        TARGETS => targets(asked, written),
        DESCRIBE => Ok(describe()),
        other => Err(Status::unimplemented(format!(
            "unsupported request {other}"
        ))),
    }
}

fn metadata(json: &impl Serialize, text: Option<String>) -> Metadata {
    let json = serde_json::to_vec_pretty(json).expect("plain values are always valid JSON");
    let mut metadata = Metadata::from([
        ("result.json".to_owned(), json),
        ("version".to_owned(), VERSION.into()),
    ]);
    if let Some(text) = text {
        metadata.insert("result.txt".to_owned(), text.into_bytes());
    }
    metadata
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn place(location: Location) -> Value {
    json!({
        "ranges": [{
            "start": {"line": location.line},
            "end": {"line": location.end_line},
        }],
    })
}

fn parse(asked: &Asked, written: &Written) -> Result<Dockerfile, Status> {
    Dockerfile::parse(&written.text).map_err(|error| {
        let text = String::from_utf8_lossy(&written.text);
        Status::invalid_argument(error.render(&asked.filename, &text))
    })
}

fn lint(asked: &Asked, written: &Written) -> Result<Metadata, Status> {
    let text = String::from_utf8_lossy(&written.text);
    let mut facts = Facts::default();
    if let Some(ignore) = &written.ignore {
        let ignore = Ignore::parse(ignore);
        facts.ignore = Some(ignore.map_err(|error| Status::invalid_argument(error.to_string()))?);
    }
    let (warnings, error) = match Dockerfile::parse(&written.text) {
        Err(error) => (Vec::new(), Some(error)),
        Ok(file) => {
            let lint = file.lint(&asked.settings.options, &file.shell(), &facts);
            (lint.warnings, lint.error)
        }
    };
    let mut shown = String::new();
    let mut rows = Vec::new();
    for warning in &warnings {
        shown.push_str(&warning.render(&asked.filename, &text));
        shown.push('\n');
        rows.push(json!({
            "ruleName": warning.rule.name(),
            "description": warning.rule.description(),
            "url": warning.rule.url(),
            "detail": warning.message,
            "location": place(warning.location),
        }));
    }
    let mut result = json!({
        "warnings": rows,
        "sources": [{
            "fileName": asked.filename,
            "language": "Dockerfile",
            "data": base64(&written.text),
        }],
    });
    if let Some(error) = &error {
        shown.push_str(&error.render(&asked.filename, &text));
        result["buildError"] = json!({
            "message": error.to_string(),
            "location": error.location().map(place),
        });
    }
    let wrong = !warnings.is_empty() || error.is_some();
    let mut metadata = metadata(&result, Some(shown));
    let code = if wrong { "1" } else { "0" };
    metadata.insert("result.statuscode".to_owned(), code.into());
    Ok(metadata)
}

fn targets(asked: &Asked, written: &Written) -> Result<Metadata, Status> {
    let file = parse(asked, written)?;
    let last = file.stages.len().saturating_sub(1);
    let stages = file.stages.iter().enumerate().map(|(index, stage)| {
        let mut target = serde_json::Map::new();
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                target.insert(name.to_owned(), value.into());
            }
        };
        put("name", stage.name.as_deref());
        put("description", stage.comment.as_deref());
        put("base", Some(&stage.base));
        put("platform", stage.platform.as_deref());
        if index == last {
            target.insert("default".to_owned(), true.into());
        }
        target.insert("Location".to_owned(), place(stage.location));
        Value::Object(target)
    });
    let list = json!({
        "Targets": stages.collect::<Vec<_>>(),
        "Sources": [base64(&written.text)],
    });
    Ok(metadata(&list, None))
}

fn outline(asked: &Asked, written: &Written) -> Result<Metadata, Status> {
    let file = parse(asked, written)?;
    let shell = file.shell();
    let options = &asked.settings.options;
    let plan = file.plan(options, &shell).map_err(|error| {
        let text = String::from_utf8_lossy(&written.text);
        Status::invalid_argument(error.render(&asked.filename, &text))
    })?;
    let mut arguments = Vec::new();
    let mut secrets = Vec::new();
    let mut agents = Vec::new();
    let mut caches = Vec::new();
    let needed = plan.order.iter().map(|index| &file.stages[*index]);
    let steps = file
        .globals
        .iter()
        .chain(needed.flat_map(|stage| &stage.steps));
    for step in steps {
        let location = place(step.location);
        match &step.instruction {
            Instruction::Arg(declarations) => {
                for argument in declarations {
                    let given = options.build_args.get(&argument.name);
                    let value = given.or(argument.default.as_ref());
                    arguments.push(json!({
                        "name": argument.name,
                        "value": value.cloned().unwrap_or_default(),
                        "location": location,
                    }));
                }
            }
            Instruction::Run(run) => {
                for flag in &run.mounts {
                    let mount = flag.resolve(&shell, &plan.globals);
                    let mount =
                        mount.map_err(|error| Status::invalid_argument(error.to_string()))?;
                    match mount.kind {
                        MountKind::Secret { id, required, .. } => secrets.push(json!({
                            "name": id, "required": required, "location": location,
                        })),
                        MountKind::Ssh { id, required, .. } => agents.push(json!({
                            "name": id, "required": required, "location": location,
                        })),
                        MountKind::Cache { id, .. } => {
                            caches.push(json!({"ID": id, "location": location}));
                        }
                        MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
                    }
                }
            }
            _ => {}
        }
    }
    let target = &plan.stages[plan.target];
    let stage = &file.stages[plan.target];
    let outline = json!({
        "name": target.name,
        "description": stage.comment,
        "args": arguments,
        "secrets": secrets,
        "ssh": agents,
        "cache": caches,
        "sources": [base64(&written.text)],
    });
    Ok(metadata(&outline, None))
}

fn describe() -> Metadata {
    let requests = [
        (OUTLINE, "List all parameters current build takes"),
        (TARGETS, "List all targets current build supports"),
        (LINT, "Lint a Dockerfile"),
        (DESCRIBE, "List available subrequest types"),
    ];
    let list: Vec<Value> = requests
        .iter()
        .map(|(name, description)| {
            json!({
                "name": name,
                "version": VERSION,
                "type": "rpc",
                "description": description,
                "metadata": [{"name": "result.json"}, {"name": "result.txt"}],
            })
        })
        .collect();
    let mut text = String::from("NAME                 VERSION DESCRIPTION\n");
    for (name, description) in requests {
        let name = name.trim_start_matches("frontend.");
        text.push_str(&format!("{name:<20} {VERSION:<7} {description}\n"));
    }
    metadata(&list, Some(text))
}
