//! `exec`.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use sampan_cgroups::{Cgroup, CgroupPath};
use sampan_oci::runtime::{Process, Status};
use sampan_runtime::{Agent, ExecRequest};

use super::create::with_hint;
use crate::arguments::Exec;
use crate::container::Container;
use crate::foreground::{self, Signals};
use crate::{bundle, console};

pub(crate) fn exec(root: &Path, exec: &Exec) -> Result<u8> {
    let container = Container::open(root, &exec.id)?;
    match container.status()? {
        Status::Stopped => bail!("cannot exec in a stopped container"),
        Status::Creating => bail!("cannot exec in a container that is being created"),
        Status::Paused if !exec.ignore_paused => {
            bail!("cannot exec in a paused container (use --ignore-paused to override)")
        }
        Status::Created | Status::Running | Status::Paused => {}
    }
    let process = process(exec, container.record.spec.process.as_ref())?;
    let socket = exec.console_socket.as_deref();
    console::check(process.terminal, exec.detach, socket)?;
    let signals = (!exec.detach).then(Signals::take).transpose()?;
    let request = request(exec, process, &container)?;
    let mut started = container.running()?.exec(request).map_err(with_hint)?;
    let terminal = match (started.take_terminal(), socket) {
        (Some(terminal), Some(socket)) => {
            let handed = console::hand_over(socket, &terminal);
            if handed.is_err() {
                started.kill(rustix::process::Signal::KILL)?;
            }
            handed?;
            None
        }
        (terminal, _) => terminal,
    };
    if let Some(path) = &exec.pid_file {
        bundle::write_pid(path, started.pid().as_raw_nonzero().get())?;
    }
    let Some(signals) = signals else {
        return Ok(0);
    };
    let ending = foreground::wait(&signals, started.pidfd(), terminal)?;
    Ok(u8::try_from(ending.code()).unwrap_or(u8::MAX))
}

fn request(exec: &Exec, process: Process, container: &Container) -> Result<ExecRequest> {
    let spec = &container.record.spec;
    let mut descriptors = Vec::new();
    for number in 0..exec.preserve_fds {
        let number = 3 + i32::try_from(number).context("too many descriptors to preserve")?;
        let taken = sampan_kernel::inherited::take(number);
        descriptors.push(
            taken.with_context(|| format!("please check that preserved-fd {number} is present"))?,
        );
    }
    let linux = spec.linux.as_ref();
    let agent = linux
        .and_then(|linux| linux.seccomp.as_ref())
        .and_then(Agent::of);
    Ok(ExecRequest {
        stdio: bundle::stdio(&process),
        seccomp: bundle::filter(spec)?,
        descriptors,
        agent: agent.map(|agent| (agent, container.state(Status::Running))),
        personality: linux.and_then(|linux| linux.personality.clone()),
        keyring: container.record.keyring.clone(),
        cgroup: cgroup(&exec.cgroup, container)?,
        ..ExecRequest::new(process)
    })
}

/// A cgroup below the container's own.
fn cgroup(asked: &[String], container: &Container) -> Result<Option<Cgroup>> {
    let below = match asked {
        [] => return Ok(None),
        [below] => below,
        _ => bail!("give --cgroup once: it counts for all hierarchies"),
    };
    ensure!(
        !below.contains(':'),
        "--cgroup for single controllers is not supported: it counts for all hierarchies"
    );
    let below = below.trim_matches('/');
    if below.is_empty() {
        return Ok(None);
    }
    let path: CgroupPath = format!("{}/{below}", container.cgroup).parse()?;
    let cgroup = Cgroup::open(&container.hierarchies, &path);
    Ok(Some(cgroup.with_context(|| {
        format!("the container has no cgroup {below:?}")
    })?))
}

/// What to run: a file says it all, or the flags change what the container itself runs.
fn process(exec: &Exec, of_container: Option<&Process>) -> Result<Process> {
    let mut process = if let Some(path) = &exec.process {
        let bytes = std::fs::read(path)
            .with_context(|| format!("cannot read the process {}", path.display()))?;
        let process: Process = serde_json::from_slice(&bytes)
            .with_context(|| format!("cannot parse the process {}", path.display()))?;
        process
    } else {
        ensure!(!exec.command.is_empty(), "process args cannot be empty");
        let of_container = of_container.context("the container has no process of its own")?;
        Process {
            args: exec.command.clone(),
            terminal: exec.tty,
            ..changed(exec, of_container.clone())?
        }
    };
    bundle::for_linux(&mut process);
    ensure!(!process.args.is_empty(), "process args cannot be empty");
    if exec.process.is_some() {
        process.terminal |= exec.tty;
    }
    Ok(process)
}

fn changed(exec: &Exec, mut process: Process) -> Result<Process> {
    if let Some(cwd) = &exec.cwd {
        process.cwd.clone_from(cwd);
    }
    if exec.apparmor.is_some() {
        process.apparmor_profile.clone_from(&exec.apparmor);
    }
    if exec.process_label.is_some() {
        process.selinux_label.clone_from(&exec.process_label);
    }
    if !exec.caps.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        // As runc has it: all but ambient, which follows inheritable.
        for set in [
            &mut sets.bounding,
            &mut sets.effective,
            &mut sets.permitted,
            &mut sets.inheritable,
            &mut sets.ambient,
        ] {
            set.extend(exec.caps.iter().cloned());
        }
    }
    process.env.extend(exec.env.iter().cloned());
    process.no_new_privileges |= exec.no_new_privs;
    let id = |text: &str, what: &str| {
        text.parse::<u32>()
            .with_context(|| format!("parsing {text:?} as int for {what} failed"))
    };
    if let Some(user) = &exec.user {
        let (user, group) = user
            .split_once(':')
            .map_or((user.as_str(), None), |(user, group)| (user, Some(group)));
        if let Some(group) = group {
            process.user.gid = id(group, "gid")?;
        }
        process.user.uid = id(user, "uid")?;
    }
    for group in &exec.additional_gids {
        process
            .user
            .additional_gids
            .push(id(group, "additional gid")?);
    }
    Ok(process)
}
