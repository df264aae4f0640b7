//! Who reaches whom: containers, the host and its neighbours.

mod world;

use sampan_kernel::requires;
use sampan_network::{
    FirewallBridge, Isolation, NetworkNamespace, PortAllocator, Protocol, Published, parse_publish,
};
use world::{
    HOST, World, ask_tcp, ask_udp, bridge, endpoint, inside, ip, ping, run_in, serve_tcp,
    serve_udp, udp_in,
};

const BRIDGE_CALLS_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

#[test]
fn containers_reach_each_other_and_their_gateway() {
    requires!(root, nftables);
    let world = World::new();
    let (one, two) = (world.container(2), world.container(3));
    serve_tcp(&two.namespace, "0.0.0.0:80");
    assert_eq!(
        ask_tcp(&one.namespace, "172.17.0.3:80").unwrap(),
        "172.17.0.2"
    );
    assert!(ping(&one.namespace, two.address()));
    assert!(ping(&one.namespace, world.bridge.gateway));
    assert!(ping(&world.host, one.address()));
    let link = run_in(&one.namespace, "ip -br link show eth0");
    assert!(
        link.contains(&one.endpoint.mac.to_string()) && link.contains("UP"),
        "{link}"
    );
    assert_eq!(run_in(&one.namespace, "ip -6 address show dev eth0"), "");
}

#[test]
fn containers_reach_the_world_by_the_hosts_address() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    serve_tcp(&world.outside, "0.0.0.0:80");
    serve_udp(&world.outside, "0.0.0.0:53", "outside");
    assert_eq!(ask_tcp(&one.namespace, "10.9.0.2:80").unwrap(), HOST);
    assert_eq!(
        ask_udp(&udp_in(&one.namespace), "10.9.0.2:53").unwrap(),
        "outside 10.9.0.1"
    );
    assert!(ping(&one.namespace, world.outside_address()));
}

#[test]
fn a_port_published_everywhere_is_reached_from_everywhere() {
    requires!(root, nftables);
    let world = World::new();
    let (one, two) = (world.container(2), world.container(3));
    serve_tcp(&one.namespace, "0.0.0.0:80");
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);

    assert_eq!(
        ask_tcp(&world.outside, "10.9.0.1:8080").unwrap(),
        "10.9.0.2",
        "the true source is seen"
    );
    assert_eq!(
        ask_tcp(&world.host, "127.0.0.1:8080").unwrap(),
        "172.17.0.1"
    );
    assert_eq!(
        ask_tcp(&world.host, "127.1.2.3:8080").unwrap(),
        "172.17.0.1"
    );
    assert!(ask_tcp(&world.host, "10.9.0.1:8080").is_some());
    assert!(ask_tcp(&world.host, "172.17.0.1:8080").is_some());
    assert_eq!(
        ask_tcp(&two.namespace, "10.9.0.1:8080").unwrap(),
        "172.17.0.1",
        "a container beside it"
    );
    assert_eq!(
        ask_tcp(&two.namespace, "172.17.0.1:8080").unwrap(),
        "172.17.0.1"
    );
    assert_eq!(
        ask_tcp(&one.namespace, "10.9.0.1:8080").unwrap(),
        "172.17.0.1",
        "the container itself"
    );
    assert_eq!(
        ask_tcp(&world.outside, "10.9.0.1:80"),
        None,
        "only the published port"
    );

    let binding = world::published("0.0.0.0:8080", one.address(), 80, Protocol::Tcp).binding;
    world
        .firewall
        .update(|policy| policy.unpublish(&binding))
        .unwrap();
    assert_eq!(ask_tcp(&world.outside, "10.9.0.1:8080"), None);
    assert_eq!(ask_tcp(&world.host, "127.0.0.1:8080"), None);
}

#[test]
fn the_socket_that_holds_a_port_is_never_reached() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    serve_tcp(&one.namespace, "0.0.0.0:80");
    let ports = PortAllocator::new();
    let requests = parse_publish("80").unwrap();
    let held = inside(&world.host, || ports.allocate("one", &requests).unwrap());
    let host = format!("10.9.0.1:{}", held[0].binding.host_port);
    assert_eq!(
        ask_tcp(&world.outside, &host),
        None,
        "held, not yet published"
    );
    let port = Published {
        binding: held[0].binding,
        container: one.address(),
    };
    world
        .firewall
        .update(|policy| policy.publish(&port))
        .unwrap();
    assert_eq!(ask_tcp(&world.outside, &host).unwrap(), "10.9.0.2");
    assert_eq!(
        ask_tcp(&world.host, &host.replace("10.9.0.1", "127.0.0.1")).unwrap(),
        "172.17.0.1"
    );
    let again = inside(&world.host, || {
        std::net::TcpListener::bind(&host).unwrap_err()
    });
    assert_eq!(again.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn a_port_published_on_one_address_is_reached_there_only() {
    requires!(root, nftables);
    let world = World::new();
    let (one, two) = (world.container(2), world.container(3));
    serve_tcp(&one.namespace, "0.0.0.0:80");
    serve_tcp(&two.namespace, "0.0.0.0:80");
    world.publish("10.9.0.1:8080", &one, 80, Protocol::Tcp);
    world.publish("127.0.0.1:8081", &two, 80, Protocol::Tcp);

    assert!(ask_tcp(&world.outside, "10.9.0.1:8080").is_some());
    assert!(ask_tcp(&world.host, "10.9.0.1:8080").is_some());
    assert_eq!(ask_tcp(&world.host, "127.0.0.1:8080"), None);
    assert!(ask_tcp(&world.host, "127.0.0.1:8081").is_some());
    assert_eq!(ask_tcp(&world.outside, "10.9.0.1:8081"), None);
    assert_eq!(ask_tcp(&one.namespace, "172.17.0.1:8081"), None);
}

#[test]
fn loopback_addresses_cannot_be_reached_over_the_wire() {
    requires!(root, nftables);
    let world = World::without_firewall();
    let one = world.container(2);
    serve_tcp(&one.namespace, "0.0.0.0:80");
    serve_tcp(&world.host, "127.0.0.1:9000");
    // Both attackers route 127.0.0.1 to the host, which takes it in: its
    // bridges have route_localnet.
    for attacker in [&world.outside, &one.namespace] {
        run_in(
            attacker,
            "ip address del 127.0.0.1/8 dev lo; ip route flush table local 127.0.0.0/8 || true; \
             echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet",
        );
        assert!(
            ask_tcp(attacker, "127.0.0.1:9000").is_some(),
            "without the firewall the attack succeeds"
        );
    }
    world
        .firewall
        .update(|policy| policy.add_bridge(FirewallBridge::from(&world.bridge)))
        .unwrap();
    world.publish("127.0.0.1:8080", &one, 80, Protocol::Tcp);
    assert!(ask_tcp(&world.host, "127.0.0.1:8080").is_some());
    for attacker in [&world.outside, &one.namespace] {
        assert_eq!(ask_tcp(attacker, "127.0.0.1:9000"), None);
        assert_eq!(ask_tcp(attacker, "127.0.0.1:8080"), None);
    }
}

#[test]
fn containers_cannot_be_reached_directly_from_outside() {
    requires!(root, nftables);
    let world = World::without_firewall();
    let one = world.container(2);
    serve_tcp(&one.namespace, "0.0.0.0:80");
    assert!(
        ask_tcp(&world.outside, "172.17.0.2:80").is_some(),
        "without the firewall the way is open"
    );
    world
        .firewall
        .update(|policy| policy.add_bridge(FirewallBridge::from(&world.bridge)))
        .unwrap();
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
    assert_eq!(ask_tcp(&world.outside, "172.17.0.2:80"), None);
    assert!(!ping(&world.outside, one.address()));
    assert!(ask_tcp(&world.outside, "10.9.0.1:8080").is_some());
    assert!(ask_tcp(&world.host, "172.17.0.2:80").is_some());
}

#[test]
fn isolated_containers_reach_published_ports_only() {
    requires!(root, nftables);
    let world = World::without_firewall();
    let rules = FirewallBridge {
        inter_container: false,
        ..FirewallBridge::from(&world.bridge)
    };
    world
        .firewall
        .update(|policy| policy.add_bridge(rules))
        .unwrap();
    let one = world.container_with(2, Isolation::Isolated);
    let two = world.container_with(3, Isolation::Isolated);
    serve_tcp(&two.namespace, "0.0.0.0:80");
    serve_tcp(&world.outside, "0.0.0.0:80");
    let _ = inside(&world.host, || std::fs::write(BRIDGE_CALLS_NETFILTER, "0"));
    assert_eq!(ask_tcp(&one.namespace, "172.17.0.3:80"), None);
    assert!(!ping(&one.namespace, two.address()));
    assert!(ask_tcp(&one.namespace, "10.9.0.2:80").is_some());
    world.publish("0.0.0.0:8080", &two, 80, Protocol::Tcp);
    assert!(ask_tcp(&one.namespace, "172.17.0.1:8080").is_some());
    assert!(ask_tcp(&two.namespace, "172.17.0.1:8080").is_some());
}

#[test]
fn published_ports_work_whether_bridged_packets_are_filtered_or_not() {
    requires!(root, nftables);
    if !std::path::Path::new(BRIDGE_CALLS_NETFILTER).exists() {
        eprintln!("SKIP: this machine has no br_netfilter");
        return;
    }
    for value in ["0", "1"] {
        let world = World::new();
        inside(&world.host, || {
            std::fs::write(BRIDGE_CALLS_NETFILTER, value).unwrap();
        });
        let (one, two) = (world.container(2), world.container(3));
        serve_tcp(&one.namespace, "0.0.0.0:80");
        world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
        assert!(
            ask_tcp(&two.namespace, "172.17.0.2:80").is_some(),
            "{value}: directly"
        );
        assert!(
            ask_tcp(&two.namespace, "172.17.0.1:8080").is_some(),
            "{value}: from beside"
        );
        assert!(
            ask_tcp(&one.namespace, "172.17.0.1:8080").is_some(),
            "{value}: from itself"
        );
        assert!(
            ask_tcp(&one.namespace, "10.9.0.1:8080").is_some(),
            "{value}: from itself by another address"
        );
        assert!(
            ask_tcp(&world.outside, "10.9.0.1:8080").is_some(),
            "{value}: from outside"
        );
    }
}

#[test]
fn udp_ports_are_published() {
    requires!(root, nftables);
    let world = World::new();
    let (one, two) = (world.container(2), world.container(3));
    serve_udp(&one.namespace, "0.0.0.0:53", "one");
    world.publish("0.0.0.0:5353", &one, 53, Protocol::Udp);
    assert_eq!(
        ask_udp(&udp_in(&world.outside), "10.9.0.1:5353").unwrap(),
        "one 10.9.0.2"
    );
    assert_eq!(
        ask_udp(&udp_in(&world.host), "127.0.0.1:5353").unwrap(),
        "one 172.17.0.1"
    );
    assert_eq!(
        ask_udp(&udp_in(&two.namespace), "172.17.0.1:5353").unwrap(),
        "one 172.17.0.1"
    );
    assert_eq!(
        ask_udp(&udp_in(&one.namespace), "10.9.0.1:5353").unwrap(),
        "one 172.17.0.1"
    );
}

#[test]
fn udp_clients_follow_a_port_that_moves() {
    requires!(root, nftables);
    let world = World::new();
    let (one, two) = (world.container(2), world.container(3));
    serve_udp(&one.namespace, "0.0.0.0:53", "one");
    serve_udp(&two.namespace, "0.0.0.0:53", "two");
    let client = udp_in(&world.outside);
    assert_eq!(
        ask_udp(&client, "10.9.0.1:5353"),
        None,
        "remembered by the kernel as the host's own"
    );
    world.publish("0.0.0.0:5353", &one, 53, Protocol::Udp);
    assert_eq!(ask_udp(&client, "10.9.0.1:5353").unwrap(), "one 10.9.0.2");
    world.publish("0.0.0.0:5353", &two, 53, Protocol::Udp);
    assert_eq!(ask_udp(&client, "10.9.0.1:5353").unwrap(), "two 10.9.0.2");

    let other = udp_in(&world.outside);
    world.run("nft delete table ip sampan");
    assert_eq!(ask_udp(&other, "10.9.0.1:5353"), None);
    world.firewall.ensure().unwrap();
    assert_eq!(ask_udp(&other, "10.9.0.1:5353").unwrap(), "two 10.9.0.2");
    assert_eq!(ask_udp(&client, "10.9.0.1:5353").unwrap(), "two 10.9.0.2");
}

#[test]
fn two_engines_share_a_host() {
    requires!(root, nftables);
    let world = World::new();
    let other_bridge = bridge("sampan-abc123", "172.18.0.1/16");
    let other = inside(&world.host, || {
        world.links.ensure_bridge(&other_bridge).unwrap();
        sampan_network::Firewall::open("sampan-abc123").unwrap()
    });
    other
        .update(|policy| policy.add_bridge(FirewallBridge::from(&other_bridge)))
        .unwrap();
    let one = world.container(2);
    let two = NetworkNamespace::new().unwrap();
    inside(&world.host, || {
        world
            .links
            .connect(
                &two,
                &other_bridge,
                &endpoint(&other_bridge, ip("172.18.0.2")),
            )
            .unwrap();
    });
    serve_tcp(&one.namespace, "0.0.0.0:80");
    serve_tcp(&two, "0.0.0.0:80");
    serve_tcp(&world.outside, "0.0.0.0:80");
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
    let theirs = world::published("0.0.0.0:8081", ip("172.18.0.2"), 80, Protocol::Tcp);
    other.update(|policy| policy.publish(&theirs)).unwrap();

    for (port, name) in [("8080", "one"), ("8081", "two")] {
        assert!(
            ask_tcp(&world.outside, &format!("10.9.0.1:{port}")).is_some(),
            "{name} from outside"
        );
        assert!(
            ask_tcp(&world.host, &format!("127.0.0.1:{port}")).is_some(),
            "{name} from the host"
        );
        assert!(
            ask_tcp(&one.namespace, &format!("172.17.0.1:{port}")).is_some(),
            "{name} from one"
        );
        assert!(
            ask_tcp(&two, &format!("172.18.0.1:{port}")).is_some(),
            "{name} from two"
        );
    }
    assert!(ask_tcp(&one.namespace, "10.9.0.2:80").is_some());
    assert!(ask_tcp(&two, "10.9.0.2:80").is_some());
    assert_eq!(
        ask_tcp(&one.namespace, "172.18.0.2:80"),
        None,
        "networks are apart"
    );
    assert_eq!(ask_tcp(&two, "172.17.0.2:80"), None, "networks are apart");

    world.firewall.remove().unwrap();
    assert!(
        ask_tcp(&world.outside, "10.9.0.1:8081").is_some(),
        "the other engine goes on"
    );
}
