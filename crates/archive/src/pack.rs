//! Packing, on all processors, with the same result on every machine.
//!
//! The bytes are cut into blocks that are packed each on its own. For gzip a block may look back
//! into the one before, as in pigz, and all of them make one member; for zstd each is a frame.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Crc, FlushCompress, Status};
use sampan_oci::media_type::Compression;

/// What deflate may look back.
const WINDOW: usize = 32 << 10;
const GZIP_BLOCK: usize = 512 << 10;
const ZSTD_BLOCK: usize = 4 << 20;
/// The levels are part of the result: a layer must pack to the same blob each time.
const GZIP_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// No file name, no time, no system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A block on its way to a thread.
struct Job {
    /// What comes before the block, for gzip.
    before: Vec<u8>,
    block: Vec<u8>,
    last: bool,
    reply: Sender<io::Result<Packed>>,
}

struct Packed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Packs all of `input` with so many threads. `read` is told of every block. Blocks.
///
/// Packing to [`Compression::None`] copies.
pub fn pack(
    kind: Compression,
    mut input: impl Read,
    output: &mut impl Write,
    threads: usize,
    mut read: impl FnMut(u64),
) -> io::Result<()> {
    let block_size = match kind {
        Compression::None => return io::copy(&mut input, output).map(read),
        Compression::Gzip => GZIP_BLOCK,
        Compression::Zstd => ZSTD_BLOCK,
    };
    let threads = threads.max(1);
    let (jobs, queue) = sync_channel::<Job>(threads);
    let queue = Arc::new(Mutex::new(queue));
    thread::scope(|scope| {
        // Gone when this is left, however it is, so that the threads end.
        let jobs = jobs;
        for _ in 0..threads {
            let queue = queue.clone();
            thread::Builder::new()
                .name("pack".into())
                .spawn_scoped(scope, move || work(kind, &queue))?;
        }
        drop(queue);
        let mut packing = Packing {
            kind,
            output,
            pending: VecDeque::new(),
            crc: Crc::new(),
        };
        packing.begin()?;
        let mut before = Vec::new();
        let mut block = next_block(&mut input, block_size)?;
        loop {
            // The block after it tells whether it is the last.
            let next = next_block(&mut input, block_size)?;
            let last = next.is_empty();
            read(block.len() as u64);
            let tail = block[block.len().saturating_sub(WINDOW)..].to_vec();
            let (reply, packed) = channel();
            let job = Job {
                before: std::mem::replace(&mut before, tail),
                block,
                last,
                reply,
            };
            packing.pending.push_back(packed);
            if jobs.send(job).is_err() {
                return Err(io::Error::other("the threads that pack are gone"));
            }
            packing.take(if last { 0 } else { 2 * threads })?;
            if last {
                return packing.end();
            }
            block = next;
        }
    })
}

struct Packing<'a, W> {
    kind: Compression,
    output: &'a mut W,
    pending: VecDeque<Receiver<io::Result<Packed>>>,
    crc: Crc,
}

impl<W: Write> Packing<'_, W> {
    fn begin(&mut self) -> io::Result<()> {
        match self.kind {
            Compression::Gzip => self.output.write_all(&GZIP_HEADER),
            Compression::Zstd | Compression::None => Ok(()),
        }
    }

    /// Writes blocks, in order, until at most so many are under way.
    fn take(&mut self, under_way: usize) -> io::Result<()> {
        while self.pending.len() > under_way {
            let Some(packed) = self.pending.pop_front() else {
                break;
            };
            let packed = packed
                .recv()
                .map_err(|_| io::Error::other("a thread that packs is gone"))??;
            self.output.write_all(&packed.bytes)?;
            self.crc.combine(&packed.crc);
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.kind == Compression::Gzip {
            self.output.write_all(&self.crc.sum().to_le_bytes())?;
            self.output.write_all(&self.crc.amount().to_le_bytes())?;
        }
        Ok(())
    }
}

/// Reads a whole block, or what is left.
fn next_block(input: &mut impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(size);
    input.by_ref().take(size as u64).read_to_end(&mut block)?;
    Ok(block)
}

fn work(kind: Compression, queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let packed = match kind {
            Compression::Gzip => deflate(&job),
            Compression::Zstd => zstd::bulk::compress(&job.block, ZSTD_LEVEL).map(|bytes| Packed {
                bytes,
                crc: Crc::new(),
            }),
            Compression::None => Err(io::ErrorKind::Unsupported.into()),
        };
        // Nobody waits for it after an error elsewhere.
        let _ = job.reply.send(packed);
    }
}

/// Packs a block so that it ends at a byte and others can follow.
fn deflate(job: &Job) -> io::Result<Packed> {
    let mut deflate = Compress::new(flate2::Compression::new(GZIP_LEVEL), false);
    if !job.before.is_empty() {
        deflate
            .set_dictionary(&job.before)
            .map_err(io::Error::other)?;
    }
    let flush = if job.last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut bytes = Vec::with_capacity(job.block.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(deflate.total_in()).unwrap_or(job.block.len());
        let status = deflate
            .compress_vec(&job.block[taken..], &mut bytes, flush)
            .map_err(io::Error::other)?;
        let all = deflate.total_in() == job.block.len() as u64;
        let room = bytes.len() < bytes.capacity();
        match status {
            Status::StreamEnd => break,
            // A flush is complete when it leaves room.
            Status::Ok | Status::BufError if all && room && !job.last => break,
            Status::Ok | Status::BufError => bytes.reserve(job.block.len() / 4 + 1024),
        }
    }
    let mut crc = Crc::new();
    crc.update(&job.block);
    Ok(Packed { bytes, crc })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decoder;

    /// Bytes that pack neither well nor badly.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 7u32;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend_from_slice(format!("line {} of {}\n", state >> 20, state % 7).as_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn packed(kind: Compression, bytes: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut read = 0;
        pack(kind, bytes, &mut out, threads, |n| read += n).unwrap();
        assert_eq!(read, bytes.len() as u64);
        out
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_bytes() {
        for length in [0, 1, GZIP_BLOCK, GZIP_BLOCK + 1, 3_000_000, 9_000_001] {
            let bytes = text(length);
            for kind in [Compression::Gzip, Compression::Zstd] {
                let packed = packed(kind, &bytes, 3);
                if length > 0 {
                    assert_eq!(crate::detect(&packed).unwrap(), kind, "{length}");
                }
                let mut back = Vec::new();
                Decoder::new(&packed[..])
                    .unwrap()
                    .read_to_end(&mut back)
                    .unwrap();
                assert!(back == bytes, "{kind:?} {length}");
            }
        }
    }

    #[test]
    fn gzip_is_one_member_with_a_right_end() {
        let bytes = text(2_000_000);
        let packed = packed(Compression::Gzip, &bytes, 2);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == bytes);
    }

    #[test]
    fn the_result_does_not_depend_on_the_threads() {
        let bytes = text(5_000_000);
        for kind in [Compression::Gzip, Compression::Zstd] {
            assert!(packed(kind, &bytes, 1) == packed(kind, &bytes, 4));
        }
    }

    #[test]
    fn what_does_not_pack_survives() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..2_000_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let packed = packed(Compression::Gzip, &noise, 2);
        let mut back = Vec::new();
        Decoder::new(&packed[..])
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == noise);
    }
}
