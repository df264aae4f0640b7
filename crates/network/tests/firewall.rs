//! The table in the kernel: what it is, how it is changed and repaired.

mod world;

use sampan_kernel::requires;
use sampan_network::{Applied, Error, ErrorKind, FirewallBridge, NetworkNamespace, Protocol};
use world::{World, ask_tcp, inside, ip, published, run_in, serve_tcp};

const FOREIGN: &str = "table inet theirs {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n";

#[test]
fn the_table_is_this() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
    world.publish("0.0.0.0:5353", &one, 53, Protocol::Udp);
    world.publish("127.0.0.1:8081", &one, 80, Protocol::Tcp);
    let expected = r#"table ip sampan {
	map published {
		type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
		elements = { tcp . 127.0.0.1 . 8081 : 172.17.0.2 . 80 }
	}

	map published_anywhere {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 8080 : 172.17.0.2 . 80,
			     udp . 5353 : 172.17.0.2 . 53 }
	}

	chain guard {
		type filter hook prerouting priority raw; policy accept;
		ip daddr 172.17.0.0/16 iifname != "sampan0" drop comment "containers are reached by published ports only"
		ip daddr 127.0.0.0/8 iifname != "lo" drop comment "loopback addresses are the host's own"
	}

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local dnat ip to meta l4proto . ip daddr . th dport map @published comment "ports published on one address"
		fib daddr type local dnat ip to meta l4proto . th dport map @published_anywhere comment "ports published on all addresses"
	}

	chain output {
		type nat hook output priority dstnat; policy accept;
		fib daddr type local dnat ip to meta l4proto . ip daddr . th dport map @published comment "ports published on one address"
		fib daddr type local dnat ip to meta l4proto . th dport map @published_anywhere comment "ports published on all addresses"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 oifname != "sampan0" masquerade comment "containers speak to the world by the host's address"
		ip saddr 127.0.0.0/8 oifname "sampan0" masquerade comment "published ports at 127.0.0.1"
		ip saddr 172.17.0.0/16 oifname "sampan0" ct status dnat masquerade comment "published ports used by containers beside them"
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept comment "answers"
		iifname "sampan0" oifname "sampan0" accept comment "between containers"
		oifname "sampan0" ct status dnat accept comment "published ports"
		oifname "sampan0" drop comment "nothing else into the bridge"
	}
}
"#;
    let listing = world
        .run("nft list ruleset")
        .replace("-100; policy", "dstnat; policy");
    assert_eq!(listing, expected);
}

#[test]
fn applying_twice_changes_nothing() {
    requires!(root, nftables);
    let world = World::new();
    let generation = || world.run("nft -a list ruleset");
    let before = generation();
    assert_eq!(world.firewall.ensure().unwrap(), Applied::Unchanged);
    assert_eq!(
        world.firewall.apply(world.firewall.policy()).unwrap(),
        Applied::Unchanged
    );
    // A second handle knows nothing and must read the table.
    let again = inside(&world.host, || {
        sampan_network::Firewall::open("sampan").unwrap()
    });
    assert_eq!(
        again.apply(world.firewall.policy()).unwrap(),
        Applied::Unchanged
    );
    assert_eq!(generation(), before);
}

#[test]
fn a_published_port_changes_elements_only() {
    requires!(root, nftables);
    let world = World::new();
    let port = published("0.0.0.0:80", ip("172.17.0.2"), 80, Protocol::Tcp);
    let moved = published("0.0.0.0:80", ip("172.17.0.3"), 80, Protocol::Tcp);
    let update = |change: &dyn Fn(&mut sampan_network::Policy)| {
        world.firewall.update(|policy| change(policy)).unwrap()
    };
    assert_eq!(
        update(&|policy| policy.publish(&port)),
        Applied::Elements {
            added: 1,
            removed: 0
        }
    );
    assert_eq!(update(&|policy| policy.publish(&port)), Applied::Unchanged);
    assert_eq!(
        update(&|policy| policy.publish(&moved)),
        Applied::Elements {
            added: 1,
            removed: 1
        }
    );
    assert!(
        world
            .run("nft list ruleset")
            .contains("tcp . 80 : 172.17.0.3 . 80")
    );
    // The same by a handle that must read the table first.
    let again = inside(&world.host, || {
        sampan_network::Firewall::open("sampan").unwrap()
    });
    let mut policy = world.firewall.policy();
    policy.publish(&port);
    assert_eq!(
        again.apply(policy).unwrap(),
        Applied::Elements {
            added: 1,
            removed: 1
        }
    );
    assert_eq!(
        world.firewall.ensure().unwrap(),
        Applied::Elements {
            added: 1,
            removed: 1
        }
    );
    assert_eq!(
        update(&|policy| policy.unpublish(&port.binding)),
        Applied::Elements {
            added: 0,
            removed: 1
        }
    );
}

#[test]
fn changes_of_the_table_are_heard_and_those_of_others_are_not() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    let watch = inside(&world.host, || world.firewall.watch().unwrap());
    assert!(!watch.take());
    world.run("nft add table inet theirs");
    world.run("nft add chain inet theirs sampan");
    world.run("nft delete table inet theirs");
    assert!(!watch.take());
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
    assert!(watch.take());
    for damage in [
        "nft flush ruleset",
        "nft flush chain ip sampan prerouting",
        "nft delete element ip sampan published_anywhere '{ tcp . 8080 }'",
        "nft add rule ip sampan forward drop",
    ] {
        world.run(damage);
        assert!(watch.take(), "{damage}");
        assert_ne!(
            world.firewall.ensure().unwrap(),
            Applied::Unchanged,
            "{damage}"
        );
        assert!(watch.take(), "the repair of {damage}");
        assert_eq!(world.firewall.ensure().unwrap(), Applied::Unchanged);
        assert!(!watch.take(), "{damage}");
    }
}

#[test]
fn damage_by_others_is_repaired() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    serve_tcp(&one.namespace, "0.0.0.0:80");
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
    let right = world.run("nft list ruleset");
    let damage = [
        ("nft flush ruleset", Applied::Replaced),
        ("nft delete table ip sampan", Applied::Replaced),
        ("nft flush table ip sampan", Applied::Replaced),
        ("nft flush chain ip sampan prerouting", Applied::Replaced),
        ("nft add rule ip sampan forward drop", Applied::Replaced),
        (
            "nft insert rule ip sampan guard tcp dport 80 drop",
            Applied::Replaced,
        ),
        ("nft add chain ip sampan more", Applied::Replaced),
        (
            "nft add set ip sampan more '{ type ipv4_addr; }'",
            Applied::Replaced,
        ),
        (
            "nft chain ip sampan forward '{ policy drop; }'",
            Applied::Replaced,
        ),
        (
            "nft flush map ip sampan published_anywhere",
            Applied::Elements {
                added: 1,
                removed: 0,
            },
        ),
        (
            "nft add element ip sampan published_anywhere '{ tcp . 22 : 172.17.0.9 . 22 }'",
            Applied::Elements {
                added: 0,
                removed: 1,
            },
        ),
    ];
    for (command, applied) in damage {
        world.run(command);
        assert_eq!(world.firewall.ensure().unwrap(), applied, "{command}");
        assert_eq!(world.run("nft list ruleset"), right, "{command}");
        assert!(
            ask_tcp(&world.outside, "10.9.0.1:8080").is_some(),
            "{command}"
        );
        assert_eq!(
            world.firewall.ensure().unwrap(),
            Applied::Unchanged,
            "{command}"
        );
    }
}

#[test]
fn tables_of_others_stay_as_they_are() {
    requires!(root, nftables);
    let world = World::without_firewall();
    world.nft(FOREIGN);
    world.nft("table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; ip saddr 192.0.2.1 counter drop; }; }");
    world.nft("table ip6 sampan { chain c { }; }");
    let theirs = world.run("nft list ruleset");
    world
        .firewall
        .update(|policy| policy.add_bridge(FirewallBridge::from(&world.bridge)))
        .unwrap();
    let one = world.container(2);
    world.publish("0.0.0.0:8080", &one, 80, Protocol::Tcp);
    assert!(world.run("nft list ruleset").starts_with(&theirs));
    world.run("nft delete table ip sampan");
    world.firewall.ensure().unwrap();
    world.firewall.remove().unwrap();
    assert_eq!(world.run("nft list ruleset"), theirs);
    world.firewall.remove().unwrap();
}

#[test]
fn a_dropping_forward_chain_is_named() {
    requires!(root, nftables);
    let world = World::new();
    assert_eq!(world.firewall.forward_blocked().unwrap(), []);
    world.nft(
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }",
    );
    let blocks = world.firewall.forward_blocked().unwrap();
    assert_eq!(blocks.len(), 1);
    assert!(
        blocks[0]
            .to_string()
            .contains("chain FORWARD of the ip table filter"),
        "{}",
        blocks[0]
    );
}

#[test]
fn thousands_of_ports_fit_in_one_transaction() {
    requires!(root, nftables);
    let world = World::new();
    let one = world.container(2);
    serve_tcp(&one.namespace, "0.0.0.0:80");
    let many = |policy: &mut sampan_network::Policy| {
        for port in 10_000..20_000 {
            policy.publish(&published(
                &format!("0.0.0.0:{port}"),
                one.address(),
                80,
                Protocol::Tcp,
            ));
            policy.publish(&published(
                &format!("10.9.0.1:{port}"),
                one.address(),
                80,
                Protocol::Udp,
            ));
        }
    };
    assert_eq!(
        world.firewall.update(many).unwrap(),
        Applied::Elements {
            added: 20_000,
            removed: 0
        }
    );
    assert!(ask_tcp(&world.outside, "10.9.0.1:19999").is_some());
    let again = inside(&world.host, || {
        sampan_network::Firewall::open("sampan").unwrap()
    });
    assert_eq!(
        again.apply(world.firewall.policy()).unwrap(),
        Applied::Unchanged,
        "all are read back"
    );
    world.run("nft delete table ip sampan");
    assert_eq!(world.firewall.ensure().unwrap(), Applied::Replaced);
    assert!(ask_tcp(&world.outside, "10.9.0.1:10000").is_some());
    let none = |policy: &mut sampan_network::Policy| {
        for port in 10_000..20_000 {
            policy.unpublish(
                &published(&format!("0.0.0.0:{port}"), one.address(), 80, Protocol::Tcp).binding,
            );
            policy.unpublish(
                &published(
                    &format!("10.9.0.1:{port}"),
                    one.address(),
                    80,
                    Protocol::Udp,
                )
                .binding,
            );
        }
    };
    assert_eq!(
        world.firewall.update(none).unwrap(),
        Applied::Elements {
            added: 0,
            removed: 20_000
        }
    );
}

#[test]
fn updates_at_once_with_other_writers_all_arrive() {
    requires!(root, nftables);
    let world = World::new();
    std::thread::scope(|scope| {
        for worker in 0..4_u16 {
            let world = &world;
            scope.spawn(move || {
                for step in 0..25 {
                    let address = format!("0.0.0.0:{}", 1000 + worker * 100 + step);
                    let port = published(&address, ip("172.17.0.2"), 80, Protocol::Tcp);
                    world
                        .firewall
                        .update(|policy| policy.publish(&port))
                        .unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                world.run("nft add table ip noise; nft delete table ip noise");
            }
        });
    });
    assert_eq!(
        world
            .run("nft list map ip sampan published_anywhere | grep -o 'tcp \\.' | wc -l")
            .trim(),
        "100"
    );
    assert_eq!(world.firewall.ensure().unwrap(), Applied::Unchanged);
}

#[test]
fn a_failed_change_leaves_policy_and_table() {
    requires!(root, nftables);
    let host = NetworkNamespace::new().unwrap();
    let firewall = inside(&host, || {
        sampan_network::Firewall::open(&"x".repeat(300)).unwrap()
    });
    let error = firewall.update(|policy| {
        policy.publish(&published("0.0.0.0:1", ip("172.17.0.2"), 1, Protocol::Tcp));
    });
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::Firewall { .. }) && error.kind() == ErrorKind::System,
        "{error}"
    );
    assert_eq!(firewall.policy(), sampan_network::Policy::default());
    assert_eq!(run_in(&host, "nft list ruleset"), "");
}
