//! Bridges, veth pairs and namespaces: made, repaired, removed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use sampan_kernel::requires;
use sampan_network::{
    Endpoint, Error, ErrorKind, HostNetwork, InterfaceName, NetworkNames, NetworkNamespace, Pool,
};
use world::{World, ask_tcp, bridge, endpoint, inside, ip, ping, run_in, serve_tcp};

fn host() -> (NetworkNamespace, HostNetwork) {
    let host = NetworkNamespace::new().unwrap();
    let links = inside(&host, || HostNetwork::open().unwrap());
    (host, links)
}

#[test]
fn a_bridge_is_made_repaired_and_removed() {
    requires!(root);
    let (host, links) = host();
    let wanted = bridge("sampan0", "172.17.0.1/16");
    let ensure = || inside(&host, || links.ensure_bridge(&wanted).unwrap());
    // A new namespace takes this setting over from the machine.
    run_in(&host, "echo 0 > /proc/sys/net/ipv4/ip_forward");
    let first = ensure();
    assert!(first.created && first.enabled_forwarding);
    let second = ensure();
    assert!(!second.created && !second.enabled_forwarding);
    let show = || {
        run_in(
            &host,
            "ip -br -4 address show dev sampan0; cat /proc/sys/net/ipv4/conf/sampan0/route_localnet",
        )
    };
    let right = show();
    assert!(
        right.contains("172.17.0.1/16") && right.ends_with("1\n"),
        "{right}"
    );
    assert_eq!(run_in(&host, "ip -6 address show dev sampan0"), "");

    for damage in [
        "ip address flush dev sampan0",
        "ip address add 10.1.1.1/24 dev sampan0",
        "ip link set sampan0 down",
        "echo 0 > /proc/sys/net/ipv4/conf/sampan0/route_localnet",
        "ip link del sampan0",
    ] {
        run_in(&host, damage);
        ensure();
        assert_eq!(show(), right, "{damage}");
    }
    links.remove_bridge(&wanted.name).unwrap();
    links.remove_bridge(&wanted.name).unwrap();
    assert!(!run_in(&host, "ip -br link").contains("sampan0"));
}

#[test]
fn a_name_taken_by_something_else_is_explained() {
    requires!(root);
    let (host, links) = host();
    run_in(&host, "ip link add sampan0 type veth peer other");
    let error = inside(&host, || {
        links.ensure_bridge(&bridge("sampan0", "172.17.0.1/16"))
    })
    .unwrap_err();
    let Error::Bridge { source, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        source.to_string().contains("another kind of interface"),
        "{source}"
    );
}

#[test]
fn the_default_subnet_avoids_the_hosts_routes_and_stays() {
    requires!(root);
    let (host, links) = host();
    let names = NetworkNames::for_run_root(Path::new("/run/sampan"));
    let plan = || {
        links
            .plan_default_bridge(&names)
            .unwrap()
            .subnet
            .to_string()
    };
    assert_eq!(plan(), "172.17.0.0/16");
    run_in(
        &host,
        "ip link add d0 type veth peer d1; ip link set d1 up; ip link set d0 up; ip address add 172.17.0.1/16 dev d0",
    );
    assert_eq!(plan(), "172.18.0.0/16");
    run_in(
        &host,
        "ip route add 172.18.4.0/24 dev d0; ip route add blackhole 172.19.0.0/16",
    );
    assert_eq!(plan(), "172.20.0.0/16");
    let planned = links.plan_default_bridge(&names).unwrap();
    inside(&host, || links.ensure_bridge(&planned).unwrap());
    assert_eq!(
        links.plan_default_bridge(&names).unwrap(),
        planned,
        "the existing bridge keeps its subnet"
    );
}

#[test]
fn a_vanished_bridge_comes_back_with_the_next_container() {
    requires!(root, nftables);
    let world = World::new();
    world.run("ip link del sampan0");
    let one = world.container(2);
    assert!(ping(&one.namespace, world.bridge.gateway));
}

#[test]
fn a_failed_connection_leaves_nothing() {
    requires!(root);
    let (host, links) = host();
    let bridge = bridge("sampan0", "172.17.0.1/16");
    inside(&host, || links.ensure_bridge(&bridge).unwrap());
    let namespace = NetworkNamespace::new().unwrap();
    let good = endpoint(&bridge, ip("172.17.0.2"));
    let unreachable = Endpoint {
        default_route: Some(ip("192.0.2.1")),
        ..good.clone()
    };
    let error = inside(&host, || links.connect(&namespace, &bridge, &unreachable)).unwrap_err();
    let Error::Endpoint {
        step: "add a default route by",
        source,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(source.to_string().contains("gateway"), "{source}");
    assert_eq!(links.interfaces_of(&bridge.name).unwrap(), []);

    inside(&host, || links.connect(&namespace, &bridge, &good).unwrap());
    let same_name = Endpoint {
        interface: "eth1".parse().unwrap(),
        ..good.clone()
    };
    let error = inside(&host, || links.connect(&namespace, &bridge, &same_name)).unwrap_err();
    assert!(
        matches!(error, Error::Endpoint { step: "create", .. }),
        "{error}"
    );
    assert_eq!(
        links.interfaces_of(&bridge.name).unwrap(),
        std::slice::from_ref(&good.host_interface),
        "the first one stays"
    );

    links.disconnect(&good.host_interface).unwrap();
    links.disconnect(&good.host_interface).unwrap();
    inside(&host, || links.connect(&namespace, &bridge, &good).unwrap());
}

#[test]
fn a_second_network_is_another_interface() {
    requires!(root, nftables);
    let world = World::new();
    let second = bridge("sampan1", "172.20.0.1/16");
    inside(&world.host, || world.links.ensure_bridge(&second).unwrap());
    let one = world.container(2);
    let more = Endpoint {
        interface: InterfaceName::numbered("eth", 1).unwrap(),
        default_route: None,
        ..endpoint(&second, ip("172.20.0.2"))
    };
    inside(&world.host, || {
        world.links.connect(&one.namespace, &second, &more).unwrap();
    });
    assert!(ping(&one.namespace, second.gateway));
    assert!(ping(&one.namespace, world.bridge.gateway));
}

#[test]
fn orphans_are_found_and_removed() {
    requires!(root, nftables);
    let world = World::new();
    let containers: Vec<_> = (2..6).map(|number| world.container(number)).collect();
    let live: HashSet<_> = containers[..2]
        .iter()
        .map(|container| container.endpoint.host_interface.clone())
        .collect();
    let mut removed = world
        .links
        .remove_orphans(&world.bridge.name, &live)
        .unwrap();
    removed.sort();
    let mut expected: Vec<_> = containers[2..]
        .iter()
        .map(|container| container.endpoint.host_interface.clone())
        .collect();
    expected.sort();
    assert_eq!(removed, expected);
    assert_eq!(
        world
            .links
            .remove_orphans(&world.bridge.name, &live)
            .unwrap(),
        []
    );
    assert!(ping(&containers[0].namespace, containers[1].address()));
    let wan = "wan".parse().unwrap();
    assert_eq!(
        world.links.interfaces_of(&wan).unwrap().len(),
        1,
        "other bridges are left alone"
    );
    assert_eq!(
        world.links.interfaces_of(&"none".parse().unwrap()).unwrap(),
        []
    );
}

#[test]
fn removals_asked_for_at_once_are_all_done() {
    requires!(root, nftables);
    let world = World::new();
    let containers: Vec<_> = (2..10).map(|number| world.container(number)).collect();
    std::thread::scope(|scope| {
        for container in &containers {
            let remove = || {
                let interface = &container.endpoint.host_interface;
                world.links.disconnect(interface).unwrap();
            };
            // Twice, as a failed start and its recovery may.
            scope.spawn(remove);
            scope.spawn(remove);
        }
    });
    let left = world.links.interfaces_of(&world.bridge.name).unwrap();
    assert_eq!(left, []);
}

#[test]
fn a_namespace_ends_with_its_descriptor_and_takes_the_veth_with_it() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    assert_eq!(
        world.links.interfaces_of(&world.bridge.name).unwrap().len(),
        1
    );
    drop(one);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !world
        .links
        .interfaces_of(&world.bridge.name)
        .unwrap()
        .is_empty()
    {
        assert!(
            Instant::now() < deadline,
            "something keeps the namespace alive"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_restarted_container_is_found_at_once_by_its_new_mac() {
    requires!(root, nftables);
    let world = World::new();
    let (one, two) = (world.container(2), world.container(3));
    serve_tcp(&one.namespace, "0.0.0.0:80");
    assert!(ask_tcp(&two.namespace, "172.17.0.2:80").is_some());
    assert!(ask_tcp(&world.host, "172.17.0.2:80").is_some());
    world
        .links
        .disconnect(&one.endpoint.host_interface)
        .unwrap();
    let again = world.container(2);
    assert_ne!(again.endpoint.mac, one.endpoint.mac);
    serve_tcp(&again.namespace, "0.0.0.0:80");
    assert!(
        ask_tcp(&two.namespace, "172.17.0.2:80").is_some(),
        "from beside"
    );
    assert!(
        ask_tcp(&world.host, "172.17.0.2:80").is_some(),
        "from the host"
    );
}

#[test]
fn a_new_namespace_has_the_settings_of_a_container() {
    requires!(root);
    let namespace = NetworkNamespace::new().unwrap();
    let read = |path: &str| run_in(&namespace, &format!("cat /proc/sys/net/{path}"));
    assert_eq!(read("ipv4/ip_unprivileged_port_start"), "0\n");
    assert_eq!(read("ipv4/ping_group_range"), "0\t2147483647\n");
    let lo = run_in(&namespace, "ip -br address show dev lo");
    assert!(lo.contains("127.0.0.1/8") && lo.contains("::1/128"), "{lo}");
    assert_eq!(run_in(&namespace, "ip -br link | wc -l").trim(), "1");
}

#[test]
fn namespaces_of_others_can_be_joined() {
    requires!(root);
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let of = |namespace: &NetworkNamespace| {
        inside(namespace, || {
            std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        })
    };
    assert_eq!(of(&NetworkNamespace::host().unwrap()), own);
    assert_eq!(
        of(&NetworkNamespace::of_pid(std::process::id()).unwrap()),
        own
    );
    let namespace = NetworkNamespace::new().unwrap();
    assert_ne!(of(&namespace), own);
    assert_eq!(of(&namespace.try_clone().unwrap()), of(&namespace));
    assert_eq!(
        of(&NetworkNamespace::from(
            namespace.try_clone().unwrap().into_fd()
        )),
        of(&namespace)
    );
    assert_eq!(
        NetworkNamespace::of_pid(u32::MAX >> 1).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn the_pool_refills_itself_and_lets_go() {
    requires!(root);
    let pool = Pool::new(3);
    let wait_for = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while pool.ready() != count {
            assert!(
                Instant::now() < deadline,
                "{} ready, {count} expected",
                pool.ready()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for(3);
    let taken: Vec<_> = (0..5).map(|_| pool.take().unwrap()).collect();
    let mut identities: Vec<_> = taken
        .iter()
        .map(|namespace| {
            inside(namespace, || {
                std::fs::read_link("/proc/thread-self/ns/net").unwrap()
            })
        })
        .collect();
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), 5, "no namespace is given out twice");
    wait_for(3);
    pool.resize(0);
    wait_for(0);
    pool.resize(2);
    wait_for(2);
}
