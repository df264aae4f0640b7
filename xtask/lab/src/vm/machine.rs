//! The emulated machine while it runs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::TESTED;
use super::base::Base;
use super::report::Report;

/// What an emulated processor does slowly is left out: five levels of page tables, and checks at
/// every access of the kernel to a process's memory.
const PROCESSOR: &str = "max,la57=off,smap=off,smep=off";

/// The timer is not checked: an emulated one is late on a busy host. Retpolines take long, and
/// code is translated anew for every address that it is loaded at: randomized ones make the start of
/// a program two to three times as long.
const KERNEL_ARGUMENTS: &str = "root=/dev/vda rw console=ttyS0 quiet panic=-1 no_timer_check \
                                init=/sampan-init cgroup_no_v1=all mitigations=off norandmaps";

/// Beyond what the longest program may take.
const SILENCE: Duration = Duration::from_secs(5 * 60);

/// Boots the machine, shows what it says and what has come of it; fails if a test did.
pub(super) fn boot(base: &Base, disk: &Path) -> Result<()> {
    let drive = |path: &Path| format!("file={},format=raw,if=virtio,snapshot=on", path.display());
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args(["-accel", "tcg,thread=multi", "-cpu", PROCESSOR])
        .args(["-smp", "2", "-m", "3072"])
        .args(["-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&base.kernel)
        .arg("-initrd")
        .arg(&base.initrd)
        .args(["-append", KERNEL_ARGUMENTS])
        .args(["-drive", &drive(&base.disk), "-drive", &drive(disk)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = machine.spawn().context("cannot start qemu")?;
    let console = machine.stdout.take().context("qemu has no console")?;
    let (sender, lines) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let longest = TESTED.iter().map(|group| group.minutes).max().unwrap_or(0);
    let patience = SILENCE + Duration::from_secs(u64::from(longest) * 60);
    let mut report = Report::new();
    let end = loop {
        match lines.recv_timeout(patience) {
            Ok(line) => report.take(&line),
            Err(end) => break end,
        }
    };
    if end == RecvTimeoutError::Timeout {
        machine.kill()?;
    }
    let _ = machine.wait()?;
    let _ = reader.join();
    report.print();
    match (report.failed_programs(), end) {
        (Some(0), _) => Ok(()),
        (Some(failed), _) => bail!("{failed} test programs failed in the machine"),
        (None, RecvTimeoutError::Disconnected) => {
            bail!("the machine ended before its tests did")
        }
        (None, RecvTimeoutError::Timeout) => bail!(
            "the machine has said nothing for {} minutes and was ended",
            patience.as_secs() / 60
        ),
    }
}
