//! Sessions: what a client that builds offers for it, each a connection on which the engine calls
//! the client.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Uri};
use sampan_buildkit::MAX_MESSAGE;
use sampan_buildkit::session::files::Packet;
use sampan_buildkit::session::filesync::auth_client::AuthClient;
use sampan_buildkit::session::filesync::file_sync_client::FileSyncClient;
use sampan_buildkit::session::filesync::{BytesMessage, CredentialsRequest};
use sampan_buildkit::session::health::HealthCheckRequest;
use sampan_buildkit::session::health::health_client::HealthClient;
use sampan_buildkit::session::secrets::GetSecretRequest;
use sampan_buildkit::session::secrets::secrets_client::SecretsClient;
use sampan_buildkit::session::ssh;
use sampan_buildkit::session::ssh::ssh_client::SshClient;
use sampan_buildkit::session::upload;
use sampan_buildkit::session::upload::upload_client::UploadClient;
use sampan_buildkit::transport::Channel;
use sampan_images::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status, Streaming};

use super::switch::switch;
use crate::hijack::RawConnection;

/// How long a build waits for its client's session.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a short call to be answered.
const SHORT: Duration = Duration::from_secs(60);
/// How often, and how long, a client is asked whether it is there; it is gone when it has not
/// answered so many times.
const CHECK: Duration = Duration::from_secs(5);
const CHECK_PATIENCE: Duration = Duration::from_secs(15);
const MISSED: u32 = 2;
/// Packets of one transfer that wait to be sent.
const WAITING: usize = 64;
/// Bytes that are forwarded at once.
const PIECE: usize = 32 << 10;
/// Sessions at once.
const MOST: usize = 1024;

/// All sessions, by their ids. A cheap clone.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: Mutex<HashMap<String, Arc<Session>>>,
    changed: Notify,
}

/// A client that can be called.
#[derive(Debug)]
pub(crate) struct Session {
    /// Names the directory of the context over several builds; may be empty.
    pub(crate) shared_key: String,
    methods: HashSet<String>,
    channel: Channel,
    gone: CancellationToken,
}

/// What a client says of its session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    id: String,
    shared_key: String,
    methods: HashSet<String>,
}

impl Hello {
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| {
            let value = headers.get(format!("x-docker-expose-session-{name}"))?;
            Some(value.to_str().ok()?.to_owned())
        };
        let methods = headers.get_all("x-docker-expose-session-grpc-method");
        let methods = methods.iter().filter_map(|value| value.to_str().ok());
        Some(Self {
            id: text("uuid").filter(|id| !id.is_empty())?,
            shared_key: text("sharedkey").unwrap_or_default(),
            methods: methods.map(str::to_ascii_lowercase).collect(),
        })
    }
}

impl Sessions {
    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a session of this name can be opened.
    pub(crate) fn refusal(&self, hello: &Hello) -> Option<String> {
        let open = self.open();
        match open.contains_key(&hello.id) {
            true => Some(format!("session {} already exists", hello.id)),
            false if open.len() >= MOST => Some("too many sessions are open".to_owned()),
            false => None,
        }
    }

    /// Keeps a session to its end.
    pub(crate) async fn keep(&self, hello: Hello, raw: RawConnection) {
        match switch(raw) {
            Ok(io) => self.run(hello, io).await,
            Err(error) => tracing::debug!(%error, "a session could not be opened"),
        }
    }

    async fn run(
        &self,
        hello: Hello,
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) {
        let gone = CancellationToken::new();
        let channel = match Channel::open(io, gone.clone()).await {
            Ok(channel) => channel,
            Err(error) => {
                tracing::debug!(%error, "a session could not be opened");
                return;
            }
        };
        let session = Arc::new(Session {
            shared_key: hello.shared_key,
            methods: hello.methods,
            channel,
            gone: gone.clone(),
        });
        {
            let mut open = self.open();
            if open.contains_key(&hello.id) || open.len() >= MOST {
                gone.cancel();
                return;
            }
            open.insert(hello.id.clone(), Arc::clone(&session));
        }
        self.0.changed.notify_waiters();
        // Also when this future is dropped.
        let _entry = Entry {
            sessions: self,
            id: hello.id,
            gone: &gone,
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = session.check() => tracing::debug!("a client of a session does not answer"),
        }
    }

    /// Finds a session, which may be about to be opened.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        let found = async {
            loop {
                let changed = self.0.changed.notified();
                let mut changed = std::pin::pin!(changed);
                // Before the look, so that a change after it is not missed.
                changed.as_mut().enable();
                if let Some(session) = self.open().get(id) {
                    return Arc::clone(session);
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.map_err(|_| Status::not_found(format!("no active session for {id}")))
    }
}

struct Entry<'a> {
    sessions: &'a Sessions,
    id: String,
    gone: &'a CancellationToken,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.gone.cancel();
        self.sessions.open().remove(&self.id);
    }
}

pub(super) fn origin() -> Uri {
    Uri::from_static("http://session")
}

/// A transfer of files: packets to the client, and those that come from it.
pub(crate) struct Transfer {
    pub(crate) to_client: mpsc::Sender<Packet>,
    pub(crate) from_client: Streaming<Packet>,
}

/// Which files of a directory are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// These and what they link to; all when there is none.
    pub(crate) paths: Vec<String>,
    /// Lines as of a `.dockerignore`.
    pub(crate) excluded: Vec<String>,
}

impl Session {
    /// Whether the client has left.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether the client offers a method.
    pub(crate) fn offers(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// Fails where the client does not offer a method; `what` names it to a person.
    pub(super) fn needs(&self, method: &str, what: &str) -> Result<(), Status> {
        match self.offers(method) {
            true => Ok(()),
            false => Err(Status::unimplemented(format!(
                "the client of this build offers no {what}"
            ))),
        }
    }

    /// Returns when the client does not answer any more.
    async fn check(&self) {
        if !self.offers("/grpc.health.v1.Health/Check") {
            return std::future::pending().await;
        }
        let mut client = HealthClient::with_origin(self.channel.clone(), origin());
        let mut missed = 0;
        while missed < MISSED {
            tokio::time::sleep(CHECK).await;
            let call = client.check(HealthCheckRequest::default());
            missed = match tokio::time::timeout(CHECK_PATIENCE, call).await {
                Ok(Ok(_)) => 0,
                _ => missed + 1,
            };
        }
    }

    async fn short<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        match tokio::time::timeout(SHORT, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("the client does not answer")),
        }
    }

    /// Begins to take files of a directory that the client offers by this name.
    pub(crate) async fn files(&self, name: &str, wish: &Wish) -> Result<Transfer, Status> {
        self.needs("/moby.filesync.v1.FileSync/DiffCopy", "files")?;
        let (to_client, packets) = mpsc::channel(WAITING);
        let mut request = Request::new(stream(packets));
        let metadata = request.metadata_mut();
        put(metadata, "dir-name", &[name.to_owned()])?;
        put(metadata, "followpaths", &wish.paths)?;
        put(metadata, "exclude-patterns", &wish.excluded)?;
        let mut client = FileSyncClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MAX_MESSAGE);
        let from_client = client.diff_copy(request).await?.into_inner();
        Ok(Transfer {
            to_client,
            from_client,
        })
    }

    /// Begins to take what the client reads from its standard input.
    pub(crate) async fn upload(
        &self,
        path: &str,
    ) -> Result<Streaming<upload::BytesMessage>, Status> {
        self.needs("/moby.upload.v1.Upload/Pull", "uploads")?;
        let mut request = Request::new(futures_util::stream::pending());
        put(request.metadata_mut(), "urlpath", &[path.to_owned()])?;
        let mut client = UploadClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MAX_MESSAGE);
        Ok(client.pull(request).await?.into_inner())
    }

    /// Who the client is at a registry; nobody where it does not say.
    pub(crate) async fn credentials(&self, registry: &str) -> Credentials {
        if !self.offers("/moby.filesync.v1.Auth/Credentials") {
            return Credentials::default();
        }
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let mut client = AuthClient::with_origin(self.channel.clone(), origin());
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        match self.short(client.credentials(request)).await {
            // Without a name the secret is a token.
            Ok(answer) if answer.username.is_empty() => Credentials {
                identity_token: answer.secret,
                ..Credentials::default()
            },
            Ok(answer) => Credentials {
                username: answer.username,
                password: answer.secret,
                ..Credentials::default()
            },
            Err(error) => {
                tracing::debug!(%error, registry, "no credentials from the client");
                Credentials::default()
            }
        }
    }

    /// The value of a secret; none where the client has no such secret.
    pub(crate) async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Status> {
        if !self.offers("/moby.buildkit.secrets.v1.Secrets/GetSecret") {
            return Ok(None);
        }
        let mut client = SecretsClient::with_origin(self.channel.clone(), origin());
        let request = GetSecretRequest {
            id: id.to_owned(),
            ..GetSecretRequest::default()
        };
        match self.short(client.get_secret(request)).await {
            Ok(answer) => Ok(Some(answer.data)),
            Err(error) if error.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new connection to an SSH agent; none where the client has no such agent.
    pub(crate) async fn agent(&self, id: &str) -> Result<Option<StdStream>, Status> {
        if !self.offers("/moby.sshforward.v1.SSH/ForwardAgent") {
            return Ok(None);
        }
        let mut client = SshClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MAX_MESSAGE);
        let request = ssh::CheckAgentRequest { id: id.to_owned() };
        if let Err(error) = self.short(client.check_agent(request)).await {
            tracing::debug!(%error, id, "the client has no such agent");
            return Ok(None);
        }
        let failed = |error: io::Error| Status::internal(format!("forward an agent: {error}"));
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let ours = UnixStream::from_std(ours).map_err(failed)?;
        let (mut read, mut write) = ours.into_split();
        let (messages, receiver) = mpsc::channel(WAITING);
        let mut request = Request::new(stream(receiver));
        put(request.metadata_mut(), "buildkit.ssh.id", &[id.to_owned()])?;
        let to_agent = async move {
            let mut piece = vec![0; PIECE];
            while let Ok(length) = read.read(&mut piece).await {
                let data = piece[..length].to_vec();
                if length == 0 || messages.send(ssh::BytesMessage { data }).await.is_err() {
                    break;
                }
            }
        };
        let from_agent = async move {
            let mut answers = client.forward_agent(request).await?.into_inner();
            while let Some(message) = answers.message().await? {
                if write.write_all(&message.data).await.is_err() {
                    break;
                }
            }
            Ok::<_, Status>(())
        };
        let gone = self.gone.clone();
        tokio::spawn(async move {
            let both = async { tokio::join!(to_agent, from_agent) };
            tokio::select! {
                (_, Err(error)) = both => tracing::debug!(%error, "an agent's connection broke off"),
                () = gone.cancelled() => {}
                else => {}
            }
        });
        Ok(Some(theirs))
    }

    /// Sends bytes to the client as the outcome number `exporter` of a build.
    pub(crate) async fn send_file(
        &self,
        exporter: usize,
        about: &[(String, String)],
        bytes: mpsc::Receiver<BytesMessage>,
    ) -> Result<(), Status> {
        let request = self.outcome(exporter, about, bytes)?;
        let codec = tonic_prost::ProstCodec::<BytesMessage, BytesMessage>::default();
        let mut answer = self.call_send(request, codec).await?;
        while answer.message().await?.is_some() {}
        Ok(())
    }

    /// Begins to send files to a directory of the client as the outcome number `exporter`. The
    /// client says nothing before it has heard of some, so these go first.
    pub(crate) async fn send_files(
        &self,
        exporter: usize,
        first: Vec<Packet>,
    ) -> Result<Transfer, Status> {
        let (to_client, packets) = mpsc::channel(WAITING);
        let feed = to_client.clone();
        tokio::spawn(async move {
            for packet in first {
                if feed.send(packet).await.is_err() {
                    return;
                }
            }
        });
        let request = self.outcome(exporter, &[], packets)?;
        let codec = tonic_prost::ProstCodec::<Packet, Packet>::default();
        let from_client = self.call_send(request, codec).await?;
        Ok(Transfer {
            to_client,
            from_client,
        })
    }

    fn outcome<T: Send + 'static>(
        &self,
        exporter: usize,
        about: &[(String, String)],
        messages: mpsc::Receiver<T>,
    ) -> Result<Request<impl futures_util::Stream<Item = T> + Send + 'static + use<T>>, Status>
    {
        self.needs("/moby.filesync.v1.FileSend/DiffCopy", "place for outcomes")?;
        let mut request = Request::new(stream(messages));
        let metadata = request.metadata_mut();
        put(
            metadata,
            "buildkit-attachable-exporter-id",
            &[exporter.to_string()],
        )?;
        for (name, value) in about {
            let name = format!("exporter-md-{name}");
            put(metadata, &name, std::slice::from_ref(value))?;
        }
        Ok(request)
    }

    /// One method takes bytes or packets, by what the client expects of the outcome.
    async fn call_send<T, S>(
        &self,
        request: Request<S>,
        codec: tonic_prost::ProstCodec<T, T>,
    ) -> Result<Streaming<T>, Status>
    where
        T: prost::Message + Default + Send + 'static,
        S: futures_util::Stream<Item = T> + Send + 'static,
    {
        let mut client = tonic::client::Grpc::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MAX_MESSAGE);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(format!("the client has left: {error}")))?;
        let path = http::uri::PathAndQuery::from_static("/moby.filesync.v1.FileSend/DiffCopy");
        let answer = client.streaming(request, path, codec).await?;
        Ok(answer.into_inner())
    }
}

pub(super) fn stream<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    })
}

/// Adds values; those that are no ASCII are escaped as in a query, and marked so.
fn put(metadata: &mut MetadataMap, name: &str, values: &[String]) -> Result<(), Status> {
    let wrong = || Status::invalid_argument(format!("{name} cannot be sent to the client"));
    let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    let plain = |value: &String| value.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    let escaped = !values.iter().all(plain);
    for value in values {
        let value = match escaped {
            true => query_escape(value),
            false => value.clone(),
        };
        let value: AsciiMetadataValue = value.parse().map_err(|_| wrong())?;
        metadata.append(key.clone(), value);
    }
    if escaped {
        let mark = format!("{name}-encoded");
        let mark = AsciiMetadataKey::from_bytes(mark.as_bytes()).map_err(|_| wrong())?;
        metadata.append(mark, AsciiMetadataValue::from_static("1"));
    }
    Ok(())
}

fn query_escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_says_what_it_offers() {
        let mut headers = HeaderMap::new();
        assert_eq!(Hello::read(&headers), None);
        for (name, value) in [
            ("x-docker-expose-session-uuid", "id"),
            ("x-docker-expose-session-sharedkey", "key"),
            ("x-docker-expose-session-grpc-method", "/A/One"),
            ("x-docker-expose-session-grpc-method", "/a/two"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let hello = Hello::read(&headers).unwrap();
        assert_eq!(
            (hello.id.as_str(), hello.shared_key.as_str()),
            ("id", "key")
        );
        assert!(hello.methods.contains("/a/one") && hello.methods.contains("/a/two"));
    }

    #[test]
    fn what_is_no_ascii_is_escaped_and_marked() {
        let mut metadata = MetadataMap::new();
        put(&mut metadata, "plain", &["a b".to_owned()]).unwrap();
        put(
            &mut metadata,
            "other",
            &["a b".to_owned(), "ä\n".to_owned()],
        )
        .unwrap();
        let all = |name| {
            let values = metadata.get_all(name).iter();
            let values = values.map(|value| value.to_str().unwrap().to_owned());
            values.collect::<Vec<_>>()
        };
        assert_eq!(all("plain"), ["a b"]);
        assert!(all("plain-encoded").is_empty());
        assert_eq!(all("other"), ["a+b", "%C3%A4%0A"]);
        assert_eq!(all("other-encoded"), ["1"]);
    }
}
