//! Readiness of descriptors.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

pub(crate) use rustix::event::epoll::EventFlags as Readiness;

/// Which output stream of a group of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Standard output, or everything from a terminal.
    First = 0,
    /// Standard error.
    Second = 1,
}

/// What a watched descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Children have ended.
    Children,
    /// The control socket.
    Listener,
    /// A connection to the control socket.
    Connection(u32),
    /// An output of the streams with this number.
    Output(u32, Output),
    /// The input of the streams with this number.
    Input(u32),
    /// A client (second number) of streams.
    Client(u32, u32),
    /// The output of a health check.
    Probe,
}

impl Source {
    fn encode(self) -> u64 {
        let (kind, streams, number) = match self {
            Self::Children => (0, 0, 0),
            Self::Listener => (1, 0, 0),
            Self::Connection(number) => (2, 0, number),
            Self::Output(streams, output) => (3, streams, output as u32),
            Self::Input(streams) => (4, streams, 0),
            Self::Client(streams, number) => (5, streams, number),
            Self::Probe => (6, 0, 0),
        };
        // Numbers of streams are given out one by one; 2^28 execs of one container are out of reach.
        kind << 60 | u64::from(streams & 0x0fff_ffff) << 32 | u64::from(number)
    }

    fn decode(data: u64) -> Option<Self> {
        let streams = (data >> 32) as u32 & 0x0fff_ffff;
        let number = data as u32;
        Some(match data >> 60 {
            0 => Self::Children,
            1 => Self::Listener,
            2 => Self::Connection(number),
            3 if number == 0 => Self::Output(streams, Output::First),
            3 => Self::Output(streams, Output::Second),
            4 => Self::Input(streams),
            5 => Self::Client(streams, number),
            6 => Self::Probe,
            _ => return None,
        })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Rc::new(Self { epoll }))
    }

    /// Waits for something to be ready, at most `timeout`.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (Source, Readiness)> + use<>> {
        const AT_ONCE: usize = 16;
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut space = [const { MaybeUninit::<epoll::Event>::uninit() }; AT_ONCE];
        let ready: &[epoll::Event] = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => &[],
            Err(errno) => return Err(errno.into()),
        };
        let mut found = [None; AT_ONCE];
        for (place, event) in found.iter_mut().zip(ready) {
            // The kernel's structure is packed: the fields are copied out.
            let (data, flags) = (event.data, event.flags);
            *place = Source::decode(data.u64()).map(|source| (source, flags));
        }
        Ok(found.into_iter().flatten())
    }
}

/// Something with a descriptor, watched for what is asked of it. It is taken out of the poller when
/// it is dropped: somebody else may hold the same open file (a client's socket, just handed over),
/// and closing alone would leave it in there.
#[derive(Debug)]
pub(crate) struct Watched<T: AsFd = OwnedFd> {
    inner: T,
    source: Source,
    interest: Option<Readiness>,
    poller: Rc<Poller>,
}

impl<T: AsFd> AsFd for Watched<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<T: AsFd> Watched<T> {
    /// Takes something with a descriptor, not watched yet.
    pub(crate) fn new(poller: &Rc<Poller>, source: Source, inner: T) -> Self {
        Self {
            inner,
            source,
            interest: None,
            poller: Rc::clone(poller),
        }
    }

    /// What is watched.
    pub(crate) fn inner(&self) -> &T {
        &self.inner
    }

    /// What is watched.
    pub(crate) fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Says what to watch for. `None` watches for nothing at all; an empty set still for the other
    /// side's end and for errors, which the kernel reports whether asked or not.
    pub(crate) fn watch(&mut self, interest: Option<Readiness>) -> io::Result<()> {
        if interest == self.interest {
            return Ok(());
        }
        let data = epoll::EventData::new_u64(self.source.encode());
        let epoll = &self.poller.epoll;
        match (self.interest, interest) {
            (None, Some(interest)) => epoll::add(epoll, &self.inner, data, interest)?,
            (Some(_), Some(interest)) => epoll::modify(epoll, &self.inner, data, interest)?,
            (_, None) => epoll::delete(epoll, &self.inner)?,
        }
        self.interest = interest;
        Ok(())
    }
}

impl<T: AsFd> Drop for Watched<T> {
    fn drop(&mut self) {
        // Best effort: closing does the rest where nobody else holds the file.
        let _ = self.watch(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_kernel() {
        for source in [
            Source::Children,
            Source::Listener,
            Source::Connection(u32::MAX),
            Source::Output(7, Output::First),
            Source::Output(0x0fff_ffff, Output::Second),
            Source::Input(3),
            Source::Client(9, u32::MAX),
            Source::Probe,
        ] {
            assert_eq!(Source::decode(source.encode()), Some(source));
        }
    }

    #[test]
    fn what_is_dropped_is_not_reported_though_somebody_else_holds_it() {
        let poller = Poller::new().unwrap();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let copy = a.try_clone().unwrap();
        let mut watched = Watched::new(&poller, Source::Input(1), OwnedFd::from(a));
        watched.watch(Some(Readiness::IN)).unwrap();
        drop(b);
        let ready: Vec<_> = poller.wait(Some(Duration::ZERO)).unwrap().collect();
        assert_eq!(ready.len(), 1);
        assert_eq!(ready[0].0, Source::Input(1));
        drop(watched);
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
        drop(copy);
    }
}
