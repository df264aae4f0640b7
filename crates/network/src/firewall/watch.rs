//! Hearing of changes of the table.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, SocketAddr};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::error::{Error, Result};

/// The kernel's group of listeners for nftables (`NFNLGRP_NFTABLES`).
const GROUP: u32 = 7;
/// Number of nftables among the subsystems of netfilter (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u8 = 10;
/// In messages of every kind of object the attribute that names its table.
const TABLE_NAME: u16 = 1;
/// A netlink header and `struct nfgenmsg`.
const HEADERS: usize = 16 + 4;
const RECEIVE: usize = 64 * 1024;

/// Hears of every change of one table, by its engine or by somebody else, in the network namespace
/// that the opening thread was in. Its descriptor is readable when there may be something.
#[derive(Debug)]
pub struct FirewallWatch {
    socket: Socket,
    table: String,
}

impl FirewallWatch {
    pub(super) fn open(table: &str) -> Result<Self> {
        let open = || -> std::io::Result<Socket> {
            let mut socket = Socket::new(netlink_sys::protocols::NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(Error::OpenNetlink)?,
            table: table.to_owned(),
        })
    }

    /// Takes all news there are; returns whether any of them concerns the table. Never waits.
    pub fn take(&self) -> bool {
        let mut concerned = false;
        let mut buffer = Vec::with_capacity(RECEIVE);
        loop {
            buffer.clear();
            match recv(
                &self.socket,
                spare_capacity(&mut buffer),
                RecvFlags::empty(),
            ) {
                Ok(_) => concerned |= names(&buffer, &self.table),
                Err(Errno::INTR) => {}
                // More was told than fitted: anything may have been among it.
                Err(Errno::NOBUFS) => concerned = true,
                Err(_) => return concerned,
            }
        }
    }
}

impl AsFd for FirewallWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for FirewallWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Whether a message of a datagram is about an object of `table`, or the table itself.
fn names(mut datagram: &[u8], table: &str) -> bool {
    while let Some(head) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*head) as usize;
        let Some(message) = datagram
            .get(..length)
            .filter(|message| message.len() >= HEADERS)
        else {
            return false;
        };
        let subsystem = message[5];
        let named = NlasIterator::new(&message[HEADERS..])
            .filter_map(Result::ok)
            .find(|attribute| attribute.kind() == TABLE_NAME)
            .is_some_and(|attribute| {
                attribute.value().strip_suffix(&[0]) == Some(table.as_bytes())
            });
        if subsystem == NFTABLES && named {
            return true;
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    false
}
