//! Many starts at once: how long all of them take, and each.

use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::measure::{Contestant, Samples, in_turn, show};
use super::peers::Peers;
use super::table::Table;

/// How many at once, and how often.
const BURSTS: [(usize, usize); 2] = [(20, 10), (50, 3)];
/// Between two bursts: who prepares for the next one has the time to.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    for (starts, rounds) in BURSTS {
        burst(peers, table, starts, rounds)?;
    }
    Ok(())
}

fn burst(peers: &Peers, table: &mut Table, starts: usize, rounds: usize) -> Result<()> {
    let peers = peers.all();
    let each: Vec<RefCell<Vec<Duration>>> = peers.iter().map(|_| RefCell::default()).collect();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .zip(&each)
        .map(|(peer, each)| Contestant {
            name: peer.name(),
            once: Box::new(move || {
                std::thread::sleep(PAUSE);
                let start = Instant::now();
                let commands =
                    (0..starts).map(|_| peer.command(&["run", "--rm", "busybox", "true"]));
                let times = at_once(commands.collect())?;
                each.borrow_mut().extend(times);
                Ok(start.elapsed())
            }),
        })
        .collect();
    let samples = in_turn(&contestants, rounds)?;
    let title = format!("{starts} times `run --rm busybox true` at once");
    show(&title, &samples);
    table.times(&title, &samples);
    println!(
        "{:<12} {:>10} {:>10} {:>8} {:>10}",
        "each", "p50 ms", "p99 ms", "p99/p50", "starts/s"
    );
    for (whole, times) in samples.iter().zip(&each) {
        // Those of the round that does not count.
        let times = times.borrow_mut().split_off(starts);
        let each = Samples::new(&whole.name, times);
        let (median, worst) = (each.median(), each.quantile(0.99));
        println!(
            "{:<12} {:>10.1} {:>10.1} {:>8.1} {:>10.1}",
            whole.name,
            median.as_secs_f64() * 1000.0,
            worst.as_secs_f64() * 1000.0,
            worst.as_secs_f64() / median.as_secs_f64(),
            f64::from(u32::try_from(starts)?) / whole.median().as_secs_f64()
        );
    }
    Ok(())
}

/// Runs commands side by side; how long each took.
fn at_once(commands: Vec<Command>) -> Result<Vec<Duration>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = commands
            .into_iter()
            .map(|mut command| {
                scope.spawn(move || {
                    let start = Instant::now();
                    command
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null());
                    ensure!(command.spawn()?.wait()?.success(), "a start failed");
                    Ok(start.elapsed())
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a start does not panic"))
            .collect()
    })
}
