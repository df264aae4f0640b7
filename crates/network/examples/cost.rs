//! Prints what the steps of a container's network cost, in microseconds, in
//! network namespaces of its own. Needs root.

use std::net::IpAddr;
use std::time::Instant;

use sampan_network::{
    Bridge, Endpoint, Error, Firewall, FirewallBridge, HostNetwork, InterfaceName, Isolation,
    MacAddress, NetworkNamespace, Pool, PortBinding, Protocol, Published,
};

const ROUNDS: usize = 60;

fn main() -> Result<(), Error> {
    let host = NetworkNamespace::new()?;
    let pool = Pool::new(ROUNDS + 10);
    while pool.ready() < ROUNDS + 10 {
        std::thread::yield_now();
    }
    host.run(move || {
        let links = HostNetwork::open()?;
        let subnet: sampan_network::Subnet = "172.17.0.0/16".parse()?;
        let bridge = Bridge {
            name: "sampan0".parse()?,
            subnet,
            gateway: subnet.gateway(),
            mtu: Bridge::DEFAULT_MTU,
        };
        links.ensure_bridge(&bridge)?;

        let mut costs = Costs::default();
        // Kept to the end: the kernel takes namespaces apart in the background,
        // with the routing lock held.
        let mut kept = Vec::new();
        for round in 0..ROUNDS {
            let fresh = costs.time("namespace, made", NetworkNamespace::new)?;
            let namespace = costs.time("namespace, from the pool", || pool.take())?;
            let endpoint = Endpoint {
                host_interface: InterfaceName::random_veth(),
                interface: "eth0".parse()?,
                address: subnet.nth(round as u128 + 2).expect("a wide subnet"),
                mac: MacAddress::random(),
                isolation: Isolation::Open,
                default_route: Some(bridge.gateway),
            };
            costs.time("veth pair, address, route", || {
                links.connect(&namespace, &bridge, &endpoint)
            })?;
            kept.push((fresh, namespace, endpoint.host_interface));
        }
        for (_, _, interface) in &kept {
            costs.time("disconnect", || links.disconnect(interface))?;
        }
        costs.time("bridge, already right", || links.ensure_bridge(&bridge))?;

        for ports in [0_u16, 1_000, 10_000] {
            firewall(&mut costs, &bridge, ports)?;
        }
        costs.print();
        Ok(())
    })
}

fn firewall(costs: &mut Costs, bridge: &Bridge, ports: u16) -> Result<(), Error> {
    let name = |what: &str| format!("firewall with {ports} ports: {what}");
    let container = bridge.subnet.nth(2).expect("a wide subnet");
    let firewall = Firewall::open("cost")?;
    let all = || (1..=ports).map(|port| published(port, container));
    firewall.update(|policy| policy.add_bridge(FirewallBridge::from(bridge)))?;
    costs.time(&name("publish all"), || {
        firewall.update(|policy| all().for_each(|port| policy.publish(&port)))
    })?;
    for port in 0..20 {
        let port = published(50_000 + port, container);
        costs.time(&name("publish one"), || {
            firewall.update(|policy| policy.publish(&port))
        })?;
        costs.time(&name("take it back"), || {
            firewall.update(|policy| policy.unpublish(&port.binding))
        })?;
        costs.time(&name("ensure, nothing changed"), || firewall.ensure())?;
    }
    let reopened = Firewall::open("cost")?;
    costs.time(&name("compare by reading"), || {
        reopened.apply(firewall.policy())
    })?;
    costs.time(&name("delete the table"), || {
        Firewall::open("cost")?.remove()
    })?;
    costs.time(&name("make it whole"), || firewall.ensure())?;
    firewall.remove()
}

fn published(port: u16, container: IpAddr) -> Published {
    let host_ip = IpAddr::from([0, 0, 0, 0]);
    let binding = PortBinding {
        protocol: Protocol::Tcp,
        host_ip,
        host_port: port,
        container_port: 80,
    };
    Published { binding, container }
}

#[derive(Default)]
struct Costs(Vec<(String, Vec<u128>)>);

impl Costs {
    fn time<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let start = Instant::now();
        let result = work()?;
        let spent = start.elapsed().as_micros();
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some((_, samples)) => samples.push(spent),
            None => self.0.push((name.to_owned(), vec![spent])),
        }
        Ok(result)
    }

    fn print(&mut self) {
        println!("{:<45} {:>9} {:>9}", "microseconds", "p10", "median");
        for (name, samples) in &mut self.0 {
            samples.sort_unstable();
            println!(
                "{name:<45} {:>9} {:>9}",
                samples[samples.len() / 10],
                samples[samples.len() / 2]
            );
        }
    }
}
