//! A strict, streaming reader of layer tars.
//!
//! Bytes are pushed in whatever pieces they arrive; members come out as
//! [`Member`] values with the places of their data in the tar. Nothing is ever
//! read twice and nothing but extension headers is held in memory.
//!
//! Where formats and readers disagree (which size counts, what a lone zero
//! block means, whether links have data) this follows Go's `archive/tar`,
//! because Docker and containerd read layers with it: everybody who looks at a
//! layer must see the same files.

mod header;
mod number;
mod pax;
mod sparse;

use header::{Header, TypeFlag};
use pax::Pax;
use sparse::{MapReader, OldMap};

/// Size of everything in a tar: headers, and data rounded up.
pub(crate) const BLOCK: usize = 512;

/// Bytes that may follow the end: writers pad to a record, of some KiB or a few MiB.
const BEHIND_MAX: u64 = 64 << 20;
/// Bound of one extension header (PAX records, GNU long name), as in Go.
const EXTENSION_MAX: u64 = 1 << 20;

/// Bound of the pieces of one sparse file.
const EXTENTS_MAX: usize = 1 << 20;

/// What is wrong with a tar.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TarError {
    /// The sum over a header block does not fit its contents.
    #[error("bad header checksum")]
    Checksum,
    /// A number field or a PAX number is no number or out of range.
    #[error("bad number in {0}")]
    Number(&'static str),
    /// Something else in a header or PAX record is malformed.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// An extension header is larger than anything sensible.
    #[error("extension header of {0} bytes is too large")]
    ExtensionSize(u64),
    /// A type of member that has no meaning in a layer.
    #[error("unsupported member type {0:?}")]
    Type(char),
    /// A sparse map that is unordered, overlaps, exceeds the file or is too long.
    #[error("bad sparse map")]
    SparseMap,
    /// What follows the end means nothing, and there is too much of it.
    #[error("more than {} MiB behind the end of the archive", BEHIND_MAX >> 20)]
    Behind,
    /// The stream ended inside a member.
    #[error("unexpected end of the archive")]
    Truncated,
}

/// A time stamp: seconds since 1970 and nanoseconds (0 to 999,999,999).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// One stretch of a sparse file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Place in the file.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Place in the tar.
    pub(crate) tar_offset: u64,
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// In one piece at this offset of the tar (a multiple of 512).
    Contiguous(u64),
    /// In pieces, ordered; the rest is zeros.
    Sparse(Vec<Extent>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File { size: u64, data: Data },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Directory,
    Fifo,
}

/// One extended attribute, name and value.
pub(crate) type Xattr = (Box<[u8]>, Box<[u8]>);

/// One member of the archive, extension headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The path as written, neither cleaned nor checked.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    /// Permission bits incl. setuid, setgid, sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<Xattr>,
}

/// Takes the members as they come.
pub(crate) trait Members {
    type Error: From<TarError>;
    fn member(&mut self, member: Member) -> Result<(), Self::Error>;
}

#[derive(Debug)]
enum Extension {
    Pax,
    Global,
    LongName,
    LongLink,
}

#[derive(Debug)]
enum State {
    Header,
    Extension {
        kind: Extension,
        bytes: Vec<u8>,
        remaining: u64,
    },
    /// Old GNU sparse: further map blocks follow the header.
    OldSparse {
        pending: Box<Pending>,
        map: OldMap,
    },
    /// PAX sparse 1.0: the map stands before the data.
    SparseMap {
        pending: Box<Pending>,
        map: MapReader,
    },
    Data {
        /// Bytes of data and padding to pass over.
        remaining: u64,
        /// How many of them are padding, which may be missing at the very end.
        padding: u64,
    },
    /// One block of zeros was seen.
    HalfEnd,
    End {
        /// Bytes that came after it.
        behind: u64,
    },
}

/// A member whose sparse map is not complete yet.
#[derive(Debug)]
struct Pending {
    member: Member,
    /// Size of the file with its holes.
    size: u64,
    /// Bytes that follow in the tar, incl. a map in front of the data.
    physical: u64,
}

/// The push parser.
#[derive(Debug)]
pub(crate) struct Parser {
    state: State,
    position: u64,
    block: [u8; BLOCK],
    filled: usize,
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            position: 0,
            block: [0; BLOCK],
            filled: 0,
            pax: None,
            long_name: None,
            long_link: None,
        }
    }

    /// Bytes taken so far; on an error, where about it happened.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes of the tar.
    pub(crate) fn push<M: Members>(
        &mut self,
        mut bytes: &[u8],
        to: &mut M,
    ) -> Result<(), M::Error> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::End { behind } => {
                    *behind += bytes.len() as u64;
                    if *behind > BEHIND_MAX {
                        return Err(TarError::Behind.into());
                    }
                    bytes.len()
                }
                State::Data { remaining, .. } => {
                    let taken =
                        usize::try_from(*remaining).map_or(bytes.len(), |r| r.min(bytes.len()));
                    *remaining -= taken as u64;
                    if *remaining == 0 {
                        self.state = State::Header;
                    }
                    taken
                }
                _ => {
                    let taken = (BLOCK - self.filled).min(bytes.len());
                    self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                    self.filled += taken;
                    taken
                }
            };
            self.position += taken as u64;
            bytes = &bytes[taken..];
            if self.filled == BLOCK {
                self.filled = 0;
                let block = self.block;
                self.take_block(&block, to)?;
            }
        }
        Ok(())
    }

    /// Passes over data up to the next header, for a reader that can seek and knows
    /// that the archive is whole; it goes on at [`position`](Self::position).
    pub(crate) fn skip(&mut self) {
        if let State::Data { remaining, padding } = self.state {
            self.position += remaining.saturating_sub(padding);
            self.state = match remaining.min(padding) {
                0 => State::Header,
                remaining => State::Data { remaining, padding },
            };
        }
    }

    /// The stream has ended. Missing end blocks are fine, as for Go.
    pub(crate) fn finish(&self) -> Result<(), TarError> {
        let dangling = self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some();
        match self.state {
            State::End { .. } => Ok(()),
            State::Header | State::HalfEnd if self.filled == 0 && !dangling => Ok(()),
            State::Data { remaining, padding } if remaining <= padding => Ok(()),
            _ => Err(TarError::Truncated),
        }
    }

    fn take_block<M: Members>(&mut self, block: &[u8; BLOCK], to: &mut M) -> Result<(), M::Error> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => self.header(block, to),
            State::Extension {
                kind,
                mut bytes,
                remaining,
            } => {
                let part = remaining.min(BLOCK as u64);
                bytes.extend(block.iter().take(BLOCK.min(part as usize)));
                let remaining = remaining - part;
                if remaining > 0 {
                    self.state = State::Extension {
                        kind,
                        bytes,
                        remaining,
                    };
                    return Ok(());
                }
                Ok(self.extension(&kind, bytes)?)
            }
            State::OldSparse { pending, mut map } => {
                let more = map.extension(block)?;
                self.old_sparse(pending, map, more, to)
            }
            State::SparseMap {
                mut pending,
                mut map,
            } => {
                pending.physical = pending
                    .physical
                    .checked_sub(BLOCK as u64)
                    .ok_or(TarError::SparseMap)?;
                match map.push(block)? {
                    None => {
                        self.state = State::SparseMap { pending, map };
                        Ok(())
                    }
                    Some(pieces) => self.sparse_member(*pending, &pieces, to),
                }
            }
            State::HalfEnd => {
                if block.iter().any(|b| *b != 0) {
                    return Err(TarError::Malformed("end of the archive").into());
                }
                self.state = State::End { behind: 0 };
                Ok(())
            }
            // Handled byte-wise in `push`.
            state @ (State::Data { .. } | State::End { .. }) => {
                self.state = state;
                Ok(())
            }
        }
    }

    fn header<M: Members>(&mut self, block: &[u8; BLOCK], to: &mut M) -> Result<(), M::Error> {
        if block.iter().all(|b| *b == 0) {
            if self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some() {
                return Err(TarError::Truncated.into());
            }
            self.state = State::HalfEnd;
            return Ok(());
        }
        let header = Header::parse(block)?;
        let extension = match header.type_flag {
            TypeFlag::Pax => Extension::Pax,
            TypeFlag::PaxGlobal => Extension::Global,
            TypeFlag::GnuLongName => Extension::LongName,
            TypeFlag::GnuLongLink => Extension::LongLink,
            TypeFlag::Member(flag) => return self.member(block, header, flag, to),
        };
        if header.size > EXTENSION_MAX {
            return Err(TarError::ExtensionSize(header.size).into());
        }
        if header.size == 0 {
            return Ok(self.extension(&extension, Vec::new())?);
        }
        self.state = State::Extension {
            kind: extension,
            bytes: Vec::new(),
            remaining: header.size,
        };
        Ok(())
    }

    fn extension(&mut self, kind: &Extension, bytes: Vec<u8>) -> Result<(), TarError> {
        match kind {
            Extension::Pax => self.pax = Some(Pax::parse(&bytes)?),
            // Checked, and otherwise of no effect, as in Docker.
            Extension::Global => {
                Pax::parse(&bytes)?;
            }
            Extension::LongName => self.long_name = Some(header::until_nul(&bytes).to_vec()),
            Extension::LongLink => self.long_link = Some(header::until_nul(&bytes).to_vec()),
        }
        Ok(())
    }

    fn member<M: Members>(
        &mut self,
        block: &[u8; BLOCK],
        mut header: Header,
        flag: u8,
        to: &mut M,
    ) -> Result<(), M::Error> {
        let pax = self.pax.take().unwrap_or_default();
        let mut path = pax.path.unwrap_or(header.name);
        let mut link = pax.link.unwrap_or(header.link);
        if let Some(name) = self.long_name.take() {
            path = name;
        }
        if let Some(name) = self.long_link.take() {
            link = name;
        }
        if let Some(size) = pax.size {
            header.size = size;
        }
        let uid = identity(pax.uid.unwrap_or(header.uid), "uid")?;
        let gid = identity(pax.gid.unwrap_or(header.gid), "gid")?;
        let mtime = pax.mtime.unwrap_or(Time {
            seconds: header.mtime,
            nanoseconds: 0,
        });
        let flag = match flag {
            // The oldest tars mark a directory by its name only.
            0 if path.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            other => other,
        };
        let kind = match flag {
            b'0' | b'S' => MemberKind::File {
                size: header.size,
                data: Data::Contiguous(self.position),
            },
            b'1' => MemberKind::HardLink(link),
            b'2' => MemberKind::Symlink(link),
            b'3' | b'4' => {
                let major = device_number(header.device_major, 0xfff)?;
                let minor = device_number(header.device_minor, 0xf_ffff)?;
                if flag == b'3' {
                    MemberKind::Character { major, minor }
                } else {
                    MemberKind::Block { major, minor }
                }
            }
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => return Err(TarError::Type(char::from(other)).into()),
        };
        let is_file = matches!(kind, MemberKind::File { .. });
        let member = Member {
            path,
            kind,
            // Type bits that some writers put here mean nothing.
            mode: (header.mode & 0o7777) as u16,
            uid,
            gid,
            mtime,
            xattrs: pax.xattrs,
        };
        let pending = Pending {
            member,
            size: header.size,
            physical: header.size,
        };
        if flag == b'S' {
            let (map, size, more) = OldMap::header(block)?;
            let pending = Box::new(Pending { size, ..pending });
            return self.old_sparse(pending, map, more, to);
        }
        let Some(sparse) = pax.sparse else {
            // A size on anything but a file is without data behind it.
            self.pass_over(if is_file { pending.physical } else { 0 });
            return to.member(pending.member);
        };
        if !is_file {
            return Err(TarError::SparseMap.into());
        }
        let mut pending = pending;
        if let Some(name) = sparse.name {
            pending.member.path = name;
        }
        pending.size = sparse.size.unwrap_or(pending.size);
        match sparse.pieces {
            Some(pieces) => self.sparse_member(pending, &pieces, to),
            None => {
                self.state = State::SparseMap {
                    pending: Box::new(pending),
                    map: MapReader::default(),
                };
                Ok(())
            }
        }
    }

    fn old_sparse<M: Members>(
        &mut self,
        pending: Box<Pending>,
        map: OldMap,
        more: bool,
        to: &mut M,
    ) -> Result<(), M::Error> {
        if more {
            self.state = State::OldSparse { pending, map };
            return Ok(());
        }
        self.sparse_member(*pending, &map.pieces, to)
    }

    /// The map is complete and the data begins at the current position.
    fn sparse_member<M: Members>(
        &mut self,
        mut pending: Pending,
        pieces: &[(u64, u64)],
        to: &mut M,
    ) -> Result<(), M::Error> {
        let extents = sparse::place(pieces, pending.size, pending.physical, self.position)?;
        pending.member.kind = MemberKind::File {
            size: pending.size,
            data: Data::Sparse(extents),
        };
        self.pass_over(pending.physical);
        to.member(pending.member)
    }

    fn pass_over(&mut self, size: u64) {
        if size == 0 {
            self.state = State::Header;
            return;
        }
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        self.state = State::Data {
            // Sizes come from 63-bit numbers, so this cannot overflow.
            remaining: size + padding,
            padding,
        };
    }
}

/// `(uid_t) -1` means "leave it" to `chown` and must not get near it.
fn identity(number: i64, what: &'static str) -> Result<u32, TarError> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(TarError::Number(what)),
    }
}

fn device_number(number: i64, max: u32) -> Result<u32, TarError> {
    match u32::try_from(number) {
        Ok(n) if n <= max => Ok(n),
        _ => Err(TarError::Number("device number")),
    }
}
