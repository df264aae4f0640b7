//! A registry in this process, and a client that sends what it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sampan_oci::Digest;
use sampan_registry::auth::Authentication;
use sampan_registry::storage::{Files, Storage};
use sampan_registry::{
    AuditLog, Certificate, Limits, Parts, Registry, Service, Settings, Upstream,
};
use tokio_util::sync::CancellationToken;

/// How a test's registry differs from the usual one.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) authentication: Option<Authentication>,
    pub(crate) audit: Option<AuditLog>,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) upstreams: Vec<Upstream>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            limits: Limits {
                drain: Duration::from_secs(1),
                ..Limits::default()
            },
            authentication: None,
            audit: None,
            certificate: None,
            upstreams: Vec::new(),
        }
    }
}

/// A registry that answers on a port of its own until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
    directory: Option<tempfile::TempDir>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self::at(directory.path(), setup);
        server.directory = Some(directory);
        server
    }

    pub(crate) fn at(root: &Path, setup: Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Files::open(root).unwrap());
        let registry = runtime
            .block_on(Registry::open(storage, setup.settings))
            .unwrap();
        let parts = Parts {
            limits: setup.limits,
            authentication: setup.authentication,
            audit: setup.audit,
            certificate: setup.certificate,
            upstreams: setup.upstreams,
            ..Parts::default()
        };
        let service = Service::new(registry.clone(), parts);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = sampan_registry::serve(listener, service, stop.clone());
        runtime.spawn(serving);
        Self {
            address,
            registry,
            stop,
            runtime: Some(runtime),
            directory: None,
        }
    }

    /// Stops it and starts another one on the same store.
    pub(crate) fn restart(mut self) -> Self {
        let directory = self.directory.take().unwrap();
        drop(self);
        let mut server = Self::at(directory.path(), Setup::default());
        server.directory = Some(directory);
        server
    }

    /// Bytes of blobs in the store.
    pub(crate) fn stored(&self) -> u64 {
        self.registry.totals().bytes
    }

    pub(crate) fn connect(&self) -> Connection {
        let socket = TcpStream::connect(self.address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Connection {
            socket,
            early: Vec::new(),
        }
    }

    /// Sends one request on a connection of its own.
    #[track_caller]
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.connect().send(method, path, headers, body)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// Uploads a blob in one request.
    #[track_caller]
    pub(crate) fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.send("POST", &path, &[], bytes).expect(201);
        digest
    }

    /// Pushes an image of a configuration and one layer.
    #[track_caller]
    pub(crate) fn push_image(&self, repository: &str, tag: &str, layer: &[u8]) -> Digest {
        let config = self.push_blob(repository, b"{}");
        let digest = self.push_blob(repository, layer);
        let manifest = manifest(&[(config, 2)], &[(digest, layer.len())], "");
        self.push_manifest(repository, tag, &manifest)
    }

    #[track_caller]
    pub(crate) fn push_manifest(&self, repository: &str, reference: &str, bytes: &str) -> Digest {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send(
            "PUT",
            &path,
            &[("Content-Type", MANIFEST)],
            bytes.as_bytes(),
        )
        .expect(201);
        Digest::of(bytes.as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.registry.close());
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Writes a manifest; `more` are further members, each with a comma in front.
pub(crate) fn manifest(
    config: &[(Digest, usize)],
    layers: &[(Digest, usize)],
    more: &str,
) -> String {
    let descriptor = |kind: &str, (digest, size): &(Digest, usize)| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#
        )
    };
    let config = descriptor("config.v1+json", &config[0]);
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| descriptor("layer.v1.tar+gzip", layer))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{}]{more}}}"#,
        layers.join(",")
    )
}

/// A client's connection.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    early: Vec<u8>,
}

impl Connection {
    #[track_caller]
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: registry\r\n");
        let lengthless = headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        });
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !lengthless && (!body.is_empty() || !matches!(method, "GET" | "HEAD" | "DELETE")) {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.raw(request.as_bytes());
        // A server that has refused already need not read the rest.
        let _ = self.socket.write_all(body);
        self.answer(method == "HEAD")
    }

    #[track_caller]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.early.extend_from_slice(&buffer[..length]);
                true
            }
            Err(error) => panic!("no answer: {error}"),
        }
    }

    #[track_caller]
    pub(crate) fn answer(&mut self, headless: bool) -> Answer {
        let end = loop {
            if let Some(end) = self.early.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(self.fill(), "the connection was closed");
        };
        let head = String::from_utf8(self.early.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let status: u16 = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        if status == 100 {
            return self.answer(headless);
        }
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        if headless || status == 204 || status == 304 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            while !self.early.ends_with(b"0\r\n\r\n") {
                assert!(self.fill(), "the body broke off");
            }
            let mut rest = std::mem::take(&mut self.early);
            loop {
                let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
                let size = std::str::from_utf8(&rest[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                if size == 0 {
                    return answer;
                }
                answer
                    .body
                    .extend_from_slice(&rest[line + 2..line + 2 + size]);
                rest.drain(..line + 4 + size);
            }
        }
        let length: usize = answer
            .header("content-length")
            .unwrap_or("0")
            .parse()
            .unwrap();
        while self.early.len() < length {
            assert!(self.fill(), "the body broke off");
        }
        answer.body = self.early.drain(..length).collect();
        answer
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?} {}", self.text());
        self
    }

    /// Checks an error's status and code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.json()["errors"][0]["code"], code);
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}
