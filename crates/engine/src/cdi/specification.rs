//! What vendors write of their devices (Container Device Interface, versions 0.3 to 1.0).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// The newest version of the specification that is read.
const NEWEST: (u32, u32) = (1, 1);
/// A longer file is none.
const LENGTH_MAX: u64 = 16 << 20;

/// A file: devices of one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Specification {
    cdi_version: String,
    /// `vendor.com/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// What goes with any of them.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// A device.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What is done to a container. A vendor's file is the host's: nothing of it is a container's or
/// an image's word.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Edits {
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) device_nodes: Vec<Node>,
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
    #[serde(default)]
    pub(super) hooks: Vec<Hook>,
    #[serde(default, rename = "additionalGIDs", alias = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
    /// Looked at only to be refused.
    #[serde(default)]
    pub(super) intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) net_devices: Vec<serde::de::IgnoredAny>,
}

/// A device node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: u32,
    #[serde(default)]
    pub(super) minor: u32,
    #[serde(default)]
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    #[serde(default)]
    pub(super) uid: Option<u32>,
    #[serde(default)]
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// A program of the host that is run at a point of the container's life.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) timeout: Option<i32>,
}

impl Specification {
    /// Reads a file of JSON or YAML.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let length = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if length.len() > LENGTH_MAX {
            return Err("it is too long".to_owned());
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let json = path.extension().is_some_and(|end| end == "json");
        Self::parse(&text, json)
    }

    fn parse(text: &str, json: bool) -> Result<Self, String> {
        let specification: Self = if json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?
        };
        specification.check()?;
        Ok(specification)
    }

    fn check(&self) -> Result<(), String> {
        let mut numbers = self.cdi_version.trim_start_matches('v').split('.');
        let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok());
        match (number(), number()) {
            (Some(major), Some(minor)) if (major, minor) <= NEWEST => {}
            _ => return Err(format!("its version {:?} is not known", self.cdi_version)),
        }
        let good_kind = self
            .kind
            .split_once('/')
            .is_some_and(|(vendor, class)| is_vendor(vendor) && is_class(class));
        if !good_kind {
            return Err(format!("invalid kind {:?}", self.kind));
        }
        let mut names = BTreeMap::new();
        for device in &self.devices {
            if !is_device(&device.name) {
                return Err(format!("invalid device name {:?}", device.name));
            }
            if names.insert(&device.name, ()).is_some() {
                return Err(format!("device {:?} is there twice", device.name));
            }
        }
        Ok(())
    }
}

/// Whether this names a device so: `vendor.com/class=name`.
pub(super) fn is_qualified(text: &str) -> bool {
    let parts = text
        .split_once('=')
        .and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
    parts.is_some_and(|((vendor, class), name)| {
        is_vendor(vendor) && is_class(class) && is_device(name)
    })
}

fn is_vendor(text: &str) -> bool {
    is_word(text, "_-.", u8::is_ascii_alphabetic)
}

fn is_class(text: &str) -> bool {
    is_word(text, "_-", u8::is_ascii_alphabetic)
}

fn is_device(text: &str) -> bool {
    is_word(text, "_-.:", u8::is_ascii_alphanumeric)
}

fn is_word(text: &str, inside: &str, first: fn(&u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(first)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || inside.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/device
annotations: {any: thing}
devices:
  - name: "0"
    containerEdits:
      env: [A=b]
      deviceNodes:
        - path: /dev/vendor0
          hostPath: /dev/null
          permissions: rw
          fileMode: 438
containerEdits:
  mounts:
    - hostPath: /usr/lib/x
      containerPath: /usr/lib/x
      options: [ro, nosuid]
  hooks:
    - hookName: createContainer
      path: /usr/bin/hook
      args: [hook, "--x"]
  additionalGIDs: [7]
"#;

    #[test]
    fn files_of_vendors_are_read() {
        let read = Specification::parse(YAML, false).unwrap();
        let edits = &read.devices[0].container_edits;
        assert_eq!(edits.device_nodes[0].file_mode, Some(0o666));
        assert_eq!(edits.env, ["A=b"]);
        assert_eq!(read.container_edits.mounts[0].options, ["ro", "nosuid"]);
        assert_eq!(read.container_edits.additional_gids, [7]);
        let json = r#"{"cdiVersion":"1.0.0","kind":"v.org/c","devices":[{"name":"all"}]}"#;
        assert_eq!(
            Specification::parse(json, true).unwrap().devices[0].name,
            "all"
        );
        for bad in [
            r#"{"cdiVersion":"9.0.0","kind":"v.org/c"}"#,
            r#"{"cdiVersion":"0.5.0","kind":"vendor"}"#,
            r#"{"cdiVersion":"0.5.0","kind":"v.org/c","devices":[{"name":"-"}]}"#,
            r#"{"cdiVersion":"0.5.0","kind":"v.org/c","devices":[{"name":"a"},{"name":"a"}]}"#,
            "{",
        ] {
            assert!(Specification::parse(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_qualified() {
        for good in [
            "vendor.com/class=dev1",
            "nvidia.com/gpu=0",
            "a/b=all",
            "v.com/net=a:b",
        ] {
            assert!(is_qualified(good), "{good}");
        }
        for bad in [
            "/dev/sda",
            "/dev/a=b",
            "vendor.com/class",
            "v/c=",
            "1v/c=x",
            "v/c.d=x",
        ] {
            assert!(!is_qualified(bad), "{bad}");
        }
    }
}
