//! Capabilities and security options.

use sampan_oci::runtime::CAPABILITY_NAMES;
use sampan_oci::runtime::Seccomp;
use sampan_oci::seccomp::{Circumstances, Profile};

use super::config::HostConfig;
use crate::apparmor::{AppArmor, DEFAULT_PROFILE};
use crate::host::Host;
use crate::{Error, Result};

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Returns the capabilities that a bounding set allows, by its bits: what an engine has not itself
/// it cannot give, and "all" means all of these.
pub(crate) fn allowed(bits: u64) -> Vec<&'static str> {
    CAPABILITY_NAMES
        .into_iter()
        .enumerate()
        .filter(|(number, _)| bits >> number & 1 == 1)
        .map(|(_, name)| name)
        .collect()
}

/// Returns the capabilities of a container's processes. `all` is what "all" means on this host.
pub(crate) fn capabilities(host: &HostConfig, all: &[&str]) -> Result<Vec<String>> {
    let add = normalise("CapAdd", &host.cap_add)?;
    let drop = normalise("CapDrop", &host.cap_drop)?;
    if host.privileged {
        return Ok(all.iter().map(|cap| (*cap).to_owned()).collect());
    }
    let adds_all = add.iter().any(|cap| cap == "ALL");
    let drops_all = drop.iter().any(|cap| cap == "ALL");
    let base: &[&str] = match (adds_all, drops_all) {
        (true, _) => all,
        (false, true) => &[],
        (false, false) => &DEFAULT,
    };
    let mut capabilities: Vec<String> = base
        .iter()
        .filter(|cap| !drop.iter().any(|dropped| dropped == *cap))
        .map(|cap| (*cap).to_owned())
        .collect();
    for cap in add {
        if cap != "ALL" && !capabilities.contains(&cap) {
            capabilities.push(cap);
        }
    }
    Ok(capabilities)
}

fn normalise(field: &str, names: &[String]) -> Result<Vec<String>> {
    names
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok(upper);
            }
            let full = if upper.starts_with("CAP_") {
                upper
            } else {
                format!("CAP_{upper}")
            };
            if CAPABILITY_NAMES.contains(&full.as_str()) {
                Ok(full)
            } else {
                Err(Error::invalid(format!(
                    "invalid {field}: unknown capability: {full:?}"
                )))
            }
        })
        .collect()
}

/// What `--security-opt` asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct SecurityOptions {
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Filter,
    /// Nothing is masked and nothing read-only.
    pub(crate) open_system_paths: bool,
    pub(crate) apparmor: Confinement,
    /// A label of SELinux, other than that there is to be none.
    pub(crate) label: Option<String>,
    /// The container may make control groups below its own.
    pub(crate) writable_cgroups: bool,
}

/// The profile of AppArmor of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// The engine's.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// One that the host has loaded.
    Profile(String),
}

/// The system call filter of a container.
#[derive(Debug, Clone, Default)]
pub(crate) enum Filter {
    /// The engine's.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The container's own.
    Custom(Box<Profile>),
}

impl SecurityOptions {
    /// What was asked for and will not be so.
    pub(crate) fn warnings(&self, host: &Host) -> Vec<String> {
        let profile = match &self.apparmor {
            Confinement::Profile(profile) if !host.apparmor.is_there() => Some(format!(
                "The AppArmor profile {profile:?} is not applied: AppArmor is not enabled on this host"
            )),
            _ => None,
        };
        let label = self.label.as_ref().map(|label| {
            format!("The label {label:?} is not applied: labels of SELinux are not supported")
        });
        profile.into_iter().chain(label).collect()
    }

    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        if option == "no-new-privileges" {
            self.no_new_privileges = true;
            return Ok(());
        }
        // The form with a colon is an old one.
        let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
            return Err(Error::invalid(format!(
                "invalid --security-opt 1: {option:?}"
            )));
        };
        match (key, value) {
            ("no-new-privileges", "true") => self.no_new_privileges = true,
            ("no-new-privileges", "false") => self.no_new_privileges = false,
            ("seccomp", "unconfined") => self.filter = Filter::Unconfined,
            ("seccomp", "builtin") => self.filter = Filter::Default,
            ("seccomp", json) => {
                let profile = json.parse().map_err(|error| {
                    Error::because("invalid seccomp profile", &error).into_invalid()
                })?;
                self.filter = Filter::Custom(Box::new(profile));
            }
            ("writable-cgroups", "true") => self.writable_cgroups = true,
            ("writable-cgroups", "false") => self.writable_cgroups = false,
            ("systempaths", "unconfined") => self.open_system_paths = true,
            ("apparmor", "unconfined") => self.apparmor = Confinement::Unconfined,
            ("apparmor", profile) => {
                self.apparmor = Confinement::Profile(profile.to_owned());
            }
            ("label", "disable") => self.label = None,
            ("label", label) => self.label = Some(label.to_owned()),
            _ => {
                return Err(Error::invalid(format!(
                    "invalid --security-opt 2: {option:?}"
                )));
            }
        }
        Ok(())
    }

    /// Returns the profile of AppArmor on a host; none where it has no AppArmor.
    pub(crate) fn apparmor_profile(&self, privileged: bool, apparmor: AppArmor) -> Option<&str> {
        match (&self.apparmor, apparmor) {
            (_, AppArmor::Absent) => None,
            (Confinement::Profile(profile), _) => Some(profile),
            (Confinement::Default, AppArmor::DefaultProfile) if !privileged => {
                Some(DEFAULT_PROFILE)
            }
            (Confinement::Default | Confinement::Unconfined, _) => Some("unconfined"),
        }
    }

    /// Returns the filter's rules under the given circumstances.
    pub(crate) fn seccomp(
        &self,
        privileged: bool,
        capabilities: &[String],
        architecture: &str,
        kernel: (u32, u32),
    ) -> Option<Seccomp> {
        let profile = match &self.filter {
            Filter::Unconfined => return None,
            Filter::Default if privileged => return None,
            Filter::Default => Profile::docker_default(),
            Filter::Custom(profile) => profile,
        };
        Some(profile.resolve(&Circumstances {
            capabilities,
            architecture,
            kernel,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Vec<String> {
        capabilities(
            &HostConfig {
                cap_add: add.iter().map(ToString::to_string).collect(),
                cap_drop: drop.iter().map(ToString::to_string).collect(),
                ..HostConfig::default()
            },
            &CAPABILITY_NAMES,
        )
        .unwrap()
    }

    #[test]
    fn a_profile_of_apparmor_is_the_default_one_unless_another_is_named() {
        let profile = |options: &[&str], privileged, apparmor| {
            let options: Vec<_> = options.iter().map(ToString::to_string).collect();
            let options = SecurityOptions::parse(&options).unwrap();
            options
                .apparmor_profile(privileged, apparmor)
                .map(str::to_owned)
        };
        use AppArmor::{Absent, DefaultProfile, NamedProfiles};
        for (options, privileged, apparmor, expected) in [
            (&[][..], false, DefaultProfile, Some("sampan-default")),
            (&[], true, DefaultProfile, Some("unconfined")),
            (&[], false, NamedProfiles, Some("unconfined")),
            (&[], false, Absent, None),
            (
                &["apparmor=unconfined"],
                false,
                DefaultProfile,
                Some("unconfined"),
            ),
            (&["apparmor=mine"], false, DefaultProfile, Some("mine")),
            (&["apparmor:mine"], true, NamedProfiles, Some("mine")),
            (&["apparmor=mine"], false, Absent, None),
        ] {
            let found = profile(options, privileged, apparmor);
            assert_eq!(
                found.as_deref(),
                expected,
                "{options:?} {privileged} {apparmor:?}"
            );
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(of(&[], &[]), DEFAULT);
        assert!(of(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert_eq!(of(&["CAP_CHOWN"], &["ALL"]), ["CAP_CHOWN"]);
        assert_eq!(of(&["ALL"], &["MKNOD"]).len(), 40);
        assert_eq!(of(&[], &["all"]).len(), 0);
        let error = capabilities(
            &HostConfig {
                cap_add: vec!["FLY".into()],
                ..HostConfig::default()
            },
            &[],
        );
        assert_eq!(
            error.unwrap_err().message(),
            "invalid CapAdd: unknown capability: \"CAP_FLY\""
        );
    }

    #[test]
    fn an_engine_gives_only_what_it_has() {
        let few = allowed(0b1001);
        assert_eq!(few, ["CAP_CHOWN", "CAP_FOWNER"]);
        let privileged = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        assert_eq!(capabilities(&privileged, &few).unwrap(), few);
    }

    #[test]
    fn security_options_are_read() {
        let parse = |options: &[&str]| {
            SecurityOptions::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(parse(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(
            !parse(&["no-new-privileges:false"])
                .unwrap()
                .no_new_privileges
        );
        assert!(matches!(
            parse(&["seccomp=unconfined"]).unwrap().filter,
            Filter::Unconfined
        ));
        assert!(
            parse(&["systempaths=unconfined"])
                .unwrap()
                .open_system_paths
        );
        for bad in [
            "flying",
            "colour=red",
            "no-new-privileges=maybe",
            "writable-cgroups=perhaps",
            "seccomp={",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
