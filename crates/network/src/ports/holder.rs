//! Which program of the host holds a port.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::Protocol;

/// A program that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHolder {
    /// Its process.
    pub pid: u32,
    /// Its name, as the kernel keeps it.
    pub name: String,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

impl PortHolder {
    /// Looks for who keeps `address` from being bound: a socket in the kernel's list, and the process
    /// that has it open. None when it went meanwhile, or belongs to nobody that can be seen.
    pub(super) fn find(protocol: Protocol, address: SocketAddr) -> Option<Self> {
        let lists = match protocol {
            Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
            Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        };
        let sockets: Vec<String> = lists
            .iter()
            .filter_map(|list| fs::read_to_string(list).ok())
            .flat_map(|text| sockets_of(&text, protocol, address))
            .collect();
        if sockets.is_empty() {
            return None;
        }
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|pid: &u32| has_open(*pid, &sockets))
            .map(|pid| Self {
                pid,
                name: fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(
                    |_| "a program".to_owned(),
                    |name| name.trim_end().to_owned(),
                ),
            })
    }
}

fn has_open(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| sockets.iter().any(|socket| target == Path::new(socket)))
}

/// The sockets of a list of the kernel (proc(5)) that hold the address, by the names that their
/// descriptors have.
fn sockets_of(list: &str, protocol: Protocol, address: SocketAddr) -> Vec<String> {
    /// A TCP socket that listens; one of UDP that is bound.
    const LISTENS: &str = "0A";
    let rows = list.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (*fields.get(1)?, *fields.get(3)?, *fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = read_address(ip)?;
        let holds = port == address.port()
            && (protocol == Protocol::Udp || state == LISTENS)
            && (ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified());
        holds.then(|| format!("socket:[{inode}]"))
    });
    rows.collect()
}

/// Reads an address as the kernel writes it: words of 32 bits in the machine's order.
fn read_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at * 8)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lists_of_the_kernel_are_read() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n\
                    1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n\
                    2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 79 1\n\
                    broken\n";
        let of = |text: &str| sockets_of(list, Protocol::Tcp, text.parse().unwrap());
        assert_eq!(of("127.0.0.1:8080"), ["socket:[77]"]);
        assert_eq!(of("0.0.0.0:8080"), ["socket:[77]"]);
        assert_eq!(of("10.0.0.1:8080"), [""; 0]);
        assert_eq!(of("10.0.0.1:80"), ["socket:[79]"]);
        let mapped = "0000000000000000FFFF00000100007F";
        assert_eq!(read_address(mapped), "127.0.0.1".parse().ok());
        assert_eq!(read_address("zz"), None);
    }

    #[test]
    fn this_process_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let holder = PortHolder::find(Protocol::Tcp, address).unwrap();
        assert_eq!(holder.pid, std::process::id());
        let socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let address = socket.local_addr().unwrap();
        let holder = PortHolder::find(Protocol::Udp, address).unwrap();
        assert_eq!(holder.pid, std::process::id());
        drop(socket);
        assert_eq!(PortHolder::find(Protocol::Udp, address), None);
    }
}
