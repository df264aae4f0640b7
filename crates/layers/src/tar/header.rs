//! One header block: v7, ustar, GNU and star forms.

use super::number::header_field;
use super::{BLOCK, TarError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeFlag {
    Pax,
    PaxGlobal,
    GnuLongName,
    GnuLongLink,
    Member(u8),
}

#[derive(Debug)]
pub(super) struct Header {
    pub(super) type_flag: TypeFlag,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) device_major: i64,
    pub(super) device_minor: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        verify_checksum(block)?;
        let number = |from: usize, to: usize, what: &'static str| {
            header_field(&block[from..to]).ok_or(TarError::Number(what))
        };
        let mut header = Self {
            type_flag: match block[156] {
                b'x' => TypeFlag::Pax,
                b'g' => TypeFlag::PaxGlobal,
                b'L' => TypeFlag::GnuLongName,
                b'K' => TypeFlag::GnuLongLink,
                other => TypeFlag::Member(other),
            },
            name: until_nul(&block[0..100]).to_vec(),
            link: until_nul(&block[157..257]).to_vec(),
            mode: number(100, 108, "mode")?,
            uid: number(108, 116, "uid")?,
            gid: number(116, 124, "gid")?,
            size: u64::try_from(number(124, 136, "size")?).map_err(|_| TarError::Number("size"))?,
            mtime: number(136, 148, "mtime")?,
            device_major: 0,
            device_minor: 0,
        };
        let format = format(block);
        if format == Format::V7 {
            return Ok(header);
        }
        header.device_major = number(329, 337, "device number")?;
        header.device_minor = number(337, 345, "device number")?;
        let prefix = match format {
            Format::Ustar => until_nul(&block[345..500]),
            Format::Star => until_nul(&block[345..476]),
            // Some writers wrongly put a prefix where this format has times.
            Format::Gnu => gnu_prefix(block),
            Format::V7 => &[],
        };
        if !prefix.is_empty() {
            let name = std::mem::take(&mut header.name);
            header.name = [prefix, b"/", &name].concat();
        }
        Ok(header)
    }
}

/// Go before 1.8 wrote GNU headers with a ustar prefix; such layers exist.
/// It can only be meant when the fields of the format proper are no numbers.
fn gnu_prefix(block: &[u8; BLOCK]) -> &[u8] {
    let is_time = |field: &[u8]| field[0] == 0 || header_field(field).is_some();
    if is_time(&block[345..357]) && is_time(&block[357..369]) {
        return &[];
    }
    let prefix = until_nul(&block[345..500]);
    if prefix.is_ascii() { prefix } else { &[] }
}

fn format(block: &[u8; BLOCK]) -> Format {
    match (&block[257..263], &block[263..265]) {
        (b"ustar\0", b"00") if &block[508..512] == b"tar\0" => Format::Star,
        (b"ustar\0", _) => Format::Ustar,
        (b"ustar ", b" \0") => Format::Gnu,
        _ => Format::V7,
    }
}

/// The sum is over the block with its own field blank; some writers added the
/// bytes as signed numbers.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), TarError> {
    let expected = header_field(&block[148..156]).ok_or(TarError::Checksum)?;
    let mut unsigned = 0i64;
    let mut signed = 0i64;
    for (i, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if expected == unsigned || expected == signed {
        Ok(())
    } else {
        Err(TarError::Checksum)
    }
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, field).unwrap_or(field.len());
    &field[..end]
}
