//! Stores of blobs that a client offers: directories with caches or images, by containerd's
//! content service.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use sampan_buildkit::MAX_MESSAGE;
use sampan_buildkit::session::content::content_client::ContentClient;
use sampan_buildkit::session::content::{
    InfoRequest, ReadContentRequest, ReadContentResponse, WriteAction, WriteContentRequest,
};
use sampan_engine::BlobStore;
use sampan_oci::{Descriptor, Digest};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};

use super::session::{Session, origin, stream};

/// Names the store in the metadata of each call.
const STORE: &str = "buildkit-attachable-store-id";
/// Bytes that are sent at once.
const PIECE: usize = 1 << 20;

/// A store of a client, for code that blocks.
pub(super) struct ClientStore {
    session: Arc<Session>,
    name: AsciiMetadataValue,
    runtime: Handle,
    cancel: CancellationToken,
}

impl ClientStore {
    /// The store of this name, which the client has for a cache in a directory.
    pub(super) fn of_directory(
        session: &Arc<Session>,
        directory: &str,
        cancel: &CancellationToken,
    ) -> Result<Arc<dyn BlobStore>, Status> {
        Self::open(session, &format!("local:{directory}"), cancel)
    }

    /// The store of this name, which the client has for an image.
    pub(super) fn of_image(
        session: &Arc<Session>,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<Arc<dyn BlobStore>, Status> {
        Self::open(session, &format!("oci:{name}"), cancel)
    }

    fn open(
        session: &Arc<Session>,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<Arc<dyn BlobStore>, Status> {
        session.needs(
            "/containerd.services.content.v1.Content/Info",
            "stores of blobs",
        )?;
        let name = name.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "{name} cannot be named to the client: use a path of ASCII characters"
            ))
        })?;
        Ok(Arc::new(Self {
            session: Arc::clone(session),
            name,
            runtime: Handle::current(),
            cancel: cancel.clone(),
        }))
    }

    fn client(&self) -> ContentClient<sampan_buildkit::transport::Channel> {
        ContentClient::with_origin(self.session.channel(), origin())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(STORE, self.name.clone());
        request
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        wait(&self.runtime, &self.session, &self.cancel, call)
    }

    /// Sends a blob piece by piece; each is answered before the next one goes.
    fn send(&self, blob: &Descriptor, bytes: &mut dyn Read) -> Result<(), Status> {
        let unreadable = |error: io::Error| Status::internal(format!("read the blob: {error}"));
        let (messages, receiver) = mpsc::channel(1);
        let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
        let message = |action: WriteAction, offset: i64, data: Bytes| WriteContentRequest {
            action: action.into(),
            r#ref: format!("sampan-{}", blob.digest),
            total,
            expected: blob.digest.to_string(),
            offset,
            data,
            ..WriteContentRequest::default()
        };
        let gone = || Status::unavailable("the client ended the transfer");
        // Asked first, so that there is an answer to wait for.
        let first = message(WriteAction::Stat, 0, Bytes::new());
        messages.try_send(first).map_err(|_| gone())?;
        let mut client = self.client();
        let request = self.request(stream(receiver));
        let mut answers = self.wait(client.write(request))?.into_inner();
        let begun = self.wait(answers.message())?.ok_or_else(gone)?.offset;
        // What is left of an earlier attempt need not be sent again.
        let skip = u64::try_from(begun).unwrap_or(0).min(blob.size);
        io::copy(&mut (&mut *bytes).take(skip), &mut io::sink()).map_err(unreadable)?;
        let mut offset = skip;
        loop {
            let mut piece = Vec::new();
            (&mut *bytes)
                .take(PIECE as u64)
                .read_to_end(&mut piece)
                .map_err(unreadable)?;
            offset += piece.len() as u64;
            let action = match piece.is_empty() {
                true => WriteAction::Commit,
                false => WriteAction::Write,
            };
            let at = i64::try_from(offset - piece.len() as u64).unwrap_or(i64::MAX);
            let sent = messages.send(message(action, at, piece.into()));
            let answered = self.wait(async {
                // The client's reason is in its answer.
                let _ = sent.await;
                answers.message().await
            })?;
            if answered.is_none() {
                return Err(gone());
            }
            if action == WriteAction::Commit {
                return Ok(());
            }
        }
    }
}

fn wait<T>(
    runtime: &Handle,
    session: &Session,
    cancel: &CancellationToken,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    runtime.block_on(async {
        tokio::select! {
            answer = call => answer,
            () = cancel.cancelled() => Err(Status::cancelled("context canceled")),
            () = session.gone() => Err(Status::cancelled("the client has left")),
        }
    })
}

fn told(status: &Status) -> io::Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, status.message().to_owned())
}

impl BlobStore for ClientStore {
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let request = self.request(InfoRequest {
            digest: digest.to_string(),
        });
        let mut client = self.client();
        match self.wait(client.info(request)) {
            Ok(answer) => {
                let info = answer.into_inner().info.unwrap_or_default();
                Ok(u64::try_from(info.size).ok())
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(told(&status)),
        }
    }

    fn read(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let request = self.request(ReadContentRequest {
            digest: digest.to_string(),
            ..ReadContentRequest::default()
        });
        let mut client = self.client();
        let answers = self.wait(client.read(request));
        Ok(Box::new(Pieces {
            answers: answers.map_err(|status| told(&status))?.into_inner(),
            session: Arc::clone(&self.session),
            runtime: self.runtime.clone(),
            cancel: self.cancel.clone(),
            piece: Bytes::new(),
        }))
    }

    fn write(&self, blob: &Descriptor, bytes: &mut dyn Read) -> io::Result<()> {
        match self.send(blob, bytes) {
            // Somebody else has put it there meanwhile.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(told(&status)),
            Ok(()) => Ok(()),
        }
    }
}

/// A blob on its way from the client.
struct Pieces {
    answers: Streaming<ReadContentResponse>,
    session: Arc<Session>,
    runtime: Handle,
    cancel: CancellationToken,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let message = self.answers.message();
            let message = wait(&self.runtime, &self.session, &self.cancel, message);
            match message.map_err(|status| told(&status))? {
                Some(message) => self.piece = message.data,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
