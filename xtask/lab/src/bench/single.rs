//! One container, and one exec in a running container.

use anyhow::Result;

use super::measure::{Contestant, in_turn, show, time};
use super::peers::{Peer, Peers};
use super::table::Table;

const ROUNDS: usize = 30;

pub(super) fn start(peers: &Peers, table: &mut Table) -> Result<()> {
    compare(
        peers,
        table,
        "`run --rm busybox true`",
        &["run", "--rm", "busybox", "true"],
    )
}

pub(super) fn exec(peers: &Peers, table: &mut Table) -> Result<()> {
    for peer in peers.all() {
        time(peer.command(&["run", "-d", "--name", "exec", "busybox", "sleep", "100000"]))?;
    }
    let result = compare(
        peers,
        table,
        "`exec CONTAINER true`",
        &["exec", "exec", "true"],
    );
    for peer in peers.all() {
        time(peer.command(&["rm", "-f", "exec"]))?;
    }
    result
}

fn compare(peers: &Peers, table: &mut Table, title: &str, arguments: &[&str]) -> Result<()> {
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer: &Peer<'_>| Contestant {
            name: peer.name(),
            once: Box::new(|| time(peer.command(arguments))),
        })
        .collect();
    let samples = in_turn(&contestants, ROUNDS)?;
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}
