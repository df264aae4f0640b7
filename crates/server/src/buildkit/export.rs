//! From what was built to where it is wanted.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use base64::Engine as _;
use sampan_buildkit::gateway::ReadFileRequest;
use sampan_buildkit::go_mode::{self, Kind};
use sampan_buildkit::session::files::packet::PacketType;
use sampan_buildkit::session::files::{Packet, Stat};
use sampan_buildkit::session::filesync::BytesMessage;
use sampan_engine::building::{Built, Output, OutputEntry, OutputKind};
use sampan_images::{Progress as PushProgress, ProgressSink, PushOptions};
use sampan_oci::{Descriptor, ImageConfig, Reference};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;

use super::BuildKit;
use super::caches::{CachePlace, CacheTarget};
use super::frontend::{blocking, logins, status};
use super::jobs::Job;
use super::options::Exporter;
use super::progress::Doing;
use super::session::{Session, Transfer};
use super::stores::ClientStore;

/// Bytes sent at once.
const PIECE: usize = 1 << 20;
/// Bytes of a file in one packet.
const PACKET: usize = 32 << 10;
/// The longest file that is read for a client.
const LONGEST: u64 = 16 << 20;

type Told = HashMap<String, String>;

/// Makes one output; answers what clients are told of it.
pub(super) async fn export(
    kit: &BuildKit,
    job: &Job,
    index: usize,
    exporter: &Exporter,
    built: &Arc<Built>,
) -> Result<Told, Status> {
    match exporter {
        Exporter::Image { names, push, store } => {
            let doing = job.progress.begin("exporting to image");
            let wish = ImageWish {
                names: references(names)?,
                push: *push,
                store: *store,
            };
            let done = image(kit, job, &doing, wish, built).await;
            doing.end(done)
        }
        Exporter::Archive { names } => {
            let doing = job.progress.begin("exporting to an archive of the image");
            let done = archive(kit, job, index, references(names)?, built).await;
            doing.end(done)
        }
        Exporter::Tar => {
            let doing = job.progress.begin("exporting to a tar of the files");
            let done = tar(kit, job, index, built).await;
            doing.end(done)
        }
        Exporter::Directory => {
            let doing = job.progress.begin("exporting to client directory");
            let done = directory(kit, job, index, &doing, built).await;
            doing.end(done)
        }
    }
}

/// Makes a cache for other builders where it is wanted by itself; answers what clients are told.
pub(super) async fn cache(
    kit: &BuildKit,
    job: &Job,
    built: &Arc<Built>,
    target: &CacheTarget,
) -> Result<Told, Status> {
    let CacheTarget::Alone {
        place,
        mode,
        packing,
        ..
    } = target
    else {
        return Ok(Told::new());
    };
    let name = match place {
        CachePlace::Registry(_) => "exporting cache to registry",
        CachePlace::Directory(_) => "exporting cache to client directory",
    };
    let doing = Arc::new(job.progress.begin(name));
    let send = async {
        let session = kit.sessions.find(&job.session).await?;
        let builds = kit.engine.builds();
        let built = Arc::clone(built);
        let made = match place {
            CachePlace::Registry(reference) => {
                let logins = logins(&session);
                builds
                    .export_cache(built, *mode, *packing, reference.clone(), logins)
                    .await
            }
            CachePlace::Directory(directory) => {
                let store = ClientStore::of_directory(&session, directory, &job.cancel)?;
                let told = Arc::clone(&doing);
                let told = move |blob: &Descriptor| {
                    told.at(&format!("writing {}", blob.digest), blob.size, true);
                };
                builds
                    .store_cache(built, *mode, *packing, store, told)
                    .await
            }
        };
        let manifest = made.map_err(|error| status(&error))?;
        doing.at(
            &format!("writing cache manifest {}", manifest.digest),
            0,
            true,
        );
        let json = serde_json::to_string(&manifest).expect("descriptors are always valid JSON");
        Ok(Told::from([("cache.manifest".to_owned(), json)]))
    };
    let sent = send.await;
    doing.end(sent)
}

fn references(names: &[String]) -> Result<Vec<Reference>, Status> {
    let read = |name: &String| match name.parse::<Reference>() {
        Ok(name) if name.digest().is_none() => Ok(name.or_latest()),
        Ok(_) => Err(Status::invalid_argument(
            "build tag cannot contain a digest",
        )),
        Err(error) => Err(Status::invalid_argument(format!(
            "failed to parse {name}: {error}"
        ))),
    };
    names.iter().map(read).collect()
}

fn joined(names: &[Reference]) -> String {
    let names: Vec<String> = names.iter().map(Reference::to_string).collect();
    names.join(",")
}

struct ImageWish {
    names: Vec<Reference>,
    push: bool,
    store: bool,
}

async fn image(
    kit: &BuildKit,
    job: &Job,
    doing: &Doing,
    wish: ImageWish,
    built: &Arc<Built>,
) -> Result<Told, Status> {
    let ImageWish { names, push, store } = wish;
    if push && names.is_empty() {
        return Err(Status::invalid_argument(
            "tag is needed when pushing to registry",
        ));
    }
    if !store {
        let what = match push {
            true => "pushing an image without keeping it (store=false) is not supported",
            false => return Ok(Told::new()),
        };
        return Err(Status::unimplemented(what));
    }
    doing.at("exporting layers", 0, true);
    let mut named = Built::clone(built);
    named.image.names.clone_from(&names);
    let builds = kit.engine.builds();
    let image = blocking(move || builds.keep(&named).map_err(|error| status(&error))).await?;
    doing.at(&format!("writing image {}", image.id), 0, true);
    for name in &names {
        doing.at(&format!("naming to {name}"), 0, true);
    }
    let id = image.id.to_string();
    let mut told = Told::from([
        ("containerimage.config.digest".to_owned(), id.clone()),
        ("containerimage.digest".to_owned(), id),
    ]);
    if !names.is_empty() {
        told.insert("image.name".to_owned(), joined(&names));
    }
    if push {
        let session = kit.sessions.find(&job.session).await?;
        for name in &names {
            doing.at(&format!("pushing {name}"), 0, false);
            let manifest = push_one(kit, &session, name).await?;
            doing.at(&format!("pushing {name}"), 0, true);
            if let Some((digest, size)) = manifest {
                told.insert("containerimage.digest".to_owned(), digest.clone());
                let descriptor = serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest,
                    "size": size,
                });
                insert_descriptor(&mut told, &descriptor);
            }
        }
    }
    Ok(told)
}

fn insert_descriptor(told: &mut Told, descriptor: &impl serde::Serialize) {
    let json = serde_json::to_vec(descriptor).expect("descriptors are always valid JSON");
    let text = base64::engine::general_purpose::STANDARD.encode(json);
    told.insert("containerimage.descriptor".to_owned(), text);
}

/// Pushes one name; answers the manifest's digest and size.
async fn push_one(
    kit: &BuildKit,
    session: &Session,
    name: &Reference,
) -> Result<Option<(String, u64)>, Status> {
    let options = PushOptions {
        credentials: session.credentials(name.registry()).await,
        ..PushOptions::default()
    };
    let (sink, mut news) = ProgressSink::channel();
    let (kit, name) = (kit.clone(), name.clone());
    let runtime = Handle::current();
    // Its future stays on one thread.
    let pushed = blocking(move || {
        let images = kit.engine.images();
        let pushed = runtime.block_on(images.push(&name, &options, &sink));
        pushed.map_err(|error| status(&error))
    });
    pushed.await?;
    let mut manifest = None;
    while let Ok(progress) = news.try_recv() {
        if let PushProgress::Pushed { digest, size, .. } = progress {
            manifest = Some((digest.to_string(), size));
        }
    }
    Ok(manifest)
}

/// Bytes that code which blocks writes, for the client.
struct Pieces {
    messages: mpsc::Sender<BytesMessage>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.piece);
        let sent = self.messages.blocking_send(BytesMessage { data });
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left"))
    }
}

async fn send(
    session: &Session,
    index: usize,
    about: &Told,
    write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
) -> Result<(), Status> {
    let (messages, receiver) = mpsc::channel(4);
    let about: Vec<(String, String)> = about.clone().into_iter().collect();
    let written = blocking(move || {
        let mut pieces = Pieces {
            messages,
            piece: Vec::new(),
        };
        let written = write(&mut pieces).and_then(|()| pieces.flush());
        written.map_err(|error| Status::unknown(format!("write the output: {error}")))
    });
    let (sent, written) = tokio::join!(session.send_file(index, &about, receiver), written);
    // The client's reason comes first: without it the writing fails, too.
    sent?;
    written
}

async fn archive(
    kit: &BuildKit,
    job: &Job,
    index: usize,
    names: Vec<Reference>,
    built: &Arc<Built>,
) -> Result<Told, Status> {
    let session = kit.sessions.find(&job.session).await?;
    let store = kit.engine.images().store().clone();
    let mut new = built.image.clone();
    new.names.clone_from(&names);
    let config = ImageConfig::id(&new.config).to_string();
    let saved = blocking(move || {
        let saved = store.save_new(&new);
        saved.map_err(|error| Status::internal(error.to_string()))
    })
    .await?;
    let mut told = Told::from([("containerimage.config.digest".to_owned(), config)]);
    if let Some(descriptor) = saved.descriptor() {
        let descriptor = Descriptor::clone(descriptor);
        told.insert(
            "containerimage.digest".to_owned(),
            descriptor.digest.to_string(),
        );
        insert_descriptor(&mut told, &descriptor);
    }
    if !names.is_empty() {
        told.insert("image.name".to_owned(), joined(&names));
    }
    // The layers are held by what was built, which stays until everything is sent.
    let held = Arc::clone(built);
    let write = move |out: &mut Pieces| {
        let written = saved.write(out);
        drop(held);
        written
    };
    send(&session, index, &told, write).await?;
    Ok(told)
}

impl BuildKit {
    /// The files of what was built, for code that blocks.
    async fn output(&self, built: Arc<Built>) -> Result<Output, Status> {
        let store = self.engine.images().store().clone();
        blocking(move || {
            let output = Output::mount(&store, &built.layers);
            output.map_err(|error| Status::internal(error.to_string()))
        })
        .await
    }

    async fn entries(&self, built: Arc<Built>) -> Result<(Output, Vec<OutputEntry>), Status> {
        let output = self.output(built).await?;
        blocking(move || {
            let entries = output.entries();
            let entries = entries.map_err(|error| Status::internal(error.to_string()))?;
            Ok((output, entries))
        })
        .await
    }

    /// Reads a file of a result.
    pub(super) async fn read_file(
        &self,
        built: Arc<Built>,
        request: ReadFileRequest,
    ) -> Result<Vec<u8>, Status> {
        let output = self.output(built).await?;
        blocking(move || {
            let path = request.file_path.trim_start_matches('/');
            let missing = |error: String| Status::not_found(format!("open {path}: {error}"));
            let file = output.open(path.as_bytes());
            let file = file.map_err(|error| missing(error.to_string()))?;
            let range = request.range.unwrap_or_default();
            let length = match u64::try_from(range.length) {
                Ok(length) if length > 0 => length.min(LONGEST),
                _ => LONGEST,
            };
            let skip = u64::try_from(range.offset).unwrap_or(0);
            let mut bytes = Vec::new();
            let mut file = io::BufReader::new(file);
            io::copy(&mut file.by_ref().take(skip), &mut io::sink())
                .and_then(|_| file.take(length).read_to_end(&mut bytes))
                .map_err(|error| missing(error.to_string()))?;
            Ok(bytes)
        })
        .await
    }

    /// What is in a directory of a result.
    pub(super) async fn read_directory(
        &self,
        built: Arc<Built>,
        path: String,
    ) -> Result<Vec<Stat>, Status> {
        let (_, entries) = self.entries(built).await?;
        let path = path.trim_matches('/');
        let prefix = match path {
            "" | "." => String::new(),
            path => format!("{path}/"),
        };
        let inside = |entry: &OutputEntry| -> Option<Stat> {
            let name = entry.path.strip_prefix(prefix.as_bytes())?;
            let direct = !name.is_empty() && !name.contains(&b'/');
            direct.then(|| describe(entry, name)).flatten()
        };
        Ok(entries.iter().filter_map(inside).collect())
    }

    /// What one path of a result is.
    pub(super) async fn stat(&self, built: Arc<Built>, path: String) -> Result<Stat, Status> {
        let (_, entries) = self.entries(built).await?;
        let wanted = path.trim_matches('/');
        if matches!(wanted, "" | ".") {
            return Ok(Stat {
                path,
                mode: go_mode::to_go(Kind::Directory, 0o755),
                ..Stat::default()
            });
        }
        let found = entries.iter().find(|entry| entry.path == wanted.as_bytes());
        let found = found.and_then(|entry| describe(entry, &entry.path));
        found.ok_or_else(|| Status::not_found(format!("stat {path}: no such file or directory")))
    }

    /// The digest and configuration of an image that is here, or is pulled by a build.
    pub(super) async fn image_config(&self, name: &str) -> Result<(String, Vec<u8>), Status> {
        let image = self.engine.images().inspect(name).await;
        let image = image.map_err(|error| status(&error))?;
        let digest = image.manifest_digest().map(|digest| digest.to_string());
        Ok((
            digest.unwrap_or_else(|| image.id.to_string()),
            image.config_bytes.as_bytes().to_vec(),
        ))
    }
}

/// None for what has no place in a client's directory.
fn describe(entry: &OutputEntry, name: &[u8]) -> Option<Stat> {
    let (kind, size, link) = match &entry.kind {
        OutputKind::Directory => (Kind::Directory, 0, &[][..]),
        OutputKind::File(size) => (Kind::File, *size, &[][..]),
        OutputKind::Symlink(target) => (Kind::Symlink, 0, target.as_slice()),
        OutputKind::Fifo => (Kind::Fifo, 0, &[][..]),
        OutputKind::Device => return None,
    };
    let (seconds, nanoseconds) = entry.modified;
    Some(Stat {
        path: String::from_utf8_lossy(name).into_owned(),
        mode: go_mode::to_go(kind, entry.mode),
        uid: entry.owner.0,
        gid: entry.owner.1,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        mod_time: seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds.into()),
        linkname: String::from_utf8_lossy(link).into_owned(),
        ..Stat::default()
    })
}

async fn tar(kit: &BuildKit, job: &Job, index: usize, built: &Arc<Built>) -> Result<Told, Status> {
    let session = kit.sessions.find(&job.session).await?;
    let output = kit.output(Arc::clone(built)).await?;
    let told = Told::new();
    send(&session, index, &told, move |out| output.write(out)).await?;
    Ok(told)
}

async fn directory(
    kit: &BuildKit,
    job: &Job,
    index: usize,
    doing: &Doing,
    built: &Arc<Built>,
) -> Result<Told, Status> {
    let session = kit.sessions.find(&job.session).await?;
    let (output, entries) = kit.entries(Arc::clone(built)).await?;
    let mut list = Vec::new();
    // By the number under which the client asks for it.
    let mut paths = Vec::new();
    for entry in entries {
        if let Some(stat) = describe(&entry, &entry.path) {
            list.push(Packet {
                r#type: PacketType::PacketStat.into(),
                stat: Some(stat),
                ..Packet::default()
            });
            paths.push(entry.path);
        }
    }
    list.push(Packet {
        r#type: PacketType::PacketStat.into(),
        ..Packet::default()
    });
    let transfer = tokio::select! {
        transfer = session.send_files(index, list) => transfer?,
        () = job.cancel.cancelled() => return Err(Status::cancelled("context canceled")),
    };
    let (runtime, cancel) = (Handle::current(), job.cancel.clone());
    let bytes = blocking(move || {
        let sender = Sender {
            output,
            paths,
            transfer,
            sent: 0,
        };
        runtime.block_on(async {
            tokio::select! {
                sent = sender.run() => sent,
                () = cancel.cancelled() => Err(Status::cancelled("context canceled")),
            }
        })
    })
    .await?;
    doing.at("copying files", bytes, true);
    Ok(Told::new())
}

/// Sends files to a directory of the client. Runs on a thread that may block.
struct Sender {
    output: Output,
    paths: Vec<Vec<u8>>,
    transfer: Transfer,
    sent: u64,
}

impl Sender {
    async fn run(mut self) -> Result<u64, Status> {
        let paths = std::mem::take(&mut self.paths);
        while let Some(packet) = self.transfer.from_client.message().await? {
            match packet.r#type() {
                PacketType::PacketReq => {
                    let path = usize::try_from(packet.id).ok().and_then(|id| paths.get(id));
                    let path = path.ok_or_else(|| {
                        Status::invalid_argument(format!("invalid file id {}", packet.id))
                    })?;
                    self.file(packet.id, path).await?;
                }
                PacketType::PacketFin => {
                    self.packet(Packet {
                        r#type: PacketType::PacketFin.into(),
                        ..Packet::default()
                    })
                    .await?;
                    let Transfer {
                        to_client,
                        mut from_client,
                    } = self.transfer;
                    drop(to_client);
                    while from_client.message().await?.is_some() {}
                    return Ok(self.sent);
                }
                PacketType::PacketErr => {
                    let message = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(Status::unknown(format!("error from receiver: {message}")));
                }
                PacketType::PacketStat | PacketType::PacketData => {
                    return Err(Status::invalid_argument(
                        "the client sent what nobody asked for",
                    ));
                }
            }
        }
        Err(Status::unknown("the client ended the transfer"))
    }

    async fn file(&mut self, id: u32, path: &[u8]) -> Result<(), Status> {
        let failed = |error: &dyn std::fmt::Display| {
            let path = String::from_utf8_lossy(path);
            Status::internal(format!("read {path}: {error}"))
        };
        let mut file = self.output.open(path).map_err(|error| failed(&error))?;
        loop {
            let mut data = vec![0; PACKET];
            let length = file.read(&mut data).map_err(|error| failed(&error))?;
            data.truncate(length);
            self.sent += length as u64;
            self.packet(Packet {
                r#type: PacketType::PacketData.into(),
                id,
                data: data.into(),
                ..Packet::default()
            })
            .await?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    async fn packet(&self, packet: Packet) -> Result<(), Status> {
        let sent = self.transfer.to_client.send(packet).await;
        sent.map_err(|_| Status::unknown("the client ended the transfer"))
    }
}
