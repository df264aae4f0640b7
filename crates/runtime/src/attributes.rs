//! What a process is to the kernel besides its identity: label, execution domain, scheduler,
//! priority of input and output, processors, keyring.

use std::ffi::{CStr, CString};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sampan_kernel::exec::set_personality;
use sampan_kernel::keyring;
use sampan_kernel::scheduling::{
    Processors, SchedulingAttributes, set_io_priority, set_scheduling,
};
use sampan_oci::runtime::{CpuAffinity, IoPriority, Personality, Process, Scheduler};

use crate::Error;
use crate::command::c_string;
use crate::failure::{At, Failure, Step};
use crate::file_system::FileSystem;
use crate::resolve::{Links, open_with};

/// Planned down to what the system calls take.
#[derive(Debug)]
pub(crate) struct Attributes {
    label: Option<Label>,
    personality: Option<u64>,
    keyring: Option<CString>,
    scheduling: Option<SchedulingAttributes>,
    io_priority: Option<(u32, u32)>,
    initial_processors: Option<Processors>,
    final_processors: Option<Processors>,
}

/// A label for the program to run under, and the file that takes it.
#[derive(Debug)]
struct Label {
    file: &'static CStr,
    value: Vec<u8>,
    /// The profile that it is, where it is one of AppArmor's.
    profile: Option<String>,
}

impl Attributes {
    /// `affinity` says where a further process of a container runs; the first runs where its
    /// cgroup says.
    pub(crate) fn plan(
        process: &Process,
        personality: Option<&Personality>,
        keyring: Option<&str>,
        affinity: Option<&CpuAffinity>,
    ) -> Result<Self, Error> {
        let list = |list: Option<&String>| {
            let list = list.filter(|list| !list.is_empty());
            let parsed = list.map(|list| {
                Processors::parse(list).ok_or_else(|| {
                    Error::Invalid(format!("execCPUAffinity: {list:?} is no list of CPUs"))
                })
            });
            parsed.transpose()
        };
        Ok(Self {
            label: plan_label(process)?,
            personality: personality.map(plan_personality).transpose()?,
            keyring: keyring.map(c_string).transpose()?,
            scheduling: process.scheduler.as_ref().map(plan_scheduler).transpose()?,
            io_priority: process
                .io_priority
                .as_ref()
                .map(plan_io_priority)
                .transpose()?,
            initial_processors: list(affinity.and_then(|affinity| affinity.initial.as_ref()))?,
            final_processors: list(affinity.and_then(|affinity| affinity.last.as_ref()))?,
        })
    }
}

/// Child code.
impl Attributes {
    pub(crate) fn before_cgroup(&self) -> Result<(), Failure> {
        match &self.initial_processors {
            Some(processors) => processors.apply(None).at(Step::Affinity),
            None => Ok(()),
        }
    }

    pub(crate) fn in_cgroup(&self) -> Result<(), Failure> {
        match &self.final_processors {
            Some(processors) => processors.apply(None).at(Step::Affinity),
            None => Ok(()),
        }
    }

    /// A keyring of its own, so that the container does not find the caller's.
    pub(crate) fn join_keyring(&self) -> Result<(), Failure> {
        let Some(name) = &self.keyring else {
            return Ok(());
        };
        match keyring::join_new_session(name) {
            // A kernel without keyrings, or a container that may not use them.
            Err(error)
                if [Errno::NOSYS, Errno::PERM]
                    .contains(&Errno::from_io_error(&error).unwrap_or(Errno::IO)) =>
            {
                Ok(())
            }
            other => other.at(Step::Keyring),
        }
    }

    /// With all the privileges of the beginning.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        if let Some(domain) = self.personality {
            set_personality(domain).at(Step::Personality)?;
        }
        if let Some(scheduling) = &self.scheduling {
            set_scheduling(scheduling).at(Step::Scheduler)?;
        }
        if let Some((class, priority)) = self.io_priority {
            set_io_priority(class, priority).at(Step::IoPriority)?;
        }
        match &self.label {
            Some(label) => label.apply().at(Step::Label),
            None => Ok(()),
        }
    }

    /// A failure to apply them.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        let profile = self.label.as_ref().and_then(|label| label.profile.clone());
        match (failure.step, failure.errno, profile) {
            (Step::Label, Errno::NOENT, Some(profile)) => Error::ProfileNotLoaded(profile),
            (step, errno, _) => Error::of_step(step, errno),
        }
    }
}

impl Label {
    /// The file is one of a /proc made on the spot.
    fn apply(&self) -> Result<(), Errno> {
        let proc = FileSystem::proc().make()?;
        use std::os::fd::AsFd;
        let file = open_with(proc.as_fd(), self.file, Links::Follow, OFlags::WRONLY)?;
        rustix::io::write(&file, &self.value).map(drop)
    }
}

fn plan_personality(personality: &Personality) -> Result<u64, Error> {
    if !personality.flags.is_empty() {
        return Err(Error::Unsupported(
            "linux.personality.flags (the specification defines none)".to_owned(),
        ));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::Invalid(format!("unknown personality {other:?}"))),
    }
}

/// By the numbers of linux/sched.h.
fn plan_scheduler(scheduler: &Scheduler) -> Result<SchedulingAttributes, Error> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => {
            return Err(Error::Invalid(format!(
                "invalid scheduler policy: {other:?}"
            )));
        }
    };
    let flags = scheduler.flags.iter().try_fold(0, |flags, name| {
        let flag = match name.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(Error::Invalid(format!("invalid scheduler flag: {other:?}"))),
        };
        Ok(flags | flag)
    })?;
    let is_real_time = matches!(policy, 1 | 2);
    if scheduler.priority != 0 && !is_real_time {
        return Err(Error::Invalid(
            "scheduler.priority can only be specified for SCHED_FIFO or SCHED_RR policy".to_owned(),
        ));
    }
    let deadline = [scheduler.runtime, scheduler.deadline, scheduler.period];
    if policy != 6 && deadline != [0; 3] {
        return Err(Error::Invalid(
            "scheduler runtime/deadline/period can only be specified for SCHED_DEADLINE policy"
                .to_owned(),
        ));
    }
    if !(-20..=19).contains(&scheduler.nice) {
        return Err(Error::Invalid(format!(
            "invalid scheduler.nice: {}",
            scheduler.nice
        )));
    }
    Ok(SchedulingAttributes {
        policy,
        flags,
        nice: scheduler.nice,
        priority: u32::try_from(scheduler.priority).map_err(|_| {
            Error::Invalid(format!(
                "invalid scheduler.priority: {}",
                scheduler.priority
            ))
        })?,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}

/// By the numbers of linux/ioprio.h.
fn plan_io_priority(priority: &IoPriority) -> Result<(u32, u32), Error> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" | "" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            return Err(Error::Invalid(format!(
                "invalid ioPriority.class: {other:?}"
            )));
        }
    };
    match u32::try_from(priority.priority) {
        Ok(number) if number <= 7 => Ok((class, number)),
        _ => Err(Error::Invalid(format!(
            "invalid ioPriority.priority: {}",
            priority.priority
        ))),
    }
}

fn plan_label(process: &Process) -> Result<Option<Label>, Error> {
    let set = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    if let Some(profile) = set(&process.apparmor_profile).filter(|p| p != "unconfined") {
        if !Path::new("/sys/module/apparmor").exists() {
            return Err(Error::Unsupported(format!(
                "the AppArmor profile {profile:?} (this kernel has no AppArmor)"
            )));
        }
        return Ok(Some(Label {
            // Before Linux 5.8 there is one file for whatever gives labels.
            file: match Path::new("/proc/self/attr/apparmor").exists() {
                true => c"self/attr/apparmor/exec",
                false => c"self/attr/exec",
            },
            value: format!("exec {profile}").into_bytes(),
            profile: Some(profile),
        }));
    }
    let Some(label) = set(&process.selinux_label) else {
        return Ok(None);
    };
    if !has_selinux() {
        return Err(Error::Unsupported(format!(
            "the SELinux label {label:?} (this kernel has no SELinux policy)"
        )));
    }
    Ok(Some(Label {
        file: c"self/attr/exec",
        value: label.into_bytes(),
        profile: None,
    }))
}

/// Whether an SELinux policy is loaded.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_are_checked_before_anything_is_made() {
        let scheduler = |policy: &str| Scheduler {
            policy: policy.to_owned(),
            ..Scheduler::default()
        };
        let batch = Scheduler {
            nice: 5,
            flags: vec!["SCHED_FLAG_RESET_ON_FORK".to_owned()],
            ..scheduler("SCHED_BATCH")
        };
        let planned = plan_scheduler(&batch).unwrap();
        assert_eq!((planned.policy, planned.flags, planned.nice), (3, 1, 5));
        assert!(plan_scheduler(&scheduler("SCHED_FAST")).is_err());
        let priority = Scheduler {
            priority: 3,
            ..scheduler("SCHED_OTHER")
        };
        assert!(plan_scheduler(&priority).is_err());
        let nice = Scheduler {
            nice: 20,
            ..scheduler("SCHED_OTHER")
        };
        assert!(plan_scheduler(&nice).is_err());
    }

    #[test]
    fn priorities_of_input_and_output() {
        let planned = |class: &str, priority| {
            plan_io_priority(&IoPriority {
                class: class.to_owned(),
                priority,
            })
            .ok()
        };
        assert_eq!(planned("IOPRIO_CLASS_BE", 4), Some((2, 4)));
        assert_eq!(planned("IOPRIO_CLASS_BE", 8), None);
        assert_eq!(planned("IOPRIO_CLASS_X", 1), None);
    }
}
