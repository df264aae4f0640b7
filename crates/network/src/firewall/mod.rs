//! One own nftables table per engine.
//!
//! The table is computed whole from a [`Policy`], compared with what the
//! kernel has, and changed in one transaction: by elements of its maps where
//! only published ports differ, else by its replacement. Other tables are
//! never touched. A transaction names the generation of the ruleset it was
//! computed from, so that a change by somebody else in between is noticed
//! and the comparison made anew.

mod conntrack;
mod diff;
mod policy;
mod ruleset;
mod watch;
mod wire;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{
    ChainMessage, GenAttribute, GenMessage, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetMessage,
};
use rustix::io::Errno;

use crate::error::{Error, Fault, Result};
use crate::netlink::{NetlinkSocket, Refusal, Subsystem};

use diff::{Plan, Seen};
use ruleset::{BY_ADDRESS, BY_PORT, Ruleset};

pub use policy::{FirewallBridge, Policy, Published};
pub use watch::FirewallWatch;

/// Attempts against others who change the ruleset at the same time.
const ATTEMPTS: usize = 20;

/// What a call had to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Everything was right already.
    Unchanged,
    /// Published ports were added or removed.
    Elements {
        /// How many ports are new or point elsewhere.
        added: usize,
        /// How many were removed, or pointed elsewhere before.
        removed: usize,
    },
    /// The table was made anew, in one transaction.
    Replaced,
}

/// A chain of somebody else that drops forwarded packets unless a rule there
/// says otherwise, such as what Docker's iptables rules make of `FORWARD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardBlock {
    /// Address family of the table: `ip` or `inet`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
}

impl fmt::Display for ForwardBlock {
    /// Renders a hint for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            table,
            chain,
        } = self;
        write!(
            f,
            "chain {chain} of the {family} table {table} drops forwarded packets by default; \
             containers reach the network only if a rule there accepts theirs"
        )
    }
}

/// The firewall of one engine, in the network namespace that the opening
/// thread was in. Calls are serialised and block only in the kernel.
#[derive(Debug)]
pub struct Firewall {
    table: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    socket: NetlinkSocket,
    policy: Policy,
    /// What the kernel had at a generation of its ruleset; still true while
    /// the generation is the same.
    known: Option<(u32, Ruleset)>,
}

impl Firewall {
    /// Opens the firewall whose table has this name, with an empty policy.
    /// Changes nothing.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open(table: &str) -> Result<Self> {
        let socket = NetlinkSocket::open(Subsystem::Netfilter).map_err(Error::OpenNetlink)?;
        let state = State {
            socket,
            policy: Policy::default(),
            known: None,
        };
        Ok(Self {
            table: table.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Makes the table equal to a policy (at the engine's start).
    ///
    /// # Errors
    /// When the kernel refuses; the table is as before.
    pub fn apply(&self, policy: Policy) -> Result<Applied> {
        let mut state = self.lock();
        let applied = self.bring(&mut state, &policy)?;
        state.policy = policy;
        Ok(applied)
    }

    /// Changes the policy and makes the table equal to it.
    ///
    /// # Errors
    /// When the kernel refuses; policy and table are as before.
    pub fn update(&self, change: impl FnOnce(&mut Policy)) -> Result<Applied> {
        let mut state = self.lock();
        let mut policy = state.policy.clone();
        change(&mut policy);
        let applied = self.bring(&mut state, &policy)?;
        state.policy = policy;
        Ok(applied)
    }

    /// Repairs the table if somebody else changed or flushed it. Cheap when
    /// nobody did (one question to the kernel), so it may be called often.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ensure(&self) -> Result<Applied> {
        let mut state = self.lock();
        if state.policy == Policy::default() {
            // Nothing was asked for, so there is no table.
            return Ok(Applied::Unchanged);
        }
        if let Some((known, _)) = state.known
            && self.generation(&mut state.socket)? == known
        {
            return Ok(Applied::Unchanged);
        }
        let policy = state.policy.clone();
        self.bring(&mut state, &policy)
    }

    /// Hears of changes of the table from here on; who made them is for [`Firewall::ensure`] to
    /// find out. To be opened in the network namespace that the firewall was opened in.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn watch(&self) -> Result<FirewallWatch> {
        FirewallWatch::open(&self.table)
    }

    /// Returns the policy that the table was last made equal to.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.lock().policy.clone()
    }

    /// Deletes the table and forgets the policy. Idempotent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self) -> Result<()> {
        let mut state = self.lock();
        state.known = None;
        for _ in 0..ATTEMPTS {
            let generation = self.generation(&mut state.socket)?;
            // Made first, so that deleting it cannot fail for want of it.
            let messages = vec![
                wire::new_table(&self.table),
                wire::delete_table(&self.table),
            ];
            match transact(&mut state.socket, generation, messages) {
                Ok(()) => {
                    state.policy = Policy::default();
                    return Ok(());
                }
                Err(refusal) if is_race(&refusal.fault) => {}
                Err(refusal) => return Err(self.failed("delete", refusal.fault)),
            }
        }
        Err(self.failed("delete", Errno::AGAIN.into()))
    }

    /// Finds chains of others whose policy drops forwarded packets. A hint:
    /// they may have rules that accept ours, which only a packet can tell.
    /// (Rules of the legacy iptables are not visible here.)
    ///
    /// # Errors
    /// When the ruleset cannot be listed.
    pub fn forward_blocked(&self) -> Result<Vec<ForwardBlock>> {
        let mut state = self.lock();
        let request = || {
            wire::any_family(NfTablesMessage::GetChain(ChainMessage {
                attributes: Vec::new(),
            }))
        };
        let objects = self.steady_dump(&mut state.socket, request)?;
        let blocks = objects.into_iter().filter_map(|object| {
            let family = Some(wire::family_name(&object)).filter(|family| *family != "other")?;
            let Some(NfTablesMessage::NewChain(chain)) = wire::inner(object) else {
                return None;
            };
            let chain = wire::SeenChain::read(chain);
            (chain.filters_forwarded() && chain.drops && chain.table != self.table).then_some(
                ForwardBlock {
                    family,
                    table: chain.table,
                    chain: chain.name,
                },
            )
        });
        Ok(blocks.collect())
    }

    /// Compares and changes until the table is what the policy says.
    fn bring(&self, state: &mut State, policy: &Policy) -> Result<Applied> {
        let wanted = Ruleset::compute(policy);
        let mut whole = false;
        for _ in 0..ATTEMPTS {
            let generation = self.generation(&mut state.socket)?;
            let plan = match &state.known {
                _ if whole => Plan::Replace,
                Some((known, present)) if *known == generation => diff::between(present, &wanted),
                _ => match self.read(&mut state.socket)? {
                    None => continue,
                    Some(seen) => diff::plan(seen.as_ref(), &wanted),
                },
            };
            state.known = None;
            let applied = plan.outcome();
            if applied == Applied::Unchanged {
                // Only true if nothing moved while the table was read.
                if self.generation(&mut state.socket)? == generation {
                    state.known = Some((generation, wanted));
                    return Ok(applied);
                }
                continue;
            }
            let stale = plan.stale(&wanted);
            let messages = plan.into_messages(&self.table, &wanted);
            match transact(&mut state.socket, generation, messages) {
                Ok(()) => {
                    // Each transaction counts one; more means that somebody
                    // else's followed, and the table must be read again.
                    if self.generation(&mut state.socket)? == generation.wrapping_add(1) {
                        state.known = Some((generation.wrapping_add(1), wanted));
                    }
                    // A kernel that cannot list connections has nobody hurt
                    // but clients that go on for longer than its own memory.
                    let _ = conntrack::forget(&mut state.socket, &stale);
                    return Ok(applied);
                }
                Err(refusal) if is_race(&refusal.fault) => {}
                // The table is not what it looked like. Start afresh.
                Err(_) if !whole && applied != Applied::Replaced => whole = true,
                Err(refusal) => return Err(self.failed("change", refusal.fault)),
            }
        }
        Err(self.failed("change", Errno::AGAIN.into()))
    }

    fn generation(&self, socket: &mut NetlinkSocket) -> Result<u32> {
        let request = wire::any_family(NfTablesMessage::GetGen(GenMessage {
            attributes: Vec::new(),
        }));
        let answer = socket
            .get(request)
            .map_err(|fault| self.failed("read", fault))?;
        let Some(NfTablesMessage::NewGen(message)) = wire::inner(answer) else {
            return Err(self.failed("read", Fault::malformed("another object than a generation")));
        };
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                GenAttribute::Id(id) => Some(*id),
                _ => None,
            })
            .ok_or_else(|| self.failed("read", Fault::malformed("a generation without a number")))
    }

    /// Reads the table: `None` when it changed meanwhile, `Some(None)` when
    /// there is none.
    fn read(&self, socket: &mut NetlinkSocket) -> Result<Option<Option<Seen>>> {
        let failed = |fault| self.failed("read", fault);
        let table = NfTablesMessage::GetTable(wire::named_table(&self.table));
        match socket.get(wire::message(table)) {
            Ok(_) => {}
            Err(fault) if fault.is(Errno::NOENT) => return Ok(Some(None)),
            Err(fault) => return Err(failed(fault)),
        }

        let mut seen = Seen::default();
        let chains = NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        });
        let Some(chains) = socket.dump(wire::message(chains)).map_err(failed)? else {
            return Ok(None);
        };
        for object in chains {
            if let Some(NfTablesMessage::NewChain(chain)) = wire::inner(object) {
                let chain = wire::SeenChain::read(chain);
                if chain.table == self.table {
                    seen.chains.push(chain);
                }
            }
        }

        let rules = RuleMessage {
            attributes: vec![RuleAttribute::Table(self.table.clone())],
        };
        let rules = wire::message(NfTablesMessage::GetRule(rules));
        let steady = socket.dump_payloads(rules, |payload| {
            let (chain, digest) = wire::read_rule(payload);
            seen.rules.entry(chain).or_default().push(digest);
        });
        if !steady.map_err(failed)? {
            return Ok(None);
        }

        let sets = SetMessage {
            attributes: vec![SetAttribute::Table(self.table.clone())],
        };
        let sets = socket
            .dump(wire::message(NfTablesMessage::GetSet(sets)))
            .map_err(failed)?;
        let Some(sets) = sets else { return Ok(None) };
        for object in sets {
            let Some(NfTablesMessage::NewSet(set)) = wire::inner(object) else {
                continue;
            };
            let name = set
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    SetAttribute::Name(name) => Some(name),
                    _ => None,
                });
            seen.sets.extend(name);
        }
        seen.sets.sort();

        for (map, elements) in [
            (BY_ADDRESS, &mut seen.by_address),
            (BY_PORT, &mut seen.by_port),
        ] {
            if !seen.sets.iter().any(|set| set == map) {
                continue;
            }
            let request = wire::message(NfTablesMessage::GetSetElement(wire::named_map(
                &self.table,
                map,
            )));
            let steady = socket.dump_payloads(request, |payload| {
                elements.extend(wire::read_elements(payload));
            });
            if !steady.map_err(failed)? {
                return Ok(None);
            }
        }
        Ok(Some(Some(seen)))
    }

    fn steady_dump(
        &self,
        socket: &mut NetlinkSocket,
        request: impl Fn() -> NetfilterMessage,
    ) -> Result<Vec<NetfilterMessage>> {
        for _ in 0..ATTEMPTS {
            if let Some(objects) = socket
                .dump(request())
                .map_err(|fault| self.failed("list", fault))?
            {
                return Ok(objects);
            }
        }
        Err(self.failed("list", Errno::AGAIN.into()))
    }

    fn failed(&self, step: &'static str, source: Fault) -> Error {
        Error::Firewall {
            step,
            table: self.table.clone(),
            source,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends messages as one transaction that fails when the ruleset is of
/// another generation.
fn transact(
    socket: &mut NetlinkSocket,
    generation: u32,
    messages: Vec<wire::Message>,
) -> Result<(), Refusal> {
    let mut requests = vec![(wire::batch_begin(generation), 0)];
    requests.extend(messages);
    // The end of a batch is not acknowledged by older kernels; its last
    // message is, after the whole has been carried out.
    let last = requests.len() - 1;
    requests.push((wire::batch_end(), 0));
    socket.transact(requests, last)
}

/// Tells whether a transaction failed because of somebody else's.
fn is_race(fault: &Fault) -> bool {
    fault.is(Errno::RESTART) || fault.is(Errno::AGAIN) || fault.is(Errno::INTR)
}
