//! Taking a layer in: one pass over the bytes, one rename at the end.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sampan_fs::{Sync, remove_all_at, write_atomic};
use sampan_oci::digest::{DigestWriter, Hasher};
use sampan_oci::{DiffId, Digest};

use crate::error::{Error, Result};
use crate::record::{self, Form, Record};
use crate::store::{Driver, Layer, LayerStore, layer};
use crate::tar::Parser;
use crate::tree::{Finished, NodeId, Tree};
use crate::{directory, erofs};

/// Bytes handed to the other thread at once. Fits the second-level cache, so
/// that the write finds what the hash has read.
const PIECE: usize = 512 << 10;
/// Differs after each boot (random(4)).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Pieces under way at once.
const PIECES: usize = 4;

/// A layer being taken in. Write the uncompressed tar to it, then
/// [`commit`](Self::commit). Dropped without, it leaves nothing.
///
/// Writing fails with the reason as soon as the bytes cannot become a layer
/// (see [`Error::from_io`]). Blocks while the disk is slow.
#[derive(Debug)]
pub struct Ingest {
    store: LayerStore,
    /// Name of the temporary directory; `None` when it is no longer ours.
    name: Option<String>,
    dir: OwnedFd,
    parser: Parser,
    tree: Tree,
    piece: Vec<u8>,
    sink: Sink,
    failed: bool,
}

/// Where pieces go: hashed and written here while they are few, in a thread of
/// their own when they become many.
#[derive(Debug)]
enum Sink {
    Here(TarWriter),
    Thread {
        pieces: SyncSender<Vec<u8>>,
        empties: Receiver<Vec<u8>>,
        thread: JoinHandle<io::Result<TarWriter>>,
    },
    Gone,
}

#[derive(Debug)]
struct TarWriter {
    file: File,
    hasher: Hasher,
    size: u64,
}

/// A complete tar with what it contains.
struct Received {
    tar: File,
    tar_size: u64,
    diff_id: DiffId,
    tree: Finished,
    order: Vec<NodeId>,
}

impl Ingest {
    pub(crate) fn new(store: LayerStore) -> Result<Self> {
        let name = store.temporary_name();
        let dir = store.create_temporary(&name)?;
        let file = rustix::fs::openat(
            &dir,
            record::TAR,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        );
        let file = match file {
            Ok(file) => File::from(file),
            Err(e) => {
                let _ = remove_all_at(store.dir(), &name);
                return Err(Error::io("create", record::TAR, e));
            }
        };
        Ok(Self {
            tree: Tree::new(*store.limits()),
            store,
            name: Some(name),
            dir,
            parser: Parser::new(),
            piece: Vec::new(),
            sink: Sink::Here(TarWriter {
                file,
                hasher: Hasher::new(),
                size: 0,
            }),
            failed: false,
        })
    }

    /// Returns how many bytes were taken.
    pub fn position(&self) -> u64 {
        self.parser.position()
    }

    /// Takes the next bytes of the uncompressed tar.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::Aborted);
        }
        self.take(bytes).inspect_err(|_| self.failed = true)
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.parser
            .push(bytes, &mut self.tree)
            .map_err(|e| at(e, self.parser.position()))?;
        while !bytes.is_empty() {
            let room = PIECE - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) -> Result<()> {
        let piece = mem::take(&mut self.piece);
        if let Sink::Here(_) = self.sink
            && let Sink::Here(writer) = mem::replace(&mut self.sink, Sink::Gone)
        {
            self.sink = spawn(writer).map_err(|e| Error::io("start", "writer thread", e))?;
        }
        let Sink::Thread {
            pieces, empties, ..
        } = &self.sink
        else {
            return Err(Error::Aborted);
        };
        if pieces.send(piece).is_err() {
            // The thread ends early only with an error of its own.
            return Err(self.join().err().unwrap_or(Error::Aborted));
        }
        self.piece = empties.try_recv().unwrap_or_default();
        self.piece.reserve_exact(PIECE);
        Ok(())
    }

    /// Waits until all pieces are written.
    fn join(&mut self) -> Result<TarWriter> {
        let written = |e| Error::io("write", record::TAR, e);
        match mem::replace(&mut self.sink, Sink::Gone) {
            Sink::Here(writer) => Ok(writer),
            Sink::Gone => Err(Error::Aborted),
            Sink::Thread { pieces, thread, .. } => {
                drop(pieces);
                match thread.join() {
                    Ok(result) => result.map_err(written),
                    Err(_) => Err(Error::Aborted),
                }
            }
        }
    }

    /// Makes the bytes a layer of the store, durable when this returns.
    ///
    /// Fails and leaves nothing when the tar is not `expected` or not whole. A
    /// layer that the store has already is returned as it is.
    pub fn commit(self, expected: Option<&DiffId>) -> Result<Layer> {
        self.commit_as(expected, Sync::Durable)
    }

    /// The same, but a power cut may take the layer until [`LayerStore::sync_layers`] has returned.
    pub fn commit_unsynced(self, expected: Option<&DiffId>) -> Result<Layer> {
        self.commit_as(expected, Sync::Volatile)
    }

    fn commit_as(mut self, expected: Option<&DiffId>, sync: Sync) -> Result<Layer> {
        if self.failed {
            return Err(Error::Aborted);
        }
        let mut received = self.receive()?;
        let diff_id = received.diff_id;
        if let Some(expected) = expected
            && *expected != diff_id
        {
            return Err(Error::DigestMismatch {
                expected: *expected,
                actual: diff_id,
            });
        }
        if let Some(layer) = self.store.get(&diff_id) {
            if sync == Sync::Durable {
                self.store.sync_layers(&[diff_id])?;
                self.store.sync()?;
            }
            return Ok(layer);
        }
        let record = self.build(&mut received, sync)?;
        self.publish(&record, sync)
    }

    fn receive(&mut self) -> Result<Received> {
        let mut writer = self.join()?;
        let last = mem::take(&mut self.piece);
        writer
            .take(&last)
            .map_err(|e| Error::io("write", record::TAR, e))?;
        let position = self.parser.position();
        self.parser.finish().map_err(|e| at(e.into(), position))?;
        let tree = mem::replace(&mut self.tree, Tree::new(*self.store.limits())).finish()?;
        let order = tree.order();
        Ok(Received {
            tar: writer.file,
            tar_size: writer.size,
            diff_id: DiffId(writer.hasher.finish()),
            tree,
            order,
        })
    }

    /// Makes what the driver needs beside the tar, and syncs everything if it shall be durable.
    fn build(&mut self, received: &mut Received, sync: Sync) -> Result<Record> {
        let tar = &received.tar;
        if sync == Sync::Volatile {
            let form = build_form(&self.store, &self.dir, received, sync)?;
            let record = Record {
                unsynced: Some(boot()?),
                ..received.record(form)
            };
            write_record(&self.dir, &record, sync)?;
            return Ok(record);
        }
        // The disk works on the tar while the index is made.
        let form = thread::scope(|scope| {
            let sync = scope.spawn(|| rustix::fs::fsync(tar));
            let form = build_form(&self.store, &self.dir, received, Sync::Durable)?;
            match sync.join() {
                Ok(Ok(())) => Ok(form),
                Ok(Err(e)) => Err(Error::io("sync", record::TAR, e)),
                Err(_) => Err(Error::Aborted),
            }
        })?;
        let record = received.record(form);
        write_record(&self.dir, &record, sync)?;
        Ok(record)
    }

    fn publish(&mut self, record: &Record, sync: Sync) -> Result<Layer> {
        let Some(name) = &self.name else {
            return Err(Error::Aborted);
        };
        // If somebody else took the same layer in meanwhile, theirs is as good.
        if self.store.publish(name, record)? {
            self.name = None;
        }
        // Also for a layer of somebody else's, whose rename may not be on disk
        // yet.
        if sync == Sync::Durable {
            self.store.sync_layers(&[record.diff_id])?;
            self.store.sync()?;
        }
        Ok(layer(record))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let _ = self.join();
        if let Some(name) = self.name.take() {
            // What cannot be removed now is removed when the store is opened.
            let _ = remove_all_at(self.store.dir(), name);
        }
    }
}

impl Received {
    fn record(&self, form: Form) -> Record {
        Record {
            version: record::VERSION,
            diff_id: self.diff_id,
            tar_size: self.tar_size,
            size: self.tree.size(&self.order),
            entries: self.order.len() as u64,
            opaque: self.tree.is_opaque(),
            form,
            unsynced: None,
        }
    }
}

impl TarWriter {
    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hasher.update(piece);
        self.file.write_all(piece)?;
        self.size += piece.len() as u64;
        Ok(())
    }
}

fn spawn(mut writer: TarWriter) -> io::Result<Sink> {
    let (pieces, received) = sync_channel::<Vec<u8>>(PIECES);
    let (give_back, empties): (Sender<Vec<u8>>, _) = channel();
    let thread = thread::Builder::new()
        .name("layer-writer".into())
        .stack_size(128 << 10)
        .spawn(move || {
            for mut piece in received {
                writer.take(&piece)?;
                piece.clear();
                // The other side may have stopped asking.
                let _ = give_back.send(piece);
            }
            Ok(writer)
        })?;
    Ok(Sink::Thread {
        pieces,
        empties,
        thread,
    })
}

/// Makes the form that the store's driver mounts, complete.
fn build_form(store: &LayerStore, dir: &OwnedFd, received: &Received, sync: Sync) -> Result<Form> {
    match store.driver()? {
        Driver::TarIndex => write_index(
            dir,
            &received.tree,
            &received.order,
            &received.tar,
            received.tar_size,
            store,
            sync,
        ),
        Driver::Directory | Driver::Auto => {
            directory::unpack(
                store.worker(),
                dir,
                &received.tar,
                &received.tree,
                store.limits(),
            )?;
            Ok(Form::Directory)
        }
    }
}

fn write_index(
    dir: &OwnedFd,
    tree: &Finished,
    order: &[NodeId],
    tar: &File,
    tar_size: u64,
    store: &LayerStore,
    sync: Sync,
) -> Result<Form> {
    let file = rustix::fs::openat(
        dir,
        record::INDEX,
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(|e| Error::io("create", record::INDEX, e))?;
    let mut out = BufWriter::with_capacity(256 << 10, DigestWriter::new(File::from(file)));
    erofs::write(tree, order, tar, tar_size, store.limits(), &mut out)?;
    let out = out
        .into_inner()
        .map_err(|e| Error::io("write", record::INDEX, e.into_error()))?;
    let (file, index, index_size) = out.finish();
    if sync == Sync::Durable {
        file.sync_all()
            .map_err(|e| Error::io("sync", record::INDEX, e))?;
    }
    Ok(Form::TarIndex { index_size, index })
}

pub(crate) fn write_record(dir: &OwnedFd, record: &Record, sync: Sync) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(record)
        .map_err(|e| Error::io("encode", record::FILE, io::Error::from(e)))?;
    json.push(b'\n');
    Ok(write_atomic(dir, record::FILE, &json, sync)?)
}

/// Names the time from one boot of the system to the next.
pub(crate) fn boot() -> Result<String> {
    let read = std::fs::read_to_string(BOOT).map_err(|e| Error::io("read", BOOT, e))?;
    Ok(read.trim().to_owned())
}

/// Builds a layer's form anew from its tar, in place, after proving that the
/// tar is the layer.
pub(crate) fn rebuild(store: &LayerStore, dir: &OwnedFd, diff_id: &DiffId) -> Result<Record> {
    let fd = rustix::fs::openat(
        dir,
        record::TAR,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::io("open", record::TAR, e))?;
    let received = read_back(store, File::from(fd), diff_id)?;
    for name in [record::FILE, record::INDEX, record::TREE] {
        remove_all_at(dir, name)?;
    }
    let form = build_form(store, dir, &received, Sync::Durable)?;
    let record = received.record(form);
    write_record(dir, &record, Sync::Durable)?;
    Ok(record)
}

/// The digest of the index that would be made of a layer's tar now, after
/// proving that the tar is the layer.
pub(crate) fn index_digest(store: &LayerStore, tar: File, diff_id: &DiffId) -> Result<Digest> {
    let received = read_back(store, tar, diff_id)?;
    let mut out = DigestWriter::new(io::sink());
    erofs::write(
        &received.tree,
        &received.order,
        &received.tar,
        received.tar_size,
        store.limits(),
        &mut out,
    )?;
    Ok(out.finish().1)
}

/// Reads a stored tar and proves that it is the layer.
fn read_back(store: &LayerStore, tar: File, diff_id: &DiffId) -> Result<Received> {
    let mut parser = Parser::new();
    let mut tree = Tree::new(*store.limits());
    let (digest, tar_size) = hash(&tar, |bytes| {
        parser
            .push(bytes, &mut tree)
            .map_err(|e| at(e, parser.position()))
    })?;
    if digest != *diff_id.digest() {
        return Err(Error::Damaged {
            diff_id: *diff_id,
            what: "the tar is not the one that was stored",
        });
    }
    let position = parser.position();
    parser.finish().map_err(|e| at(e.into(), position))?;
    let tree = tree.finish()?;
    Ok(Received {
        order: tree.order(),
        tree,
        tar,
        tar_size,
        diff_id: *diff_id,
    })
}

/// Hashes a file from its beginning and shows its bytes to `see`.
pub(crate) fn hash(
    file: impl AsFd,
    mut see: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; PIECE];
    let mut position = 0;
    loop {
        match rustix::io::pread(&file, &mut buffer, position) {
            Ok(0) => return Ok((hasher.finish(), position)),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                see(&buffer[..length])?;
                position += length as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("read", "a stored file", e)),
        }
    }
}

/// Adds the place to an error of the parser.
pub(crate) fn at(error: Error, position: u64) -> Error {
    match error {
        Error::Tar { source, .. } => Error::Tar {
            offset: position,
            source,
        },
        other => other,
    }
}
