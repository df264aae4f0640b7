//! Files of git repositories, fetched by the host's `git`.
//!
//! Nothing of a repository is checked out: its commit comes as a tar and becomes a layer. The
//! program sees no configuration, hook, helper or credential of the host, and speaks only the
//! protocols that are named here.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use sampan_images::{HeldLayer, ImageStore};
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// Where the program is looked for.
const PROGRAMS: [&str; 3] = ["/usr/bin/git", "/usr/local/bin/git", "/bin/git"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a command is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of output that are read of a command that should say little.
const OUTPUT: u64 = 4 << 20;
/// How addresses over SSH begin.
const SSH: &str = "ssh://";
/// Sees no configuration and no key of the host's; keys are the agent's. A host that nobody has
/// heard of is believed for this once.
const SSH_COMMAND: &str = "ssh -F none -o BatchMode=yes -o IdentityFile=none \
                           -o PasswordAuthentication=no -o ForwardAgent=no \
                           -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=known_hosts";
/// Submodules in submodules.
const DEPTH: usize = 8;
/// Submodules altogether.
const MOST: usize = 100;

/// A repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSource {
    /// The repository.
    pub url: String,
    /// A branch, a tag or a commit; none is what the repository has as its head.
    pub reference: Option<String>,
    /// A directory in it.
    pub subdirectory: String,
    /// How the commit must begin.
    pub commit: Option<String>,
    /// Whether `.git` is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are left out.
    pub without_submodules: bool,
}

/// What authenticates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Login<'a> {
    /// A header, to the host of the source.
    pub(crate) header: Option<&'a str>,
    /// The socket of an SSH agent. Without one nothing is fetched over SSH.
    pub(crate) agent: Option<&'a str>,
}

/// What was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Bottom first.
    pub(crate) layers: Vec<HeldLayer>,
    /// The commit.
    pub(crate) commit: String,
    /// Has the directory `.git`.
    pub(crate) repository: Scratch,
}

/// A directory that goes away with this.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(above: &Path) -> Result<Self> {
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = above.join(format!("git-{number}"));
        sampan_fs::create_dir_all(&path, 0o700)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = sampan_fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "could not remove a repository");
        }
    }
}

impl GitSource {
    /// Reads `URL[#reference[:directory]]` or `URL?ref=…`; `None` where it is no repository.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let wrong = |why: String| Err(Error::Step(format!("invalid git source {text:?}: {why}")));
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (text, None),
        };
        let (url, query) = match rest.split_once('?') {
            Some((url, query)) => (url, Some(query)),
            None => (rest, None),
        };
        let is_web = url.starts_with("https://") || url.starts_with("http://");
        let over_ssh = url.starts_with("ssh://")
            || (url.starts_with("git@") && url.contains(':') && !url.contains("://"));
        let url = match url.strip_prefix("github.com/") {
            Some(_) => format!("https://{url}"),
            None if over_ssh => match ssh_address(url) {
                Some(url) => url,
                None => return wrong("neither ssh://[user@]host/path nor git@host:path".into()),
            },
            None if url.starts_with("git://") || is_web && url.ends_with(".git") => url.to_owned(),
            None => return Ok(None),
        };
        if url.chars().any(|c| c.is_control() || c == ' ') {
            return wrong("the address has blanks in it".to_owned());
        }
        let mut source = Self {
            url,
            ..Self::default()
        };
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            let truth = || match value.as_str() {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(Error::Step(format!(
                    "invalid git source {text:?}: {name}={value}"
                ))),
            };
            match name {
                "ref" | "branch" | "tag" if source.reference.is_some() => {
                    return wrong("only one of ref, branch and tag".to_owned());
                }
                "ref" => source.reference = Some(value),
                "branch" => source.reference = Some(format!("refs/heads/{value}")),
                "tag" => source.reference = Some(format!("refs/tags/{value}")),
                "commit" | "checksum" => source.commit = Some(value),
                "subdir" => source.subdirectory = value,
                "keep-git-dir" => source.keep_git_dir = Some(truth()?),
                "submodules" => source.without_submodules = !truth()?,
                "fetch-by-commit" => {
                    truth()?;
                }
                "mtime" if matches!(value.as_str(), "commit") => {}
                _ => return wrong(format!("unknown parameter {pair}")),
            }
        }
        if let Some(fragment) = fragment {
            let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
            if source.reference.is_some() && !reference.is_empty() {
                return wrong("the reference is named twice".to_owned());
            }
            if !reference.is_empty() {
                source.reference = Some(reference.to_owned());
            }
            if !directory.is_empty() {
                directory.clone_into(&mut source.subdirectory);
            }
        }
        if let Some(reference) = &source.reference
            && let Err(why) = check_reference(reference)
        {
            return wrong(why);
        }
        if source.subdirectory.split('/').any(|part| part == "..") {
            return wrong(format!("the directory {} leads out", source.subdirectory));
        }
        if let Some(commit) = &source.commit
            && !is_commit(commit)
        {
            return wrong(format!("{commit:?} is no commit"));
        }
        Ok(Some(source))
    }

    /// The host, for credentials.
    pub(crate) fn host(&self) -> &str {
        host(&self.url)
    }

    /// Whether it is fetched over SSH.
    pub(crate) fn is_over_ssh(&self) -> bool {
        self.url.starts_with(SSH)
    }

    /// Fetches it with what `login` has. Layers that are made are added to `made` also when it
    /// fails. Blocks.
    pub(crate) fn fetch(
        &self,
        scratch: &Path,
        images: &ImageStore,
        login: Login<'_>,
        made: &mut Vec<HeldLayer>,
        cancel: &CancellationToken,
    ) -> Result<Fetched> {
        let program = PROGRAMS
            .into_iter()
            .map(Path::new)
            .find(|path| path.exists());
        let Some(program) = program else {
            return Err(Error::Step(format!(
                "cannot fetch {}: the program git is not installed on the engine's host",
                hidden(&self.url)
            )));
        };
        let fetching = Fetching {
            program,
            scratch,
            images,
            header: login
                .header
                .map(|header| (origin(&self.url), header.to_owned())),
            agent: login.agent,
            cancel,
        };
        let mut count = 0;
        fetching.source(self, "", 0, &mut count, made)
    }
}

/// As git wants a name, and none that a command could take for something else.
fn check_reference(reference: &str) -> std::result::Result<(), String> {
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let bad = reference.is_empty()
        || reference.starts_with(['-', '/', '.'])
        || reference.ends_with(['/', '.'])
        || reference.ends_with(".lock")
        || ["..", "//", "@{", "/."]
            .iter()
            .any(|part| reference.contains(part))
        || reference.contains(forbidden);
    match bad {
        true => Err(format!(
            "{reference:?} is no name of a branch, tag or commit"
        )),
        false => Ok(()),
    }
}

/// Whether this is the beginning of a commit's name.
pub(crate) fn is_commit(text: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (7..=64).contains(&text.len()) && text.bytes().all(hex)
}

fn is_whole_commit(text: &str) -> bool {
    is_commit(text) && matches!(text.len(), 40 | 64)
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

/// An address over SSH, also one of the form `user@host:path`, as `ssh://`; `None` where it is none
/// or could be taken for a flag.
fn ssh_address(url: &str) -> Option<String> {
    let rest = match url.strip_prefix(SSH) {
        Some(rest) => rest.to_owned(),
        None if url.contains("://") => return None,
        None => {
            let (place, path) = url.split_once(':')?;
            place.strip_prefix("git@")?;
            format!("{place}/{}", path.trim_start_matches('/'))
        }
    };
    let (authority, path) = rest.split_once('/')?;
    let (user, place) = authority.rsplit_once('@').unwrap_or(("git", authority));
    let plain = |text: &str, more: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !text.is_empty() && !text.starts_with('-') && text.chars().all(known)
    };
    let fits = plain(user, "-_.") && plain(place, "-_.:[]") && !path.is_empty();
    fits.then(|| format!("{SSH}{user}@{place}/{path}"))
}

/// Scheme and host, as git compares addresses with.
fn origin(url: &str) -> String {
    let scheme = url.split_once("://").map_or("https", |(scheme, _)| scheme);
    format!("{scheme}://{}", host(url))
}

/// An address without what authenticates.
fn hidden(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let place = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{place}/{path}")
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Fetching<'a> {
    program: &'a Path,
    scratch: &'a Path,
    images: &'a ImageStore,
    /// Scheme and host, and the header that authenticates there.
    header: Option<(String, String)>,
    agent: Option<&'a str>,
    cancel: &'a CancellationToken,
}

impl Fetching<'_> {
    fn source(
        &self,
        source: &GitSource,
        prefix: &str,
        depth: usize,
        count: &mut usize,
        made: &mut Vec<HeldLayer>,
    ) -> Result<Fetched> {
        let repository = Scratch::new(self.scratch)?;
        let at = repository.path();
        let url = &source.url;
        self.run(at, &["init", "--quiet", "--template="])?;
        let wanted = match (&source.reference, &source.commit) {
            (Some(reference), _) => reference.clone(),
            (None, Some(commit)) if is_whole_commit(commit) => commit.clone(),
            (None, _) => "HEAD".to_owned(),
        };
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
        let name = "refs/sampan/wanted";
        let exact = format!("+{wanted}:{name}");
        let shallow = [&fetch[..], &["--depth=1", "--", url, &exact]].concat();
        let fetched = match self.run(at, &shallow) {
            // A server that knows nothing of git and only has its files.
            Err(Error::Step(why)) if why.contains("does not support shallow") => {
                let whole = [&fetch[..], &["--", url, &exact]].concat();
                self.run(at, &whole)
            }
            fetched => fetched,
        };
        let mut commit = match fetched {
            Ok(_) => self.commit(at, name),
            // What is no name there may still be the beginning of a commit's.
            Err(Error::Step(why)) if is_commit(&wanted) => {
                let all = [
                    "--",
                    url,
                    "+refs/heads/*:refs/heads/*",
                    "+refs/tags/*:refs/tags/*",
                ];
                self.run(at, &[&fetch[..], &all].concat())
                    .map_err(|_| Error::Step(why))?;
                self.commit(at, &wanted)
            }
            Err(error) => Err(error),
        }?;
        if let Some(expected) = &source.commit
            && !commit.starts_with(expected.as_str())
        {
            return Err(Error::Step(format!(
                "expected checksum to match {expected}, got {commit}"
            )));
        }
        let mut layers = vec![self.archive(at, &commit, prefix)?];
        made.extend(layers.iter().cloned());
        if !source.without_submodules {
            for (path, link, address) in self.submodules(at, &commit, url)? {
                *count += 1;
                if *count > MOST || depth == DEPTH {
                    return Err(Error::Step(format!(
                        "{} has too many submodules",
                        hidden(url)
                    )));
                }
                let below = GitSource {
                    url: address,
                    reference: Some(link),
                    ..GitSource::default()
                };
                let prefix = format!("{prefix}{path}/");
                let below = self.source(&below, &prefix, depth + 1, count, made)?;
                layers.extend(below.layers);
            }
        }
        if prefix.is_empty() {
            // A working directory of it has nothing to say.
            self.run(at, &["update-ref", "--no-deref", "HEAD", &commit])?;
            self.run(at, &["update-ref", "-d", name])?;
            self.run(at, &["read-tree", &commit])?;
            self.run(at, &["config", "remote.origin.url", &hidden(url)])?;
        }
        commit.shrink_to_fit();
        Ok(Fetched {
            layers,
            commit,
            repository,
        })
    }

    fn commit(&self, at: &Path, name: &str) -> Result<String> {
        let name = format!("{name}^{{commit}}");
        let answer = self.run(
            at,
            &[
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                &name,
            ],
        )?;
        let commit = String::from_utf8_lossy(&answer).trim().to_owned();
        match is_whole_commit(&commit) {
            true => Ok(commit),
            false => Err(Error::Step(format!("git found no commit {name}"))),
        }
    }

    /// Takes the files of a commit as a layer, exactly as they are in it.
    fn archive(&self, at: &Path, commit: &str, prefix: &str) -> Result<HeldLayer> {
        let attributes = at.join(".git/info");
        sampan_fs::create_dir_all(&attributes, 0o700)?;
        // The repository's own attributes must not leave anything out.
        let text = b"* -export-ignore -export-subst\n";
        sampan_fs::write_file(
            attributes.join("attributes"),
            text,
            sampan_fs::Sync::Volatile,
        )?;
        let prefix = format!("--prefix={prefix}");
        let mut child = self.spawn(at, &["archive", "--format=tar", &prefix, commit])?;
        let taken = {
            let stdout = child.stdout();
            self.images.take_archive(stdout, "git")
        };
        let (_, ended) = child.finish(self.cancel)?;
        // One that is not read to its end breaks off because of that.
        let layer = taken?;
        ended?;
        sampan_fs::remove_dir_all(&attributes)?;
        Ok(layer)
    }

    /// Path, commit and address of each submodule.
    fn submodules(
        &self,
        at: &Path,
        commit: &str,
        url: &str,
    ) -> Result<Vec<(String, String, String)>> {
        let tree = self.run(at, &["ls-tree", "-r", "-z", "--full-tree", commit])?;
        let mut links = Vec::new();
        for entry in tree.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            let Some((head, path)) = entry.split_once('\t') else {
                continue;
            };
            let mut words = head.split(' ');
            if words.next() == Some("160000")
                && let Some(link) = words.nth(1)
            {
                links.push((path.to_owned(), link.to_owned()));
            }
        }
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let blob = format!("{commit}:.gitmodules");
        let pattern = r"^submodule\..*\.(path|url)$";
        let config = self.run(
            at,
            &["config", "-z", "--blob", &blob, "--get-regexp", pattern],
        )?;
        let mut named: std::collections::BTreeMap<String, [String; 2]> = Default::default();
        for entry in config.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            if let Some((key, value)) = entry.split_once('\n')
                && let Some((name, what)) = key.rsplit_once('.')
            {
                let at = usize::from(what == "url");
                value.clone_into(&mut named.entry(name.to_owned()).or_default()[at]);
            }
        }
        let mut found = Vec::new();
        for (path, link) in links {
            let Some([_, address]) = named.values().find(|[of, _]| *of == path) else {
                return Err(Error::Step(format!("no url for submodule {path}")));
            };
            let bad = path.split('/').any(|part| matches!(part, "" | "." | ".."));
            let address = relative(url, address);
            let address = ssh_address(&address).unwrap_or(address);
            let mut spoken = vec!["https://", "http://", "git://"];
            spoken.extend(self.agent.map(|_| SSH));
            let known = spoken.iter().any(|scheme| address.starts_with(scheme));
            if bad || !known || !is_whole_commit(&link) {
                return Err(Error::Step(format!(
                    "the submodule {path} at {} cannot be fetched: only https, http and git are spoken, and ssh where the repository itself came by it",
                    hidden(&address)
                )));
            }
            found.push((path, link, address));
        }
        Ok(found)
    }

    /// Runs a command to its end and returns what it says.
    fn run(&self, at: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
        let child = self.spawn(at, arguments)?;
        let (output, ended) = child.finish(self.cancel)?;
        ended.map(|()| output)
    }

    fn spawn(&self, at: &Path, arguments: &[&str]) -> Result<Running> {
        let mut settings: Vec<(String, String)> = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.attributesFile", "/dev/null"),
            ("core.excludesFile", "/dev/null"),
            ("credential.helper", ""),
            ("protocol.allow", "never"),
            ("protocol.https.allow", "always"),
            ("protocol.http.allow", "always"),
            ("protocol.git.allow", "always"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("tar.umask", "0022"),
            ("advice.detachedHead", "false"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        if let Some((origin, header)) = &self.header {
            settings.push((
                format!("http.{origin}/.extraHeader"),
                format!("Authorization: {header}"),
            ));
        }
        let mut command = Command::new(self.program);
        command.env_clear();
        let mut protocols = "https:http:git";
        if let Some(agent) = self.agent {
            protocols = "https:http:git:ssh";
            settings.push(("protocol.ssh.allow".to_owned(), "always".to_owned()));
            command
                .env("SSH_AUTH_SOCK", agent)
                .env("GIT_SSH_VARIANT", "ssh")
                .env("GIT_SSH_COMMAND", SSH_COMMAND);
        }
        command
            .args(arguments)
            .current_dir(at)
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("HOME", at)
            .env("XDG_CONFIG_HOME", at)
            .env("GIT_DIR", at.join(".git"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_HTTP_LOW_SPEED_LIMIT", "1")
            .env("GIT_HTTP_LOW_SPEED_TIME", "120")
            .env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{number}"), name)
                .env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let child = command
            // Its helpers end with it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("run git"))?;
        Running::new(
            child,
            arguments.first().copied().unwrap_or_default(),
            self.cancel.clone(),
        )
    }
}

/// The address of a submodule that is named relative to its repository's.
fn relative(url: &str, address: &str) -> String {
    if !address.starts_with("./") && !address.starts_with("../") {
        return address.to_owned();
    }
    let mut base = url.trim_end_matches('/').to_owned();
    let mut rest = address;
    loop {
        if let Some(next) = rest.strip_prefix("./") {
            rest = next;
        } else if let Some(next) = rest.strip_prefix("../") {
            rest = next;
            // Never above the host.
            let floor = base.find("://").map_or(0, |at| at + 3);
            if let Some(at) = base.rfind('/').filter(|at| *at > floor) {
                base.truncate(at);
            }
        } else {
            return format!("{base}/{rest}");
        }
    }
}

/// A git that runs; ended with its helpers when this goes away.
struct Running {
    child: Child,
    what: String,
    ended: CancellationToken,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::thread::JoinHandle<Vec<u8>>>,
    watch: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn new(mut child: Child, what: &str, cancel: CancellationToken) -> Result<Self> {
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let group = Pid::from_child(&child);
        let ended = CancellationToken::new();
        let watched = ended.clone();
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let stderr = named("git errors")
            .spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut stderr) = stderr {
                    let _ = stderr.by_ref().take(64 << 10).read_to_end(&mut bytes);
                    let _ = io::copy(&mut stderr, &mut io::sink());
                }
                bytes
            })
            .map_err(Error::io("read what git says"))?;
        let watch = named("git watch")
            .spawn(move || {
                while !watched.is_cancelled() {
                    if cancel.is_cancelled() {
                        let _ = kill_process_group(group, Signal::KILL);
                        return;
                    }
                    std::thread::sleep(LOOK);
                }
            })
            .map_err(Error::io("watch git"))?;
        Ok(Self {
            child,
            what: what.to_owned(),
            ended,
            stdout,
            stderr: Some(stderr),
            watch: Some(watch),
        })
    }

    fn stdout(&mut self) -> impl Read {
        let none: Box<dyn Read> = Box::new(io::empty());
        self.stdout
            .take()
            .map_or(none, |stdout| Box::new(stdout) as Box<dyn Read>)
    }

    /// Waits for the end: what was said, and whether it went well.
    fn finish(mut self, cancel: &CancellationToken) -> Result<(Vec<u8>, Result<()>)> {
        let mut output = Vec::new();
        if let Some(stdout) = self.stdout.take() {
            stdout
                .take(OUTPUT)
                .read_to_end(&mut output)
                .map_err(Error::io("read what git says"))?;
        }
        let status = self.child.wait().map_err(Error::io("wait for git"))?;
        let errors = self.stderr.take().map(std::thread::JoinHandle::join);
        let errors = errors.and_then(std::result::Result::ok).unwrap_or_default();
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if status.success() {
            return Ok((output, Ok(())));
        }
        let said = String::from_utf8_lossy(&errors);
        let said: Vec<String> = said.lines().map(redacted).collect();
        let why = match said.is_empty() {
            true => status.to_string(),
            false => said.join("; "),
        };
        let error = Error::Step(format!("git {} failed: {why}", self.what));
        Ok((output, Err(error)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

/// A line without what authenticates in its addresses.
fn redacted(line: &str) -> String {
    line.split(' ')
        .map(|word| match word.find("://") {
            Some(_) if word.contains('@') => {
                let quote = word.starts_with('\'');
                let inner = word.trim_start_matches('\'');
                format!("{}{}", if quote { "'" } else { "" }, hidden(inner))
            }
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_repositories_are_told_from_others() {
        let parse = |text: &str| GitSource::parse(text).unwrap();
        for text in [
            "https://host/file.tar.gz",
            "http://host/x",
            "ftp://host/x.git",
            "dir/x.git",
            "a",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        let source = parse("https://host/x.git#v1:a/b").unwrap();
        assert_eq!(source.url, "https://host/x.git");
        assert_eq!(source.reference.as_deref(), Some("v1"));
        assert_eq!(source.subdirectory, "a/b");
        let source = parse("git://host/x?branch=a%2Fb&subdir=d&keep-git-dir=1&submodules=false");
        let source = source.unwrap();
        assert_eq!(source.reference.as_deref(), Some("refs/heads/a/b"));
        assert_eq!(source.keep_git_dir, Some(true));
        assert!(source.without_submodules);
        for text in ["git@host:a/b.git#v1", "ssh://git@host/a/b.git#v1"] {
            let source = parse(text).unwrap();
            assert_eq!(source.url, "ssh://git@host/a/b.git");
            assert!(source.is_over_ssh());
        }
        let source = parse("ssh://me@[::1]:2222/srv/x").unwrap();
        assert_eq!(source.url, "ssh://me@[::1]:2222/srv/x");
        assert_eq!(
            parse("github.com/a/b").unwrap().url,
            "https://github.com/a/b"
        );
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "https://host/x.git#..",
            "https://host/x.git#a..b",
            "https://host/x.git#-u",
            "https://host/x.git#--upload-pack=x",
            "https://host/x.git#a b",
            "https://host/x.git#main:../..",
            "https://host/x.git?ref=a&branch=b",
            "https://host/x.git?ref=a#b",
            "https://host/x.git?commit=zz",
            "https://host/x.git?other=1",
            "git@-oProxyCommand=x:x.git",
            "ssh://-oProxyCommand=x/x.git",
            "ssh://-l@host/x.git",
            "ssh://host",
            "https://host/x .git#a",
        ] {
            assert!(GitSource::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn submodules_are_named_relative_to_their_repository() {
        let url = "https://host/a/b.git";
        assert_eq!(relative(url, "../c.git"), "https://host/a/c.git");
        assert_eq!(relative(url, "./c"), "https://host/a/b.git/c");
        assert_eq!(relative(url, "../../../../c"), "https://host/c");
        assert_eq!(relative(url, "https://x/y"), "https://x/y");
    }

    #[test]
    fn passwords_are_not_told() {
        assert_eq!(
            redacted("fatal: unable to access 'https://me:secret@host/x.git/': no"),
            "fatal: unable to access 'https://host/x.git/': no"
        );
    }
}
