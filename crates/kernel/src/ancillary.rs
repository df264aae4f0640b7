//! Descriptors over unix sockets (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors that one message carries (the kernel's `SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// Room for the control message of [`MAX_DESCRIPTORS`] descriptors.
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(253));

/// Sends bytes and descriptors in one message; returns how many of the bytes
/// went out. The descriptors go with the first byte.
///
/// # Errors
/// As sendmsg(2); a closed peer is `EPIPE`, without a signal.
pub fn send_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let slices = [IoSlice::new(bytes)];
    loop {
        match sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives bytes into `buffer` and the descriptors that came with them, all
/// close-on-exec, onto the end of `descriptors`; returns the number of bytes,
/// 0 when the peer has closed.
///
/// # Errors
/// As recvmsg(2); `InvalidData` when more descriptors came than fit, those
/// that did are closed.
pub fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut found = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            found.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    descriptors.append(&mut found);
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_arrive_with_their_bytes() {
        let (here, there) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let sent = send_with_descriptors(here.as_fd(), b"hello", &[file.as_fd(), here.as_fd()]);
        assert_eq!(sent.unwrap(), 5);
        let mut buffer = [0; 16];
        let mut descriptors = Vec::new();
        let read = receive_with_descriptors(there.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!(&buffer[..read], b"hello");
        assert_eq!(descriptors.len(), 2);
        drop((here, descriptors));
        let mut none = Vec::new();
        let end = receive_with_descriptors(there.as_fd(), &mut buffer, &mut none).unwrap();
        assert_eq!((end, none.len()), (0, 0));
    }
}
