//! Which machines an image is for, and which of several fits best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::null_default;

/// An operating system, a processor and its variant, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// The processor, as in `amd64`.
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    /// The system, as in `linux`.
    #[serde(deserialize_with = "null_default")]
    pub os: String,
    /// The system's version, used by Windows only.
    #[serde(
        rename = "os.version",
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// What the system must have, used by Windows only.
    #[serde(
        rename = "os.features",
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// The processor's variant, as in `v7`.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
}

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part is empty or has characters that no platform has.
    #[error("{0:?}: invalid platform: must be os[/architecture[/variant]] of letters and digits")]
    Format(String),
    /// One part only, and neither a known system nor a known processor.
    #[error("{0:?}: unknown operating system or architecture")]
    Unknown(String),
}

impl Platform {
    /// Returns the platform that this program was built for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// Builds a platform in normal form (`x86_64` becomes `amd64`, `aarch64` becomes `arm64`).
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normal_architecture(architecture, variant);
        Self {
            architecture,
            os: normal_os(os),
            variant,
            ..Self::default()
        }
    }

    /// Returns the same platform in normal form.
    pub fn normalized(&self) -> Self {
        Self {
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            ..Self::new(&self.os, &self.architecture, &self.variant)
        }
    }

    /// Says how well `self`, a machine, runs what was made for `image`: 0 is made for it,
    /// larger is a worse fit, none cannot run.
    ///
    /// As the reference implementation has it: lower variants of the same processor fit, and
    /// then the 32-bit processor of the same family.
    pub fn rank(&self, image: &Self) -> Option<u32> {
        let (machine, image) = (self.normalized(), image.normalized());
        if machine.os != image.os {
            return None;
        }
        machine
            .runnable()
            .iter()
            .position(|(architecture, variant)| {
                *architecture == image.architecture && *variant == image.variant
            })
            .and_then(|position| u32::try_from(position).ok())
    }

    /// Lists what the machine runs, best first.
    fn runnable(&self) -> Vec<(String, String)> {
        let mut list = vec![(self.architecture.clone(), self.variant.clone())];
        let level = |variant: &str| {
            variant
                .strip_prefix('v')
                .and_then(|v| v.parse::<u32>().ok())
        };
        let mut down = |architecture: &str, from: u32, to: u32| {
            for v in (to..=from).rev() {
                list.push((architecture.to_owned(), format!("v{v}")));
            }
        };
        match self.architecture.as_str() {
            "amd64" => {
                if let Some(v) = level(&self.variant) {
                    down("amd64", v.min(9).saturating_sub(1), 2);
                    list.push(("amd64".into(), String::new()));
                }
                list.push(("386".into(), String::new()));
            }
            "arm64" => {
                if let Some(v) = level(&self.variant) {
                    down("arm64", v.min(9).saturating_sub(1), 9);
                    list.push(("arm64".into(), String::new()));
                }
                for v in (5..=8).rev() {
                    list.push(("arm".into(), format!("v{v}")));
                }
            }
            "arm" => {
                if let Some(v) = level(&self.variant) {
                    down("arm", v.min(8).saturating_sub(1), 5);
                }
            }
            _ => {}
        }
        list
    }
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => "linux".into(),
        "macos" => "darwin".into(),
        other => other.into(),
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let variant = variant.to_ascii_lowercase();
    let architecture = architecture.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses `os`, `architecture`, `os/architecture` or `os/architecture/variant`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let format = || PlatformError::Format(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &&str| {
            !part.is_empty()
                && part.len() <= 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if !parts.iter().all(good) {
            return Err(format());
        }
        match parts.as_slice() {
            [one] => {
                let one = one.to_ascii_lowercase();
                if matches!(
                    one.as_str(),
                    "linux" | "windows" | "freebsd" | "darwin" | "macos"
                ) {
                    return Ok(Self::new(&one, std::env::consts::ARCH, ""));
                }
                let platform = Self::new("linux", &one, "");
                let known = [
                    "386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le",
                    "riscv64", "s390x",
                ];
                if known.contains(&platform.architecture.as_str()) {
                    Ok(platform)
                } else {
                    Err(PlatformError::Unknown(text.to_owned()))
                }
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(format()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_normalised() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn bad_text_is_refused() {
        for text in [
            "",
            "/",
            "linux/",
            "linux/amd64/v1/x",
            "lin ux/amd64",
            "l\0/x",
            "plan10",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn best_fit_comes_first() {
        let machine: Platform = "linux/arm/v7".parse().unwrap();
        let rank = |text: &str| machine.rank(&text.parse().unwrap());
        assert_eq!(rank("linux/arm/v7"), Some(0));
        assert!(rank("linux/arm/v6") < rank("linux/arm/v5"));
        assert_eq!(rank("linux/arm64"), None);
        assert_eq!(rank("windows/arm/v7"), None);
        let machine: Platform = "linux/amd64".parse().unwrap();
        assert!(
            machine.rank(&"linux/amd64".parse().unwrap())
                < machine.rank(&"linux/386".parse().unwrap())
        );
        assert_eq!(machine.rank(&"linux/amd64/v3".parse().unwrap()), None);
        let machine: Platform = "linux/amd64/v3".parse().unwrap();
        assert_eq!(machine.rank(&"linux/amd64/v2".parse().unwrap()), Some(1));
        assert_eq!(machine.rank(&"linux/amd64".parse().unwrap()), Some(2));
    }
}
