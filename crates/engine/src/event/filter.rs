//! Which events a listener wants.

use std::collections::BTreeMap;

use super::{Event, EventKind};

/// Which events a listener wants to see: each list that is not empty must have a match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Kinds (`container`).
    pub kinds: Vec<String>,
    /// Actions (`die`, `exec_create`, `health_status`).
    pub actions: Vec<String>,
    /// Identities (prefixes) or names of containers.
    pub containers: Vec<String>,
    /// Images, of image events and of the containers of an image.
    pub images: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
    /// Identities or names of networks.
    pub networks: Vec<String>,
    /// Identities or names of engines.
    pub daemons: Vec<String>,
    /// `local`, where all of this engine's events are from, or another scope.
    pub scopes: Vec<String>,
    /// Objects of kinds that this engine does not have: none is one of them.
    pub others: Vec<String>,
    /// `name` or `name=value`; all must match.
    pub labels: Vec<String>,
}

impl EventFilter {
    /// Reads the filters of a request: key to values.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> crate::Result<Self> {
        let mut filter = Self::default();
        for (key, values) in filters {
            let list = match key.as_str() {
                "type" => &mut filter.kinds,
                "event" => &mut filter.actions,
                "container" => &mut filter.containers,
                "image" => &mut filter.images,
                "volume" => &mut filter.volumes,
                "network" => &mut filter.networks,
                "label" => &mut filter.labels,
                "daemon" => &mut filter.daemons,
                "scope" => &mut filter.scopes,
                "plugin" | "service" | "node" | "secret" | "config" => &mut filter.others,
                _ => return Err(crate::Error::invalid(format!("invalid filter '{key}'"))),
            };
            list.extend(values.iter().cloned());
        }
        Ok(filter)
    }

    /// Returns whether an event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        let action = event.action.to_string();
        let word = action.split(':').next().unwrap_or(&action);
        any(&self.kinds, |kind| kind == event.kind.as_str())
            && any(&self.actions, |wanted| wanted == word || *wanted == action)
            && self.matches_object(event, EventKind::Container, &self.containers)
            && self.matches_object(event, EventKind::Volume, &self.volumes)
            && self.matches_object(event, EventKind::Network, &self.networks)
            && self.matches_object(event, EventKind::Daemon, &self.daemons)
            && any(&self.scopes, |scope| scope == "local")
            && self.others.is_empty()
            && any(&self.images, |image| match event.kind {
                EventKind::Image => {
                    event.actor == image
                        || attribute(event, "name").is_some_and(|n| same_image(n, image))
                }
                EventKind::Container => {
                    attribute(event, "image").is_some_and(|n| same_image(n, image))
                }
                EventKind::Network | EventKind::Volume | EventKind::Builder | EventKind::Daemon => {
                    false
                }
            })
            && self.labels.iter().all(|label| match label.split_once('=') {
                Some((key, value)) => attribute(event, key) == Some(value),
                None => event.attributes.contains_key(label),
            })
    }

    fn matches_object(&self, event: &Event, kind: EventKind, wanted: &[String]) -> bool {
        any(wanted, |object| {
            event.kind == kind
                && (event.actor == object
                    || attribute(event, "name") == Some(object)
                    || (kind != EventKind::Volume
                        && !object.is_empty()
                        && event.actor.starts_with(object)))
        })
    }
}

fn any(list: &[String], matches: impl Fn(&str) -> bool) -> bool {
    list.is_empty() || list.iter().any(|item| matches(item))
}

fn attribute<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    event.attributes.get(key).map(String::as_str)
}

fn same_image(name: &str, wanted: &str) -> bool {
    name == wanted
        || name
            .rsplit_once(':')
            .is_some_and(|(repository, _)| repository == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;
    use jiff::Timestamp;

    #[test]
    fn filters_select() {
        let event = Event {
            kind: EventKind::Container,
            action: Action::ExecCreate("ls -l".into()),
            actor: "abc".into(),
            attributes: BTreeMap::from([
                ("name".into(), "box".into()),
                ("image".into(), "busybox:latest".into()),
            ]),
            at: Timestamp::UNIX_EPOCH,
        };
        let filter = |key: &str, value: &str| {
            EventFilter::parse(&BTreeMap::from([(key.to_owned(), vec![value.to_owned()])])).unwrap()
        };
        for (key, value, wanted) in [
            ("type", "container", true),
            ("type", "image", false),
            ("event", "exec_create", true),
            ("event", "exec_create: ls -l", true),
            ("event", "die", false),
            ("container", "box", true),
            ("container", "ab", true),
            ("container", "b", false),
            ("image", "busybox", true),
            ("image", "busybox:latest", true),
            ("image", "box", false),
            ("volume", "abc", false),
            ("label", "name=box", true),
            ("label", "name", true),
            ("label", "name=other", false),
            ("scope", "local", true),
            ("scope", "swarm", false),
            ("daemon", "abc", false),
            ("service", "abc", false),
        ] {
            assert_eq!(filter(key, value).matches(&event), wanted, "{key}={value}");
        }
        assert!(EventFilter::parse(&BTreeMap::from([("x".into(), vec![])])).is_err());
    }
}
