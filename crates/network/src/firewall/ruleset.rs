//! The table as it should be: computed whole, by a pure function.
//!
//! Published ports are elements of two maps, so that a packet costs the same
//! with one of them and with thousands, and a start changes elements only.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::firewall::policy::{FirewallBridge, Policy};
use crate::interface::InterfaceName;
use crate::ports::Protocol;
use crate::subnet::Subnet;

/// Map of the ports published on one address of the host.
pub(super) const BY_ADDRESS: &str = "published";
/// Map of the ports published on all addresses of the host.
pub(super) const BY_PORT: &str = "published_anywhere";

const LOOPBACK: Subnet = Subnet::v4(Ipv4Addr::new(127, 0, 0, 0), 8);

/// Where a chain sits in a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainKind {
    Filter,
    Nat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: ChainKind,
    pub(super) hook: Hook,
    pub(super) priority: i32,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
    pub(super) comment: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Source(Subnet),
    Destination(Subnet),
    From(InterfaceName),
    NotFrom(InterfaceName),
    To(InterfaceName),
    NotTo(InterfaceName),
    /// Of a connection that was let through, or belonging to one.
    Established,
    /// Of a connection whose destination was translated.
    Translated,
    /// Addressed to the host itself.
    ToHost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    Drop,
    Masquerade,
    /// Translates the destination by the map of protocol, address and port.
    TranslateByAddress,
    /// Translates the destination by the map of protocol and port.
    TranslateByPort,
}

/// Elements of [`BY_ADDRESS`].
pub(super) type ByAddress = BTreeMap<(Protocol, Ipv4Addr, u16), SocketAddrV4>;
/// Elements of [`BY_PORT`].
pub(super) type ByPort = BTreeMap<(Protocol, u16), SocketAddrV4>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
    pub(super) by_address: ByAddress,
    pub(super) by_port: ByPort,
}

impl Ruleset {
    pub(super) fn compute(policy: &Policy) -> Self {
        let bridges: Vec<&FirewallBridge> = policy
            .bridges()
            .filter(|bridge| bridge.subnet.network().is_ipv4())
            .collect();
        let mut by_address = ByAddress::new();
        let mut by_port = ByPort::new();
        for (protocol, host, port, target) in policy.published() {
            let (IpAddr::V4(host), IpAddr::V4(container)) = (host, target.ip()) else {
                continue;
            };
            let target = SocketAddrV4::new(container, target.port());
            if host.is_unspecified() {
                by_port.insert((protocol, port), target);
            } else {
                by_address.insert((protocol, host, port), target);
            }
        }
        let chains = vec![
            guard(&bridges),
            translation("prerouting", Hook::Prerouting),
            translation("output", Hook::Output),
            postrouting(&bridges),
            forward(&bridges),
        ];
        Self {
            chains,
            by_address,
            by_port,
        }
    }
}

/// Before connection tracking and translation, where a packet still has the
/// addresses that its sender gave it.
fn guard(bridges: &[&FirewallBridge]) -> Chain {
    let mut rules: Vec<Rule> = bridges
        .iter()
        .map(|bridge| Rule {
            conditions: vec![
                Condition::Destination(bridge.subnet),
                Condition::NotFrom(bridge.name.clone()),
            ],
            action: Action::Drop,
            comment: "containers are reached by published ports only",
        })
        .collect();
    // The bridges have route_localnet, and other programs set it for all
    // interfaces: without this rule a neighbour on the wire or a container
    // would reach what listens on 127.0.0.1.
    rules.push(Rule {
        conditions: vec![
            Condition::Destination(LOOPBACK),
            Condition::NotFrom(interface("lo")),
        ],
        action: Action::Drop,
        comment: "loopback addresses are the host's own",
    });
    Chain {
        name: "guard",
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: -300,
        rules,
    }
}

/// Sends packets for published ports to their containers: those of others
/// (prerouting) and those of the host's own programs (output).
fn translation(name: &'static str, hook: Hook) -> Chain {
    let rule = |action, comment| Rule {
        conditions: vec![Condition::ToHost],
        action,
        comment,
    };
    let rules = vec![
        rule(Action::TranslateByAddress, "ports published on one address"),
        rule(Action::TranslateByPort, "ports published on all addresses"),
    ];
    Chain {
        name,
        kind: ChainKind::Nat,
        hook,
        priority: -100,
        rules,
    }
}

fn postrouting(bridges: &[&FirewallBridge]) -> Chain {
    let mut rules = Vec::new();
    for bridge in bridges {
        if bridge.masquerade {
            rules.push(Rule {
                conditions: vec![
                    Condition::Source(bridge.subnet),
                    Condition::NotTo(bridge.name.clone()),
                ],
                action: Action::Masquerade,
                comment: "containers speak to the world by the host's address",
            });
        }
        rules.push(Rule {
            conditions: vec![
                Condition::Source(LOOPBACK),
                Condition::To(bridge.name.clone()),
            ],
            action: Action::Masquerade,
            comment: "published ports at 127.0.0.1",
        });
        // Without it the answer would go from container to container past
        // the host, from an address that the asker never spoke to.
        rules.push(Rule {
            conditions: vec![
                Condition::Source(bridge.subnet),
                Condition::To(bridge.name.clone()),
                Condition::Translated,
            ],
            action: Action::Masquerade,
            comment: "published ports used by containers beside them",
        });
    }
    Chain {
        name: "postrouting",
        kind: ChainKind::Nat,
        hook: Hook::Postrouting,
        priority: 100,
        rules,
    }
}

/// Accepting here only ends this chain; other tables still have their say.
fn forward(bridges: &[&FirewallBridge]) -> Chain {
    let mut rules = vec![Rule {
        conditions: vec![Condition::Established],
        action: Action::Accept,
        comment: "answers",
    }];
    for bridge in bridges {
        let name = &bridge.name;
        if bridge.inter_container {
            rules.push(Rule {
                conditions: vec![Condition::From(name.clone()), Condition::To(name.clone())],
                action: Action::Accept,
                comment: "between containers",
            });
        }
        rules.push(Rule {
            conditions: vec![Condition::To(name.clone()), Condition::Translated],
            action: Action::Accept,
            comment: "published ports",
        });
        rules.push(Rule {
            conditions: vec![Condition::To(name.clone())],
            action: Action::Drop,
            comment: "nothing else into the bridge",
        });
    }
    Chain {
        name: "forward",
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: 0,
        rules,
    }
}

fn interface(name: &str) -> InterfaceName {
    name.parse().expect("a literal interface name")
}
