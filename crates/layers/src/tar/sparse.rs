//! Sparse files in their four forms: old GNU, PAX 0.0, 0.1 and 1.0.

use super::number::{header_field, unsigned};
use super::{BLOCK, EXTENTS_MAX, Extent, TarError};

/// What PAX records say about a sparse file.
#[derive(Debug)]
pub(super) struct PaxSparse {
    /// The file's true name; the header has an invented one.
    pub(super) name: Option<Vec<u8>>,
    /// The file's true size; the header has that of the data.
    pub(super) size: Option<u64>,
    /// Offset and length of each piece; `None` when the map stands before the
    /// data (form 1.0).
    pub(super) pieces: Option<Vec<(u64, u64)>>,
}

/// The `GNU.sparse.*` records as they come.
#[derive(Debug, Default)]
pub(super) struct Keys {
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    blocks: Option<u64>,
    map: Option<Vec<(u64, u64)>>,
    offset: Option<u64>,
}

impl Keys {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let number = || unsigned(value).ok_or(TarError::SparseMap);
        match key {
            b"major" => self.major = Some(value.to_vec()),
            b"minor" => self.minor = Some(value.to_vec()),
            b"name" if value.contains(&0) => return Err(TarError::Malformed("PAX record")),
            b"name" => self.name = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"realsize" => self.real_size = Some(number()?),
            b"numblocks" => self.blocks = Some(number()?),
            b"map" => self.map = Some(map_of_list(value)?),
            // Form 0.0: the two keys alternate, once per piece.
            b"offset" if self.offset.is_some() => return Err(TarError::SparseMap),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(TarError::SparseMap)?;
                let map = self.map.get_or_insert_default();
                if map.len() >= EXTENTS_MAX {
                    return Err(TarError::SparseMap);
                }
                map.push((offset, number()?));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Option<PaxSparse>, TarError> {
        let pieces = match (self.major.as_deref(), self.minor.as_deref()) {
            (Some(b"1"), Some(b"0")) => None,
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => match self.map {
                Some(map) => Some(map),
                None => return Ok(None),
            },
            _ => return Err(TarError::Malformed("sparse version")),
        };
        if self.offset.is_some() {
            return Err(TarError::SparseMap);
        }
        let counted = self.blocks.zip(pieces.as_ref().map(Vec::len));
        if counted.is_some_and(|(blocks, pieces)| blocks != pieces as u64) {
            return Err(TarError::SparseMap);
        }
        Ok(Some(PaxSparse {
            name: self.name.filter(|n| !n.is_empty()),
            size: self.size.or(self.real_size),
            pieces,
        }))
    }
}

/// Form 0.1: `offset,length,offset,length...`
fn map_of_list(value: &[u8]) -> Result<Vec<(u64, u64)>, TarError> {
    let mut numbers = value.split(|b| *b == b',');
    let mut pieces = Vec::new();
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(TarError::SparseMap)?;
        let piece = unsigned(offset).zip(unsigned(length));
        if pieces.len() >= EXTENTS_MAX {
            return Err(TarError::SparseMap);
        }
        pieces.push(piece.ok_or(TarError::SparseMap)?);
    }
    Ok(pieces)
}

/// The map of form 1.0: decimal lines, the number of pieces first, padded to a
/// block.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    count: Option<usize>,
    offset: Option<u64>,
    pieces: Vec<(u64, u64)>,
}

impl MapReader {
    /// Takes a block; returns the map when it is complete.
    pub(super) fn push(
        &mut self,
        block: &[u8; BLOCK],
    ) -> Result<Option<Vec<(u64, u64)>>, TarError> {
        for byte in block {
            if *byte != b'\n' {
                // No number is longer than this.
                if self.line.len() >= 20 {
                    return Err(TarError::SparseMap);
                }
                self.line.push(*byte);
                continue;
            }
            let number = unsigned(&self.line).ok_or(TarError::SparseMap)?;
            self.line.clear();
            let count = match self.count {
                Some(count) => count,
                None => {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > EXTENTS_MAX {
                        return Err(TarError::SparseMap);
                    }
                    self.count = Some(count);
                    if count == 0 {
                        return Ok(Some(Vec::new()));
                    }
                    continue;
                }
            };
            match self.offset.take() {
                None => self.offset = Some(number),
                Some(offset) => self.pieces.push((offset, number)),
            }
            if self.pieces.len() == count {
                return Ok(Some(std::mem::take(&mut self.pieces)));
            }
        }
        Ok(None)
    }
}

/// The map of the old GNU form: fixed fields in the header and in blocks
/// behind it.
#[derive(Debug)]
pub(super) struct OldMap {
    pub(super) pieces: Vec<(u64, u64)>,
    ended: bool,
}

impl OldMap {
    /// Reads the header's part: the map, the true size, whether more follows.
    pub(super) fn header(block: &[u8; BLOCK]) -> Result<(Self, u64, bool), TarError> {
        if &block[257..265] != b"ustar  \0" {
            return Err(TarError::Malformed("sparse header"));
        }
        let size = header_field(&block[483..495])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or(TarError::SparseMap)?;
        let mut map = Self {
            pieces: Vec::new(),
            ended: false,
        };
        map.fields(&block[386..482])?;
        Ok((map, size, block[482] != 0))
    }

    /// Reads a block behind the header; says whether more follows.
    pub(super) fn extension(&mut self, block: &[u8; BLOCK]) -> Result<bool, TarError> {
        self.fields(&block[..504])?;
        Ok(block[504] != 0)
    }

    fn fields(&mut self, fields: &[u8]) -> Result<(), TarError> {
        for field in fields.chunks_exact(24) {
            // An empty field ends the map.
            self.ended |= field[0] == 0;
            if self.ended {
                continue;
            }
            let number = |f: &[u8]| header_field(f).and_then(|n| u64::try_from(n).ok());
            let piece = number(&field[..12]).zip(number(&field[12..]));
            if self.pieces.len() >= EXTENTS_MAX {
                return Err(TarError::SparseMap);
            }
            self.pieces.push(piece.ok_or(TarError::SparseMap)?);
        }
        Ok(())
    }
}

/// Checks a map against the file's size and the data that follows, and says
/// where in the tar each piece is. Empty pieces are left out.
pub(super) fn place(
    pieces: &[(u64, u64)],
    size: u64,
    physical: u64,
    position: u64,
) -> Result<Vec<Extent>, TarError> {
    let mut extents: Vec<Extent> = Vec::with_capacity(pieces.len());
    let mut end = 0u64;
    let mut used = 0u64;
    for (offset, length) in pieces {
        let piece_end = offset.checked_add(*length).ok_or(TarError::SparseMap)?;
        if *offset < end || piece_end > size {
            return Err(TarError::SparseMap);
        }
        end = piece_end;
        if *length > 0 {
            match extents.last_mut() {
                Some(last) if last.offset + last.length == *offset => last.length += length,
                _ => extents.push(Extent {
                    offset: *offset,
                    length: *length,
                    tar_offset: position + used,
                }),
            }
        }
        used = used.checked_add(*length).ok_or(TarError::SparseMap)?;
    }
    // Data without a place in the file, or a place without data: two readers
    // would disagree on what follows.
    if used != physical {
        return Err(TarError::SparseMap);
    }
    Ok(extents)
}
