//! Names with values, in the order in which they were first set.

use std::collections::HashMap;

/// Variables in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Variables {
    entries: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Variables {
    /// Reads an image's environment: `NAME=value` each.
    pub fn from_environment<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let split = |entry: &'a str| entry.split_once('=').unwrap_or((entry, ""));
        entries
            .into_iter()
            .map(split)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.places
            .get(name)
            .map(|&place| self.entries[place].1.as_str())
    }

    /// Sets a name; one that has a value keeps its place.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.places.get(name) {
            Some(&place) => self.entries[place].1 = value.into(),
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value.into()));
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// The form of an image's environment.
    pub fn to_environment(&self) -> Vec<String> {
        self.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut variables = Self::default();
        for (name, value) in pairs {
            variables.set(&name, value);
        }
        variables
    }
}
