//! Reading on while a log grows.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::{Cursor, Entry, Error, Query};

/// How often a follower looks where the kernel gives it no inotify instance.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often it looks anyway: `until` may pass with nothing written.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);

const RUNNING: u8 = 0;
const FINISHING: u8 = 1;
const CANCELLED: u8 = 2;

/// Tells a [`Follower`] in another thread to end.
#[derive(Clone, Debug)]
pub struct FollowControl {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    wake: OwnedFd,
}

impl FollowControl {
    /// The writer has ended: the follower ends when it has read everything.
    pub fn finish(&self) {
        self.set(FINISHING);
    }

    /// Nobody reads any more: the follower ends at once.
    pub fn cancel(&self) {
        self.set(CANCELLED);
    }

    /// Whether the follower was told that nobody reads any more.
    pub fn is_cancelled(&self) -> bool {
        self.shared.state.load(Ordering::SeqCst) == CANCELLED
    }

    fn set(&self, state: u8) {
        self.shared.state.fetch_max(state, Ordering::SeqCst);
        // A full counter is as good as an added one: the follower wakes up.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

/// What a follower has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// An entry.
    Entry(Entry),
    /// Nothing within the time given.
    Idle,
    /// Nothing more will come.
    End,
}

/// Reads a log and goes on with what is added to it. Blocks the thread it is used from.
#[derive(Debug)]
pub struct Follower {
    cursor: Cursor,
    watch: Option<OwnedFd>,
    shared: Arc<Shared>,
    until: Option<jiff::Timestamp>,
}

impl Follower {
    /// Opens the log `name` in `directory`, which may not exist yet (the directory must).
    pub fn open(directory: &Path, name: &str, query: &Query) -> Result<Self, Error> {
        // Watched first: what is written between the two is seen by either.
        let watch = watch(directory);
        let cursor = Cursor::open(directory, name, query)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::Wait(errno.into()))?;
        Ok(Self {
            cursor,
            watch,
            shared: Arc::new(Shared {
                state: AtomicU8::new(RUNNING),
                wake,
            }),
            until: query.until,
        })
    }

    /// A handle that ends this follower from elsewhere.
    pub fn control(&self) -> FollowControl {
        FollowControl {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The next entry, waiting at most `timeout` for it (without one: for good).
    pub fn next_entry(&mut self, timeout: Option<Duration>) -> Result<Next, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            // Read before the log is: what was written before the end was called is found.
            let state = self.shared.state.load(Ordering::SeqCst);
            if state == CANCELLED {
                return Ok(Next::End);
            }
            if let Some(entry) = self.cursor.next_entry()? {
                return Ok(Next::Entry(entry));
            }
            let over = self
                .until
                .is_some_and(|until| jiff::Timestamp::now() > until);
            if state == FINISHING || over || self.cursor.is_past_until() {
                return Ok(Next::End);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Next::Idle);
            }
            self.wait(left)?;
        }
    }

    fn wait(&self, left: Option<Duration>) -> Result<(), Error> {
        let longest = if self.watch.is_some() {
            LOOK_ANYWAY
        } else {
            LOOK_AGAIN
        };
        let time = left.map_or(longest, |left| left.min(longest));
        let time = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        let watched = self.watch.as_ref().unwrap_or(&self.shared.wake);
        let mut descriptors = [
            PollFd::new(&self.shared.wake, PollFlags::IN),
            PollFd::new(watched, PollFlags::IN),
        ];
        match poll(&mut descriptors, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Wait(errno.into())),
        }
        drain(&self.shared.wake);
        if let Some(watch) = &self.watch {
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(watch, &mut space);
            while events.next().is_ok() {}
        }
        Ok(())
    }
}

fn drain(wake: &OwnedFd) {
    let _ = rustix::io::read(wake, &mut [0; 8]);
}

/// Watches the directory, so that rotation is seen too. `None` where there are too many watches.
fn watch(directory: &Path) -> Option<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(
        watch.as_fd(),
        directory,
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR,
    )
    .ok()?;
    Some(watch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Stream, Tail, Writer};

    const LONG: Option<Duration> = Some(Duration::from_secs(20));
    const SHORT: Option<Duration> = Some(Duration::from_millis(30));

    fn text(next: Next) -> String {
        match next {
            Next::Entry(entry) => String::from_utf8(entry.bytes).unwrap(),
            other => panic!("{other:?} is no entry"),
        }
    }

    #[test]
    fn following_survives_rotation_and_ends_after_the_last_entry() {
        for max_file in [2, 1000] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_owned();
            let mut follower = Follower::open(&path, "log", &Query::default()).unwrap();
            let control = follower.control();
            let writer = std::thread::spawn(move || {
                let options = Options {
                    max_size: Some(4096),
                    max_file,
                    ..Options::default()
                };
                let mut log = Writer::open(&path, "log", &options).unwrap();
                for number in 0..3000 {
                    log.write(Stream::Stdout, format!("{number}\n").as_bytes())
                        .unwrap();
                    if max_file == 2 {
                        // Slow enough that no file vanishes unread.
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
                control.finish();
            });
            let mut numbers = Vec::new();
            loop {
                match follower.next_entry(LONG).unwrap() {
                    Next::End => break,
                    next => numbers.push(text(next).trim().parse::<u32>().unwrap()),
                }
            }
            writer.join().unwrap();
            assert!(numbers.is_sorted());
            assert_eq!(*numbers.last().unwrap(), 2999);
            if max_file == 1000 {
                assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn only_new_entries_after_a_tail_of_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
        log.write(Stream::Stdout, b"old\n").unwrap();
        let query = Query {
            tail: Tail::Last(0),
            ..Query::default()
        };
        let mut follower = Follower::open(directory.path(), "log", &query).unwrap();
        assert_eq!(follower.next_entry(SHORT).unwrap(), Next::Idle);
        log.write(Stream::Stdout, b"new\n").unwrap();
        assert_eq!(text(follower.next_entry(LONG).unwrap()), "new\n");
        follower.control().cancel();
        log.write(Stream::Stdout, b"unread\n").unwrap();
        assert_eq!(follower.next_entry(LONG).unwrap(), Next::End);
    }

    #[test]
    fn an_entry_that_is_only_half_written_is_waited_for() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut follower = Follower::open(directory.path(), "log", &Query::default()).unwrap();
        file.write_all(br#"{"log":"whole\n","stream":"std"#)
            .unwrap();
        assert_eq!(follower.next_entry(SHORT).unwrap(), Next::Idle);
        file.write_all(b"out\",\"time\":\"2026-11-23T10:00:00Z\"}\n")
            .unwrap();
        assert_eq!(text(follower.next_entry(LONG).unwrap()), "whole\n");
    }

    #[test]
    fn a_period_that_is_over_ends_the_following() {
        let directory = tempfile::tempdir().unwrap();
        let query = Query {
            until: Some(jiff::Timestamp::now() + Duration::from_millis(50)),
            ..Query::default()
        };
        let mut follower = Follower::open(directory.path(), "log", &query).unwrap();
        assert_eq!(follower.next_entry(LONG).unwrap(), Next::End);
    }
}
