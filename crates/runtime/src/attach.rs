//! Attaches the mounts of a container. Child code, all of it, by then inside the container's root.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use sampan_kernel::mount::{Reach, change_mount};

use crate::Error;
use crate::failure::{At, Failure, Step};
use crate::file_system::host_sysfs;
use crate::mounts::{MountPlan, MountPlans, Source};
use crate::resolve::{Links, open_or_create};
use crate::trees::{attach, is_proc};

/// Our own mounts of /proc and /sys, by which paths below them are reached
/// whatever else is mounted or linked.
#[derive(Default)]
pub(crate) struct Anchors {
    pub(crate) proc: Option<OwnedFd>,
    pub(crate) sys: Option<OwnedFd>,
}

impl Anchors {
    /// The anchor of an absolute path and the rest of the path.
    pub(crate) fn of<'a>(
        &'a self,
        root: BorrowedFd<'a>,
        path: &'a CStr,
    ) -> (BorrowedFd<'a>, &'a CStr) {
        for (anchor, prefix) in [(&self.proc, c"/proc/"), (&self.sys, c"/sys/")] {
            let (Some(anchor), prefix) = (anchor, prefix.to_bytes()) else {
                continue;
            };
            if path.to_bytes().starts_with(prefix) {
                let rest = &path.to_bytes_with_nul()[prefix.len()..];
                if let Ok(rest) = CStr::from_bytes_with_nul(rest) {
                    return (anchor.as_fd(), rest);
                }
            }
        }
        (root, path)
    }
}

impl MountPlans {
    /// Child code: makes what must be made before the host's tree is out of sight.
    pub(crate) fn make_ahead(&self) -> Result<(), Failure> {
        if !self.made_ahead {
            return Ok(());
        }
        for (item, plan) in self.plans.iter().enumerate() {
            let Source::New { system, made, .. } = &plan.source else {
                continue;
            };
            let tree = match system.make() {
                // The network namespace is not one of this user namespace: what the host sees
                // of it is all there is to be had.
                Err(Errno::PERM) if system.kind() == c"sysfs" => host_sysfs(system),
                other => other,
            }
            .at_item(Step::MakeFileSystem, item)?;
            made.set(tree)
                .map_err(|_| Errno::EXIST)
                .at_item(Step::MakeFileSystem, item)?;
        }
        Ok(())
    }

    /// Child code: the container's own instance of devpts, once it is made.
    pub(crate) fn own_terminals(&self) -> Option<BorrowedFd<'_>> {
        match &self.plans.get(self.own_terminals?)?.source {
            Source::New { made, .. } => made.get().map(AsFd::as_fd),
            Source::Tree(_) => None,
        }
    }

    /// Whether terminals come from an instance that the child makes.
    pub(crate) fn has_own_terminals(&self) -> bool {
        self.own_terminals.is_some()
    }
}

/// Child code: attaches every mount in order.
pub(crate) fn attach_all(
    root: BorrowedFd<'_>,
    plans: &[MountPlan],
    anchors: &mut Anchors,
) -> Result<(), Failure> {
    for (item, plan) in plans.iter().enumerate() {
        plan.attach(root, item, anchors)?;
    }
    Ok(())
}

impl MountPlan {
    fn attach(
        &self,
        root: BorrowedFd<'_>,
        item: usize,
        anchors: &mut Anchors,
    ) -> Result<(), Failure> {
        let target = match open_or_create(root, &self.destination, self.links, self.missing) {
            Err(Errno::LOOP) if self.links == Links::Refuse => {
                return Err(Errno::LOOP).at_item(Step::MountOrdinary, item);
            }
            other => other.at_item(Step::MountTarget, item)?,
        };
        if !self.over_proc && is_proc(target.as_fd()).at_item(Step::MountTarget, item)? {
            return Err(Errno::PERM).at_item(Step::MountOverProc, item);
        }
        match &self.source {
            Source::Tree(tree) => {
                attach(tree.as_fd(), target.as_fd()).at_item(Step::AttachMount, item)
            }
            Source::New {
                system,
                change,
                made,
            } => {
                let made = match made.get() {
                    Some(made) => rustix::io::fcntl_dupfd_cloexec(made, 3),
                    None => system.make(),
                }
                .at_item(Step::MakeFileSystem, item)?;
                attach(made.as_fd(), target.as_fd()).at_item(Step::AttachMount, item)?;
                if !change.is_empty() {
                    change_mount(made.as_fd(), change, Reach::Mount)
                        .at_item(Step::MountAttributes, item)?;
                }
                if system.kind() == c"proc" && self.destination.as_c_str() == c"/proc" {
                    anchors.proc = Some(made);
                } else if system.kind() == c"sysfs" && self.destination.as_c_str() == c"/sys" {
                    anchors.sys = Some(made);
                }
                Ok(())
            }
        }
    }

    /// A failure of this mount.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        let destination = self.destination.to_string_lossy().into_owned();
        match failure.step {
            Step::MountOverProc => Error::MountRefused {
                destination,
                reason: "it would hide a part of /proc",
            },
            Step::MountOrdinary => Error::MountRefused {
                destination,
                reason: "it must be an ordinary directory of the image, not a symbolic link",
            },
            step if failure.errno == Errno::NOSYS => Error::of_step(step, failure.errno),
            _ => Error::Mount {
                what: self.what.clone(),
                destination,
                reason: failure.errno.into(),
            },
        }
    }
}
