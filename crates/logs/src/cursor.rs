//! A position in a chain of log files.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::local::{self, Frame};
use crate::packed::{self, packed_name};
use crate::writer::rotated_name;
use crate::{Entry, Error, Format, Query, Tail};

const READ_SIZE: usize = 64 << 10;
/// A line longer than this is none of ours and is skipped. (16 KiB, each byte escaped, and attrs.)
const MAX_LINE: usize = 1 << 20;
/// Rotated files beyond this number are not looked for.
const MAX_FILES: u32 = 10_000;

/// Identity of a file, whatever its name is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

#[derive(Debug)]
struct Source {
    file: File,
    /// Whether it has to be unpacked before it is read.
    packed: bool,
    id: FileId,
    /// The identity before it was packed. The kernel may have given it to another file since.
    was: Option<FileId>,
    /// Where the next read starts.
    offset: u64,
}

/// A position in a log. It moves on through the files as the writer rotates them, and never waits.
#[derive(Debug)]
pub struct Cursor {
    directory: OwnedFd,
    name: String,
    query: Query,
    /// Files to read, oldest first. The first one is being read.
    sources: VecDeque<Source>,
    /// Read from the first source, not yet taken from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Up to here no end of a line is in the buffer.
    searched: usize,
    /// Inside a line that is too long.
    skipping: bool,
    /// Whether an entry beyond `query.until` was seen.
    past_until: bool,
    /// Whether to stop at what the files held when they were opened.
    limit: Option<u64>,
}

impl Cursor {
    /// Opens a log at the place that `query` asks for. A log that does not exist (yet) is empty.
    pub fn open(directory: &Path, name: &str, query: &Query) -> Result<Self, Error> {
        let descriptor = rustix::fs::open(
            directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| Error::Directory {
            directory: directory.to_owned(),
            source: errno.into(),
        })?;
        let mut cursor = Self {
            directory: descriptor,
            name: name.to_owned(),
            query: query.clone(),
            sources: VecDeque::new(),
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            skipping: false,
            past_until: false,
            limit: None,
        };
        cursor.sources = cursor.open_all()?;
        if let Tail::Last(count) = query.tail {
            cursor.seek_to_tail(count)?;
        }
        Ok(cursor)
    }

    /// The next entry that the query wants; `None` where there is nothing more at the moment.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        while !self.past_until {
            let record = match self.query.format {
                Format::JsonFile => self.next_line()?,
                Format::Local => self.next_record()?,
            };
            let Some(line) = record else {
                return Ok(None);
            };
            let Some(entry) = self.query.format.decode(&self.buffer[line]) else {
                continue;
            };
            if self.query.until.is_some_and(|until| entry.time > until) {
                self.past_until = true;
            } else if self.query.wants(&entry) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Whether entries from here on are beyond the end of the period that was asked for.
    pub fn is_past_until(&self) -> bool {
        self.past_until
    }

    /// Stops at what is there now, however fast the writer is.
    pub(crate) fn limit_to_present(&mut self) -> Result<(), Error> {
        let size = match self.sources.back() {
            Some(source) => source
                .file
                .metadata()
                .map_err(|error| self.read_failed(error))?
                .len(),
            None => 0,
        };
        self.limit = Some(size);
        Ok(())
    }

    /// The range of the next line in the buffer, without its end.
    fn next_line(&mut self) -> Result<Option<std::ops::Range<usize>>, Error> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.start..self.searched + at;
                self.start = line.end + 1;
                self.searched = self.start;
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() - self.start > MAX_LINE {
                self.skipping = true;
                self.start = self.buffer.len();
            }
            if !self.fill()? && !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// The range of the next record in the buffer. What follows a damaged one in its file is lost.
    fn next_record(&mut self) -> Result<Option<std::ops::Range<usize>>, Error> {
        loop {
            if self.skipping {
                self.start = self.buffer.len();
            }
            match local::frame(&self.buffer[self.start..]) {
                Frame::Whole(record) => {
                    let start = self.start;
                    self.start += local::end_of(&record);
                    self.searched = self.start;
                    return Ok(Some(start + record.start..start + record.end));
                }
                Frame::Damaged => {
                    self.skipping = true;
                    continue;
                }
                Frame::Short => {}
            }
            self.searched = self.start;
            if !self.fill()? && !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Reads on in the present file; false at its end.
    fn fill(&mut self) -> Result<bool, Error> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        let is_last = self.sources.len() == 1;
        self.unpack(0)?;
        let Some(source) = self.sources.front_mut() else {
            return Ok(false);
        };
        let mut wanted = READ_SIZE;
        if is_last && let Some(limit) = self.limit {
            wanted = wanted.min(limit.saturating_sub(source.offset) as usize);
        }
        let length = self.buffer.len();
        self.buffer.resize(length + wanted, 0);
        let result = rustix::io::retry_on_intr(|| {
            rustix::io::pread(&source.file, &mut self.buffer[length..], source.offset)
        });
        let read = *result.as_ref().unwrap_or(&0);
        source.offset += read as u64;
        self.buffer.truncate(length + read);
        result.map_err(|errno| self.read_failed(errno.into()))?;
        Ok(read > 0)
    }

    /// Makes sure that a file can be read.
    fn unpack(&mut self, index: usize) -> Result<(), Error> {
        let Some(source) = self.sources.get_mut(index).filter(|source| source.packed) else {
            return Ok(());
        };
        match packed::unpack(self.directory.as_fd(), &source.file) {
            Ok(file) => {
                source.file = file;
                source.packed = false;
                Ok(())
            }
            Err(error) => Err(self.read_failed(error)),
        }
    }

    /// Goes on to the next file; false where the present one is still the last.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.sources.len() <= 1 {
            if self.limit.is_some() || !self.find_successors()? {
                return Ok(false);
            }
            // The writer may have added to the old file between our last read and its rotation.
            if self.sources.len() > 1 && self.fill()? {
                return Ok(true);
            }
        }
        if self.sources.len() > 1 {
            self.sources.pop_front();
        }
        // A line without an end is torn: the writer starts a file with a new line.
        self.buffer.clear();
        self.start = 0;
        self.searched = 0;
        self.skipping = false;
        Ok(true)
    }

    /// Looks for the files that came after the present one; whether there are any.
    fn find_successors(&mut self) -> Result<bool, Error> {
        let Some(present) = self.sources.front().map(|source| source.id) else {
            self.sources = self.open_all()?;
            return Ok(!self.sources.is_empty());
        };
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if file_id(&stat) == present => return Ok(false),
            Ok(_) => {}
            // Between two steps of a rotation, or removed for good.
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(self.read_failed(errno.into())),
        }
        let mut all = self.open_all()?;
        // The newest that had it: the present file is open, so that nobody has had it since.
        let is_present = |source: &Source| source.id == present || source.was == Some(present);
        if let Some(place) = all.iter().rposition(is_present) {
            all.drain(..=place);
        }
        let found = !all.is_empty();
        self.sources.extend(all);
        Ok(found)
    }

    /// Opens the whole chain, oldest first. Newest are opened first: a rotation meanwhile makes a
    /// file appear twice, but never hides one.
    fn open_all(&self) -> Result<VecDeque<Source>, Error> {
        let mut sources: VecDeque<Source> = VecDeque::new();
        let mut gaps = 0;
        for number in 0..MAX_FILES {
            let name = rotated_name(&self.name, number);
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = |name: &str| rustix::fs::openat(&self.directory, name, flags, Mode::empty());
            let mut packed = false;
            let opened = match open(&name) {
                Err(Errno::NOENT) if number > 0 => {
                    packed = true;
                    open(&packed_name(&name))
                }
                other => other,
            };
            let file = match opened {
                Ok(file) => file,
                // One name is missing for a moment while the writer rotates.
                Err(Errno::NOENT) if gaps == 0 => {
                    gaps = 1;
                    continue;
                }
                Err(Errno::NOENT) => break,
                Err(errno) => {
                    let source = errno.into();
                    return Err(Error::Open { name, source });
                }
            };
            let stat = rustix::fs::fstat(&file).map_err(|errno| self.read_failed(errno.into()))?;
            let was = packed.then(|| packed::identity(&file)).flatten();
            let was = was.map(|(device, inode)| FileId { device, inode });
            let id = file_id(&stat);
            if sources.iter().all(|source| source.id != id) {
                sources.push_front(Source {
                    file: file.into(),
                    packed,
                    id,
                    was,
                    offset: 0,
                });
            }
        }
        Ok(sources)
    }

    /// Moves to the last `count` lines of the chain, reading backwards from the end.
    fn seek_to_tail(&mut self, count: u64) -> Result<(), Error> {
        let mut missing = count;
        for index in (0..self.sources.len()).rev() {
            self.unpack(index)?;
            let found = self.last_entries(&self.sources[index].file, missing);
            let found = found.map_err(|error| self.read_failed(error))?;
            match found {
                LastLines::At(offset) => {
                    self.sources[index].offset = offset;
                    self.sources.drain(..index);
                    return Ok(());
                }
                LastLines::Fewer(lines) => missing -= lines,
            }
        }
        Ok(())
    }

    fn last_entries(&self, file: &File, count: u64) -> io::Result<LastLines> {
        match self.query.format {
            Format::JsonFile => last_lines(file, count),
            Format::Local => {
                let length = file.metadata()?.len();
                let (start, found) = local::last_records(file, length, count)?;
                Ok(if found == count {
                    LastLines::At(start)
                } else {
                    LastLines::Fewer(found)
                })
            }
        }
    }

    fn read_failed(&self, source: io::Error) -> Error {
        Error::Read {
            name: self.name.clone(),
            source,
        }
    }
}

fn file_id(stat: &rustix::fs::Stat) -> FileId {
    FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum LastLines {
    /// The last lines asked for start here.
    At(u64),
    /// The file has only so many.
    Fewer(u64),
}

/// Finds the last `count` whole lines; what follows the last end of a line is not counted.
fn last_lines(file: &File, count: u64) -> io::Result<LastLines> {
    let mut end = file.metadata()?.len();
    let mut ends = 0;
    let mut block = vec![0; READ_SIZE];
    while end > 0 {
        let start = end.saturating_sub(READ_SIZE as u64);
        let bytes = &mut block[..(end - start) as usize];
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)?;
        for at in memchr::memrchr_iter(b'\n', bytes) {
            if ends == count {
                return Ok(LastLines::At(start + at as u64 + 1));
            }
            ends += 1;
        }
        end = start;
    }
    // The first line of the file has no end before it.
    Ok(if ends == count && count > 0 {
        LastLines::At(0)
    } else {
        LastLines::Fewer(ends)
    })
}
