//! Scopes: what systemd makes for one container.

use crate::{Error, Slice};

/// The name of a scope, and the slice in which it lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scope {
    name: String,
    slice: Slice,
}

impl Scope {
    /// The scope `name`, without its suffix, in `slice`.
    ///
    /// # Errors
    /// [`Error::InvalidScope`].
    pub fn new(name: &str, slice: Slice) -> Result<Self, Error> {
        let unit = format!("{name}.scope");
        if name.is_empty() || !is_unit_name(&unit) {
            return Err(Error::InvalidScope(unit));
        }
        Ok(Self { name: unit, slice })
    }

    /// The scope whose control group has this path, which begins with a slash.
    pub(crate) fn at(path: &str) -> Result<Self, Error> {
        let mut parts = path.rsplit('/');
        let name = parts.next().unwrap_or_default();
        let slice = match parts.next() {
            None | Some("") => "-.slice",
            Some(slice) => slice,
        };
        let name = name.strip_suffix(".scope").unwrap_or_default();
        Self::new(name, slice.parse()?)
    }

    /// The name of the unit, `NAME.scope`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The slice in which it lies.
    #[must_use]
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Its control group in each hierarchy, without a leading slash. With cgroup v2 no process may be
    /// in it while there are controllers below.
    #[must_use]
    pub fn control_group(&self) -> String {
        match self.slice.control_group().as_str() {
            "" => self.name.clone(),
            slice => format!("{slice}/{}", self.name),
        }
    }

    /// The control group below it that is the container's own.
    #[must_use]
    pub fn container(&self) -> String {
        format!("{}/container", self.control_group())
    }

    /// The control group below it of the process that holds it.
    #[must_use]
    pub fn supervisor(&self) -> String {
        format!("{}/supervisor", self.control_group())
    }
}

/// Whether a unit that is no instance of a template can have this name (systemd.unit(5)).
pub(crate) fn is_unit_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\');
    text.len() <= 255 && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_lies_in_its_slice() {
        let scope = Scope::new("sampan-1", "a-b.slice".parse().unwrap()).unwrap();
        assert_eq!(scope.name(), "sampan-1.scope");
        assert_eq!(
            scope.container(),
            "a.slice/a-b.slice/sampan-1.scope/container"
        );
        let scope = Scope::new("x", "-.slice".parse().unwrap()).unwrap();
        assert_eq!(scope.supervisor(), "x.scope/supervisor");
        for path in ["/a.slice/a-b.slice/x.scope", "/x.scope"] {
            let scope = Scope::at(path).unwrap();
            assert_eq!(format!("/{}", scope.control_group()), path);
        }
        for bad in ["", "a/b", "a b", "a@b", "a+b", &"x".repeat(250)] {
            assert!(Scope::new(bad, Slice::system()).is_err(), "{bad:?}");
        }
    }
}
