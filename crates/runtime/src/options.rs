//! Mount options as of mount(8), sorted by who takes them.

use sampan_kernel::mount::{MountAttributes, Propagation, Reach};

/// What a list of options asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct MountOptions {
    /// A bind mount of the source, and whether with what is mounted below.
    pub(crate) bind: Option<Reach>,
    /// Attributes of the mount.
    pub(crate) set: MountAttributes,
    /// Attributes that the mount shall not have.
    pub(crate) clear: MountAttributes,
    /// Attributes of the mount and of all below it.
    pub(crate) set_tree: MountAttributes,
    /// Attributes that all these shall not have.
    pub(crate) clear_tree: MountAttributes,
    /// Propagation, and how far it reaches.
    pub(crate) propagation: Option<(Propagation, Reach)>,
    /// Whether owners are mapped, and how far that reaches.
    pub(crate) id_map: Option<Reach>,
    /// Whether a new tmpfs starts with what was there before it.
    pub(crate) copy_up: bool,
    /// What the file system takes itself.
    pub(crate) data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options.iter().flat_map(|option| option.split(',')) {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        match option {
            "" | "defaults" => {}
            "bind" => {
                self.bind.get_or_insert(Reach::Mount);
            }
            "rbind" => self.bind = Some(Reach::Tree),
            "private" => self.propagation = Some((Propagation::Private, Reach::Mount)),
            "rprivate" => self.propagation = Some((Propagation::Private, Reach::Tree)),
            "slave" => self.propagation = Some((Propagation::Slave, Reach::Mount)),
            "rslave" => self.propagation = Some((Propagation::Slave, Reach::Tree)),
            "shared" => self.propagation = Some((Propagation::Shared, Reach::Mount)),
            "rshared" => self.propagation = Some((Propagation::Shared, Reach::Tree)),
            "unbindable" => self.propagation = Some((Propagation::Unbindable, Reach::Mount)),
            "runbindable" => self.propagation = Some((Propagation::Unbindable, Reach::Tree)),
            "idmap" => self.id_map = Some(Reach::Mount),
            "ridmap" => self.id_map = Some(Reach::Tree),
            "tmpcopyup" | "copy-up" => self.copy_up = true,
            // Hints to mount(8) and to other engines.
            "loud" | "nofail" | "user" | "nouser" | "auto" | "noauto" | "_netdev" | "delegated"
            | "cached" | "consistent" | "z" | "Z" | "nocopy" => {}
            _ => self.add_attribute_or_data(option),
        }
    }

    fn add_attribute_or_data(&mut self, option: &str) {
        if let Some((attribute, on)) = attribute(option) {
            let (into, from) = if on {
                (&mut self.set, &mut self.clear)
            } else {
                (&mut self.clear, &mut self.set)
            };
            *into |= attribute;
            *from = from.without(attribute);
            return;
        }
        if let Some((attribute, on)) = option.strip_prefix('r').and_then(attribute) {
            let (into, from) = if on {
                (&mut self.set_tree, &mut self.clear_tree)
            } else {
                (&mut self.clear_tree, &mut self.set_tree)
            };
            *into |= attribute;
            *from = from.without(attribute);
            return;
        }
        self.data.push(match option.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (option.to_owned(), None),
        });
    }
}

/// The attribute that a word stands for, and whether it sets it.
fn attribute(option: &str) -> Option<(MountAttributes, bool)> {
    Some(match option {
        "ro" => (MountAttributes::READ_ONLY, true),
        "rw" => (MountAttributes::READ_ONLY, false),
        "nosuid" => (MountAttributes::NO_SUID, true),
        "suid" => (MountAttributes::NO_SUID, false),
        "nodev" => (MountAttributes::NO_DEVICES, true),
        "dev" => (MountAttributes::NO_DEVICES, false),
        "noexec" => (MountAttributes::NO_EXEC, true),
        "exec" => (MountAttributes::NO_EXEC, false),
        "noatime" => (MountAttributes::NO_ACCESS_TIME, true),
        "strictatime" => (MountAttributes::STRICT_ACCESS_TIME, true),
        // Back to the kernel's default.
        "atime" | "relatime" => (MountAttributes::NO_ACCESS_TIME, false),
        "nostrictatime" | "norelatime" => (MountAttributes::STRICT_ACCESS_TIME, false),
        "nodiratime" => (MountAttributes::NO_DIRECTORY_ACCESS_TIME, true),
        "diratime" => (MountAttributes::NO_DIRECTORY_ACCESS_TIME, false),
        "nosymfollow" => (MountAttributes::NO_SYMLINK_FOLLOW, true),
        "symfollow" => (MountAttributes::NO_SYMLINK_FOLLOW, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&[options.to_owned()])
    }

    #[test]
    fn options_go_to_whom_they_concern() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,newinstance");
        assert_eq!(
            options.set,
            MountAttributes::NO_SUID | MountAttributes::STRICT_ACCESS_TIME
        );
        assert_eq!(options.bind, None);
        assert_eq!(
            options.data,
            [
                ("mode".to_owned(), Some("755".to_owned())),
                ("size".to_owned(), Some("65536k".to_owned())),
                ("newinstance".to_owned(), None),
            ]
        );
        let options = parse("rbind,rslave,rro,ro");
        assert_eq!(options.bind, Some(Reach::Tree));
        assert_eq!(options.propagation, Some((Propagation::Slave, Reach::Tree)));
        assert_eq!(options.set_tree, MountAttributes::READ_ONLY);
        assert_eq!(options.set, MountAttributes::READ_ONLY);
        assert_eq!(parse("rbind,ridmap").id_map, Some(Reach::Tree));
        assert!(parse("tmpcopyup,size=1m").copy_up);
        assert_eq!(parse("rw").data, []);
        assert_eq!(parse("rw").clear, MountAttributes::READ_ONLY);
        assert_eq!(parse("ro,rw").set, MountAttributes::empty());
        assert_eq!(parse("defaults,").data, []);
    }
}
