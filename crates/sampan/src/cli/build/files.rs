//! Sends files of directories to the engine, as far as it asks for them.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use sampan_buildkit::go_mode::{self, Kind};
use sampan_buildkit::session::files::packet::PacketType;
use sampan_buildkit::session::files::{Packet, Stat};
use sampan_buildkit::session::filesync::file_sync_server::FileSync;
use sampan_dockerfile::{Ignore, Pattern, Visit};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::metadata;

/// Bytes of a file in one packet.
const PIECE: usize = 256 << 10;
/// Descriptions of files that are handed on at once.
const BATCH: usize = 256;
/// Links that are followed for one path.
const LINKS: usize = 40;

/// Something that is offered under a name.
#[derive(Debug)]
pub(super) enum Directory {
    /// A directory.
    Disk(PathBuf),
    /// Files by their names.
    Memory(Vec<(String, Vec<u8>)>),
}

/// The directories that a build may ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Directories(pub(super) Arc<HashMap<String, Directory>>);

/// What of a directory is asked for.
#[derive(Debug, Default)]
struct Wish {
    /// Everything when there is none.
    paths: Vec<String>,
    excluded: Ignore,
}

type Packets = std::pin::Pin<Box<dyn stream::Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl FileSync for Directories {
    type DiffCopyStream = Packets;
    type TarStreamStream = Packets;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        let name = metadata(request.metadata(), "dir-name").pop();
        let name = name.unwrap_or_default();
        if !self.0.contains_key(&name) {
            return Err(Status::not_found(format!(
                "no access allowed to dir {name:?}"
            )));
        }
        let excluded = metadata(request.metadata(), "exclude-patterns");
        let excluded = Ignore::from_patterns(excluded.iter().map(String::as_str));
        let mut paths = metadata(request.metadata(), "followpaths");
        paths.extend(metadata(request.metadata(), "include-patterns"));
        let wish = Wish {
            paths,
            excluded: excluded.map_err(|error| Status::invalid_argument(error.to_string()))?,
        };
        let (sender, receiver) = mpsc::channel::<Result<Vec<Packet>, Status>>(8);
        let directories = Arc::clone(&self.0);
        let runtime = tokio::runtime::Handle::current();
        let mut asked = request.into_inner();
        tokio::task::spawn_blocking(move || {
            let Some(directory) = directories.get(&name) else {
                return;
            };
            let mut next = || runtime.block_on(asked.message()).map_err(io::Error::other);
            let mut send = |packets: Vec<Packet>| {
                let sent = sender.blocking_send(Ok(packets));
                sent.map_err(|_| io::Error::other("the engine has left"))
            };
            let sent = directory.send(&wish, &mut next, &mut send);
            if let Err(error) = sent {
                let data = error.to_string().into_bytes().into();
                // Nobody may listen any more.
                let _ = send(vec![Packet {
                    data,
                    ..packet(PacketType::PacketErr, 0)
                }]);
            }
        });
        let batches = stream::unfold(receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        });
        let packets = batches.flat_map(|batch| match batch {
            Ok(packets) => stream::iter(packets.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        });
        Ok(Response::new(Box::pin(packets)))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("files are sent one by one"))
    }
}

fn packet(kind: PacketType, id: u32) -> Packet {
    Packet {
        r#type: kind.into(),
        id,
        ..Packet::default()
    }
}

/// What was told of, by number: where its content is.
enum Content<'a> {
    File(PathBuf),
    Bytes(&'a [u8]),
    None,
}

type Deliver<'a> = dyn FnMut(Vec<Packet>) -> io::Result<()> + 'a;

impl Directory {
    fn send(
        &self,
        wish: &Wish,
        next: &mut dyn FnMut() -> io::Result<Option<Packet>>,
        send: &mut Deliver<'_>,
    ) -> io::Result<()> {
        let mut told = Told {
            contents: Vec::new(),
            batch: Vec::new(),
            send,
        };
        match self {
            Self::Memory(files) => {
                for (name, bytes) in files {
                    if !wish.paths.is_empty() && !wish.paths.contains(name) {
                        continue;
                    }
                    let stat = Stat {
                        path: name.clone(),
                        mode: go_mode::to_go(Kind::File, 0o644),
                        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
                        ..Stat::default()
                    };
                    told.tell(stat, Content::Bytes(bytes))?;
                }
            }
            Self::Disk(root) => {
                let included = match wish.paths.is_empty() {
                    true => None,
                    false => Some(follow(root, &wish.paths)?),
                };
                let mut walk = Walk {
                    root,
                    excluded: &wish.excluded,
                    included,
                    waiting: Vec::new(),
                    linked: HashMap::new(),
                    told: &mut told,
                };
                walk.directory("", &wish.excluded.root())?;
            }
        }
        told.batch.push(packet(PacketType::PacketStat, 0));
        told.flush()?;
        let Told { contents, send, .. } = told;
        while let Some(asked) = next()? {
            match asked.r#type() {
                PacketType::PacketReq => {
                    let content = usize::try_from(asked.id)
                        .ok()
                        .and_then(|id| contents.get(id));
                    match content {
                        Some(Content::File(path)) => send_file(asked.id, path, send)?,
                        Some(Content::Bytes(bytes)) => send_bytes(asked.id, bytes, send)?,
                        Some(Content::None) | None => {
                            return Err(io::Error::other(format!("invalid file id {}", asked.id)));
                        }
                    }
                }
                PacketType::PacketFin => {
                    return send(vec![packet(PacketType::PacketFin, 0)]);
                }
                PacketType::PacketErr => {
                    let message = String::from_utf8_lossy(&asked.data).into_owned();
                    return Err(io::Error::other(message));
                }
                PacketType::PacketStat | PacketType::PacketData => {}
            }
        }
        Ok(())
    }
}

fn send_bytes(id: u32, bytes: &[u8], send: &mut Deliver<'_>) -> io::Result<()> {
    let pieces = bytes.chunks(PIECE).map(<[u8]>::to_vec);
    for data in pieces.chain([Vec::new()]) {
        send(vec![Packet {
            data: data.into(),
            ..packet(PacketType::PacketData, id)
        }])?;
    }
    Ok(())
}

fn send_file(id: u32, path: &Path, send: &mut Deliver<'_>) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path);
    let mut file = file.map_err(named)?;
    loop {
        let mut data = vec![0; PIECE];
        let mut length = 0;
        while length < PIECE {
            match file.read(&mut data[length..]).map_err(named)? {
                0 => break,
                read => length += read,
            }
        }
        data.truncate(length);
        let is_last = length < PIECE;
        let mut packets = Vec::new();
        if length > 0 {
            packets.push(Packet {
                data: data.into(),
                ..packet(PacketType::PacketData, id)
            });
        }
        if is_last {
            packets.push(packet(PacketType::PacketData, id));
        }
        send(packets)?;
        if is_last {
            return Ok(());
        }
    }
}

struct Told<'a, 's> {
    contents: Vec<Content<'a>>,
    batch: Vec<Packet>,
    send: &'a mut Deliver<'s>,
}

impl<'a> Told<'a, '_> {
    fn tell(&mut self, stat: Stat, content: Content<'a>) -> io::Result<()> {
        self.contents.push(content);
        self.batch.push(Packet {
            stat: Some(stat),
            ..packet(PacketType::PacketStat, 0)
        });
        match self.batch.len() >= BATCH {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.send)(std::mem::take(&mut self.batch))
    }
}

struct Walk<'w, 'a, 's> {
    root: &'w Path,
    excluded: &'w Ignore,
    /// These and all below them.
    included: Option<BTreeSet<String>>,
    /// Directories that are told only if something below is.
    waiting: Vec<Stat>,
    /// Files with several names: the first one that was told.
    linked: HashMap<(u64, u64), String>,
    told: &'w mut Told<'a, 's>,
}

/// How a path stands to what is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Wanted,
    Above,
    Elsewhere,
}

impl Walk<'_, '_, '_> {
    fn place(&self, path: &str) -> Place {
        let Some(included) = &self.included else {
            return Place::Wanted;
        };
        let above = |wanted: &String| {
            let rest = path.strip_prefix(wanted.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if included.iter().any(above) {
            return Place::Wanted;
        }
        let start = format!("{path}/");
        let below = included.range(start.clone()..).next();
        match below.is_some_and(|wanted| wanted.starts_with(&start)) {
            true => Place::Above,
            false => Place::Elsewhere,
        }
    }

    fn directory(&mut self, path: &str, visit: &Visit) -> io::Result<()> {
        let whole = self.root.join(path);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", whole.display()))
        };
        let mut entries = Vec::new();
        for entry in fs::read_dir(&whole).map_err(named)? {
            let entry = entry.map_err(named)?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::other(format!("a name is not UTF-8: {}", name.display()))
            })?;
            entries.push((name, entry));
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, entry) in entries {
            let path = match path.is_empty() {
                true => name,
                false => format!("{path}/{name}"),
            };
            let place = self.place(&path);
            if place == Place::Elsewhere {
                continue;
            }
            let below = self.excluded.visit(visit, &path);
            let kind = entry.file_type().map_err(named)?;
            if below.is_ignored() && !(kind.is_dir() && self.excluded.may_keep_below(&below, &path))
            {
                continue;
            }
            let found = match entry.metadata() {
                // It has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found.map_err(named)?,
            };
            let Some(stat) = self.describe(&path, &found)? else {
                continue;
            };
            if !found.is_dir() {
                if place == Place::Wanted {
                    self.tell_waiting()?;
                    let content = match found.is_file() {
                        true => Content::File(self.root.join(&path)),
                        false => Content::None,
                    };
                    self.told.tell(stat, content)?;
                }
                continue;
            }
            let depth = self.waiting.len();
            self.waiting.push(stat);
            if place == Place::Wanted && !below.is_ignored() {
                self.tell_waiting()?;
            }
            self.directory(&path, &below)?;
            self.waiting.truncate(depth);
        }
        Ok(())
    }

    fn tell_waiting(&mut self) -> io::Result<()> {
        for stat in std::mem::take(&mut self.waiting) {
            self.told.tell(stat, Content::None)?;
        }
        Ok(())
    }

    fn describe(&mut self, path: &str, found: &Metadata) -> io::Result<Option<Stat>> {
        let whole = self.root.join(path);
        let kind = match found.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File,
            kind if kind.is_symlink() => Kind::Symlink,
            kind if kind.is_fifo() => Kind::Fifo,
            // Devices, and sockets, which are nothing without who listens.
            _ => return Ok(None),
        };
        let linkname = match kind {
            Kind::Symlink => {
                let target = fs::read_link(&whole)?;
                target.into_os_string().into_string().map_err(|_| {
                    io::Error::other(format!("{}: its target is not UTF-8", whole.display()))
                })?
            }
            Kind::File if found.nlink() > 1 => {
                let first = self.linked.entry((found.dev(), found.ino()));
                let first = first.or_insert_with(|| path.to_owned());
                match first == path {
                    true => String::new(),
                    false => first.clone(),
                }
            }
            _ => String::new(),
        };
        let xattrs = match kind {
            Kind::File | Kind::Directory => extended(&whole),
            Kind::Symlink | Kind::Fifo => HashMap::new(),
        };
        Ok(Some(Stat {
            path: path.to_owned(),
            mode: go_mode::to_go(kind, found.permissions().mode() & 0o7777),
            // Files belong to whoever builds, not to whom they belong here.
            uid: 0,
            gid: 0,
            size: match kind {
                Kind::File => i64::try_from(found.len()).unwrap_or(i64::MAX),
                Kind::Directory | Kind::Symlink | Kind::Fifo => 0,
            },
            mod_time: found
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(found.mtime_nsec()),
            linkname,
            xattrs,
            ..Stat::default()
        }))
    }
}

/// The extended attributes that go with a file. Those that cannot be read are none.
fn extended(path: &Path) -> HashMap<String, Vec<u8>> {
    let mut names = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.filter_map(|name| std::str::from_utf8(name).ok());
    let names = names.filter(|name| name.starts_with("user.") || *name == "security.capability");
    names
        .filter_map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name.to_owned(), value))
        })
        .collect()
}

/// The paths that are meant, with patterns resolved, and what they link to inside of the root.
fn follow(root: &Path, paths: &[String]) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for path in paths {
        let parts = parts(path);
        follow_one(root, String::new(), &parts, 0, &mut found)?;
    }
    Ok(found)
}

fn parts(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.map(str::to_owned).collect()
}

fn follow_one(
    root: &Path,
    mut done: String,
    parts: &[String],
    links: usize,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        if !done.is_empty() {
            found.insert(done);
        }
        return Ok(());
    };
    if part == ".." {
        done.truncate(done.rfind('/').unwrap_or(0));
        return follow_one(root, done, rest, links, found);
    }
    let below = |name: &str| match done.is_empty() {
        true => name.to_owned(),
        false => format!("{done}/{name}"),
    };
    let pattern = Pattern::plain(part).map_err(|error| io::Error::other(error.to_string()))?;
    if pattern.has_wildcards() {
        let Ok(entries) = fs::read_dir(root.join(&done)) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(name) = name.to_str().filter(|name| pattern.matches(name)) {
                let mut parts = vec![name.to_owned()];
                parts.extend_from_slice(rest);
                follow_exact(root, &done, below(name), &parts, links, found)?;
            }
        }
        return Ok(());
    }
    follow_exact(root, &done, below(part), parts, links, found)
}

/// Goes on from a path that is no pattern, the first of `parts`.
fn follow_exact(
    root: &Path,
    directory: &str,
    path: String,
    parts: &[String],
    links: usize,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    let whole = root.join(&path);
    let Ok(kind) = fs::symlink_metadata(&whole) else {
        return Ok(());
    };
    if !kind.is_symlink() || links >= LINKS {
        return follow_one(root, path, &parts[1..], links, found);
    }
    found.insert(path);
    let Some(target) = fs::read_link(&whole)?.to_str().map(str::to_owned) else {
        return Ok(());
    };
    let start = match target.starts_with('/') {
        true => String::new(),
        false => directory.to_owned(),
    };
    let mut todo = self::parts(&target);
    todo.extend_from_slice(&parts[1..]);
    follow_one(root, start, &todo, links + 1, found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn listed(root: &Path, paths: &[&str], excluded: &[&str]) -> Vec<String> {
        let wish = Wish {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            excluded: Ignore::from_patterns(excluded.iter().copied()).unwrap(),
        };
        let mut listed = Vec::new();
        let mut send = |packets: Vec<Packet>| {
            let stats = packets.into_iter().filter_map(|packet| packet.stat);
            listed.extend(stats.map(|stat| stat.path));
            Ok(())
        };
        let directory = Directory::Disk(root.to_owned());
        directory.send(&wish, &mut || Ok(None), &mut send).unwrap();
        listed
    }

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in ["a/one.txt", "a/two.log", "a-b/x", "d/e/f", "z"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        symlink("d/e", root.path().join("link")).unwrap();
        root
    }

    #[test]
    fn all_is_told_in_order_but_what_is_excluded() {
        let root = tree();
        let all = listed(root.path(), &[], &[]);
        let expected = [
            "a",
            "a/one.txt",
            "a/two.log",
            "a-b",
            "a-b/x",
            "d",
            "d/e",
            "d/e/f",
            "link",
            "z",
        ];
        assert_eq!(all, expected);
        let some = listed(root.path(), &[], &["**/*.log", "d", "!d/e/f", "a-b"]);
        assert_eq!(some, ["a", "a/one.txt", "d", "d/e", "d/e/f", "link", "z"]);
    }

    #[test]
    fn only_what_is_asked_for_is_told_with_what_it_links_to() {
        let root = tree();
        assert_eq!(listed(root.path(), &["z", "none"], &[]), ["z"]);
        let linked = listed(root.path(), &["link/f", "*/one.*"], &[]);
        assert_eq!(linked, ["a", "a/one.txt", "d", "d/e", "d/e/f", "link"]);
        symlink("loop", root.path().join("loop")).unwrap();
        assert_eq!(
            listed(root.path(), &["loop", "../../z"], &[]),
            ["loop", "z"]
        );
    }
}
