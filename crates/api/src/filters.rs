//! The `filters=` query argument.
//!
//! Docker's clients write it as a map of sets, `{"label":{"a=b":true}}`; docker-py and many
//! others as a map of lists, `{"label":["a=b"]}`. Both are read, the first one is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Named sets of values. Which names mean something is up to the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// The text is neither of the two encodings.
#[derive(Debug, thiserror::Error)]
#[error("invalid filter: {0}")]
pub struct InvalidFilters(serde_json::Error);

impl Filters {
    /// No filter at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the query argument; an empty text is no filter.
    pub fn parse(text: &str) -> Result<Self, InvalidFilters> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(InvalidFilters)
    }

    /// Writes the query argument, empty when there is no filter.
    #[must_use]
    pub fn encode(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        serde_json::to_string(self).expect("a map of strings is always valid JSON")
    }

    /// Adds a value to the set of `name`.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().insert(value.into());
    }

    /// The values of `name`, in order; none when it is absent.
    pub fn get(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether `name` has any value.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|values| !values.is_empty())
    }

    /// Whether there is no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names in use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All names and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.0.iter().map(|(name, values)| (name.as_str(), values))
    }
}

impl Serialize for Filters {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let sets = self.0.iter().map(|(name, values)| {
            let set: BTreeMap<&str, bool> = values.iter().map(|v| (v.as_str(), true)).collect();
            (name, set)
        });
        to.collect_map(sets)
    }
}

impl<'de> Deserialize<'de> for Filters {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let sets = BTreeMap::<String, Values>::deserialize(from)?;
        Ok(Self(
            sets.into_iter().map(|(name, set)| (name, set.0)).collect(),
        ))
    }
}

/// The values of one name in either encoding.
struct Values(BTreeSet<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of booleans or a list of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
                let mut values = BTreeSet::new();
                while let Some((value, wanted)) = map.next_entry::<String, bool>()? {
                    if wanted {
                        values.insert(value);
                    }
                }
                Ok(Values(values))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Values, A::Error> {
                let mut values = BTreeSet::new();
                while let Some(value) = seq.next_element::<String>()? {
                    values.insert(value);
                }
                Ok(Values(values))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Values, E> {
                Ok(Values(BTreeSet::new()))
            }
        }

        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_mean_the_same() {
        let sets = Filters::parse(r#"{"label":{"a=b":true,"c":true},"name":{"x":true}}"#).unwrap();
        let lists = Filters::parse(r#"{"name":["x"],"label":["c","a=b"]}"#).unwrap();
        assert_eq!(sets, lists);
        assert_eq!(sets.get("label").collect::<Vec<_>>(), ["a=b", "c"]);
    }

    #[test]
    fn encode_writes_the_map_of_sets() {
        let mut filters = Filters::new();
        assert_eq!(filters.encode(), "");
        filters.add("label", "a=b");
        assert_eq!(filters.encode(), r#"{"label":{"a=b":true}}"#);
        assert_eq!(Filters::parse(&filters.encode()).unwrap(), filters);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "[]",
            "1",
            r#"{"a":"b"}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"b":1}}"#,
            "{",
        ] {
            assert!(Filters::parse(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(Filters::parse(&deep).is_err());
        assert!(Filters::parse(&format!(r#"{{"a":{deep}"#)).is_err());
    }

    #[test]
    fn empty_text_is_no_filter() {
        assert!(Filters::parse("").unwrap().is_empty());
        assert!(Filters::parse("{}").unwrap().is_empty());
    }
}
