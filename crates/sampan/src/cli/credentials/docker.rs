//! Docker's `config.json` and its credential helpers.
//!
//! A helper is a program `docker-credential-NAME` with a verb as its argument; everything secret
//! goes through its standard input and output.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_fs::Sync;
use zeroize::Zeroizing;

use super::{Error, Login, server_key};
use crate::cli::format::data::Data;

/// The user by which helpers mark a token.
const TOKEN_USER: &str = "<token>";
/// What helpers say when they have nothing.
const NOT_FOUND: &str = "credentials not found";

/// A `config.json`, its fields in their order.
pub(super) struct DockerConfig {
    path: PathBuf,
    data: Data,
}

impl DockerConfig {
    /// Reads the file in a directory; one that is not there says nothing.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("config.json");
        let bad = |reason: String| Error::File {
            file: path.display().to_string(),
            reason,
        };
        let mut config = match std::fs::read(&path) {
            Ok(json) => Self::parse(&json).map_err(bad)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self {
                path: PathBuf::new(),
                data: Data::Object(Vec::new()),
            },
            Err(error) => return Err(bad(error.to_string())),
        };
        config.path = path;
        Ok(config)
    }

    /// Reads the same from the value of a variable.
    pub(super) fn from_variable(name: &str, value: &str) -> Result<Self, Error> {
        let config = Self::parse(value.as_bytes()).map_err(|reason| Error::File {
            file: name.to_owned(),
            reason,
        })?;
        Ok(Self {
            path: name.into(),
            ..config
        })
    }

    fn parse(json: &[u8]) -> Result<Self, String> {
        if json.trim_ascii().is_empty() {
            return Ok(Self {
                path: PathBuf::new(),
                data: Data::Object(Vec::new()),
            });
        }
        // The parser's own words could repeat what is secret.
        let Ok(data @ Data::Object(_)) = Data::parse(json) else {
            return Err("it is no JSON object".to_owned());
        };
        for name in ["auths", "credHelpers"] {
            if !matches!(data.get(name), None | Some(Data::Object(_) | Data::Nil(_))) {
                return Err(format!("its {name} is no JSON object"));
            }
        }
        Ok(Self {
            path: PathBuf::new(),
            data,
        })
    }

    /// Who keeps the credentials of a server; none when nobody is configured.
    pub(super) fn helper(&self, server: &str) -> Option<Helper> {
        let helpers = self.data.get("credHelpers").map(Data::fields);
        let own = helpers
            .unwrap_or_default()
            .iter()
            .find(|(name, _)| name == server || (server_key(name) == server && !name.is_empty()));
        let name = match own {
            Some((_, name)) => name.as_text()?,
            None => self.data.text_at("credsStore"),
        };
        let is_name = !name.is_empty() && !name.contains('/');
        is_name.then(|| Helper {
            name: name.to_owned(),
        })
    }

    /// What the file itself has for a server.
    pub(super) fn login(&self, server: &str) -> Result<Option<Login>, Error> {
        let all = self.data.get("auths").map(Data::fields).unwrap_or_default();
        let entry = all
            .iter()
            .find(|(name, _)| name == server)
            .or_else(|| all.iter().find(|(name, _)| server_key(name) == server));
        let Some((name, entry)) = entry else {
            return Ok(None);
        };
        let field = |name: &str| entry.get(name).and_then(Data::as_text).unwrap_or("");
        let token = field("identitytoken");
        if !token.is_empty() {
            return Ok(Some(Login {
                username: String::new(),
                secret: Zeroizing::new(token.to_owned()),
                is_token: true,
            }));
        }
        let (username, password) = match field("auth") {
            "" => (field("username").to_owned(), field("password").to_owned()),
            auth => decode(auth).ok_or_else(|| Error::File {
                file: self.path.display().to_string(),
                reason: format!("the auth of {name:?} is no user name and password in base64"),
            })?,
        };
        Ok((!username.is_empty()).then_some(Login {
            username,
            secret: Zeroizing::new(password),
            is_token: false,
        }))
    }

    /// Notes that a helper has credentials for a server, as Docker does.
    pub(super) fn note(&mut self, server: &str) {
        let auths = self.auths();
        auths.retain(|(name, _)| name != server);
        auths.push((server.to_owned(), Data::Object(Vec::new())));
        auths.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Drops what the file has for a server. Returns whether there was something.
    pub(super) fn forget(&mut self, server: &str) -> bool {
        if self.data.get("auths").is_none() {
            return false;
        }
        let auths = self.auths();
        let before = auths.len();
        auths.retain(|(name, _)| name != server && server_key(name) != server);
        auths.len() != before
    }

    fn auths(&mut self) -> &mut Vec<(String, Data)> {
        if !matches!(self.data, Data::Object(_)) {
            self.data = Data::Object(Vec::new());
        }
        let Data::Object(fields) = &mut self.data else {
            unreachable!("it was just made one");
        };
        let at = match fields.iter().position(|(name, _)| name == "auths") {
            Some(at) => at,
            None => {
                fields.insert(0, ("auths".to_owned(), Data::Object(Vec::new())));
                0
            }
        };
        if !matches!(fields[at].1, Data::Object(_)) {
            fields[at].1 = Data::Object(Vec::new());
        }
        match &mut fields[at].1 {
            Data::Object(auths) => auths,
            _ => unreachable!("it was just made one"),
        }
    }

    /// Writes the file back, laid out as Docker does. A link stays one.
    pub(super) fn write(&self) -> Result<(), Error> {
        let mut json = Vec::new();
        let layout = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, layout);
        serde::Serialize::serialize(&self.data, &mut serializer)
            .map_err(|error| Error::io("write config.json")(error.into()))?;
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(directory) = path.parent() {
            sampan_fs::create_dir_all(directory, 0o700)?;
        }
        sampan_fs::write_file(&path, &json, Sync::Durable)?;
        Ok(())
    }
}

/// Takes the base64 of `user:password` apart. Some writers end it with NUL bytes.
fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = Zeroizing::new(STANDARD.decode(auth).ok()?);
    let (user, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// A program that keeps credentials.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Helper {
    name: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: Zeroizing<String>,
}

impl Helper {
    /// What it has for a server.
    pub(super) fn get(&self, server: &str) -> Result<Option<Login>, Error> {
        let answer = match self.ask("get", server.as_bytes()) {
            Ok(answer) => answer,
            Err(Error::Helper { reason, .. }) if reason.contains(NOT_FOUND) => return Ok(None),
            Err(error) => return Err(error),
        };
        let message: Message = serde_json::from_slice(&answer)
            .map_err(|_| self.failed("its answer is no credentials".to_owned()))?;
        if message.username.is_empty() && message.secret.is_empty() {
            return Ok(None);
        }
        let is_token = message.username == TOKEN_USER;
        Ok(Some(Login {
            username: match is_token {
                true => String::new(),
                false => message.username,
            },
            secret: message.secret,
            is_token,
        }))
    }

    /// Gives it something to keep.
    pub(super) fn store(&self, server: &str, login: &Login) -> Result<(), Error> {
        let message = Message {
            server_url: server.to_owned(),
            username: match login.is_token {
                true => TOKEN_USER.to_owned(),
                false => login.username.clone(),
            },
            secret: login.secret.clone(),
        };
        let json = serde_json::to_vec(&message)
            .map(Zeroizing::new)
            .map_err(|error| self.failed(error.to_string()))?;
        self.ask("store", &json).map(drop)
    }

    /// Makes it forget a server.
    pub(super) fn erase(&self, server: &str) -> Result<(), Error> {
        match self.ask("erase", server.as_bytes()) {
            Err(Error::Helper { reason, .. }) if reason.contains(NOT_FOUND) => Ok(()),
            other => other.map(drop),
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::Helper {
            name: self.name.clone(),
            reason,
        }
    }

    fn ask(&self, verb: &str, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut child = Command::new(format!("docker-credential-{}", self.name))
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read says why in its own words.
            let _ = stdin.write_all(input);
        }
        let output = child
            .wait_with_output()
            .map_err(|error| self.failed(error.to_string()))?;
        if output.status.success() {
            return Ok(Zeroizing::new(output.stdout));
        }
        // Helpers report on standard output; a success may hold a secret there, a failure not.
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let more = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let reason = [text, more].into_iter().filter(|text| !text.is_empty());
        let reason = reason.collect::<Vec<_>>().join(": ");
        Err(self.failed(match reason.as_str() {
            "" => output.status.to_string(),
            _ => reason,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::HUB;
    use super::*;

    fn config(json: &str) -> DockerConfig {
        DockerConfig::parse(json.as_bytes()).unwrap()
    }

    fn found(config: &DockerConfig, server: &str) -> Option<(String, String, bool)> {
        let login = config.login(server).unwrap()?;
        Some((login.username, login.secret.to_string(), login.is_token))
    }

    #[test]
    fn what_docker_wrote_is_read() {
        let config = config(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"},
                "https://r.io/v1/":{"auth":"YTpiOmM="},
                "token.io":{"auth":"bWU6","identitytoken":"t"},
                "plain.io:5000":{"username":"u","password":"p"},
                "helper.io":{}
            }}"#,
        );
        let login = |user: &str, secret: &str, is_token| {
            Some((user.to_owned(), secret.to_owned(), is_token))
        };
        assert_eq!(found(&config, HUB), login("me", "secret", false));
        assert_eq!(found(&config, "r.io"), login("a", "b:c", false));
        assert_eq!(found(&config, "token.io"), login("", "t", true));
        assert_eq!(found(&config, "plain.io:5000"), login("u", "p", false));
        assert_eq!(found(&config, "plain.io"), None);
        assert_eq!(found(&config, "helper.io"), None);
    }

    #[test]
    fn helpers_are_chosen_as_by_docker() {
        let config = config(
            r#"{"credsStore":"all","credHelpers":{"gcr.io":"gcr","index.docker.io":"hub","bad.io":"../x"}}"#,
        );
        let name = |server: &str| config.helper(server).map(|helper| helper.name);
        assert_eq!(name("gcr.io").unwrap(), "gcr");
        assert_eq!(name(HUB).unwrap(), "hub");
        assert_eq!(name("other.io").unwrap(), "all");
        assert_eq!(name("bad.io"), None);
        assert_eq!(config_without().helper("x.io"), None);
    }

    fn config_without() -> DockerConfig {
        config("{}")
    }

    #[test]
    fn other_fields_keep_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(
            &path,
            r#"{"psFormat":"x","auths":{"b.io":{"auth":"eDp5"},"a.io":{"auth":"eDp5"}},"currentContext":"y"}"#,
        )
        .unwrap();
        let mut config = DockerConfig::open(directory.path()).unwrap();
        config.note("c.io");
        assert!(config.forget("b.io"));
        assert!(!config.forget("b.io"));
        config.write().unwrap();
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            "{\n\t\"psFormat\": \"x\",\n\t\"auths\": {\n\t\t\"a.io\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t},\n\t\t\"c.io\": {}\n\t},\n\t\"currentContext\": \"y\"\n}"
        );
    }

    #[test]
    fn a_broken_file_is_refused_without_its_content() {
        for text in [
            "[]",
            r#"{"auths":{"x":{"auth":"c2VjcmV0"#,
            r#"{"auths":["c2VjcmV0"]}"#,
            r#"{"credHelpers":"c2VjcmV0"}"#,
        ] {
            let error = DockerConfig::parse(text.as_bytes()).err().unwrap();
            assert!(!error.contains("c2Vjc"), "{error}");
        }
        assert!(DockerConfig::parse(b" \n").is_ok());
        assert!(DockerConfig::parse(br#"{"auths":null}"#).is_ok());
        for auth in ["c2VjcmV0", "?c2Vj"] {
            let json = format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#);
            let error = config(&json).login("r.io").unwrap_err().to_string();
            assert!(error.contains("the auth of \"r.io\""), "{error}");
            assert!(!error.contains("c2Vj"), "{error}");
            assert_eq!(found(&config(&json), "other.io"), None);
        }
    }
}
