//! `sampan build`: a client of the engine's build interface, which it serves with files, secrets
//! and the like on a connection of its own.
//!
//! * `context`: what is built from; `attributes`: what is asked of it; `outputs`: what is made.
//! * `files`, `stores`, `lend`: what the engine may ask for. `session`: the two connections.
//! * `told`, `plain`, `screen`: what the engine tells, as text.
//! * `failure`: a step that failed, `shell`: a shell in its files. `history`: builds of before.

mod attributes;
mod context;
mod failure;
mod files;
pub(crate) mod history;
mod lend;
mod outputs;
mod plain;
mod screen;
mod session;
mod shell;
mod stores;
mod told;
mod view;

use std::collections::HashMap;
use std::io;

use sampan_buildkit::control::{SolveRequest, StatusRequest};
use tonic::metadata::MetadataMap;

use super::command::{Arguments, Command, Flag, Parsed};
use super::container::describe_io;
use super::failure::Failure;
use super::output;
use super::session::Session;
use context::Source;
use outputs::{Output, Wanted};
use view::View;

pub(crate) const COMMAND: Command = Command {
    names: &["image build", "builder build", "build"],
    usage: "[OPTIONS] PATH | URL | -",
    about: "Build an image from a Dockerfile",
    flags: &[&[
        Flag::many(
            "add-host",
            "list",
            "Add a custom host-to-IP mapping (host:ip)",
        ),
        Flag::many(
            "allow",
            "stringArray",
            "Allow extra privileged entitlement (e.g., \"network.host\", \"security.insecure\")",
        ),
        Flag::many("build-arg", "list", "Set build-time variables"),
        Flag::many(
            "build-context",
            "stringArray",
            "Additional build contexts (e.g., name=docker-image://image)",
        ),
        Flag::many(
            "cache-from",
            "stringArray",
            "External cache sources (e.g., \"user/app:cache\", \"type=local,src=path/to/dir\")",
        ),
        Flag::many(
            "cache-to",
            "stringArray",
            "Cache export destinations (e.g., \"user/app:cache\", \"type=local,dest=path/to/dir\")",
        ),
        Flag::one(
            "call",
            "string",
            "Set method for evaluating build (\"check\", \"outline\", \"targets\")",
        )
        .default("build"),
        Flag::one(
            "cgroup-parent",
            "string",
            "Set the parent cgroup for the RUN instructions during build",
        ),
        Flag::switch("check", "Shorthand for \"--call=check\""),
        Flag::one(
            "cpu-period",
            "int",
            "Limit the CPU CFS (Completely Fair Scheduler) period",
        ),
        Flag::one(
            "cpu-quota",
            "int",
            "Limit the CPU CFS (Completely Fair Scheduler) quota",
        ),
        Flag::one("cpu-shares", "int", "CPU shares (relative weight)").short('c'),
        Flag::one(
            "cpuset-cpus",
            "string",
            "CPUs in which to allow execution (0-3, 0,1)",
        ),
        Flag::one(
            "cpuset-mems",
            "string",
            "MEMs in which to allow execution (0-3, 0,1)",
        ),
        Flag::switch("disable-content-trust", "Skip image verification")
            .default("true")
            .hidden(),
        Flag::one(
            "file",
            "string",
            "Name of the Dockerfile (Default is 'PATH/Dockerfile')",
        )
        .short('f'),
        Flag::switch("force-rm", "Always remove intermediate containers"),
        Flag::one("iidfile", "string", "Write the image ID to the file"),
        Flag::many("label", "list", "Set metadata for an image"),
        Flag::switch("load", "Shorthand for \"--output=type=docker\""),
        Flag::one("memory", "bytes", "Memory limit").short('m'),
        Flag::one(
            "memory-swap",
            "bytes",
            "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
        ),
        Flag::one(
            "metadata-file",
            "string",
            "Write build result metadata to a file",
        ),
        Flag::one(
            "network",
            "string",
            "Set the networking mode for the RUN instructions during build",
        )
        .default("default"),
        Flag::switch("no-cache", "Do not use cache when building the image"),
        Flag::many(
            "no-cache-filter",
            "stringArray",
            "Do not cache specified stages",
        ),
        Flag::one(
            "on-failure",
            "string",
            "What is done when a step fails: \"shell\" opens one in its files",
        ),
        Flag::many(
            "output",
            "stringArray",
            "Output destination (format: \"type=local,dest=path\")",
        )
        .short('o'),
        Flag::one(
            "platform",
            "string",
            "Set platform if server is multi-platform capable",
        ),
        Flag::one(
            "progress",
            "string",
            "Set type of progress output (\"auto\", \"quiet\", \"plain\", \"tty\", \"rawjson\")",
        )
        .default("auto"),
        Flag::one(
            "provenance",
            "string",
            "Shorthand for \"--attest=type=provenance\"",
        )
        .hidden(),
        Flag::switch(
            "pull",
            "Always attempt to pull a newer version of the image",
        ),
        Flag::switch("push", "Shorthand for \"--output=type=registry\""),
        Flag::switch(
            "quiet",
            "Suppress the build output and print image ID on success",
        )
        .short('q'),
        Flag::switch(
            "reproducible",
            "Build the same image each time: no file is younger than SOURCE_DATE_EPOCH or 1970",
        ),
        Flag::switch(
            "rm",
            "Remove intermediate containers after a successful build",
        )
        .default("true"),
        Flag::one("sbom", "string", "Shorthand for \"--attest=type=sbom\"").hidden(),
        Flag::many(
            "secret",
            "stringArray",
            "Secret to expose to the build (format: \"id=mysecret[,src=/local/secret]\")",
        ),
        Flag::one("shm-size", "bytes", "Size of \"/dev/shm\""),
        Flag::many(
            "ssh",
            "stringArray",
            "SSH agent socket to expose to the build (format: \"default|<id>[=<socket>]\")",
        ),
        Flag::many(
            "tag",
            "list",
            "Name and optionally a tag in the \"name:tag\" format",
        )
        .short('t'),
        Flag::one("target", "string", "Set the target build stage to build."),
        Flag::many("ulimit", "ulimit", "Ulimit options").default("[]"),
    ]],
    refused: &[
        ("annotation", None),
        ("attest", None),
        ("builder", None),
        ("compress", None),
        ("debug", None),
        ("isolation", None),
        ("policy", None),
        ("security-opt", None),
        ("squash", None),
    ],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let quiet = parsed.switch("quiet")?;
    let call = attributes::call(parsed)?;
    let shell = shell::wanted(parsed)?;
    let mut view = View::choose(parsed.text("progress").unwrap_or("auto"), quiet)?;
    let source = Source::look(parsed.arguments()[0], parsed.text("file"))?;
    let asked = attributes::read(parsed, source, call)?;
    let outputs = outputs(parsed, call.is_some())?;
    let lent = lend::Lent::read(&parsed.texts("secret"), &parsed.texts("ssh"))?;
    let id_file = parsed.text("iidfile").filter(|path| !path.is_empty());
    if let Some(path) = id_file {
        // One of an earlier build must not be taken for this one's.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::message(format!(
                    "remove {path}: {}",
                    describe_io(&error)
                )));
            }
            _ => {}
        }
    }
    let client = session.client()?;
    let name = session::random();
    let request = SolveRequest {
        r#ref: name.clone(),
        session: session::random(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: asked.attributes,
        cache: Some(asked.cache),
        entitlements: asked.entitlements,
        exporters: outputs
            .iter()
            .map(|output| output.exporter.clone())
            .collect(),
        ..SolveRequest::default()
    };
    let offered = session::Offered {
        shared_key: asked.shared_key,
        directories: asked.directories,
        stores: asked.stores.service(),
        input: asked.input,
        outputs,
        lent,
    };
    let solved = session.wait(async {
        let (builder, mut questions) = session::open(client, &request.session, offered).await?;
        let (mut solver, mut teller) = (builder.clone(), builder);
        let solving = async {
            let mut solving = std::pin::pin!(solver.solve(request));
            loop {
                tokio::select! {
                    solved = &mut solving => break solved,
                    Some((server, answer)) = questions.recv() => {
                        // Whoever asked may have left.
                        let _ = answer.send(session::credentials(session, &server));
                    }
                }
            }
        };
        let telling = async {
            let request = StatusRequest {
                r#ref: name.clone(),
            };
            if let Ok(told) = teller.status(request).await {
                view.follow(told.into_inner()).await;
            }
        };
        let (solved, ()) = tokio::join!(solving, telling);
        Ok::<_, Failure>(solved)
    })?;
    view.finish();
    let response = match solved {
        Ok(response) => response.into_inner().exporter_response,
        Err(status) => {
            let failed = failure::describe(&view.told, asked.dockerfile.as_ref(), &status);
            if let (Some(shell), Some(image)) = (shell, shell::image(&status)) {
                return shell.open(session, &image, &failed);
            }
            return Err(Failure::message(failed));
        }
    };
    if let Some(call) = call {
        return call.print(&response);
    }
    asked.stores.finish(&response)?;
    let id = ["containerimage.config.digest", "containerimage.digest"];
    let id = id.iter().find_map(|name| response.get(*name));
    let id = id.map(String::as_str).unwrap_or_default();
    if let Some(path) = id_file {
        write(path, id.as_bytes())?;
    }
    if let Some(path) = parsed.text("metadata-file").filter(|path| !path.is_empty()) {
        write(path, &describe(&name, &response)?)?;
    }
    if quiet && !id.is_empty() {
        output::line(id);
    }
    Ok(0)
}

fn outputs(parsed: &Parsed<'_>, only_asks: bool) -> Result<Vec<Output>, Failure> {
    let wanted = Wanted {
        outputs: &parsed.texts("output"),
        tags: &parsed.texts("tag"),
        load: parsed.switch("load")?,
        push: parsed.switch("push")?,
    };
    let mut outputs = wanted.read()?;
    outputs.retain(|output| !only_asks && output.exporter.r#type != "cacheonly");
    Ok(outputs)
}

fn write(path: &str, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::message(format!("write {path}: {}", describe_io(&error))))
}

/// What the engine tells of a build's outputs, as JSON.
fn describe(name: &str, response: &HashMap<String, String>) -> Result<Vec<u8>, Failure> {
    use base64::Engine as _;
    let mut fields = serde_json::Map::new();
    fields.insert(
        "buildx.build.ref".to_owned(),
        format!("default/default/{name}").into(),
    );
    for (name, value) in response {
        // Some are JSON, packed.
        let packed = base64::engine::general_purpose::STANDARD.decode(value).ok();
        let packed = packed.and_then(|json| serde_json::from_slice(&json).ok());
        let packed = packed.filter(|value: &serde_json::Value| value.is_object());
        fields.insert(name.clone(), packed.unwrap_or_else(|| value.clone().into()));
    }
    serde_json::to_vec_pretty(&fields)
        .map_err(|error| Failure::message(format!("describe the build: {error}")))
}

/// The values of a field of a call. Those that are no ASCII are escaped, which a mark tells.
fn metadata(fields: &MetadataMap, name: &str) -> Vec<String> {
    let escaped = fields.contains_key(format!("{name}-encoded"));
    let values = fields.get_all(name).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values
        .map(|value| match escaped {
            true => unescape(value),
            false => value.to_owned(),
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        let hex = others
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_calls_may_be_escaped() {
        let mut fields = MetadataMap::new();
        fields.append("plain", "a%20b".parse().unwrap());
        fields.append("other", "a+%C3%A4%".parse().unwrap());
        fields.append("other-encoded", "1".parse().unwrap());
        assert_eq!(metadata(&fields, "plain"), ["a%20b"]);
        assert_eq!(metadata(&fields, "other"), ["a ä%"]);
        assert!(metadata(&fields, "none").is_empty());
    }
}
