//! Takes files of a client's directory, as its session sends them.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};

use bytes::Bytes;
use sampan_archive::Attributes;
use sampan_buildkit::go_mode::{self, Kind};
use sampan_buildkit::session::files::packet::PacketType;
use sampan_buildkit::session::files::{Packet, Stat};
use sampan_engine::building::{self, Context, EntryKind, Sync};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::session::Transfer;

/// Files are asked for ahead while so many are, of so many bytes in all.
const AHEAD: usize = 64;
const AHEAD_BYTES: u64 = 4 << 20;
/// Files of a directory and the bytes of their paths.
const MOST_FILES: usize = 2 << 20;
const MOST_NAMES: usize = 256 << 20;
/// Files that are kept in memory, and bytes of each.
const FEW: usize = 16;
const SMALL: u64 = 16 << 20;
/// A path is no longer than the kernel takes one.
const PATH: usize = 4096;

/// Where received files go.
pub(super) trait Target {
    /// Whether the content of a file is wanted. Asked of all entries, in order.
    fn wants(&mut self, entry: &Entry) -> io::Result<bool>;
    /// Takes an entry, in order again, with its content if that was wanted.
    fn put(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> io::Result<()>;
}

/// Takes files into `target`; answers how many bytes of content came. Blocks.
pub(super) fn receive(
    transfer: Transfer,
    runtime: &Handle,
    cancel: &CancellationToken,
    target: &mut dyn Target,
    told: &dyn Fn(u64),
) -> io::Result<u64> {
    let mut receiver = Receiver {
        transfer,
        runtime,
        cancel,
        coming: HashMap::new(),
        received: 0,
        told,
    };
    let entries = receiver.list()?;
    let mut wanted = VecDeque::new();
    for entry in &entries {
        if target.wants(entry)? {
            wanted.push_back((entry.id, entry.size));
        }
    }
    let mut ahead: VecDeque<(u32, u64)> = VecDeque::new();
    for entry in &entries {
        while let Some(&(id, size)) = wanted.front()
            && (ahead.is_empty() || may_ask(&ahead, size))
        {
            wanted.pop_front();
            receiver.ask(id, size)?;
            ahead.push_back((id, size));
        }
        if ahead.front().is_none_or(|(id, _)| *id != entry.id) {
            target.put(entry, None)?;
            continue;
        }
        ahead.pop_front();
        let mut content = Content {
            receiver: &mut receiver,
            id: entry.id,
        };
        target
            .put(entry, Some(&mut content))
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other(format!(
                    "{} became shorter, or unreadable, while it was sent",
                    String::from_utf8_lossy(&entry.path)
                )),
                _ => error,
            })?;
        receiver.finish(entry.id)?;
    }
    receiver.end()
}

fn may_ask(ahead: &VecDeque<(u32, u64)>, size: u64) -> bool {
    let bytes: u64 = ahead.iter().map(|(_, size)| size).sum();
    ahead.len() < AHEAD && bytes + size <= AHEAD_BYTES
}

/// A context, of which only what has changed is taken.
pub(super) struct Synced {
    sync: Sync,
    /// How many entries were put.
    put: usize,
}

impl Synced {
    pub(super) fn new(sync: Sync) -> Self {
        Self { sync, put: 0 }
    }

    pub(super) fn finish(self) -> io::Result<Context> {
        self.sync.finish().map_err(io::Error::other)
    }
}

impl Target for Synced {
    fn wants(&mut self, entry: &Entry) -> io::Result<bool> {
        let attributes = &entry.attributes;
        let entry = building::Entry {
            path: entry.path.clone(),
            kind: match entry.kind {
                Kind::Directory => EntryKind::Directory,
                Kind::File if !entry.link.is_empty() => EntryKind::HardLink(entry.link.clone()),
                Kind::File => EntryKind::File(entry.size),
                Kind::Symlink => EntryKind::Symlink(entry.link.clone()),
                Kind::Fifo => EntryKind::Fifo,
            },
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            xattrs: attributes.extended.clone(),
        };
        self.sync.entry(entry).map_err(io::Error::other)
    }

    fn put(&mut self, _: &Entry, content: Option<&mut dyn Read>) -> io::Result<()> {
        let index = self.put;
        self.put += 1;
        match content {
            Some(content) => self.sync.file(index, content).map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

/// A few small files, in memory.
#[derive(Default)]
pub(super) struct Small {
    files: HashMap<Vec<u8>, Vec<u8>>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

/// Links followed for one path, as many as the kernel does.
const LINKS: usize = 40;

impl Small {
    /// The content of a file; its links are followed inside of the directory.
    pub(super) fn get(&self, path: &str) -> Option<&[u8]> {
        let mut todo = parts(path.as_bytes());
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                done.pop();
                continue;
            }
            done.push(part);
            if let Some(target) = self.links.get(&done.join(&b'/')) {
                links += 1;
                if links > LINKS {
                    return None;
                }
                done.pop();
                if target.starts_with(b"/") {
                    done.clear();
                }
                todo.extend(parts(target));
            }
        }
        self.files.get(&done.join(&b'/')).map(Vec::as_slice)
    }
}

/// The parts of a path, the last one first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

impl Target for Small {
    fn wants(&mut self, entry: &Entry) -> io::Result<bool> {
        if entry.size > SMALL {
            let path = String::from_utf8_lossy(&entry.path);
            return Err(invalid(format!("{path} is too large")));
        }
        Ok(entry.kind == Kind::File && self.files.len() < FEW)
    }

    fn put(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> io::Result<()> {
        if let Some(content) = content {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            self.files.insert(entry.path.clone(), bytes);
        }
        if entry.kind == Kind::Symlink {
            self.links.insert(entry.path.clone(), entry.link.clone());
        }
        Ok(())
    }
}

/// One file, as the client describes it.
#[derive(Debug)]
pub(super) struct Entry {
    /// By which its content is asked for.
    id: u32,
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) attributes: Attributes,
    pub(super) size: u64,
    pub(super) link: Vec<u8>,
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl Entry {
    fn read(id: u32, stat: Stat) -> io::Result<Option<Self>> {
        // Sockets and devices have no place in a context.
        let Some(kind) = go_mode::kind(stat.mode) else {
            return Ok(None);
        };
        let nanoseconds = 1_000_000_000;
        let kept = |name: &str| name.starts_with("user.") || name == "security.capability";
        let mut extended: Vec<(Vec<u8>, Vec<u8>)> = stat
            .xattrs
            .into_iter()
            .filter(|(name, _)| kept(name))
            .map(|(name, value)| (name.into_bytes(), value))
            .collect();
        extended.sort_unstable();
        Ok(Some(Self {
            id,
            kind,
            attributes: Attributes {
                mode: go_mode::permissions(stat.mode),
                uid: stat.uid,
                gid: stat.gid,
                mtime: (
                    stat.mod_time.div_euclid(nanoseconds),
                    u32::try_from(stat.mod_time.rem_euclid(nanoseconds)).unwrap_or(0),
                ),
                extended,
            },
            size: match kind {
                Kind::File => u64::try_from(stat.size)
                    .map_err(|_| invalid(format!("{} has a negative size", stat.path)))?,
                Kind::Directory | Kind::Symlink | Kind::Fifo => 0,
            },
            link: stat.linkname.into_bytes(),
            path: stat.path.into_bytes(),
        }))
    }
}

/// Paths come in order, each below a directory that came before.
#[derive(Default)]
struct Order {
    /// The directories that the last path lies in, and itself if it is one.
    open: Vec<Vec<u8>>,
    last: Vec<Vec<u8>>,
}

impl Order {
    fn check(&mut self, path: &[u8], is_directory: bool) -> io::Result<()> {
        let parts: Vec<Vec<u8>> = path
            .split(|byte| *byte == b'/')
            .map(<[u8]>::to_vec)
            .collect();
        let shown = || String::from_utf8_lossy(path).into_owned();
        let bad = |part: &Vec<u8>| matches!(&part[..], b"" | b"." | b"..") || part.contains(&0);
        if path.len() > PATH || parts.iter().any(bad) {
            return Err(invalid(format!("the client sent the path {:?}", shown())));
        }
        if parts <= self.last {
            return Err(invalid(format!(
                "the client sent {:?} out of order",
                shown()
            )));
        }
        let above = &parts[..parts.len() - 1];
        if !self.open.starts_with(above) {
            return Err(invalid(format!(
                "the client sent {:?} without its directory",
                shown()
            )));
        }
        self.open.truncate(above.len());
        if is_directory {
            self.open.push(parts[parts.len() - 1].clone());
        }
        self.last = parts;
        Ok(())
    }
}

/// Content of a file that was asked for.
#[derive(Default)]
struct Coming {
    pieces: VecDeque<Bytes>,
    /// Bytes that may still come; what is beyond was written to the file meanwhile.
    left: u64,
    ended: bool,
}

struct Receiver<'a> {
    transfer: Transfer,
    runtime: &'a Handle,
    cancel: &'a CancellationToken,
    coming: HashMap<u32, Coming>,
    received: u64,
    told: &'a dyn Fn(u64),
}

impl Receiver<'_> {
    fn packet(&mut self) -> io::Result<Packet> {
        let Self {
            transfer,
            runtime,
            cancel,
            ..
        } = self;
        let next = async {
            tokio::select! {
                packet = transfer.from_client.message() => packet.map_err(io::Error::other),
                () = cancel.cancelled() => Err(io::Error::other("context canceled")),
            }
        };
        let packet = runtime.block_on(next)?;
        let packet = packet.ok_or_else(|| io::Error::other("the client ended the transfer"))?;
        if packet.r#type() == PacketType::PacketErr {
            let message = String::from_utf8_lossy(&packet.data).into_owned();
            return Err(io::Error::other(format!("error from sender: {message}")));
        }
        Ok(packet)
    }

    fn send(&self, kind: PacketType, id: u32) -> io::Result<()> {
        let packet = Packet {
            r#type: kind.into(),
            id,
            ..Packet::default()
        };
        let sent = self.transfer.to_client.blocking_send(packet);
        sent.map_err(|_| io::Error::other("the client ended the transfer"))
    }

    /// What there is, before any content.
    fn list(&mut self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut order = Order::default();
        let mut names = 0;
        for id in 0.. {
            let packet = self.packet()?;
            if packet.r#type() != PacketType::PacketStat {
                return Err(invalid(
                    "the client sent content nobody asked for".to_owned(),
                ));
            }
            let Some(stat) = packet.stat else {
                return Ok(entries);
            };
            names += stat.path.len() + stat.linkname.len();
            if entries.len() >= MOST_FILES || names > MOST_NAMES {
                return Err(invalid("the directory has too many files".to_owned()));
            }
            let Some(entry) = Entry::read(id, stat)? else {
                continue;
            };
            order.check(&entry.path, matches!(entry.kind, Kind::Directory))?;
            entries.push(entry);
        }
        Err(invalid("the directory has too many files".to_owned()))
    }

    fn ask(&mut self, id: u32, size: u64) -> io::Result<()> {
        let coming = Coming {
            left: size,
            ..Coming::default()
        };
        self.coming.insert(id, coming);
        self.send(PacketType::PacketReq, id)
    }

    /// Takes content of any file that was asked for.
    fn take(&mut self) -> io::Result<()> {
        let packet = self.packet()?;
        let coming = match packet.r#type() {
            PacketType::PacketData => self.coming.get_mut(&packet.id),
            _ => None,
        };
        let Some(coming) = coming.filter(|coming| !coming.ended) else {
            return Err(invalid(
                "the client sent content nobody asked for".to_owned(),
            ));
        };
        let mut data = packet.data;
        if data.is_empty() {
            coming.ended = true;
            return Ok(());
        }
        self.received += data.len() as u64;
        data.truncate(usize::try_from(coming.left).unwrap_or(usize::MAX));
        coming.left -= data.len() as u64;
        if !data.is_empty() {
            coming.pieces.push_back(data);
        }
        (self.told)(self.received);
        Ok(())
    }

    /// Waits for the end of a file's content.
    fn finish(&mut self, id: u32) -> io::Result<()> {
        while self.coming.get(&id).is_some_and(|coming| !coming.ended) {
            self.take()?;
        }
        self.coming.remove(&id);
        Ok(())
    }

    fn end(mut self) -> io::Result<u64> {
        self.send(PacketType::PacketFin, 0)?;
        while self.packet()?.r#type() != PacketType::PacketFin {}
        Ok(self.received)
    }
}

/// The content of one file.
struct Content<'r, 'a> {
    receiver: &'r mut Receiver<'a>,
    id: u32,
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(coming) = self.receiver.coming.get_mut(&self.id) else {
                return Ok(0);
            };
            if let Some(piece) = coming.pieces.front_mut() {
                let length = piece.len().min(buffer.len());
                buffer[..length].copy_from_slice(&piece.split_to(length));
                if piece.is_empty() {
                    coming.pieces.pop_front();
                }
                return Ok(length);
            }
            if coming.ended || coming.left == 0 {
                return Ok(0);
            }
            self.receiver.take()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_small_files_stay_inside() {
        let mut small = Small::default();
        small.files.insert(b"d/real".to_vec(), b"x".to_vec());
        for (link, target) in [
            ("up", "../../d/real"),
            ("d/abs", "/d/real"),
            ("loop", "loop"),
            ("dir", "d"),
        ] {
            small.links.insert(link.into(), target.into());
        }
        for path in ["d/real", "up", "d/abs", "dir/real", "./d//real", "dir/abs"] {
            assert_eq!(small.get(path), Some(&b"x"[..]), "{path}");
        }
        assert_eq!(small.get("loop"), None);
        assert_eq!(small.get("missing"), None);
    }

    #[test]
    fn paths_come_in_order_below_their_directories() {
        let check = |paths: &[(&str, bool)]| {
            let mut order = Order::default();
            let mut paths = paths.iter();
            paths.all(|(path, directory)| order.check(path.as_bytes(), *directory).is_ok())
        };
        assert!(check(&[
            ("a", true),
            ("a/b", true),
            ("a/b/c", false),
            ("a-b", false),
            ("b", false)
        ]));
        for wrong in [
            &[("/a", false)][..],
            &[("..", true)],
            &[("a", true), ("a/../b", false)],
            &[("a", true), ("a//b", false)],
            &[("a\0", false)],
            &[("", true)],
            &[("a/b", false)],
            &[("a", false), ("a/b", false)],
            &[("b", false), ("a", false)],
            &[("a", false), ("a", false)],
            &[("a", true), ("b", true), ("a/c", false)],
        ] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }
}
