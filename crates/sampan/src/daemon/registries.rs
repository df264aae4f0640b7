//! What users say of registries: `registries.toml`, Docker's `daemon.json` and `certs.d`, flags.
//!
//! The files are looked at before each use and read again when one of them changed. One that
//! cannot be used changes nothing: what was valid before stays, and one sentence says why.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_images::settings::{
    Host, Identity, Insecure, Location, Rule, Security, Settings, SettingsSource,
};
use sampan_images::{Credentials, Proxies};
use serde::Deserialize;

/// The longest file that is read.
const LONGEST: u64 = 4 << 20;

/// Where settings are, and those that flags give.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) registries: PathBuf,
    /// Docker's `daemon.json`.
    pub(super) docker: PathBuf,
    /// Whether the file was asked for, and so must be there.
    pub(super) docker_is_named: bool,
    /// Docker's `certs.d`.
    pub(super) certificates: PathBuf,
    pub(super) mirrors: Vec<String>,
    pub(super) insecure: Vec<String>,
}

impl Places {
    pub(super) fn from_environment() -> Self {
        let registries = std::env::var_os("SAMPAN_REGISTRIES").filter(|path| !path.is_empty());
        Self {
            registries: registries
                .map_or_else(|| "/etc/sampan/registries.toml".into(), PathBuf::from),
            docker: "/etc/docker/daemon.json".into(),
            docker_is_named: false,
            certificates: "/etc/docker/certs.d".into(),
            mirrors: Vec::new(),
            insecure: Vec::new(),
        }
    }

    /// The arguments that say the same to another `sampan daemon`.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--registries".into(),
            self.registries.clone().into(),
            "--certs-dir".into(),
            self.certificates.clone().into(),
        ];
        if self.docker_is_named {
            arguments.extend(["--config-file".into(), self.docker.clone().into()]);
        }
        for mirror in &self.mirrors {
            arguments.extend(["--registry-mirror".into(), mirror.into()]);
        }
        for registry in &self.insecure {
            arguments.extend(["--insecure-registry".into(), registry.into()]);
        }
        arguments
    }

    /// Reads everything.
    ///
    /// # Errors
    /// One sentence, with the file.
    pub(super) fn read(&self) -> Result<Settings, String> {
        let mut settings = Settings::default();
        if let Some(text) = read_text(&self.registries)? {
            let mut parse = || -> Result<(), String> {
                let file: RegistriesFile = toml::from_str(&text).map_err(|e| one_line(&e))?;
                file.apply(&mut settings)
            };
            parse().map_err(|reason| format!("{}: {reason}", self.registries.display()))?;
        }
        self.read_certificates(&mut settings)?;
        let docker = self.read_docker()?;
        let both = [
            ("registry-mirrors", &self.mirrors, &docker.mirrors),
            ("insecure-registries", &self.insecure, &docker.insecure),
        ];
        for (name, by_flag, by_file) in both {
            if let (false, Some(by_file)) = (by_flag.is_empty(), by_file) {
                return Err(format!(
                    "{}: the following directives are specified both as a flag and in the configuration file: {name}: (from flag: {by_flag:?}, from file: {by_file:?})",
                    self.docker.display(),
                ));
            }
        }
        let mirrors = docker.mirrors.as_ref().unwrap_or(&self.mirrors);
        add_hub_mirrors(&mut settings, mirrors)?;
        for text in docker.insecure.as_ref().unwrap_or(&self.insecure) {
            let entry = text.parse::<Insecure>();
            let entry = entry.map_err(|e| format!("invalid insecure registry: {e}"))?;
            settings.insecure.push(entry);
        }
        for (name, host) in &settings.hosts {
            host.check()
                .map_err(|reason| format!("registry host {name}: {reason}"))?;
        }
        Ok(settings)
    }

    fn read_docker(&self) -> Result<DockerFile, String> {
        let Some(text) = read_text(&self.docker)? else {
            if self.docker_is_named {
                return Err(format!("{}: there is no such file", self.docker.display()));
            }
            return Ok(DockerFile::default());
        };
        if text.trim().is_empty() {
            return Ok(DockerFile::default());
        }
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", self.docker.display()))
    }

    /// Reads `certs.d`: a directory for each `host[:port]`.
    fn read_certificates(&self, settings: &mut Settings) -> Result<(), String> {
        for directory in entries(&self.certificates)? {
            let Some(host) = directory.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !directory.is_dir() {
                continue;
            }
            let files = entries(&directory)?;
            let with = |extension: &'static str| {
                let files = files.iter();
                files.filter(move |path| path.extension().is_some_and(|e| e == extension))
            };
            let mut host_settings = settings.hosts.remove(host).unwrap_or_default();
            for path in with("crt") {
                host_settings.roots.push(read_bytes(path)?.into());
            }
            for certificate in with("cert") {
                let key = certificate.with_extension("key");
                if !files.contains(&key) {
                    return Err(format!(
                        "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                        key.display(),
                        certificate.display()
                    ));
                }
                host_settings.identity = Some(identity(certificate, &key)?);
            }
            for key in with("key") {
                if !files.contains(&key.with_extension("cert")) {
                    return Err(format!(
                        "missing client certificate {} for key {}",
                        key.with_extension("cert").display(),
                        key.display()
                    ));
                }
            }
            settings.hosts.insert(host.to_owned(), host_settings);
        }
        Ok(())
    }

    /// What tells whether something changed: every file there is and when it was written.
    fn stamps(&self) -> Vec<Stamp> {
        let mut stamps = Vec::new();
        for path in [&self.registries, &self.docker] {
            stamps.extend(stamp(path));
        }
        // The files that it names.
        if let Ok(Some(text)) = read_text(&self.registries)
            && let Ok(file) = toml::from_str::<RegistriesFile>(&text)
        {
            stamps.extend(file.paths().filter_map(|path| stamp(path)));
        }
        let directories = entries(&self.certificates).unwrap_or_default();
        for directory in directories {
            stamps.extend(stamp(&directory));
            let files = entries(&directory).unwrap_or_default();
            stamps.extend(files.iter().filter_map(|path| stamp(path)));
        }
        stamps
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some(Stamp {
        path: path.to_owned(),
        inode: data.ino(),
        size: data.size(),
        changed: (data.mtime(), data.mtime_nsec()),
    })
}

/// The settings in files, read again when they change.
#[derive(Debug)]
pub(super) struct Files {
    places: Places,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stamps: Vec<Stamp>,
    settings: Arc<Settings>,
}

impl Files {
    /// Reads the files. What is wrong with them is told in the log, and nothing is set then.
    pub(super) fn open(places: Places) -> Self {
        let files = Self {
            places,
            state: Mutex::default(),
        };
        files.read(&mut files.lock());
        files
    }

    /// Reads the files again, whether they changed or not.
    pub(super) fn reload(&self) {
        if self.read(&mut self.lock()) {
            tracing::info!("read the configuration of registries again");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, state: &mut State) -> bool {
        // Before the files: what changes while they are read is read again.
        state.stamps = self.places.stamps();
        match self.places.read() {
            Ok(settings) => {
                if settings != *state.settings {
                    state.settings = Arc::new(settings);
                }
                true
            }
            Err(reason) => {
                tracing::error!(
                    reason,
                    "the configuration of registries cannot be used and stays as it was"
                );
                false
            }
        }
    }
}

impl SettingsSource for Files {
    fn current(&self) -> Arc<Settings> {
        let mut state = self.lock();
        if self.places.stamps() != state.stamps {
            self.read(&mut state);
        }
        state.settings.clone()
    }
}

/// The proxies that the environment names, as other programs take them.
pub(super) fn proxies() -> Proxies {
    let variable = |names: [&str; 2]| {
        let values = names
            .into_iter()
            .filter_map(|name| std::env::var(name).ok());
        values.into_iter().find(|value| !value.is_empty())
    };
    Proxies {
        http: variable(["HTTP_PROXY", "http_proxy"]),
        https: variable(["HTTPS_PROXY", "https_proxy"]),
        none: variable(["NO_PROXY", "no_proxy"]).unwrap_or_default(),
    }
}

/// The keys of Docker's file that are used. All others are for Docker alone.
#[derive(Debug, Default, Deserialize)]
struct DockerFile {
    #[serde(rename = "registry-mirrors")]
    mirrors: Option<Vec<String>>,
    #[serde(rename = "insecure-registries")]
    insecure: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RegistriesFile {
    #[serde(default)]
    registry: Vec<RegistryEntry>,
    #[serde(default)]
    host: BTreeMap<String, HostEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RegistryEntry {
    prefix: String,
    location: Option<String>,
    #[serde(default)]
    mirrors: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct HostEntry {
    insecure: bool,
    plain_http: bool,
    ca: Vec<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    token_services: Vec<String>,
}

impl RegistriesFile {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.host.values().flat_map(|host| {
            let single = [
                &host.client_certificate,
                &host.client_key,
                &host.password_file,
            ];
            host.ca.iter().chain(single.into_iter().flatten())
        })
    }

    fn apply(self, settings: &mut Settings) -> Result<(), String> {
        let location = |text: &str| text.parse::<Location>().map_err(|e| e.to_string());
        for entry in self.registry {
            let prefix = location(&entry.prefix)?;
            if settings.rules.iter().any(|rule| rule.prefix == prefix) {
                return Err(format!(
                    "there are two registries of prefix {:?}",
                    entry.prefix
                ));
            }
            settings.rules.push(Rule {
                prefix,
                location: entry.location.as_deref().map(location).transpose()?,
                mirrors: entry
                    .mirrors
                    .iter()
                    .map(|text| location(text))
                    .collect::<Result<_, _>>()?,
            });
        }
        for (name, entry) in self.host {
            let parsed = location(&name)?;
            if parsed.host() != name {
                return Err(format!("host {name:?} is no host, or host and port"));
            }
            let host = entry
                .read()
                .map_err(|reason| format!("host {name:?}: {reason}"))?;
            settings.hosts.insert(name, host);
        }
        Ok(())
    }
}

impl HostEntry {
    fn read(self) -> Result<Host, String> {
        let roots = self.ca.iter().map(|path| read_bytes(path).map(Arc::from));
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some(identity(certificate, key)?),
            (None, None) => None,
            _ => return Err("client-certificate and client-key need each other".into()),
        };
        let credentials = match (self.username, &self.password_file) {
            (Some(username), Some(path)) => Credentials {
                username,
                password: password(path)?,
                ..Credentials::default()
            },
            (None, None) => Credentials::default(),
            _ => return Err("username and password-file need each other".into()),
        };
        Ok(Host {
            security: match (self.plain_http, self.insecure) {
                (true, _) => Security::Plain,
                (false, true) => Security::Insecure,
                (false, false) => Security::Verified,
            },
            roots: roots.collect::<Result<_, _>>()?,
            identity,
            credentials,
            token_services: self.token_services,
        })
    }
}

fn add_hub_mirrors(settings: &mut Settings, mirrors: &[String]) -> Result<(), String> {
    if mirrors.is_empty() {
        return Ok(());
    }
    let mirrors = mirrors.iter().map(|text| {
        text.parse::<Location>()
            .map_err(|error| format!("invalid mirror: {error}"))
    });
    let mirrors = mirrors.collect::<Result<Vec<_>, _>>()?;
    let hub = |rule: &&mut Rule| rule.prefix.host() == "docker.io" && rule.prefix.path().is_empty();
    match settings.rules.iter_mut().find(hub) {
        Some(rule) => rule.mirrors.extend(mirrors),
        None => settings.rules.push(Rule {
            prefix: "docker.io"
                .parse()
                .map_err(|error| format!("docker.io: {error}"))?,
            location: None,
            mirrors,
        }),
    }
    Ok(())
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let mut pem = read_bytes(certificate)?;
    pem.push(b'\n');
    pem.extend(read_bytes(key)?);
    Ok(Identity(pem.into()))
}

/// The first line of a file that its owner alone may read.
fn password(path: &Path) -> Result<String, String> {
    let data = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if data.mode() & 0o077 != 0 {
        return Err(format!(
            "{} can be read by others than its owner",
            path.display()
        ));
    }
    let text = read_text(path)?.unwrap_or_default();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A text; none when there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, String> {
    if !path.exists() {
        return Ok(None);
    }
    String::from_utf8(read_bytes(path)?)
        .map(Some)
        .map_err(|_| format!("{}: it is not UTF-8", path.display()))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    use io::Read;
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The entries of a directory by name; none when there is no such directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// The parser's message without its drawing of the file.
fn one_line(error: &toml::de::Error) -> String {
    error.message().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch {
        directory: tempfile::TempDir,
        places: Places,
    }

    fn scratch() -> Scratch {
        let directory = tempfile::tempdir().unwrap();
        let places = Places {
            registries: directory.path().join("registries.toml"),
            docker: directory.path().join("daemon.json"),
            docker_is_named: false,
            certificates: directory.path().join("certs.d"),
            mirrors: Vec::new(),
            insecure: Vec::new(),
        };
        Scratch { directory, places }
    }

    fn endpoints(settings: &Settings, image: &str) -> Vec<String> {
        let found = settings.endpoints_for(&image.parse().unwrap());
        let found = found.iter();
        found
            .map(|e| format!("{}/{}", e.registry, e.repository))
            .collect()
    }

    #[test]
    fn nothing_said_is_nothing_set() {
        let scratch = scratch();
        assert_eq!(scratch.places.read().unwrap(), Settings::default());
        std::fs::write(&scratch.places.docker, " \n").unwrap();
        assert_eq!(scratch.places.read().unwrap(), Settings::default());
    }

    #[test]
    fn both_files_are_read() {
        let scratch = scratch();
        let password = scratch.directory.path().join("password");
        sampan_fs::write_file(&password, b"hunter2\n", sampan_fs::Sync::Volatile).unwrap();
        std::fs::write(
            &scratch.places.registries,
            format!(
                "[[registry]]\nprefix = \"docker.io\"\nmirrors = [\"m1.io/hub\"]\n\
                 [[registry]]\nprefix = \"old.io/a\"\nlocation = \"new.io/b\"\n\
                 [host.\"m1.io\"]\nusername = \"me\"\npassword-file = {password:?}\n\
                 token-services = [\"login.io\"]\n\
                 [host.\"new.io\"]\nplain-http = true\n"
            ),
        )
        .unwrap();
        std::fs::write(
            &scratch.places.docker,
            r#"{"registry-mirrors":["https://m2.io"],"insecure-registries":["r.io:5000","10.0.0.0/8"],"debug":true}"#,
        )
        .unwrap();
        let settings = scratch.places.read().unwrap();
        assert_eq!(
            endpoints(&settings, "busybox"),
            [
                "m1.io/hub/library/busybox",
                "m2.io/library/busybox",
                "docker.io/library/busybox"
            ]
        );
        assert_eq!(endpoints(&settings, "old.io/a/x"), ["new.io/b/x"]);
        assert_eq!(settings.security("new.io"), Security::Plain);
        assert_eq!(settings.security("r.io:5000"), Security::Insecure);
        let host = settings.host("m1.io").unwrap();
        assert_eq!(host.credentials.password, "hunter2");
        assert_eq!(host.token_services, ["login.io"]);
    }

    #[test]
    fn mistakes_are_told_in_one_sentence() {
        let text = |registries: &str, docker: &str, mirrors: &[&str]| {
            let mut scratch = scratch();
            std::fs::write(&scratch.places.registries, registries).unwrap();
            std::fs::write(&scratch.places.docker, docker).unwrap();
            scratch.places.mirrors = mirrors.iter().map(ToString::to_string).collect();
            let error = scratch.places.read().unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
            error
        };
        for (registries, docker, mirrors, part) in [
            ("[[registry]]\n", "{}", &[][..], "missing field `prefix`"),
            ("mirror = 1\n", "{}", &[], "unknown field `mirror`"),
            (
                "[[registry]]\nprefix = \"a b\"\n",
                "{}",
                &[],
                "name of a host",
            ),
            ("[host.\"x.io/y\"]\n", "{}", &[], "is no host"),
            (
                "[host.\"x.io\"]\nusername=\"u\"\n",
                "{}",
                &[],
                "need each other",
            ),
            (
                "[host.\"x.io\"]\nca=[\"/nowhere\"]\n",
                "{}",
                &[],
                "/nowhere",
            ),
            ("", "{", &[], "daemon.json"),
            (
                "",
                r#"{"registry-mirrors":["https://m.io?x"]}"#,
                &[],
                "invalid mirror",
            ),
            (
                "",
                r#"{"insecure-registries":["http://m.io"]}"#,
                &[],
                "should not contain '://'",
            ),
            (
                "",
                r#"{"registry-mirrors":["https://a.io"]}"#,
                &["https://b.io"],
                "both as a flag and in the configuration file",
            ),
        ] {
            let error = text(registries, docker, mirrors);
            assert!(error.contains(part), "{error}");
        }
        let mut scratch = scratch();
        scratch.places.docker_is_named = true;
        assert!(scratch.places.read().unwrap_err().contains("no such file"));
    }

    #[test]
    fn passwords_that_others_can_read_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = scratch();
        let path = scratch.directory.path().join("password");
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(password(&path).unwrap_err().contains("by others"));
    }

    #[test]
    fn certificates_without_their_keys_are_refused() {
        let scratch = scratch();
        let host = scratch.places.certificates.join("r.io:5000");
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("client.cert"), "x").unwrap();
        assert!(
            scratch
                .places
                .read()
                .unwrap_err()
                .starts_with("missing key")
        );
        std::fs::rename(host.join("client.cert"), host.join("client.key")).unwrap();
        let error = scratch.places.read().unwrap_err();
        assert!(error.starts_with("missing client certificate"), "{error}");
        std::fs::remove_file(host.join("client.key")).unwrap();
        std::fs::write(host.join("ca.crt"), "no certificate").unwrap();
        let error = scratch.places.read().unwrap_err();
        assert!(error.contains("r.io:5000"), "{error}");
    }

    #[test]
    fn changes_are_seen_and_a_bad_file_changes_nothing() {
        let scratch = scratch();
        let write = |text: &str| std::fs::write(&scratch.places.registries, text).unwrap();
        let files = Files::open(scratch.places.clone());
        let first = files.current();
        assert!(Arc::ptr_eq(&first, &files.current()));
        write("[[registry]]\nprefix = \"a.io\"\nmirrors = [\"m.io\"]\n");
        let second = files.current();
        assert_eq!(endpoints(&second, "a.io/x"), ["m.io/x", "a.io/x"]);
        write("[[registry]]\nprefix = 7\n");
        assert!(Arc::ptr_eq(&second, &files.current()));
        std::fs::remove_file(&scratch.places.registries).unwrap();
        assert_eq!(*files.current(), Settings::default());
    }

    #[test]
    fn arguments_say_the_same_again() {
        let mut places = scratch().places;
        places.docker_is_named = true;
        places.mirrors = vec!["https://m.io".into()];
        places.insecure = vec!["r.io".into()];
        let arguments = places.arguments();
        assert_eq!(arguments.len(), 10);
    }
}
