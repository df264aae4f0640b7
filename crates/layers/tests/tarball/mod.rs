//! Builds tars block by block, honest and hostile ones.
#![allow(dead_code, missing_docs, unreachable_pub)]

/// One header block and what belongs to it.
#[derive(Clone)]
pub struct Header {
    pub flag: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: u64,
    pub major: u64,
    pub minor: u64,
    pub magic: &'static [u8; 8],
}

impl Header {
    pub fn new(flag: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            flag,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_700_000_000,
            major: 0,
            minor: 0,
            magic: b"ustar\x0000",
        }
    }

    pub fn link(mut self, link: impl AsRef<[u8]>) -> Self {
        self.link = link.as_ref().to_vec();
        self
    }

    pub fn mode(mut self, mode: u64) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    pub fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    pub fn device(mut self, major: u64, minor: u64) -> Self {
        (self.major, self.minor) = (major, minor);
        self
    }

    pub fn gnu(mut self) -> Self {
        self.magic = b"ustar  \0";
        self
    }

    pub fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8], max: usize| {
            let bytes = &bytes[..bytes.len().min(max)];
            block[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.path, 100);
        put(157, &self.link, 100);
        put(100, &number(self.mode, 8), 8);
        put(108, &number(self.uid, 8), 8);
        put(116, &number(self.gid, 8), 8);
        put(124, &number(self.size, 12), 12);
        put(136, &number(self.mtime, 12), 12);
        put(156, &[self.flag], 1);
        put(257, self.magic, 8);
        put(329, &number(self.major, 8), 8);
        put(337, &number(self.minor, 8), 8);
        sum(&mut block);
        block
    }
}

/// Octal while it fits, base-256 beyond.
pub fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}", width = width - 1);
    if octal.len() < width {
        return [octal.as_bytes(), b"\0"].concat();
    }
    let mut bytes = vec![0; width];
    for (i, byte) in value.to_be_bytes().iter().rev().enumerate() {
        if i < width {
            bytes[width - 1 - i] = *byte;
        }
    }
    bytes[0] |= 0x80;
    bytes
}

/// Fills in the checksum.
pub fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let total: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{total:06o}\0 ").as_bytes());
}

/// One PAX record.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

#[derive(Default, Clone)]
pub struct Tarball(pub Vec<u8>);

impl Tarball {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn header(self, header: &Header) -> Self {
        self.raw(&header.block())
    }

    /// A header with as many bytes of data as it is given.
    pub fn member(self, header: Header, data: &[u8]) -> Self {
        self.header(&header.size(data.len() as u64)).data(data)
    }

    pub fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'0', path), data.as_ref())
    }

    pub fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'5', path))
    }

    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'2', path).mode(0o777).link(target))
    }

    pub fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'1', path).link(target))
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_of(b'x', records)
    }

    pub fn pax_global(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_of(b'g', records)
    }

    fn pax_of(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let text: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
        self.member(Header::new(flag, "PaxHeaders/x"), &text)
    }

    pub fn gnu_long(self, flag: u8, name: impl AsRef<[u8]>) -> Self {
        let name = [name.as_ref(), b"\0"].concat();
        self.member(Header::new(flag, "././@LongLink").gnu(), &name)
    }

    /// Ends the archive.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}
