//! Seccomp profiles as Docker writes them: rules that depend on the
//! container's capabilities, the architecture and the kernel, resolved here
//! to the plain rules of the runtime specification.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::runtime::{Seccomp, SeccompAction, SeccompArg, SeccompSyscall};

/// Docker's default profile, moby/profiles v0.2.3 (Apache-2.0).
const DEFAULT: &str = include_str!("seccomp-default.json");

static DEFAULT_PROFILE: LazyLock<Profile> = LazyLock::new(|| {
    DEFAULT
        .parse()
        .expect("the bundled profile is valid: a test parses it")
});

/// A profile in the form of `--security-opt seccomp=FILE`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: SeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchitectureMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// The old form with one name.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: SeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<SeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What the conditions of a profile are decided by.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The capabilities in the container's bounding set (`CAP_SYS_ADMIN`).
    pub capabilities: &'a [String],
    /// The architecture as Go names it: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// Major and minor version of the running kernel.
    pub kernel: (u32, u32),
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not the JSON of a profile.
    #[error("decoding the seccomp profile failed")]
    Json(#[from] serde_json::Error),
    /// Two ways to say the same thing.
    #[error("the seccomp profile has both {0} and {1}: use one of them")]
    Both(&'static str, &'static str),
    /// A rule that names no call.
    #[error("a rule of the seccomp profile names no system call")]
    NoName,
}

impl std::str::FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_str(text)?;
        let listed = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
        if listed(&profile.architectures)
            && profile.arch_map.as_ref().is_some_and(|map| !map.is_empty())
        {
            return Err(ProfileError::Both("architectures", "archMap"));
        }
        for rule in profile.syscalls.iter().flatten() {
            match (&rule.name, &rule.names) {
                (Some(_), Some(names)) if !names.is_empty() => {
                    return Err(ProfileError::Both("name", "names"));
                }
                (None, None) => return Err(ProfileError::NoName),
                _ => {}
            }
        }
        Ok(profile)
    }
}

impl Profile {
    /// Docker's default profile.
    #[must_use]
    pub fn docker_default() -> &'static Profile {
        &DEFAULT_PROFILE
    }

    /// The rules that hold under `circumstances`.
    #[must_use]
    pub fn resolve(&self, circumstances: &Circumstances<'_>) -> Seccomp {
        let rules = self.syscalls.iter().flatten();
        let syscalls = rules
            .filter(|rule| rule.holds(circumstances))
            .map(|rule| SeccompSyscall {
                names: match &rule.name {
                    Some(name) => vec![name.clone()],
                    None => rule.names.clone().unwrap_or_default(),
                },
                action: rule.action,
                errno_ret: rule.errno_ret,
                args: rule.args.clone().unwrap_or_default(),
            });
        Seccomp {
            default_action: self.default_action,
            default_errno_ret: self.default_errno_ret,
            architectures: self.architectures_for(circumstances.architecture),
            flags: self.flags.clone().unwrap_or_default(),
            listener_path: self.listener_path.clone().map(Into::into),
            listener_metadata: None,
            syscalls: syscalls.collect(),
        }
    }

    fn architectures_for(&self, architecture: &str) -> Vec<String> {
        if let Some(list) = &self.architectures {
            return list.clone();
        }
        let native = match architecture {
            "amd64" => "SCMP_ARCH_X86_64",
            "arm64" => "SCMP_ARCH_AARCH64",
            other => other,
        };
        let entry = self
            .arch_map
            .iter()
            .flatten()
            .find(|entry| entry.architecture == native);
        let sub = entry.and_then(|entry| entry.sub_architectures.clone());
        [native.to_owned()]
            .into_iter()
            .chain(sub.unwrap_or_default())
            .collect()
    }
}

impl Rule {
    fn holds(&self, circumstances: &Circumstances<'_>) -> bool {
        let included = self
            .includes
            .as_ref()
            .is_none_or(|condition| condition.allows(circumstances));
        let excluded = self
            .excludes
            .as_ref()
            .is_some_and(|condition| condition.touches(circumstances));
        included && !excluded
    }
}

impl Condition {
    /// Whether all that the condition asks for is there.
    fn allows(&self, circumstances: &Circumstances<'_>) -> bool {
        let architecture = self.arches.as_ref().is_none_or(|list| {
            list.is_empty() || list.iter().any(|a| a == circumstances.architecture)
        });
        let capabilities = self
            .caps
            .iter()
            .flatten()
            .all(|cap| circumstances.capabilities.contains(cap));
        architecture && capabilities && self.kernel_is_new_enough(circumstances)
    }

    /// Whether any of what the condition names is there.
    fn touches(&self, circumstances: &Circumstances<'_>) -> bool {
        let architecture = self
            .arches
            .iter()
            .flatten()
            .any(|a| a == circumstances.architecture);
        let capability = self
            .caps
            .iter()
            .flatten()
            .any(|cap| circumstances.capabilities.contains(cap));
        let kernel = self.min_kernel.is_some() && self.kernel_is_new_enough(circumstances);
        architecture || capability || kernel
    }

    fn kernel_is_new_enough(&self, circumstances: &Circumstances<'_>) -> bool {
        let Some(version) = &self.min_kernel else {
            return true;
        };
        let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(u32::MAX));
        let wanted = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        circumstances.kernel >= wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(capabilities: &[&str]) -> Seccomp {
        let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        Profile::docker_default().resolve(&Circumstances {
            capabilities: &capabilities,
            architecture: "amd64",
            kernel: (6, 1),
        })
    }

    fn names(seccomp: &Seccomp, name: &str) -> Vec<SeccompAction> {
        let rules = seccomp.syscalls.iter();
        rules
            .filter(|rule| rule.names.iter().any(|n| n == name))
            .map(|rule| rule.action)
            .collect()
    }

    #[test]
    fn the_default_profile_depends_on_capabilities() {
        let plain = resolved(&["CAP_CHOWN"]);
        assert_eq!(names(&plain, "clone3"), [SeccompAction::Errno]);
        assert_eq!(names(&plain, "mount"), []);
        let admin = resolved(&["CAP_SYS_ADMIN"]);
        assert_eq!(names(&admin, "clone3"), [SeccompAction::Allow]);
        assert_eq!(names(&admin, "mount"), [SeccompAction::Allow]);
    }

    #[test]
    fn the_default_profile_covers_the_sub_architectures() {
        let plain = resolved(&[]);
        assert_eq!(
            plain.architectures,
            ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
        );
        assert_eq!(names(&plain, "arch_prctl"), [SeccompAction::Allow]);
        assert_eq!(names(&plain, "riscv_flush_icache"), []);
        assert_eq!(names(&plain, "ptrace"), [SeccompAction::Allow]);
    }

    #[test]
    fn contradictory_profiles_are_refused() {
        for bad in [
            "{}",
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
        ] {
            assert!(bad.parse::<Profile>().is_err(), "{bad} was taken");
        }
    }
}
