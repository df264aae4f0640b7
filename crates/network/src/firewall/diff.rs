//! From the table that is to the table that should be.

use std::collections::BTreeMap;

use super::Applied;
use super::ruleset::{BY_ADDRESS, BY_PORT, Ruleset};
use super::wire::{self, Message, RawElement, SeenChain};

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
    fn between(present: &Elements, wanted: &Elements) -> Self {
        let differs = |one: &Elements, other: &Elements| {
            one.iter()
                .filter(|(key, value)| other.get(*key) != Some(value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        Self {
            remove: differs(present, wanted),
            add: differs(wanted, present),
        }
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Removals first: a port that points elsewhere now is both.
    fn into_messages(self, table: &str, map: &str) -> impl Iterator<Item = Message> {
        let removals = wire::remove_elements(table, map, self.remove);
        removals
            .into_iter()
            .chain(wire::add_elements(table, map, self.add))
    }
}

/// Compares a listed table (`None`: there is none) with the wanted one.
pub(super) fn plan(seen: Option<&Seen>, wanted: &Ruleset) -> Plan {
    let Some(seen) = seen else {
        return Plan::Replace;
    };
    if !same_structure(seen, wanted) {
        return Plan::Replace;
    }
    let by_address = Change::between(
        &seen.by_address,
        &wire::elements_by_address(&wanted.by_address).collect(),
    );
    let by_port = Change::between(
        &seen.by_port,
        &wire::elements_by_port(&wanted.by_port).collect(),
    );
    elements(by_address, by_port)
}

/// Compares two computed tables.
pub(super) fn between(present: &Ruleset, wanted: &Ruleset) -> Plan {
    if present.chains != wanted.chains {
        return Plan::Replace;
    }
    let by_address = if present.by_address == wanted.by_address {
        Change::default()
    } else {
        Change::between(
            &wire::elements_by_address(&present.by_address).collect(),
            &wire::elements_by_address(&wanted.by_address).collect(),
        )
    };
    let by_port = if present.by_port == wanted.by_port {
        Change::default()
    } else {
        Change::between(
            &wire::elements_by_port(&present.by_port).collect(),
            &wire::elements_by_port(&wanted.by_port).collect(),
        )
    };
    elements(by_address, by_port)
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
    let by_address = wire::elements_by_address(&wanted.by_address).collect();
    let by_port = wire::elements_by_port(&wanted.by_port).collect();
    messages.extend(wire::add_elements(table, BY_ADDRESS, by_address));
    messages.extend(wire::add_elements(table, BY_PORT, by_port));
    messages
}
