//! The two connections of a build: on one the engine is called, on the other it calls back.

use std::io::Read as _;

use http::{HeaderName, Method, Uri};
use sampan_api::Client;
use sampan_buildkit::MAX_MESSAGE;
use sampan_buildkit::control::control_client::ControlClient;
use sampan_buildkit::session::content::content_server::ContentServer;
use sampan_buildkit::session::filesync::auth_server::AuthServer;
use sampan_buildkit::session::filesync::file_sync_server::FileSyncServer;
use sampan_buildkit::session::health::health_server::HealthServer;
use sampan_buildkit::session::secrets::secrets_server::SecretsServer;
use sampan_buildkit::session::ssh::ssh_server::SshServer;
use sampan_buildkit::session::upload::upload_server::UploadServer;
use sampan_buildkit::transport::{self, Channel};
use sampan_text::with_causes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::files::Directories;
use super::lend::{Alive, Credentials, Input, Lent, Question};
use super::outputs::{Output, Receiver};
use super::stores::Service;
use crate::cli::credentials::{self, Login};
use crate::cli::failure::Failure;
use crate::cli::session::Session;

/// Calls that the engine may make.
const METHODS: [&str; 11] = [
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
    "/moby.upload.v1.Upload/Pull",
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Write",
    "/grpc.health.v1.Health/Check",
];

/// What the engine is served with.
pub(super) struct Offered {
    pub(super) shared_key: String,
    pub(super) directories: Directories,
    pub(super) stores: Service,
    pub(super) input: Input,
    pub(super) outputs: Vec<Output>,
    pub(super) lent: Lent,
}

/// A client of the engine's builder.
pub(crate) type Builder = ControlClient<Channel>;

/// A name that nothing else has.
pub(super) fn random() -> String {
    let mut bytes = [0; 16];
    let filled =
        std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if filled.is_err() {
        bytes = sampan_oci::Digest::of(format!("{:?}", std::time::Instant::now()).as_bytes())
            .hex()
            .as_bytes()[..16]
            .try_into()
            .unwrap_or(bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens both connections; also answers where the engine's questions for credentials come.
pub(super) async fn open(
    client: &Client,
    id: &str,
    offered: Offered,
) -> Result<(Builder, mpsc::Receiver<Question>), Failure> {
    let header = HeaderName::from_static;
    let mut request = client
        .request(Method::POST, "/session")
        .header(header("x-docker-expose-session-uuid"), id)
        .header(header("x-docker-expose-session-name"), "sampan")
        .header(
            header("x-docker-expose-session-sharedkey"),
            offered.shared_key,
        );
    for method in METHODS {
        request = request.header(header("x-docker-expose-session-grpc-method"), method);
    }
    let (session, builder) = tokio::try_join!(request.upgrade("h2c"), async {
        client.request(Method::POST, "/grpc").upgrade("h2c").await
    })?;
    let (sender, questions) = mpsc::channel(1);
    let stores = ContentServer::new(offered.stores).max_decoding_message_size(MAX_MESSAGE);
    let services = Routes::new(FileSyncServer::new(offered.directories))
        .add_service(Receiver::new(&offered.outputs))
        .add_service(AuthServer::new(Credentials(sender)))
        .add_service(SecretsServer::new(offered.lent.secrets))
        .add_service(SshServer::new(offered.lent.agents))
        .add_service(UploadServer::new(offered.input))
        .add_service(stores)
        .add_service(HealthServer::new(Alive));
    let serving = transport::serve(session.into_stream(), services, CancellationToken::new());
    tokio::spawn(serving);
    Ok((channel(builder.into_stream()).await?, questions))
}

/// Opens the connection alone on which the engine is called.
pub(super) async fn builder(client: &Client) -> Result<Builder, Failure> {
    let request = client.request(Method::POST, "/grpc");
    channel(request.upgrade("h2c").await?.into_stream()).await
}

async fn channel(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Result<Builder, Failure> {
    let channel = Channel::open(io, CancellationToken::new()).await;
    let channel = channel
        .map_err(|error| Failure::message(format!("call the engine: {}", with_causes(&error))))?;
    Ok(
        ControlClient::with_origin(channel, Uri::from_static("http://engine"))
            .max_decoding_message_size(MAX_MESSAGE),
    )
}

/// Who the person is at a registry. What stands in the way is told; the build goes on without.
pub(super) fn credentials(session: &Session, server: &str) -> Option<Login> {
    let found = credentials::lookup(session, &credentials::server_key(server));
    found.unwrap_or_else(|error| {
        eprintln!("WARNING: {}", with_causes(&error));
        None
    })
}
