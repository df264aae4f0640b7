//! Slices: inner nodes of systemd's tree.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::scope::is_unit_name;

const SUFFIX: &str = ".slice";
/// The root of the tree.
const ROOT: &str = "-.slice";

/// The name of a slice, such as `system.slice`; `a-b.slice` lies in `a.slice`
/// (systemd.slice(5)).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slice(String);

impl Slice {
    /// Where services of the system are, and containers unless they are told otherwise.
    #[must_use]
    pub fn system() -> Self {
        Self("system.slice".to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its control group in each hierarchy, without a leading slash; empty for the root.
    #[must_use]
    pub fn control_group(&self) -> String {
        if self.0 == ROOT {
            return String::new();
        }
        let name = self.0.trim_end_matches(SUFFIX);
        let ends = name.match_indices('-').map(|(at, _)| at);
        let levels = ends.chain([name.len()]);
        let levels: Vec<String> = levels
            .map(|end| format!("{}{SUFFIX}", &name[..end]))
            .collect();
        levels.join("/")
    }
}

impl FromStr for Slice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_slice = text.strip_suffix(SUFFIX).is_some_and(|name| {
            text == ROOT || (is_unit_name(text) && name.split('-').all(|level| !level.is_empty()))
        });
        if !is_slice {
            return Err(Error::InvalidSlice(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Slice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Slice> for String {
    fn from(slice: Slice) -> Self {
        slice.0
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_those_that_its_name_begins_with() {
        for (name, path) in [
            ("system.slice", "system.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
            ("kube.pods-x_y.slice", "kube.pods.slice/kube.pods-x_y.slice"),
            ("-.slice", ""),
        ] {
            let slice: Slice = name.parse().unwrap();
            assert_eq!(slice.control_group(), path, "{name}");
        }
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let long = format!("{}.slice", "x".repeat(250));
        for bad in [
            "",
            ".slice",
            "a",
            "a.scope",
            "/a.slice",
            "a/b.slice",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "--.slice",
            "a b.slice",
            "ä.slice",
            &long,
        ] {
            assert!(bad.parse::<Slice>().is_err(), "{bad:?}");
        }
    }
}
