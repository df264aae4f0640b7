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
use super::load::FileBody;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image build", "builder build", "build"],
    usage: "[OPTIONS] PATH | -",
    about: "Build an image from a Dockerfile",
    flags: &[&[
        Flag::many(
            "add-host",
            "list",
            "Add a custom host-to-IP mapping (host:ip)",
        ),
        Flag::many("build-arg", "list", "Set build-time variables"),
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
            "rm",
            "Remove intermediate containers after a successful build",
        )
        .default("true"),
        Flag::many(
            "tag",
            "list",
            "Name and optionally a tag in the \"name:tag\" format",
        )
        .short('t'),
        Flag::one("target", "string", "Set the target build stage to build."),
    ]],
    refused: &[
        ("allow", None),
        ("annotation", None),
        ("attest", None),
        ("build-context", None),
        ("builder", None),
        ("cache-from", None),
        ("cache-to", None),
        ("call", None),
        ("cgroup-parent", None),
        ("check", None),
        ("compress", None),
        ("cpu-period", None),
        ("cpu-quota", None),
        ("cpu-shares", Some('c')),
        ("cpuset-cpus", None),
        ("cpuset-mems", None),
        ("debug", None),
        ("isolation", None),
        ("load", None),
        ("memory", Some('m')),
        ("memory-swap", None),
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
        ("shm-size", None),
        ("squash", None),
        ("ssh", None),
        ("ulimit", None),
    ],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let quiet = parsed.switch("quiet")?;
    let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
    let looked = look(parsed.arguments()[0], parsed.text("file"))?;
    let options = BuildOptions {
        dockerfile: looked.dockerfile.clone(),
        tags: owned(parsed.texts("tag")),
        build_args: variables(&parsed.texts("build-arg"))?,
        labels: labels(&parsed.texts("label")),
        target: parsed.text("target").map(str::to_owned),
        platform: parsed.text("platform").map(str::to_owned),
        network: parsed.text("network").map(str::to_owned),
        extra_hosts: owned(parsed.texts("add-host")),
        no_cache: parsed.switch("no-cache")?,
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
    if path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/") {
        return Err(Failure::message(format!(
            "building from a URL is not supported yet by sampan: {path}"
        )));
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
