//! Capability sets: from names to the order in which the kernel takes them.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};
use sampan_oci::runtime::{CAPABILITY_NAMES as NAMES, Capabilities};

use crate::Error;

/// The sets of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    ambient: CapabilitySet,
    rest: CapabilitySets,
}

impl Sets {
    /// Reads the sets of a specification; absent ones are empty.
    pub(crate) fn parse(from: Option<&Capabilities>) -> Result<Self, Error> {
        let none = Capabilities::default();
        let from = from.unwrap_or(&none);
        Ok(Self {
            bounding: parse_set(&from.bounding)?,
            ambient: parse_set(&from.ambient)?,
            rest: CapabilitySets {
                effective: parse_set(&from.effective)?,
                permitted: parse_set(&from.permitted)?,
                inheritable: parse_set(&from.inheritable)?,
            },
        })
    }

    /// Child code: drops from the bounding set what is not in it here. Needs
    /// `CAP_SETPCAP`, so it comes first.
    pub(crate) fn limit(&self) -> Result<(), Errno> {
        for number in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Beyond the last that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Child code: puts the sets in force, with `more` kept in force for what
    /// is yet to be done.
    pub(crate) fn apply_with(&self, more: CapabilitySet) -> Result<(), Errno> {
        let sets = CapabilitySets {
            effective: self.rest.effective | more,
            permitted: self.rest.permitted | more,
            inheritable: self.rest.inheritable,
        };
        set_capabilities(None, sets)
    }

    /// Child code: sets what an unprivileged program inherits. Comes after
    /// [`Sets::apply_with`]: the kernel wants these permitted and inheritable.
    pub(crate) fn apply_ambient(&self) -> Result<(), Errno> {
        clear_ambient_capability_set()?;
        for capability in self.ambient.iter() {
            match configure_capability_in_ambient_set(capability, true) {
                // Not permitted or not inheritable: runc ignores it as well.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn parse_set(names: &[String]) -> Result<CapabilitySet, Error> {
    let mut bits = 0_u64;
    for name in names {
        let number = NAMES
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::Invalid(format!("unknown capability: \"{name}\"")))?;
        bits |= 1 << number;
    }
    Ok(CapabilitySet::from_bits_retain(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_kernel_s_order() {
        let set = |name: &str| parse_set(&[name.to_owned()]).unwrap();
        assert_eq!(set("CAP_SYS_ADMIN"), CapabilitySet::SYS_ADMIN);
        assert_eq!(set("cap_audit_read"), CapabilitySet::AUDIT_READ);
        assert_eq!(
            set("CAP_CHECKPOINT_RESTORE"),
            CapabilitySet::CHECKPOINT_RESTORE
        );
        assert!(parse_set(&["CAP_ALL".to_owned()]).is_err());
    }
}
