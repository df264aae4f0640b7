//! Connections that the kernel remembers in spite of a changed firewall.
//!
//! UDP has no end: as long as a client keeps sending from one port, its
//! packets go where the first one went, to a container that is gone or, if
//! the port was published later, to the host itself. So what is remembered of
//! a UDP port is removed when the port changes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};
use rustix::io::Errno;

use super::wire::{FAMILY_HEADER, attributes};
use crate::error::Fault;
use crate::netlink::NetlinkSocket;
use crate::ports::Protocol;

const MSG_GET: u8 = 1;
const MSG_DELETE: u8 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const STATUS: u16 = 3;
const STATUS_TRANSLATED: u32 = 0x20;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION: u16 = 3;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_BY_PROTOCOL: u32 = 1 << 3;
const NESTED: u16 = 0x8000;

/// UDP ports of the host; no address means all of them.
pub(super) type Ports = BTreeSet<(u16, Option<Ipv4Addr>)>;

/// Which UDP connections of the host's ports are not true any more.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Ports that lead elsewhere now: all their connections.
    pub(super) changed: Ports,
    /// Ports that were not published for a while: the connections that were
    /// begun meanwhile, and so are not translated.
    pub(super) restored: Ports,
}

/// Makes the kernel forget stale connections.
pub(super) fn forget(socket: &mut NetlinkSocket, stale: &Stale) -> Result<(), Fault> {
    if stale.changed.is_empty() && stale.restored.is_empty() {
        return Ok(());
    }
    let mut found = Vec::new();
    let mut collect = |payload: &[u8]| found.extend(identify(payload, stale));
    match socket.dump_payloads(request(MSG_GET, only_udp()), &mut collect) {
        // A kernel before 5.8 lists all or nothing.
        Err(fault) if fault.is(Errno::INVAL) || fault.is(Errno::OPNOTSUPP) => {
            socket.dump_payloads(request(MSG_GET, Vec::new()), &mut collect)?;
        }
        other => {
            other?;
        }
    }
    for identity in found {
        match socket.execute(vec![(request(MSG_DELETE, identity), 0)]) {
            Err(refusal) if refusal.fault.is(Errno::NOENT) => {}
            other => other.map_err(|refusal| refusal.fault)?,
        }
    }
    Ok(())
}

fn request(message_type: u8, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    let inner = NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Conntrack,
        message_type,
        attributes,
    };
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        inner,
    )
}

fn only_udp() -> Vec<DefaultNla> {
    let number = DefaultNla::new(PROTOCOL_NUMBER, vec![Protocol::Udp.number()]);
    let original = nested(TUPLE_ORIGINAL, &[nested(TUPLE_PROTOCOL, &[number])]);
    let flags = DefaultNla::new(FILTER_ORIGINAL, FILTER_BY_PROTOCOL.to_ne_bytes().to_vec());
    vec![original, nested(FILTER, &[flags])]
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// Returns what names a listed connection to the kernel, if it is one of
/// those to forget.
fn identify(payload: &[u8], stale: &Stale) -> Option<Vec<DefaultNla>> {
    let connection = payload.get(FAMILY_HEADER..)?;
    let find = |list, wanted: u16| {
        attributes(list)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let tuple = find(connection, TUPLE_ORIGINAL)?;
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    let destination: [u8; 4] = find(find(tuple, TUPLE_IP)?, IP_DESTINATION)?
        .try_into()
        .ok()?;
    let port = u16::from_be_bytes(find(protocol, PROTOCOL_DESTINATION)?.try_into().ok()?);
    let is_udp = find(protocol, PROTOCOL_NUMBER)? == [Protocol::Udp.number()];
    let status = u32::from_be_bytes(find(connection, STATUS)?.try_into().ok()?);
    let is_in = |ports: &Ports| {
        ports.contains(&(port, None)) || ports.contains(&(port, Some(destination.into())))
    };
    let is_stale =
        is_in(&stale.changed) || (status & STATUS_TRANSLATED == 0 && is_in(&stale.restored));
    (is_udp && is_stale).then(|| {
        let whole = [(TUPLE_ORIGINAL, NESTED), (ZONE, 0), (ID, 0)];
        whole
            .iter()
            .filter_map(|(kind, flag)| {
                Some(DefaultNla::new(
                    kind | flag,
                    find(connection, *kind)?.to_vec(),
                ))
            })
            .collect()
    })
}
