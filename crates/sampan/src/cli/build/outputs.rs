//! What is made of a build, and where it is put on this side.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, stream};
use prost::Message;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use sampan_buildkit::control::Exporter;
use sampan_buildkit::go_mode::{self, Kind};
use sampan_buildkit::session::files::packet::PacketType;
use sampan_buildkit::session::files::{Packet, Stat};
use sampan_buildkit::session::filesync::BytesMessage;
use tokio::sync::mpsc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::metadata;
use crate::cli::failure::Failure;

/// One thing to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Output {
    pub(super) exporter: Exporter,
    pub(super) to: To,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// It stays in the engine, or goes on from there.
    Engine,
    File(PathBuf),
    Stdout,
    Directory(PathBuf),
}

/// What the flags ask for.
pub(super) struct Wanted<'a> {
    pub(super) outputs: &'a [&'a str],
    pub(super) tags: &'a [&'a str],
    pub(super) load: bool,
    pub(super) push: bool,
}

impl Wanted<'_> {
    /// The outputs, in order.
    pub(super) fn read(&self) -> Result<Vec<Output>, Failure> {
        let outputs = self.outputs.iter().map(|text| read(text));
        let mut outputs: Vec<Output> = outputs
            .collect::<Result<_, _>>()
            .map_err(Failure::message)?;
        let is_image = |output: &Output| output.exporter.r#type == "moby";
        if (self.load || self.push || outputs.is_empty()) && !outputs.iter().any(is_image) {
            outputs.push(Output {
                exporter: Exporter {
                    r#type: "moby".to_owned(),
                    attrs: HashMap::new(),
                },
                to: To::Engine,
            });
        }
        let to_stdout = outputs.iter().filter(|output| output.to == To::Stdout);
        if to_stdout.count() > 1 {
            return Err(Failure::message(
                "only one output can go to standard output",
            ));
        }
        for output in &mut outputs {
            let Exporter {
                r#type: kind,
                attrs,
            } = &mut output.exporter;
            if kind == "moby" && self.push {
                attrs.insert("push".to_owned(), "true".to_owned());
            }
            let takes_names = matches!(kind.as_str(), "moby" | "docker" | "oci");
            if takes_names && !attrs.contains_key("name") && !self.tags.is_empty() {
                attrs.insert("name".to_owned(), self.tags.join(","));
            }
        }
        Ok(outputs)
    }
}

fn read(text: &str) -> Result<Output, String> {
    let mut attrs: BTreeMap<String, String> = BTreeMap::new();
    if text == "-" {
        attrs.insert("type".to_owned(), "tar".to_owned());
        attrs.insert("dest".to_owned(), "-".to_owned());
    } else if !text.contains(['=', ',']) {
        attrs.insert("type".to_owned(), "local".to_owned());
        attrs.insert("dest".to_owned(), text.to_owned());
    } else {
        for field in text.split(',') {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| format!("invalid value {field}, expected key=value"))?;
            attrs.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
    let kind = kind.ok_or("type is required for output")?;
    let destination = attrs.remove("dest").filter(|path| !path.is_empty());
    let file = |path: Option<String>| match path.as_deref() {
        None | Some("-") if io::stdout().is_terminal() => {
            Err("dest file is required for this output: it is not written to a terminal".to_owned())
        }
        None | Some("-") => Ok(To::Stdout),
        Some(path) if Path::new(path).is_dir() => {
            Err(format!("destination file {path} is a directory"))
        }
        Some(path) => Ok(To::File(path.into())),
    };
    let (kind, to) = match kind.as_str() {
        "image" | "moby" => ("moby", To::Engine),
        "registry" => {
            attrs.insert("push".to_owned(), "true".to_owned());
            ("moby", To::Engine)
        }
        "docker" if destination.is_none() => ("moby", To::Engine),
        "docker" => ("docker", file(destination)?),
        "oci" => ("oci", file(destination)?),
        "tar" => ("tar", file(destination)?),
        "local" => match destination {
            Some(path) if path == "-" => ("tar", file(Some(path))?),
            Some(path) => ("local", To::Directory(path.into())),
            None => return Err("dest is required for local output".to_owned()),
        },
        "cacheonly" => ("cacheonly", To::Engine),
        other => return Err(format!("unsupported output type: {other}")),
    };
    Ok(Output {
        exporter: Exporter {
            r#type: kind.to_owned(),
            attrs: attrs.into_iter().collect(),
        },
        to,
    })
}

/// Takes outputs, each by its number among all.
#[derive(Clone)]
pub(super) struct Receiver(Arc<Vec<To>>);

impl Receiver {
    pub(super) fn new(outputs: &[Output]) -> Self {
        Self(Arc::new(
            outputs.iter().map(|output| output.to.clone()).collect(),
        ))
    }
}

/// Messages as they are on the wire: bytes or packets, by what the output is.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

impl NamedService for Receiver {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl tower::Service<http::Request<tonic::body::Body>> for Receiver {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = Method(self.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(sampan_buildkit::MAX_MESSAGE);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

/// `DiffCopy`.
struct Method(Receiver);

impl StreamingService<Bytes> for Method {
    type Response = Vec<u8>;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let id = metadata(request.metadata(), "buildkit-attachable-exporter-id").pop();
        let index = id.and_then(|id| id.parse::<usize>().ok()).unwrap_or(0);
        let to = self.0.0.get(index).cloned();
        let messages = request.into_inner();
        Box::pin(async move {
            match to {
                Some(To::Directory(path)) => Ok(directory(path, messages)),
                Some(To::File(path)) => file(Some(path), messages).await,
                Some(To::Stdout) => file(None, messages).await,
                Some(To::Engine) | None => Err(Status::not_found("nobody waits for this output")),
            }
        })
    }
}

async fn file(
    path: Option<PathBuf>,
    mut messages: Streaming<Bytes>,
) -> Result<Response<Answers>, Status> {
    let name = path.as_deref().unwrap_or(Path::new("standard output"));
    let failed = |error: io::Error| Status::unknown(format!("{}: {error}", name.display()));
    let mut out = match &path {
        Some(path) => File::create(path).map_err(failed)?,
        None => File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?),
    };
    while let Some(message) = messages.message().await? {
        let message = BytesMessage::decode(message);
        let message = message.map_err(|error| Status::invalid_argument(error.to_string()))?;
        out.write_all(&message.data).map_err(failed)?;
    }
    Ok(Response::new(Box::pin(stream::empty())))
}

fn directory(path: PathBuf, mut messages: Streaming<Bytes>) -> Response<Answers> {
    let (sender, receiver) = mpsc::unbounded_channel::<Packet>();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut next = || {
            let message = runtime.block_on(messages.message());
            match message.map_err(io::Error::other)? {
                Some(message) => Packet::decode(message).map_err(io::Error::other),
                None => Err(io::Error::other("the engine ended the transfer")),
            }
        };
        let taken = take(&path, &mut next, &sender);
        if let Err(error) = taken {
            let data = format!("{}: {error}", path.display()).into_bytes().into();
            // Nobody may listen any more.
            let _ = sender.send(Packet {
                r#type: PacketType::PacketErr.into(),
                data,
                ..Packet::default()
            });
        }
    });
    let answers = stream::unfold(receiver, async |mut receiver| {
        let packet = receiver.recv().await?;
        Some((Ok(packet.encode_to_vec()), receiver))
    });
    Response::new(Box::pin(answers))
}

/// Takes files into a directory, over what is there. What they are put into is never a link.
fn take(
    path: &Path,
    next: &mut dyn FnMut() -> io::Result<Packet>,
    answer: &mpsc::UnboundedSender<Packet>,
) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let root = Place::open(path)?;
    let mut files = Vec::new();
    let mut directories = Vec::new();
    for id in 0.. {
        let Some(stat) = next()?.stat else { break };
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", stat.path));
        match go_mode::kind(stat.mode) {
            Some(Kind::Directory) => {
                root.directory(&stat.path).map_err(named)?;
                directories.push(stat);
            }
            Some(Kind::Symlink) => root.symlink(&stat).map_err(named)?,
            Some(Kind::File) if !stat.linkname.is_empty() => root.link(&stat).map_err(named)?,
            Some(Kind::File) => files.push((id, stat)),
            // They would be of no use here.
            Some(Kind::Fifo) | None => {}
        }
    }
    let send = |kind: PacketType, id: u32| {
        let sent = answer.send(Packet {
            r#type: kind.into(),
            id,
            ..Packet::default()
        });
        sent.map_err(|_| io::Error::other("the engine has left"))
    };
    // They come one after the other, in this order.
    for (id, _) in &files {
        send(PacketType::PacketReq, *id)?;
    }
    for (id, stat) in &files {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", stat.path));
        let mut file = root.create(stat).map_err(named)?;
        loop {
            let packet = next()?;
            if packet.r#type() != PacketType::PacketData || packet.id != *id {
                return Err(io::Error::other("the engine sent what nobody asked for"));
            }
            if packet.data.is_empty() {
                break;
            }
            file.write_all(&packet.data).map_err(named)?;
        }
        rustix::fs::fchmod(&file, mode(stat))?;
        rustix::fs::futimens(&file, &times(stat))?;
    }
    // The deepest first: what is put into one changes its time.
    for stat in directories.iter().rev() {
        let directory = root.open_directory(&stat.path)?;
        rustix::fs::fchmod(&directory, mode(stat))?;
        rustix::fs::futimens(&directory, &times(stat))?;
    }
    send(PacketType::PacketFin, 0)?;
    while next()?.r#type() != PacketType::PacketFin {}
    Ok(())
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(go_mode::permissions(stat.mode))
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// A directory that nothing that is put into it can lead out of.
struct Place(std::os::fd::OwnedFd);

impl Place {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    fn at(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<std::os::fd::OwnedFd> {
        let inside =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(&self.0, path, flags, mode, inside)?)
    }

    fn open_directory(&self, path: &str) -> io::Result<std::os::fd::OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        self.at(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
    }

    /// The directory of a path, and its name there.
    fn parent<'p>(&self, path: &'p str) -> io::Result<(std::os::fd::OwnedFd, &'p str)> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(io::Error::other("the engine sent an invalid path"));
        }
        Ok((self.open_directory(directory)?, name))
    }

    /// Takes away what is in the way, unless it is a directory.
    fn clear(directory: impl AsFd, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn directory(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let make = || rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755));
        match make() {
            Err(rustix::io::Errno::EXIST) if self.open_directory(path).is_err() => {
                Self::clear(&parent, name)?;
                Ok(make()?)
            }
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn symlink(&self, stat: &Stat) -> io::Result<()> {
        let (parent, name) = self.parent(&stat.path)?;
        Self::clear(&parent, name)?;
        rustix::fs::symlinkat(&stat.linkname, &parent, name)?;
        Ok(())
    }

    fn link(&self, stat: &Stat) -> io::Result<()> {
        let (parent, name) = self.parent(&stat.path)?;
        let (from, old) = self.parent(&stat.linkname)?;
        Self::clear(&parent, name)?;
        rustix::fs::linkat(&from, old, &parent, name, AtFlags::empty())?;
        Ok(())
    }

    fn create(&self, stat: &Stat) -> io::Result<File> {
        let (parent, name) = self.parent(&stat.path)?;
        Self::clear(&parent, name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mode = Mode::from_raw_mode(0o600);
        Ok(File::from(self.at(&stat.path, flags, mode)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_buildx_reads_them() {
        let parsed = |text: &str| {
            let output = read(text).unwrap();
            let mut attrs: Vec<_> = output.exporter.attrs.into_iter().collect();
            attrs.sort();
            (output.exporter.r#type, attrs, output.to)
        };
        let push = vec![("push".to_owned(), "true".to_owned())];
        for (text, kind, to) in [
            ("out", "local", To::Directory("out".into())),
            ("type=local,dest=out", "local", To::Directory("out".into())),
            ("type=tar,dest=x.tar", "tar", To::File("x.tar".into())),
            ("type=oci,dest=x.tar", "oci", To::File("x.tar".into())),
            ("type=docker", "moby", To::Engine),
            ("type=image", "moby", To::Engine),
        ] {
            assert_eq!(parsed(text), (kind.to_owned(), Vec::new(), to), "{text}");
        }
        assert_eq!(parsed("type=registry").1, push);
        for wrong in ["type=local", "dest=x,y", "a=b", "type=new"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_is_made_unless_something_else_is_asked_for() {
        let wanted = |outputs: &[&str], load, push| {
            let tags = ["a", "b:1"];
            let wanted = Wanted {
                outputs,
                tags: &tags,
                load,
                push,
            };
            let outputs = wanted.read().unwrap();
            let kinds = outputs.into_iter().map(|output| output.exporter);
            kinds
                .map(|e| {
                    (
                        e.r#type,
                        e.attrs.get("name").cloned(),
                        e.attrs.contains_key("push"),
                    )
                })
                .collect::<Vec<_>>()
        };
        let image = |push| ("moby".to_owned(), Some("a,b:1".to_owned()), push);
        let local = ("local".to_owned(), None, false);
        assert_eq!(wanted(&[], false, false), [image(false)]);
        assert_eq!(wanted(&[], true, true), [image(true)]);
        assert_eq!(wanted(&["out"], false, false)[0], local);
        assert_eq!(wanted(&["out"], true, false), [local, image(false)]);
        assert_eq!(wanted(&["type=image"], true, false), [image(false)]);
    }

    #[test]
    fn files_are_put_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let into = place.path().join("out");
        fs::create_dir(&into).unwrap();
        std::os::unix::fs::symlink(outside.path(), into.join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("f"), into.join("f")).unwrap();
        let stat = |path: &str, kind| Packet {
            stat: Some(Stat {
                path: path.to_owned(),
                mode: go_mode::to_go(kind, 0o751),
                mod_time: 5_000_000_007,
                ..Stat::default()
            }),
            ..Packet::default()
        };
        let data = |id, bytes: &'static [u8]| Packet {
            r#type: PacketType::PacketData.into(),
            id,
            data: Bytes::from_static(bytes),
            ..Packet::default()
        };
        let end = Packet {
            r#type: PacketType::PacketFin.into(),
            ..Packet::default()
        };
        let mut packets = vec![
            stat("d", Kind::Directory),
            stat("d/x", Kind::File),
            stat("f", Kind::File),
            Packet::default(),
            data(1, b"x"),
            data(1, b""),
            data(2, b""),
            end,
        ]
        .into_iter();
        let (sender, _receiver) = mpsc::unbounded_channel();
        take(&into, &mut || Ok(packets.next().unwrap()), &sender).unwrap();
        assert_eq!(fs::read(into.join("d/x")).unwrap(), b"x");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        use std::os::unix::fs::MetadataExt;
        let found = fs::symlink_metadata(into.join("d")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o751, 5));
        let mut escape = vec![stat("../x", Kind::Directory)].into_iter();
        assert!(take(&into, &mut || Ok(escape.next().unwrap()), &sender).is_err());
    }
}
