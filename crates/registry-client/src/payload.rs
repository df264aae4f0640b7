//! What a request carries.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

/// Bytes read at once.
const PIECE: u64 = 512 << 10;

/// What a request carries. It can be sent again: each time it begins anew.
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(Bytes),
    /// A part of a file.
    File {
        file: Arc<File>,
        offset: u64,
        length: u64,
        /// Set to the place in the file that was handed over last.
        sent: Arc<AtomicU64>,
    },
}

impl Payload {
    pub(crate) fn body(&self) -> Option<reqwest::Body> {
        match self {
            Self::None => None,
            Self::Bytes(bytes) => Some(bytes.clone().into()),
            Self::File {
                file,
                offset,
                length,
                sent,
            } => {
                sent.store(*offset, Ordering::Relaxed);
                Some(reqwest::Body::wrap(FilePart {
                    file: file.clone(),
                    next: *offset,
                    end: offset + length,
                    sent: sent.clone(),
                    reading: None,
                }))
            }
        }
    }

    /// Where it is to be seen how far the sending is.
    pub(crate) fn sent(&self) -> Option<&AtomicU64> {
        match self {
            Self::File { sent, .. } => Some(sent),
            Self::None | Self::Bytes(_) => None,
        }
    }
}

/// Reads a part of a file piece by piece, on threads that may wait for the disk.
struct FilePart {
    file: Arc<File>,
    next: u64,
    end: u64,
    sent: Arc<AtomicU64>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

fn read_piece(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; length];
    file.read_exact_at(&mut piece, offset)?;
    Ok(piece.into())
}

impl Body for FilePart {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.next == self.end {
            return Poll::Ready(None);
        }
        let (file, offset) = (self.file.clone(), self.next);
        let length = usize::try_from((self.end - offset).min(PIECE)).unwrap_or(usize::MAX);
        let reading = self.reading.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || read_piece(&file, offset, length))
        });
        let piece = ready!(Pin::new(reading).poll(context)).map_err(io::Error::other);
        self.reading = None;
        let piece = match piece.flatten() {
            Ok(piece) => piece,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.next += piece.len() as u64;
        self.sent.store(self.next, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.next)
    }
}
