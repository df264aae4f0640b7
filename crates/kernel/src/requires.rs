//! What a test needs of the machine: `requires!(root, erofs_file_backed)`
//! skips visibly where it is missing.

use std::fs;

use rustix::process::geteuid;

/// Something that a kernel test may need of the machine it runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(non_camel_case_types)]
pub enum Feature {
    /// The effective user is root.
    root,
    /// A cgroup hierarchy is mounted and writable.
    cgroups,
    /// overlayfs.
    overlay,
    /// EROFS mounted from a file, without a loop device (Linux 6.12).
    erofs_file_backed,
    /// nf_tables.
    nftables,
    /// FUSE.
    fuse,
}

impl Feature {
    /// Why the feature is missing, `None` where it is there.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let there = match self {
            Self::root => geteuid().is_root(),
            Self::cgroups => fs::read_to_string("/proc/self/mountinfo")
                .is_ok_and(|mounts| mounts.contains(" - cgroup")),
            Self::overlay => filesystem("overlay"),
            Self::erofs_file_backed => filesystem("erofs") && kernel_at_least(6, 12),
            Self::nftables => fs::metadata("/proc/sys/net/netfilter").is_ok(),
            Self::fuse => filesystem("fuse"),
        };
        (!there).then(|| format!("this machine has no {self:?}"))
    }
}

fn filesystem(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.split_whitespace().any(|word| word == name))
}

/// Whether the running kernel is of version `major.minor` or newer.
#[must_use]
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let running = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    running >= (major, minor)
}

/// Says visibly that a test is left out, and why.
///
/// # Panics
/// With `SAMPAN_FORBID_SKIP` in the environment (CI): there nothing that a test needs is missing.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("SAMPAN_FORBID_SKIP").is_none(),
        "skipping is forbidden here, but {reason}"
    );
    eprintln!("SKIP: {reason}");
}

/// Ends the test, with [`skip`](crate::requires::skip), unless the machine has every named
/// [`Feature`](crate::requires::Feature).
#[macro_export]
macro_rules! requires {
    ($($feature:ident),+ $(,)?) => {
        $(
            if let Some(reason) = $crate::requires::Feature::$feature.missing() {
                $crate::requires::skip(&reason);
                return;
            }
        )+
    };
}
