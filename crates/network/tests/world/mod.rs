//! A small world in namespaces of its own: a host, a neighbour outside, and
//! containers on the host's bridge. Nothing of the machine's network is touched.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use sampan_network::{
    Bridge, Endpoint, Error, Firewall, FirewallBridge, HostNetwork, InterfaceName, Isolation,
    MacAddress, NetworkNamespace, PortBinding, Protocol, Published, Subnet,
};

pub(crate) const HOST: &str = "10.9.0.1";
pub(crate) const OUTSIDE: &str = "10.9.0.2";
const PATIENCE: Duration = Duration::from_millis(400);

pub(crate) struct World {
    pub(crate) host: NetworkNamespace,
    pub(crate) links: HostNetwork,
    pub(crate) firewall: Firewall,
    pub(crate) bridge: Bridge,
    pub(crate) outside: NetworkNamespace,
}

pub(crate) struct Container {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) endpoint: Endpoint,
}

impl Container {
    pub(crate) fn address(&self) -> IpAddr {
        self.endpoint.address
    }
}

impl World {
    pub(crate) fn outside_address(&self) -> IpAddr {
        ip(OUTSIDE)
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn bridge(name: &str, gateway: &str) -> Bridge {
    let (address, prefix) = gateway.split_once('/').unwrap();
    let gateway = ip(address);
    let subnet = Subnet::new(gateway, prefix.parse().unwrap()).unwrap();
    Bridge {
        name: name.parse().unwrap(),
        subnet,
        gateway,
        mtu: Bridge::DEFAULT_MTU,
    }
}

pub(crate) fn endpoint(bridge: &Bridge, address: IpAddr) -> Endpoint {
    Endpoint {
        host_interface: InterfaceName::random_veth(),
        interface: "eth0".parse().unwrap(),
        address,
        mac: MacAddress::random(),
        isolation: Isolation::Open,
        default_route: Some(bridge.gateway),
    }
}

/// Runs `work` inside a namespace.
pub(crate) fn inside<T: Send>(namespace: &NetworkNamespace, work: impl FnOnce() -> T + Send) -> T {
    namespace.run(|| Ok::<_, Error>(work())).unwrap()
}

impl World {
    /// A host with an address outside, a neighbour there, an empty bridge and
    /// the firewall for it.
    pub(crate) fn new() -> Self {
        let world = Self::without_firewall();
        world
            .firewall
            .update(|policy| policy.add_bridge(FirewallBridge::from(&world.bridge)))
            .unwrap();
        world
    }

    pub(crate) fn without_firewall() -> Self {
        let host = NetworkNamespace::new().unwrap();
        let (links, firewall) = inside(&host, || {
            (
                HostNetwork::open().unwrap(),
                Firewall::open("sampan").unwrap(),
            )
        });
        let wan = bridge("wan", "10.9.0.1/24");
        let bridge = bridge("sampan0", "172.17.0.1/16");
        inside(&host, || {
            links.ensure_bridge(&wan).unwrap();
            links.ensure_bridge(&bridge).unwrap();
        });
        let outside = NetworkNamespace::new().unwrap();
        inside(&host, || {
            links
                .connect(&outside, &wan, &endpoint(&wan, ip(OUTSIDE)))
                .unwrap();
        });
        Self {
            host,
            links,
            firewall,
            bridge,
            outside,
        }
    }

    /// A container at 172.17.0.`number`.
    pub(crate) fn container(&self, number: u8) -> Container {
        self.container_with(number, Isolation::Open)
    }

    pub(crate) fn container_with(&self, number: u8, isolation: Isolation) -> Container {
        let address = IpAddr::from([172, 17, 0, number]);
        let endpoint = Endpoint {
            isolation,
            ..endpoint(&self.bridge, address)
        };
        let namespace = NetworkNamespace::new().unwrap();
        inside(&self.host, || {
            self.links
                .connect(&namespace, &self.bridge, &endpoint)
                .unwrap();
        });
        Container {
            namespace,
            endpoint,
        }
    }

    pub(crate) fn publish(&self, host: &str, container: &Container, port: u16, protocol: Protocol) {
        let port = published(host, container.address(), port, protocol);
        self.firewall
            .update(|policy| policy.publish(&port))
            .unwrap();
    }

    /// Runs a program in the host; its output, or a panic with its complaint.
    pub(crate) fn run(&self, command: &str) -> String {
        run_in(&self.host, command)
    }

    /// Runs `nft` in the host with a script on its standard input.
    pub(crate) fn nft(&self, script: &str) {
        inside(&self.host, || {
            let mut child = Command::new("nft")
                .args(["-f", "-"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(script.as_bytes())
                .unwrap();
            assert!(child.wait().unwrap().success(), "{script}");
        });
    }
}

pub(crate) fn published(host: &str, container: IpAddr, port: u16, protocol: Protocol) -> Published {
    let host: SocketAddr = host.parse().unwrap();
    let binding = PortBinding {
        protocol,
        host_ip: host.ip(),
        host_port: host.port(),
        container_port: port,
    };
    Published { binding, container }
}

pub(crate) fn run_in(namespace: &NetworkNamespace, command: &str) -> String {
    let output = inside(namespace, || {
        Command::new("sh").args(["-ec", command]).output().unwrap()
    });
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Serves TCP in a namespace: every client is told the address it is seen by.
pub(crate) fn serve_tcp(namespace: &NetworkNamespace, address: &str) {
    let listener = inside(namespace, || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{peer}");
        }
    });
}

/// Connects by TCP and returns by which address the server sees the client.
pub(crate) fn ask_tcp(namespace: &NetworkNamespace, address: &str) -> Option<String> {
    let address = address.parse().unwrap();
    inside(namespace, || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

/// Serves UDP in a namespace: every sender is told `name` and its address.
pub(crate) fn serve_udp(namespace: &NetworkNamespace, address: &str, name: &'static str) {
    let socket = inside(namespace, || UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

pub(crate) fn ask_udp(socket: &UdpSocket, address: &str) -> Option<String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", address).ok()?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(
        from,
        address.parse().unwrap(),
        "the answer comes from the address that was asked"
    );
    Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

pub(crate) fn udp_in(namespace: &NetworkNamespace) -> UdpSocket {
    inside(namespace, || UdpSocket::bind("0.0.0.0:0").unwrap())
}

/// Sends an ICMP echo request as an unprivileged program would.
pub(crate) fn ping(namespace: &NetworkNamespace, address: IpAddr) -> bool {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt,
    };
    inside(namespace, || {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        let echo = [8, 0, 0, 0, 0, 0, 0, 1];
        let mut answer = [0; 64];
        sendto(
            &socket,
            &echo,
            SendFlags::empty(),
            &SocketAddr::new(address, 0),
        )
        .is_ok()
            && recv(&socket, &mut answer, RecvFlags::empty())
                .is_ok_and(|(count, _)| count >= 8 && answer[0] == 0)
    })
}
