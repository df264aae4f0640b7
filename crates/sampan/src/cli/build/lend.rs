//! What a build may ask of whoever builds: credentials, secrets, agents, standard input.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, stream};
use sampan_buildkit::session::filesync::auth_server::Auth;
use sampan_buildkit::session::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use sampan_buildkit::session::health::health_check_response::ServingStatus;
use sampan_buildkit::session::health::health_server::Health;
use sampan_buildkit::session::health::{HealthCheckRequest, HealthCheckResponse};
use sampan_buildkit::session::secrets::secrets_server::Secrets;
use sampan_buildkit::session::secrets::{GetSecretRequest, GetSecretResponse};
use sampan_buildkit::session::ssh;
use sampan_buildkit::session::ssh::ssh_server::Ssh;
use sampan_buildkit::session::upload;
use sampan_buildkit::session::upload::upload_server::Upload;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use super::metadata;
use crate::cli::credentials::Login;
use crate::cli::failure::Failure;

/// The longest secret, in bytes.
const LONGEST: u64 = 500 << 10;
/// Bytes that are sent at once.
const PIECE: usize = 64 << 10;

/// A question for credentials: the server's name, and where the answer goes.
pub(super) type Question = (String, oneshot::Sender<Option<Login>>);

/// Knows who somebody is at a registry.
#[derive(Clone)]
pub(super) struct Credentials(pub(super) mpsc::Sender<Question>);

#[tonic::async_trait]
impl Auth for Credentials {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let (answer, answered) = oneshot::channel();
        let gone = |()| Status::unavailable("the build has ended");
        let asked = self.0.send((request.into_inner().host, answer)).await;
        asked.map_err(|_| gone(()))?;
        let login = answered.await.map_err(|_| gone(()))?;
        let mut response = CredentialsResponse::default();
        if let Some(login) = login {
            // Without a name the secret is a token.
            if !login.is_token {
                response.username.clone_from(&login.username);
            }
            response.secret = login.secret.to_string();
        }
        Ok(Response::new(response))
    }

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented(
            "the engine fetches its tokens itself",
        ))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unavailable("there are no token seeds"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unavailable("there are no token seeds"))
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Variable(String),
}

/// The secrets of `--secret`.
#[derive(Clone, Debug, Default)]
pub(super) struct SecretPlaces(Arc<BTreeMap<String, Place>>);

impl SecretPlaces {
    /// Reads `id=NAME[,src=FILE|,env=VARIABLE]`. What is not there is told now.
    pub(super) fn read(texts: &[&str]) -> Result<Self, Failure> {
        let places = texts.iter().map(|text| read_secret(text));
        let places: BTreeMap<_, _> = places.collect::<Result<_, _>>().map_err(Failure::message)?;
        for (id, place) in &places {
            if let Place::File(path) = place {
                let found = std::fs::metadata(path).map_err(|error| {
                    let why = crate::cli::container::describe_io(&error);
                    Failure::message(format!("failed to stat {}: {why}", path.display()))
                })?;
                if found.len() > LONGEST {
                    return Err(Failure::message(format!(
                        "secret {id} is too big, the longest has 500 KiB"
                    )));
                }
            }
        }
        Ok(Self(Arc::new(places)))
    }
}

fn read_secret(text: &str) -> Result<(String, Place), String> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, "");
    for field in text.split(',') {
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match name.to_ascii_lowercase().as_str() {
            "id" => id = Some(value),
            "source" | "src" => file = Some(value),
            "env" => variable = Some(value),
            "type" if matches!(value, "file" | "env") => kind = value,
            "type" => return Err(format!("unsupported secret type {value:?}")),
            _ => return Err(format!("unexpected key '{name}' in '{field}'")),
        }
    }
    if kind == "env" && variable.is_none() {
        variable = file.take();
    }
    let id = id
        .or(file)
        .or(variable)
        .filter(|id| !id.is_empty())
        .ok_or_else(|| format!("a secret needs an id: {text}"))?;
    let place = match (variable, file) {
        (Some(variable), None) => Place::Variable(variable.to_owned()),
        (None, Some(file)) => Place::File(file.into()),
        (None, None) if kind == "env" || std::env::var_os(id).is_some() => {
            Place::Variable(id.to_owned())
        }
        (None, None) => Place::File(id.into()),
        (Some(_), Some(_)) => return Err(format!("a secret is in a file or a variable: {text}")),
    };
    Ok((id.to_owned(), place))
}

#[tonic::async_trait]
impl Secrets for SecretPlaces {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let missing = || Status::not_found(format!("secret {id} not found"));
        let data = match self.0.get(&id).ok_or_else(missing)? {
            Place::Variable(name) => {
                use std::os::unix::ffi::OsStringExt;
                std::env::var_os(name).ok_or_else(missing)?.into_vec()
            }
            Place::File(path) => {
                let failed =
                    |error: io::Error| Status::unknown(format!("{}: {error}", path.display()));
                let mut data = Vec::new();
                let file = std::fs::File::open(path).map_err(failed)?;
                file.take(LONGEST + 1)
                    .read_to_end(&mut data)
                    .map_err(failed)?;
                if data.len() as u64 > LONGEST {
                    return Err(Status::invalid_argument(format!("secret {id} is too big")));
                }
                data
            }
        };
        Ok(Response::new(GetSecretResponse { data }))
    }
}

/// The agents of `--ssh`: sockets by their ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Agents(Arc<BTreeMap<String, PathBuf>>);

impl Agents {
    /// Reads `default|ID[=SOCKET]`.
    pub(super) fn read(texts: &[&str]) -> Result<Self, Failure> {
        let agents = texts.iter().map(|text| {
            let (id, path) = match text.split_once('=') {
                Some((id, path)) => (id, PathBuf::from(path)),
                None => match crate::cli::session::variable("SSH_AUTH_SOCK") {
                    Some(path) => (*text, PathBuf::from(path)),
                    None => {
                        return Err(format!(
                            "invalid empty ssh agent socket: SSH_AUTH_SOCK is not set; start an \
                             agent, or name its socket with --ssh {text}=SOCKET"
                        ));
                    }
                },
            };
            use std::os::unix::fs::FileTypeExt;
            let found = std::fs::metadata(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            match found.file_type().is_socket() {
                true => Ok((id.to_owned(), path)),
                false => Err(format!(
                    "{} is no socket of an agent; load a key into one with ssh-add and give --ssh {id}",
                    path.display()
                )),
            }
        });
        let agents = agents.collect::<Result<_, _>>().map_err(Failure::message)?;
        Ok(Self(Arc::new(agents)))
    }

    fn find(&self, id: &str) -> Result<&PathBuf, Status> {
        let id = if id.is_empty() { "default" } else { id };
        let found = self.0.get(id);
        found.ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

type Bytes<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Ssh for Agents {
    type ForwardAgentStream = Bytes<ssh::BytesMessage>;

    async fn check_agent(
        &self,
        request: Request<ssh::CheckAgentRequest>,
    ) -> Result<Response<ssh::CheckAgentResponse>, Status> {
        self.find(&request.into_inner().id)?;
        Ok(Response::new(ssh::CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<ssh::BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = metadata(request.metadata(), "buildkit.ssh.id").pop();
        let path = self.find(&id.unwrap_or_default())?;
        let agent = UnixStream::connect(path).await?;
        let (read, mut write) = agent.into_split();
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                if write.write_all(&message.data).await.is_err() {
                    break;
                }
            }
        });
        let answers = stream::unfold(read, async |mut read| {
            let mut data = vec![0; PIECE];
            let length = read
                .read(&mut data)
                .await
                .ok()
                .filter(|length| *length > 0)?;
            data.truncate(length);
            Some((Ok(ssh::BytesMessage { data }), read))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// What is read once and sent as it is.
#[derive(Clone, Default)]
pub(super) struct Input(Arc<Mutex<Option<Box<dyn Read + Send>>>>);

impl Input {
    pub(super) fn new(input: Option<Box<dyn Read + Send>>) -> Self {
        Self(Arc::new(Mutex::new(input)))
    }
}

#[tonic::async_trait]
impl Upload for Input {
    type PullStream = Bytes<upload::BytesMessage>;

    async fn pull(
        &self,
        _: Request<Streaming<upload::BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let input = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut input = input.ok_or_else(|| Status::not_found("there is nothing to upload"))?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut data = vec![0; PIECE];
                let message = match input.read(&mut data) {
                    Ok(0) => return,
                    Ok(length) => {
                        data.truncate(length);
                        Ok(upload::BytesMessage { data })
                    }
                    Err(error) => Err(Status::unknown(error.to_string())),
                };
                if sender.blocking_send(message).is_err() {
                    return;
                }
            }
        });
        let messages = stream::unfold(receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// What the flags lend.
#[derive(Clone, Debug)]
pub(super) struct Lent {
    pub(super) secrets: SecretPlaces,
    pub(super) agents: Agents,
}

impl Lent {
    /// Reads the values of `--secret` and `--ssh`.
    pub(super) fn read(secrets: &[&str], agents: &[&str]) -> Result<Self, Failure> {
        Ok(Self {
            secrets: SecretPlaces::read(secrets)?,
            agents: Agents::read(agents)?,
        })
    }
}

/// Says that somebody is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alive;

#[tonic::async_trait]
impl Health for Alive {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_in_files_and_variables() {
        let file = |id: &str, path: &str| Ok((id.to_owned(), Place::File(path.into())));
        let variable = |id: &str, name: &str| Ok((id.to_owned(), Place::Variable(name.to_owned())));
        assert_eq!(read_secret("id=a,src=/x"), file("a", "/x"));
        assert_eq!(read_secret("src=/x,id=a,type=file"), file("a", "/x"));
        assert_eq!(read_secret("id=a,env=B"), variable("a", "B"));
        assert_eq!(read_secret("type=env,id=a,src=B"), variable("a", "B"));
        assert_eq!(read_secret("id=PATH"), variable("PATH", "PATH"));
        assert_eq!(read_secret("id=not-set"), file("not-set", "not-set"));
        for wrong in ["", "id", "type=x,id=a", "color=red", "id=a,src=b,env=c"] {
            assert!(read_secret(wrong).is_err(), "{wrong}");
        }
    }
}
