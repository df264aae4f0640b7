//! What the child tells the parent: eight bytes, so that it need not allocate.

use std::io;

use rustix::io::Errno;

/// A step of the child on its way to the program.
macro_rules! steps {
    ($($name:ident: $doing:literal,)*) => {
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Step { $($name,)* }

        impl Step {
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// The step as the object of "cannot".
            pub(crate) fn doing(self) -> &'static str {
                match self { $(Self::$name => $doing,)* }
            }
        }
    };
}

steps! {
    Spawn: "start the process (its system call filter may forbid it)",
    Prepare: "prepare the container's process",
    EnterCgroup: "enter the container's cgroup",
    OomScore: "set the out-of-memory score adjustment",
    JoinNamespace: "join a namespace of the container",
    NewNamespace: "make a namespace for the container",
    TimeOffsets: "set the offsets of the time namespace",
    Privatise: "make the mounts of the host private",
    AttachRoot: "attach the container's root file system",
    PivotRoot: "change to the container's root file system",
    DetachHost: "detach the host's file systems",
    MakeFileSystem: "make a file system",
    MountTarget: "open the mount point",
    MountOverProc: "mount over a part of /proc",
    MountOrdinary: "mount through a symbolic link",
    AttachMount: "attach the mount",
    MountAttributes: "set the attributes of the mount",
    Device: "make a device node",
    DeviceLink: "make the links in /dev",
    Console: "mount /dev/console",
    Sysctl: "set a kernel parameter",
    HostName: "set the host name",
    DomainName: "set the domain name",
    NullDevice: "find a true null device at /dev/null of the container",
    Mask: "mask a path",
    ReadOnlyPath: "make a path read-only",
    ReadOnlyRoot: "make the root file system read-only",
    RootPropagation: "set the propagation of the root file system",
    WorkingDirectory: "enter the working directory",
    Personality: "set the execution domain",
    Keyring: "make a session keyring",
    Scheduler: "set the scheduler",
    IoPriority: "set the priority of input and output",
    Affinity: "choose the processors",
    Terminal: "allocate a terminal",
    Rlimit: "set a resource limit",
    Stdio: "set up the standard streams",
    Descriptors: "hand over descriptors",
    Session: "make a session",
    ControllingTerminal: "make the terminal the controlling one",
    Bounding: "drop capabilities from the bounding set",
    Groups: "set the supplementary groups",
    GroupId: "set the group",
    UserId: "set the user",
    Capabilities: "set the capabilities",
    Ambient: "set the ambient capabilities",
    NoNewPrivileges: "forbid new privileges",
    Label: "apply the apparmor profile or SELinux label",
    Seccomp: "install the system call filter",
    Lookup: "find the command",
    Execute: "run the command",
}

impl Step {
    /// The first version of Linux that has the call that the step takes, where it is a new one.
    pub(crate) fn since(self) -> Option<&'static str> {
        match self {
            Self::AttachRoot | Self::AttachMount | Self::MakeFileSystem => Some("5.2"),
            Self::Spawn => Some("5.3"),
            Self::MountTarget | Self::TimeOffsets => Some("5.6"),
            Self::Descriptors => Some("5.11"),
            Self::MountAttributes | Self::ReadOnlyPath | Self::ReadOnlyRoot => Some("5.12"),
            _ => None,
        }
    }
}

/// Why the child gave up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    /// What it was doing.
    pub(crate) step: Step,
    /// Which object of the plan it was at, where the step has several.
    pub(crate) item: u16,
    /// The kernel's answer.
    pub(crate) errno: Errno,
}

/// What the child says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Report {
    /// All is set up; it waits to be started.
    Ready,
    /// It waits before it enters its root.
    Hooks,
    /// The other end of its terminal comes along.
    Terminal,
    /// It has a descriptor of this number for an agent, and waits until it was taken.
    Listener(i32),
    /// It has started the process proper, of this id.
    Spawned(i32),
    /// It has given up and ends.
    Failed(Failure),
}

pub(crate) const REPORT_SIZE: usize = 8;

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; REPORT_SIZE] {
        let failure = match self {
            Self::Ready => return with_number(0, 0),
            Self::Spawned(pid) => return with_number(2, pid),
            Self::Hooks => return with_number(3, 0),
            Self::Terminal => return with_number(4, 0),
            Self::Listener(number) => return with_number(5, number),
            Self::Failed(failure) => failure,
        };
        let item = failure.item.to_ne_bytes();
        let errno = failure.errno.raw_os_error().to_ne_bytes();
        let step = failure.step as u8;
        [
            1, step, item[0], item[1], errno[0], errno[1], errno[2], errno[3],
        ]
    }

    pub(crate) fn from_bytes(bytes: [u8; REPORT_SIZE]) -> Self {
        let [tag, step, a, b, errno @ ..] = bytes;
        match tag {
            0 => return Self::Ready,
            2 => return Self::Spawned(i32::from_ne_bytes(errno)),
            3 => return Self::Hooks,
            4 => return Self::Terminal,
            5 => return Self::Listener(i32::from_ne_bytes(errno)),
            _ => {}
        }
        Self::Failed(Failure {
            step: Step::ALL
                .get(usize::from(step))
                .copied()
                .unwrap_or(Step::Prepare),
            item: u16::from_ne_bytes([a, b]),
            errno: Errno::from_raw_os_error(i32::from_ne_bytes(errno)),
        })
    }
}

fn with_number(tag: u8, number: i32) -> [u8; REPORT_SIZE] {
    let [a, b, c, d] = number.to_ne_bytes();
    [tag, 0, 0, 0, a, b, c, d]
}

/// Says at which step a call failed.
pub(crate) trait At<T> {
    /// At a step.
    fn at(self, step: Step) -> Result<T, Failure>;
    /// At an object of a step.
    fn at_item(self, step: Step, item: usize) -> Result<T, Failure>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_item(step, 0)
    }

    fn at_item(self, step: Step, item: usize) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            step,
            item: u16::try_from(item).unwrap_or(u16::MAX),
            errno,
        })
    }
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_item(step, 0)
    }

    fn at_item(self, step: Step, item: usize) -> Result<T, Failure> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .at_item(step, item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_way() {
        for step in Step::ALL {
            let report = Report::Failed(Failure {
                step: *step,
                item: 513,
                errno: Errno::NOTDIR,
            });
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
        for report in [
            Report::Ready,
            Report::Spawned(4_194_303),
            Report::Hooks,
            Report::Terminal,
            Report::Listener(9),
        ] {
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
    }
}
