use std::fmt::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::command::{free_port, run, until};
use crate::fixtures::Fixture;

/// A registry on 127.0.0.1 with storage of its own: Debian's `docker-registry`, or ours.
#[derive(Debug)]
pub struct Registry {
    directory: TempDir,
    process: Child,
    port: u16,
    login: Option<Login>,
    certificates: Option<Certificates>,
}

/// Certificates of a server that speaks TLS and of a client, in PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that signed all others.
    pub authority: PathBuf,
    /// The server's, for 127.0.0.1.
    pub server: PathBuf,
    /// The server's private key.
    pub server_key: PathBuf,
    /// A client's.
    pub client: PathBuf,
    /// The client's private key.
    pub client_key: PathBuf,
}

/// User and password of a registry.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Registry {
    /// Starts a registry that anybody may use.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None, false)
    }

    /// Starts a registry that wants basic authentication.
    #[must_use]
    pub fn with_login(login: Login) -> Self {
        Self::start_with(Some(login), false)
    }

    /// Starts our own server, `sampan registry serve`, that anybody may use.
    #[must_use]
    pub fn ours(sampan: &str) -> Self {
        let (directory, port) = (scratch(), free_port());
        let mut command = Command::new(sampan);
        command
            .args(["registry", "serve", "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("--root")
            .arg(directory.path().join("data"));
        Self {
            process: serve(command, port),
            directory,
            port,
            login: None,
            certificates: None,
        }
    }

    /// Starts a registry that speaks TLS, by a certificate that no system trusts, with clients
    /// that have one of its authority only.
    #[must_use]
    pub fn with_client_certificates() -> Self {
        Self::start_with(None, true)
    }

    fn start_with(login: Option<Login>, tls: bool) -> Self {
        let (directory, port) = (scratch(), free_port());
        let root = directory.path().display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {root}/data\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n"
        );
        if let Some(login) = &login {
            let line = run("htpasswd", &["-Bbn", &login.user, &login.password]).ok();
            std::fs::write(directory.path().join("users"), line).unwrap();
            write!(
                config,
                "auth:\n  htpasswd:\n    realm: test\n    path: {root}/users\n"
            )
            .unwrap();
        }
        let certificates = tls.then(|| {
            write!(
                config,
                "  tls:\n    certificate: {root}/server.pem\n    key: {root}/server.key\n\
                 \x20   clientcas: [{root}/certs/ca.crt]\n"
            )
            .unwrap();
            Certificates::make(directory.path())
        });
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file);
        Self {
            process: serve(command, port),
            directory,
            port,
            login,
            certificates,
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificates of a registry that speaks TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("it speaks TLS")
    }

    /// Pushes an image under its own name and returns the reference to pull.
    #[must_use]
    pub fn push(&self, fixture: &Fixture) -> String {
        self.push_with(fixture, &[])
    }

    /// Pushes an image with further flags of `skopeo copy`.
    #[must_use]
    pub fn push_with(&self, fixture: &Fixture, flags: &[&str]) -> String {
        self.push_as(fixture, fixture.name(), flags)
    }

    /// Pushes an image to a repository, with further flags of `skopeo copy`.
    #[must_use]
    pub fn push_as(&self, fixture: &Fixture, repository: &str, flags: &[&str]) -> String {
        let reference = format!("{}/{repository}:latest", self.address());
        let credentials = self
            .login
            .as_ref()
            .map(|login| format!("--dest-creds={}:{}", login.user, login.password));
        let mut arguments = vec!["copy", "--quiet", "--dest-tls-verify=false"];
        arguments.extend(credentials.as_deref());
        let directory = format!("--dest-cert-dir={}/certs", self.directory.path().display());
        if self.certificates.is_some() {
            arguments.push(&directory);
        }
        arguments.extend(flags);
        let (source, target) = (fixture.layout(), format!("docker://{reference}"));
        arguments.extend([source.as_str(), &target]);
        let _ = run("skopeo", &arguments).ok();
        reference
    }

    /// Where the registry keeps its blobs.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("sampan-registry-")
        .tempdir()
        .unwrap()
}

/// Starts a server and waits until it answers.
fn serve(mut command: Command, port: u16) -> Child {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the registry answers", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    process
}

impl Certificates {
    /// Makes an authority, the certificate of a server at 127.0.0.1 and a client's below a
    /// directory; those that clients need in `certs`, by the names that they want.
    #[must_use]
    pub fn make(directory: &Path) -> Self {
        std::fs::create_dir(directory.join("certs")).unwrap();
        let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (authority, authority_key) = (file("certs/ca.crt"), file("authority.key"));
        let openssl = |arguments: &[&str]| {
            let fixed =
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -batch";
            let fixed: Vec<&str> = fixed.split(' ').collect();
            let _ = run("openssl", &[&fixed[..], arguments].concat()).ok();
        };
        let subject = ["-subj", "/CN=test authority"];
        openssl(
            &[
                &subject[..],
                &["-keyout", &authority_key, "-out", &authority],
            ]
            .concat(),
        );
        let sign = |key: &str, certificate: &str, extension: &str| {
            openssl(&[
                "-CA",
                &authority,
                "-CAkey",
                &authority_key,
                "-addext",
                extension,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-subj",
                &format!("/CN=test {extension}"),
                "-keyout",
                key,
                "-out",
                certificate,
            ]);
        };
        let (server, server_key) = (file("server.pem"), file("server.key"));
        sign(&server_key, &server, "subjectAltName=IP:127.0.0.1");
        let (client, client_key) = (file("certs/client.cert"), file("certs/client.key"));
        sign(&client_key, &client, "extendedKeyUsage=clientAuth");
        Self {
            authority: authority.into(),
            server: server.into(),
            server_key: server_key.into(),
            client: client.into(),
            client_key: client_key.into(),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
