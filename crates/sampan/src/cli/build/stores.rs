//! Directories with blobs that the engine may read and write: caches, and images as OCI layouts.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use sampan_buildkit::control::CacheOptionsEntry;
use sampan_buildkit::session::content::content_server::Content;
use sampan_buildkit::session::content::{
    Info, InfoRequest, InfoResponse, ReadContentRequest, ReadContentResponse, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use sampan_oci::digest::Hasher;
use sampan_oci::manifest::MAX_MANIFEST;
use sampan_oci::{Descriptor, Digest, Index, MediaType};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::metadata;
use super::session::random;
use crate::cli::container::describe_io;
use crate::cli::failure::Failure;

/// Bytes that are sent at once.
const PIECE: usize = 1 << 20;
/// The annotation of an index that names a manifest (OCI image specification, `annotations.md`).
const TAG: &str = "org.opencontainers.image.ref.name";
/// What containerd and BuildKit name images by.
const NAME: &str = "io.containerd.image.name";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The directories by the names that the engine has for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Stores {
    places: BTreeMap<String, PathBuf>,
    /// Where caches are made, and the tags that they get there.
    made: Vec<(PathBuf, String)>,
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::message(format!("{}: {}", path.display(), describe_io(error)))
}

impl Stores {
    /// Offers the directory that a cache is to be made in.
    pub(super) fn export(&mut self, entry: &CacheOptionsEntry) -> Result<(), Failure> {
        if entry.r#type != "local" {
            return Ok(());
        }
        let attribute = |name: &str| entry.attrs.get(name).map(String::as_str);
        let path = attribute("dest").filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| Failure::message("local cache exporter requires dest"))?;
        if attribute("reset").is_some() {
            return Err(Failure::message(
                "reset is not supported: remove the directory before the build",
            ));
        }
        let tag = attribute("tag").unwrap_or("latest").to_owned();
        let directory = PathBuf::from(path);
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, &error))?;
        self.places
            .insert(format!("local:{path}"), directory.clone());
        self.made.push((directory, tag));
        Ok(())
    }

    /// Offers the directory that a cache is in, and finds its digest. False where there is no
    /// cache yet, which is told.
    pub(super) fn import(&mut self, entry: &mut CacheOptionsEntry) -> Result<bool, Failure> {
        if entry.r#type != "local" {
            return Ok(true);
        }
        let attribute = |name: &str| entry.attrs.get(name).cloned().unwrap_or_default();
        let path = attribute("src");
        if path.is_empty() {
            return Err(Failure::message("local cache importer requires src"));
        }
        let directory = PathBuf::from(&path);
        if attribute("digest").is_empty() {
            let tag = entry.attrs.get("tag").map_or("latest", String::as_str);
            match find(&directory, tag) {
                Ok(Some(digest)) => {
                    let digest = digest.to_string();
                    entry.attrs.insert("digest".to_owned(), digest);
                }
                Ok(None) => {
                    eprintln!(
                        "WARNING: local cache import at {path} skipped: no digest found for tag {tag}"
                    );
                    return Ok(false);
                }
                Err(error) => {
                    eprintln!(
                        "WARNING: local cache import at {path} skipped due to err: {}",
                        describe_io(&error)
                    );
                    return Ok(false);
                }
            }
        }
        self.places.insert(format!("local:{path}"), directory);
        Ok(true)
    }

    /// Offers an image: `PATH[:TAG][@DIGEST]`. Answers what the engine finds it by.
    pub(super) fn image(&mut self, text: &str) -> Result<String, Failure> {
        let (place, digest) = match text.split_once('@') {
            Some((place, digest)) => (place, Some(digest)),
            None => (text, None),
        };
        let (path, tag) = place.split_once(':').unwrap_or((place, "latest"));
        let directory = PathBuf::from(path);
        let digest = match digest {
            Some(digest) => digest
                .parse::<Digest>()
                .map_err(|error| Failure::message(format!("invalid digest {digest}: {error}")))?,
            None => find(&directory, tag)
                .map_err(|error| failed(&directory, &error))?
                .ok_or_else(|| {
                    Failure::message(format!(
                        "oci-layout reference \"{place}\" could not be resolved: no manifest for tag {tag}"
                    ))
                })?,
        };
        let name = random();
        self.places.insert(format!("oci:{name}"), directory);
        Ok(format!("oci-layout://{name}@{digest}"))
    }

    /// Notes in the directories what was made there.
    pub(super) fn finish(&self, response: &HashMap<String, String>) -> Result<(), Failure> {
        let Some(manifest) = response.get("cache.manifest") else {
            return Ok(());
        };
        let manifest: Descriptor = serde_json::from_str(manifest)
            .map_err(|error| Failure::message(format!("what describes the cache: {error}")))?;
        for (directory, tag) in &self.made {
            name(directory, &manifest, tag).map_err(|error| failed(directory, &error))?;
        }
        Ok(())
    }

    /// What the engine may call.
    pub(super) fn service(&self) -> Service {
        Service(Arc::new(self.places.clone()))
    }
}

fn read_index(directory: &Path) -> io::Result<Index> {
    let mut bytes = Vec::new();
    let file = File::open(directory.join("index.json"))?;
    file.take(MAX_MANIFEST).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Finds what a tag means in a layout.
fn find(directory: &Path, tag: &str) -> io::Result<Option<Digest>> {
    let index = read_index(directory)?;
    let named = |annotation: &str| {
        let mut manifests = index.manifests.iter();
        manifests
            .find(|manifest| manifest.annotations.get(annotation).map(String::as_str) == Some(tag))
    };
    let found = named(NAME).or_else(|| named(TAG));
    Ok(found.map(|manifest| manifest.digest))
}

/// Gives a manifest a tag in a layout, which another one loses.
fn name(directory: &Path, manifest: &Descriptor, tag: &str) -> io::Result<()> {
    let mut index = match read_index(directory) {
        Ok(index) => index,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Index {
            schema_version: 2,
            media_type: MediaType::OciIndex,
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        },
        Err(error) => return Err(error),
    };
    let is_other = |known: &Descriptor| {
        known.annotations.get(TAG).map(String::as_str) != Some(tag)
            || known.annotations.contains_key(NAME)
    };
    index.manifests.retain(is_other);
    let mut named = manifest.clone();
    named.annotations.insert(TAG.to_owned(), tag.to_owned());
    index.manifests.push(named);
    replace(&directory.join("oci-layout"), LAYOUT)?;
    replace(&directory.join("index.json"), &serde_json::to_vec(&index)?)
}

/// Writes a file that nobody sees half of.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_file_name(format!(".{}", random()));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // What is left is nobody's.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Answers the engine.
#[derive(Clone, Debug)]
pub(super) struct Service(Arc<BTreeMap<String, PathBuf>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// The directory that a call is about.
    fn place(&self, fields: &MetadataMap) -> Result<&PathBuf, Status> {
        let names = metadata(fields, "buildkit-attachable-store-id");
        let name = names.into_iter().next().unwrap_or_default();
        let place = self.0.get(&name);
        place.ok_or_else(|| Status::not_found(format!("unknown store {name}")))
    }
}

fn read_digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("invalid digest {text}: {error}")))
}

fn path_of(place: &Path, digest: &Digest) -> PathBuf {
    place.join("blobs/sha256").join(digest.hex())
}

fn status(what: &dyn std::fmt::Display, error: &io::Error) -> Status {
    let message = format!("{what}: {}", describe_io(error));
    match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(message),
        _ => Status::unknown(message),
    }
}

#[tonic::async_trait]
impl Content for Service {
    type ReadStream = Answers<ReadContentResponse>;
    type WriteStream = Answers<WriteContentResponse>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let place = self.place(request.metadata())?;
        let digest = read_digest(&request.get_ref().digest)?;
        let found = fs::metadata(path_of(place, &digest));
        let found = found.map_err(|error| status(&digest, &error))?;
        let info = Info {
            digest: digest.to_string(),
            size: i64::try_from(found.len()).unwrap_or(i64::MAX),
            ..Info::default()
        };
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let place = self.place(request.metadata())?;
        let ReadContentRequest {
            digest,
            offset,
            size,
        } = request.get_ref();
        let digest = read_digest(digest)?;
        let failed = move |error: io::Error| status(&digest, &error);
        let mut file = File::open(path_of(place, &digest)).map_err(failed)?;
        let mut offset = u64::try_from(*offset).unwrap_or(0);
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut file = match u64::try_from(*size) {
            Ok(size) if size > 0 => file.take(size),
            _ => file.take(u64::MAX),
        };
        let (sender, receiver) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut data = Vec::new();
                let read = file.by_ref().take(PIECE as u64).read_to_end(&mut data);
                let length = data.len() as u64;
                let message = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(ReadContentResponse {
                        offset: i64::try_from(offset).unwrap_or(i64::MAX),
                        data: data.into(),
                    }),
                    Err(error) => Err(failed(error)),
                };
                offset += length;
                // Whoever reads may have enough.
                if sender.blocking_send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(follow(receiver)))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let place = self.place(request.metadata())?.clone();
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut writing = None;
            loop {
                let message = match messages.message().await {
                    Ok(Some(message)) => message,
                    Ok(None) | Err(_) => return,
                };
                let answer = match &mut writing {
                    None => Writing::begin(&place, &message)
                        .map(|begun| writing.insert(begun))
                        .and_then(|writing| writing.take(&message)),
                    Some(writing) => writing.take(&message),
                };
                let ended =
                    !matches!(&answer, Ok(answer) if answer.action() != WriteAction::Commit);
                if sender.send(answer).await.is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(follow(receiver)))
    }
}

fn follow<T: Send + 'static>(receiver: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    }))
}

/// A blob that is being written. Dropped before it is committed, it leaves nothing.
struct Writing {
    file: File,
    partial: PathBuf,
    place: PathBuf,
    hasher: Hasher,
    written: u64,
}

impl Writing {
    fn begin(place: &Path, first: &WriteContentRequest) -> Result<Self, Status> {
        let expected = read_digest(&first.expected)?;
        if path_of(place, &expected).exists() {
            return Err(Status::already_exists(format!(
                "content {expected} already exists"
            )));
        }
        let failed = |error: io::Error| status(&place.display(), &error);
        let directory = place.join("blobs/sha256");
        fs::create_dir_all(&directory).map_err(failed)?;
        let partial = directory.join(format!(".{}", random()));
        let file = File::create_new(&partial).map_err(failed)?;
        Ok(Self {
            file,
            partial,
            place: place.to_path_buf(),
            hasher: Hasher::new(),
            written: 0,
        })
    }

    fn take(&mut self, message: &WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let failed = |error: io::Error| status(&self.place.display(), &error);
        if !message.data.is_empty() {
            if u64::try_from(message.offset) != Ok(self.written) {
                return Err(Status::out_of_range(format!(
                    "write at {} but {} bytes are there",
                    message.offset, self.written
                )));
            }
            self.file.write_all(&message.data).map_err(failed)?;
            self.hasher.update(&message.data);
            self.written += message.data.len() as u64;
        }
        let mut digest = String::new();
        if message.action() == WriteAction::Commit {
            let expected = read_digest(&message.expected)?;
            let actual = std::mem::take(&mut self.hasher).finish();
            let size = i64::try_from(self.written).unwrap_or(i64::MAX);
            if actual != expected || (message.total > 0 && message.total != size) {
                return Err(Status::failed_precondition(format!(
                    "{size} bytes came as {expected} but are {actual}"
                )));
            }
            fs::rename(&self.partial, path_of(&self.place, &expected)).map_err(failed)?;
            digest = actual.to_string();
        }
        Ok(WriteContentResponse {
            action: message.action,
            offset: i64::try_from(self.written).unwrap_or(i64::MAX),
            total: message.total,
            digest,
            ..WriteContentResponse::default()
        })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // It has another name if it was committed.
        let _ = fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: WriteAction, offset: i64, data: &[u8]) -> WriteContentRequest {
        WriteContentRequest {
            action: action.into(),
            expected: Digest::of(b"text").to_string(),
            offset,
            data: data.to_vec().into(),
            ..WriteContentRequest::default()
        }
    }

    #[test]
    fn a_blob_is_there_when_it_is_what_its_digest_says() {
        let place = tempfile::tempdir().unwrap();
        let begin = || Writing::begin(place.path(), &request(WriteAction::Stat, 0, b"")).unwrap();
        let files = || {
            fs::read_dir(place.path().join("blobs/sha256"))
                .unwrap()
                .count()
        };
        let mut wrong = begin();
        wrong.take(&request(WriteAction::Write, 0, b"te")).unwrap();
        assert!(wrong.take(&request(WriteAction::Write, 9, b"x")).is_err());
        assert!(wrong.take(&request(WriteAction::Commit, 2, b"")).is_err());
        drop(wrong);
        assert_eq!(files(), 0);
        let mut right = begin();
        right.take(&request(WriteAction::Write, 0, b"te")).unwrap();
        let told = right.take(&request(WriteAction::Commit, 2, b"xt")).unwrap();
        assert_eq!(
            (told.offset, told.digest),
            (4, Digest::of(b"text").to_string())
        );
        drop(right);
        let path = path_of(place.path(), &Digest::of(b"text"));
        assert_eq!((fs::read(path).unwrap(), files()), (b"text".to_vec(), 1));
        assert!(Writing::begin(place.path(), &request(WriteAction::Stat, 0, b"")).is_err());
    }

    #[test]
    fn a_tag_goes_from_one_manifest_to_another() {
        let place = tempfile::tempdir().unwrap();
        let manifest = |text: &[u8]| Descriptor::of(MediaType::OciManifest, text);
        assert!(find(place.path(), "a").is_err());
        for (text, tag) in [(b"1", "a"), (b"2", "b"), (b"3", "a")] {
            name(place.path(), &manifest(text), tag).unwrap();
        }
        let found = |tag| find(place.path(), tag).unwrap();
        assert_eq!(found("a"), Some(Digest::of(b"3")));
        assert_eq!(found("b"), Some(Digest::of(b"2")));
        assert_eq!(found("c"), None);
        assert_eq!(read_index(place.path()).unwrap().manifests.len(), 2);
        assert_eq!(fs::read(place.path().join("oci-layout")).unwrap(), LAYOUT);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }
}
