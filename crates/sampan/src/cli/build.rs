//! `sampan build`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use sampan_api::client::{BuildOptions, JsonStream};
use sampan_api::types::auth::AuthFields;
use sampan_api::types::message::Message;
use sampan_dockerfile::Dockerfile;
use sampan_oci::Reference;

use super::build_context::{Context, Looked};
use super::command::{Arguments, Command, Flag, Parsed};
use super::container::describe_io;
use super::credentials;
use super::failure::Failure;
use super::flags::{integer, size, ulimit};
use super::load::FileBody;
use super::output;
use super::session::Session;

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
        Flag::one(
            "cgroup-parent",
            "string",
            "Set the parent cgroup for the RUN instructions during build",
        ),
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
        Flag::one("memory", "bytes", "Memory limit").short('m'),
        Flag::one(
            "memory-swap",
            "bytes",
            "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
        ),
        Flag::one(
            "network",
            "string",
            "Set the networking mode for the RUN instructions during build",
        )
        .default("default"),
        Flag::switch("no-cache", "Do not use cache when building the image"),
        Flag::one(
            "platform",
            "string",
            "Set platform if server is multi-platform capable",
        ),
        Flag::switch(
            "pull",
            "Always attempt to pull a newer version of the image",
        ),
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
        Flag::one("shm-size", "bytes", "Size of \"/dev/shm\""),
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
        ("cache-from", None),
        ("cache-to", None),
        ("call", None),
        ("check", None),
        ("compress", None),
        ("debug", None),
        ("isolation", None),
        ("load", None),
        ("metadata-file", None),
        ("no-cache-filter", None),
        ("output", Some('o')),
        ("policy", None),
        ("progress", None),
        ("provenance", None),
        ("push", None),
        ("sbom", None),
        ("secret", None),
        ("security-opt", None),
        ("squash", None),
        ("ssh", None),
    ],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let quiet = parsed.switch("quiet")?;
    let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
    let looked = look(parsed.arguments()[0], parsed.text("file"))?;
    let path = parsed.arguments()[0];
    let options = BuildOptions {
        remote: is_address(path).then(|| path.to_owned()),
        dockerfile: looked.dockerfile.clone(),
        tags: owned(parsed.texts("tag")),
        build_args: variables(&parsed.texts("build-arg"))?,
        labels: labels(&parsed.texts("label")),
        target: parsed.text("target").map(str::to_owned),
        platform: parsed.text("platform").map(str::to_owned),
        network: parsed.text("network").map(str::to_owned),
        extra_hosts: owned(parsed.texts("add-host")),
        limits: limits(parsed)?,
        contexts: contexts(&parsed.texts("build-context"))?,
        allow: parsed
            .texts("allow")
            .into_iter()
            .flat_map(|names| names.split(','))
            .map(str::to_owned)
            .collect(),
        no_cache: parsed.switch("no-cache")?,
        reproducible: parsed.switch("reproducible")?,
        pull: parsed.switch("pull")?,
        quiet,
        auth: registries(session, looked.text.as_deref()),
    };
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
    let id = session.wait(async {
        let body = FileBody::new(looked.open()?)?;
        let mut messages = client.build_image(&options, body).await?;
        print(&mut messages, quiet).await
    })?;
    if quiet {
        output::line(&id);
    }
    if let Some(path) = id_file {
        std::fs::write(path, &id)
            .map_err(|error| Failure::message(format!("write {path}: {}", describe_io(&error))))?;
    }
    Ok(0)
}

/// What each command may use, as the query has it.
fn limits(parsed: &Parsed<'_>) -> Result<Vec<(&'static str, String)>, Failure> {
    let numbers = [
        ("memory", parsed.value("memory", size::bytes)?),
        ("memswap", parsed.value("memory-swap", size::swap)?),
        ("shmsize", parsed.value("shm-size", size::bytes)?),
        ("cpushares", parsed.value("cpu-shares", integer)?),
        ("cpuperiod", parsed.value("cpu-period", integer)?),
        ("cpuquota", parsed.value("cpu-quota", integer)?),
    ];
    let texts = [
        ("cpusetcpus", "cpuset-cpus"),
        ("cpusetmems", "cpuset-mems"),
        ("cgroupparent", "cgroup-parent"),
    ];
    let texts = texts.map(|(name, flag)| (name, parsed.text(flag).map(str::to_owned)));
    let ulimits = parsed.values("ulimit", ulimit::parse)?;
    let ulimits = match ulimits.is_empty() {
        true => None,
        false => Some(
            serde_json::to_string(&ulimits)
                .map_err(|error| Failure::message(format!("write the limits: {error}")))?,
        ),
    };
    let numbers =
        numbers.map(|(name, number)| (name, number.map(|number: i64| number.to_string())));
    Ok(numbers
        .into_iter()
        .chain(texts)
        .chain([("ulimits", ulimits)])
        .filter_map(|(name, value)| Some((name, value?)))
        .collect())
}

/// `NAME=VALUE` of `--build-context`.
fn contexts(texts: &[&str]) -> Result<BTreeMap<String, String>, Failure> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok((name.to_owned(), value.to_owned()))
            }
            _ => Err(Failure::message(format!(
                "invalid context value: {text}, expected key=value"
            ))),
        })
        .collect()
}

/// Finds the files and the Dockerfile that the arguments mean.
fn look(path: &str, file: Option<&str>) -> Result<Looked, Failure> {
    let file = file.filter(|file| !file.is_empty());
    let from_stdin = |what: &str| match io::stdin().is_terminal() {
        true => Err(Failure::message(format!(
            "{what} is read from standard input, which is a terminal"
        ))),
        false => Ok(()),
    };
    if path == "-" {
        if file == Some("-") {
            return Err(Failure::message(
                "invalid argument: can't use stdin for both build context and dockerfile",
            ));
        }
        from_stdin("the build context")?;
        return Looked::stdin(file);
    }
    if is_address(path) {
        return match file {
            Some("-") => Err(Failure::message(
                "a Dockerfile from standard input needs a directory to build from",
            )),
            file => Ok(Looked::elsewhere(file)),
        };
    }
    let directory = PathBuf::from(path);
    match std::fs::metadata(&directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(Failure::message(format!(
                "unable to prepare context: path {path:?} is not a directory"
            )));
        }
        Err(_) => {
            return Err(Failure::message(format!(
                "unable to prepare context: path {path:?} not found"
            )));
        }
    }
    match file {
        Some("-") => {
            from_stdin("the Dockerfile")?;
            let mut text = Vec::new();
            let limit = sampan_dockerfile::MAX_SIZE as u64 + 1;
            io::stdin()
                .take(limit)
                .read_to_end(&mut text)
                .map_err(|error| Failure::message(format!("read the Dockerfile: {error}")))?;
            Context::look(directory, None, Some(text))
        }
        Some(file) => Context::look(directory, Some(Path::new(file)), None),
        None => Context::look(directory, None, None),
    }
}

/// Whether the engine fetches the files itself.
fn is_address(path: &str) -> bool {
    path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/")
}

/// `NAME=value`; a name alone has its value from the environment, if it has one.
fn variables(texts: &[&str]) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut variables = BTreeMap::new();
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (*text, std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(Failure::message(format!("invalid build argument: {text}")));
        }
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

fn labels(texts: &[&str]) -> BTreeMap<String, String> {
    let split = |text: &&str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    texts.iter().map(split).collect()
}

/// Credentials for the registries that the Dockerfile names.
fn registries(session: &Session, dockerfile: Option<&[u8]>) -> BTreeMap<String, AuthFields> {
    let Some(Ok(file)) = dockerfile.map(Dockerfile::parse) else {
        return BTreeMap::new();
    };
    let references = file
        .stages
        .iter()
        .filter_map(|stage| stage.base.parse::<Reference>().ok());
    let mut registries = BTreeMap::new();
    for reference in references {
        let registry = reference.registry().to_owned();
        if !registries.contains_key(&registry)
            && let Some(found) = credentials::find(session, &reference)
        {
            registries.insert(registry, found.0);
        }
    }
    registries
}

/// Prints what a build tells, with the time that each step took; answers the image's identity.
async fn print(messages: &mut JsonStream<Message>, quiet: bool) -> Result<String, Failure> {
    let mut id = String::new();
    let mut began = Instant::now();
    while let Some(message) = messages.next().await? {
        if let Some(error) = message.error {
            return Err(match u8::try_from(error.code) {
                Ok(code @ 1..) => Failure::Usage {
                    message: error.message,
                    code,
                },
                _ => Failure::message(error.message),
            });
        }
        if let Some(found) = message.aux.as_ref().and_then(|aux| aux["ID"].as_str()) {
            found.clone_into(&mut id);
        }
        if quiet {
            continue;
        }
        let mut text = message.stream;
        if text.starts_with("Step ") {
            began = Instant::now();
        } else if text.starts_with(" ---> Using cache") {
            text = " ---> CACHED\n".to_owned();
        } else if let Some(state) = text.strip_prefix(" ---> ") {
            let seconds = began.elapsed().as_secs_f64();
            text = format!(" ---> {} ({seconds:.1}s)\n", state.trim_end());
        }
        let mut out = io::stdout().lock();
        // A build goes on when nobody reads about it.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
    match id.is_empty() {
        true => Err(Failure::message("the engine broke off the build")),
        false => Ok(id),
    }
}
