//! Packing, on all processors, with the same result on every machine.
//!
//! The bytes are cut into blocks that are packed each on its own: a member of gzip, or a frame of
//! zstd. What unpacks either takes any number of them (RFC 1952 section 2.2, RFC 8878 section 3).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};
use sampan_oci::media_type::Compression;

/// Bigger ones pack no better: deflate looks back 32 KiB.
const GZIP_BLOCK: usize = 512 << 10;
const ZSTD_BLOCK: usize = 4 << 20;
/// The levels are part of the result: a layer must pack to the same blob each time. This one packs
/// as well as zlib's second to fourth, at twice their speed.
const GZIP_LEVEL: i32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// A block on its way to a thread.
struct Job {
    block: Vec<u8>,
    reply: Sender<io::Result<Vec<u8>>>,
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
        let mut pending = VecDeque::new();
        // Nothing packs to an empty block, so that the result is of its kind.
        let mut block = next_block(&mut input, block_size)?;
        loop {
            read(block.len() as u64);
            let (reply, packed) = channel();
            pending.push_back(packed);
            if jobs.send(Job { block, reply }).is_err() {
                return Err(io::Error::other("the threads that pack are gone"));
            }
            take(&mut pending, 2 * threads, output)?;
            block = next_block(&mut input, block_size)?;
            if block.is_empty() {
                return take(&mut pending, 0, output);
            }
        }
    })
}

/// Writes blocks, in order, until at most so many are under way.
fn take(
    pending: &mut VecDeque<Receiver<io::Result<Vec<u8>>>>,
    under_way: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    while pending.len() > under_way {
        let Some(packed) = pending.pop_front() else {
            break;
        };
        let packed = packed
            .recv()
            .map_err(|_| io::Error::other("a thread that packs is gone"))??;
        output.write_all(&packed)?;
    }
    Ok(())
}

/// Reads a whole block, or what is left.
fn next_block(input: &mut impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(size);
    input.by_ref().take(size as u64).read_to_end(&mut block)?;
    Ok(block)
}

fn work(kind: Compression, queue: &Mutex<Receiver<Job>>) {
    let mut deflate = CompressionLvl::new(GZIP_LEVEL).ok().map(Compressor::new);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let packed = match (kind, &mut deflate) {
            (Compression::Gzip, Some(deflate)) => member(deflate, &job.block),
            (Compression::Zstd, _) => zstd::bulk::compress(&job.block, ZSTD_LEVEL),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        // Nobody waits for it after an error elsewhere.
        let _ = job.reply.send(packed);
    }
}

/// A whole gzip member, with no file name, no time and no system in its head.
fn member(deflate: &mut Compressor, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; deflate.gzip_compress_bound(block.len())];
    let length = deflate
        .gzip_compress(block, &mut bytes)
        .map_err(io::Error::other)?;
    bytes.truncate(length);
    Ok(bytes)
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
