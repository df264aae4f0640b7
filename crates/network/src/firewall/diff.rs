//! From the table that is to the table that should be.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::Applied;
use super::conntrack::{Ports, Stale};
use super::ruleset::{BY_ADDRESS, BY_PORT, Ruleset};
use super::wire::{self, Key, Message, RawElement, SeenChain};
use crate::ports::Protocol;

type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

/// A table as the kernel lists it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) chains: Vec<SeenChain>,
    /// Marks of the rules by chain, in order; a rule of somebody else has none.
    pub(super) rules: BTreeMap<String, Vec<Option<u64>>>,
    /// Names of the sets, sorted.
    pub(super) sets: Vec<String>,
    pub(super) by_address: Elements,
    pub(super) by_port: Elements,
}

/// What must be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    Elements { by_address: Change, by_port: Change },
    Replace,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    remove: Vec<RawElement>,
    add: Vec<RawElement>,
}

impl Change {
    /// Compares what was listed with what is wanted.
    fn from_listed<K: Key>(present: &Elements, wanted: &BTreeMap<K, SocketAddrV4>) -> Self {
        let wanted: Elements = wanted.iter().map(wire::element).collect();
        let raw = |(key, data): (&Vec<u8>, &Vec<u8>)| (key.clone(), data.clone());
        Self {
            remove: only_in(present, &wanted).map(raw).collect(),
            add: only_in(&wanted, present).map(raw).collect(),
        }
    }

    fn between<K: Key + Ord>(
        present: &BTreeMap<K, SocketAddrV4>,
        wanted: &BTreeMap<K, SocketAddrV4>,
    ) -> Self {
        Self {
            remove: only_in(present, wanted).map(wire::element).collect(),
            add: only_in(wanted, present).map(wire::element).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    fn udp_ports(&self) -> impl Iterator<Item = (u16, Option<Ipv4Addr>)> {
        let keys = self.remove.iter().chain(&self.add).map(|(key, _)| key);
        keys.filter_map(|key| wire::read_key(key))
            .filter(|(protocol, _, _)| *protocol == Protocol::Udp.number())
            .map(|(_, port, address)| (port, address))
    }

    /// Removals first: a port that points elsewhere now is both.
    fn into_messages(self, table: &str, map: &str) -> impl Iterator<Item = Message> {
        let removals = wire::remove_elements(table, map, self.remove);
        removals
            .into_iter()
            .chain(wire::add_elements(table, map, self.add))
    }
}

/// Finds the entries of one map that the other lacks or has otherwise.
fn only_in<'a, K: Ord, V: Eq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    // Both are sorted: one walk side by side, not a search for each.
    let mut others = other.iter().peekable();
    one.iter().filter(move |(key, value)| {
        while others.next_if(|(other, _)| other < key).is_some() {}
        others.peek().is_none_or(|entry| *entry != (*key, *value))
    })
}

/// Compares a listed table (`None`: there is none) with the wanted one.
pub(super) fn plan(seen: Option<&Seen>, wanted: &Ruleset) -> Plan {
    let Some(seen) = seen else {
        return Plan::Replace;
    };
    if !same_structure(seen, wanted) {
        return Plan::Replace;
    }
    elements(
        Change::from_listed(&seen.by_address, &wanted.by_address),
        Change::from_listed(&seen.by_port, &wanted.by_port),
    )
}

/// Compares two computed tables.
pub(super) fn between(present: &Ruleset, wanted: &Ruleset) -> Plan {
    if present.chains != wanted.chains {
        return Plan::Replace;
    }
    elements(
        Change::between(&present.by_address, &wanted.by_address),
        Change::between(&present.by_port, &wanted.by_port),
    )
}

fn elements(by_address: Change, by_port: Change) -> Plan {
    if by_address.is_empty() && by_port.is_empty() {
        Plan::Nothing
    } else {
        Plan::Elements {
            by_address,
            by_port,
        }
    }
}

fn same_structure(seen: &Seen, wanted: &Ruleset) -> bool {
    let maps = seen.sets.len() == 2
        && [BY_ADDRESS, BY_PORT]
            .iter()
            .all(|map| seen.sets.iter().any(|set| set == map));
    let chains = seen.chains.len() == wanted.chains.len()
        && wanted.chains.iter().all(|chain| {
            let listed = seen.chains.iter().any(|seen| seen.is(chain));
            let rules = seen
                .rules
                .get(chain.name)
                .map(Vec::as_slice)
                .unwrap_or_default();
            listed
                && rules.len() == chain.rules.len()
                && rules
                    .iter()
                    .zip(&chain.rules)
                    .all(|(mark, rule)| *mark == Some(wire::digest(rule)))
        });
    maps && chains
}

impl Plan {
    pub(super) fn outcome(&self) -> Applied {
        match self {
            Self::Nothing => Applied::Unchanged,
            Self::Elements {
                by_address,
                by_port,
            } => Applied::Elements {
                added: by_address.add.len() + by_port.add.len(),
                removed: by_address.remove.len() + by_port.remove.len(),
            },
            Self::Replace => Applied::Replaced,
        }
    }

    /// Finds the UDP connections that the change makes stale.
    pub(super) fn stale(&self, wanted: &Ruleset) -> Stale {
        match self {
            Self::Nothing => Stale::default(),
            Self::Elements {
                by_address,
                by_port,
            } => Stale {
                changed: [by_address, by_port]
                    .iter()
                    .flat_map(|change| change.udp_ports())
                    .collect(),
                restored: Ports::new(),
            },
            Self::Replace => {
                let by_port = wanted
                    .by_port
                    .keys()
                    .map(|(protocol, port)| (*protocol, *port, None));
                let by_address = wanted
                    .by_address
                    .keys()
                    .map(|(protocol, ip, port)| (*protocol, *port, Some(*ip)));
                let udp = by_port
                    .chain(by_address)
                    .filter(|(protocol, _, _)| *protocol == Protocol::Udp);
                Stale {
                    changed: Ports::new(),
                    restored: udp.map(|(_, port, ip)| (port, ip)).collect(),
                }
            }
        }
    }

    pub(super) fn into_messages(self, table: &str, wanted: &Ruleset) -> Vec<Message> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Elements {
                by_address,
                by_port,
            } => by_address
                .into_messages(table, BY_ADDRESS)
                .chain(by_port.into_messages(table, BY_PORT))
                .collect(),
            Self::Replace => replacement(table, wanted),
        }
    }
}

/// Everything, after deleting what may be there: the table is made first so
/// that deleting it cannot fail for want of it.
fn replacement(table: &str, wanted: &Ruleset) -> Vec<Message> {
    let mut messages = vec![
        wire::new_table(table),
        wire::delete_table(table),
        wire::new_table(table),
    ];
    messages.extend(wire::new_maps(table));
    for chain in &wanted.chains {
        messages.push(wire::new_chain(table, chain));
        messages.extend(
            chain
                .rules
                .iter()
                .map(|rule| wire::new_rule(table, chain.name, rule)),
        );
    }
    let by_address = wanted.by_address.iter().map(wire::element).collect();
    let by_port = wanted.by_port.iter().map(wire::element).collect();
    messages.extend(wire::add_elements(table, BY_ADDRESS, by_address));
    messages.extend(wire::add_elements(table, BY_PORT, by_port));
    messages
}
