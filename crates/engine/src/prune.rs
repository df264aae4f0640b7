//! What the prunes of containers, images, volumes and networks have in common.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{Action, Error, EventBus, EventKind, Result, moment};

/// Which of the unused objects a prune takes. All that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneFilter {
    /// Made before this time.
    pub until: Option<Timestamp>,
    /// `name` or `name=value`; the object has all of them.
    pub labels: Vec<String>,
    /// `name` or `name=value`; the object does not have all of them.
    pub other_labels: Vec<String>,
    /// Only nameless images; `None` where nothing is said.
    pub dangling: Option<bool>,
    /// Named volumes too; `None` where nothing is said.
    pub all: Option<bool>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned<T> {
    /// The objects, or the steps.
    pub removed: Vec<T>,
    /// Bytes, counted as `system df` counts them.
    pub reclaimed: u64,
}

impl PruneFilter {
    /// Reads the filters of a prune of containers or networks.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        Self::read(filters, &["until", "label", "label!"])
    }

    /// Reads the filters of a prune of images.
    pub fn of_images(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        Self::read(filters, &["until", "label", "label!", "dangling"])
    }

    /// Reads the filters of a prune of volumes.
    pub fn of_volumes(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        Self::read(filters, &["label", "label!", "all"])
    }

    fn read(filters: &BTreeMap<String, Vec<String>>, known: &[&str]) -> Result<Self> {
        let mut filter = Self::default();
        for (key, values) in filters {
            if !known.contains(&key.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{key}'")));
            }
            match key.as_str() {
                "label" => filter.labels.clone_from(values),
                "label!" => filter.other_labels.clone_from(values),
                "dangling" => filter.dangling = truth(key, values)?,
                "all" => filter.all = truth(key, values)?,
                _ => filter.until = until(values)?,
            }
        }
        Ok(filter)
    }

    /// Whether an object made at `created` with these labels is meant.
    pub(crate) fn fits(&self, created: Timestamp, labels: &BTreeMap<String, String>) -> bool {
        self.until.is_none_or(|until| created < until) && self.fits_labels(labels)
    }

    /// Whether an object with these labels is meant.
    pub(crate) fn fits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        has_all(labels, &self.labels)
            && (self.other_labels.is_empty() || !has_all(labels, &self.other_labels))
    }
}

/// Whether the labels have all that are wanted, each `name` or `name=value`.
pub(crate) fn has_all(labels: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|label| match label.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(label),
    })
}

/// A filter that is true or false. Both at once, and anything else, make no sense.
pub(crate) fn truth(key: &str, values: &[String]) -> Result<Option<bool>> {
    let mut said = None;
    for value in values {
        let now = match value.as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(Error::invalid(format!("invalid filter '{key}=[{value}]'"))),
        };
        if said.is_some_and(|before| before != now) {
            return Err(Error::invalid(format!("invalid filter '{key}'")));
        }
        said = Some(now);
    }
    Ok(said)
}

/// A time that is given once.
pub(crate) fn until(values: &[String]) -> Result<Option<Timestamp>> {
    let [value] = values else {
        return match values {
            [] => Ok(None),
            _ => Err(Error::invalid("more than one until filter specified")),
        };
    };
    let at = moment::parse(value, Timestamp::now());
    at.map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "failed to parse value as time or duration: {value:?}"
        ))
        .with_hint("write a span such as 24h, or a time such as 2026-01-02T15:04:05")
    })
}

/// Tells that objects of a kind were pruned.
pub(crate) fn tell(events: &EventBus, kind: EventKind, reclaimed: u64) {
    let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
    events.publish(kind, Action::Prune, "", attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
        let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in pairs {
            let values = filters.entry((*key).to_owned()).or_default();
            values.push((*value).to_owned());
        }
        filters
    }

    #[test]
    fn labels_and_times_must_all_fit() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let created: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        for (pairs, wanted) in [
            (&[][..], true),
            (&[("label", "a")], true),
            (&[("label", "a=1")], true),
            (&[("label", "a=2")], false),
            (&[("label", "a"), ("label", "b")], false),
            (&[("label!", "a")], false),
            (&[("label!", "b")], true),
            (&[("label!", "a"), ("label!", "b")], true),
            (&[("until", "24h")], true),
            (&[("until", "2019-01-01")], false),
        ] {
            let filter = PruneFilter::parse(&filters(pairs)).unwrap();
            assert_eq!(filter.fits(created, &labels), wanted, "{pairs:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for pairs in [
            &[("name", "x")][..],
            &[("dangling", "true")],
            &[("until", "soon")],
            &[("until", "1h"), ("until", "2h")],
        ] {
            assert!(PruneFilter::parse(&filters(pairs)).is_err(), "{pairs:?}");
        }
        assert!(PruneFilter::of_images(&filters(&[("dangling", "maybe")])).is_err());
        let both = filters(&[("dangling", "true"), ("dangling", "false")]);
        assert!(PruneFilter::of_images(&both).is_err());
        assert!(PruneFilter::of_volumes(&filters(&[("until", "1h")])).is_err());
    }
}
