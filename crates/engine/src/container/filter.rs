//! Which containers a list shows.

use std::collections::BTreeMap;

use regex_lite::{Regex, RegexBuilder};

use super::config::ContainerPort;
use super::lifecycle::Status;
use super::mount::MountKind;
use super::view::ContainerView;
use crate::{Error, Result};

/// What an expression may take of memory, in bytes; it is matched in a time bounded by this and the
/// length of a name.
const EXPRESSION_SIZE: usize = 256 << 10;
/// How deep an expression may be nested.
const EXPRESSION_DEPTH: u32 = 50;

/// Which containers a list shows: several values of a field are alternatives, except labels, which
/// must all match; different fields must all match. Empty shows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Prefixes of identities.
    pub ids: Vec<String>,
    /// Names, or expressions that match them.
    pub names: Vec<NamePattern>,
    /// `name` or `name=value`.
    pub labels: Vec<String>,
    /// Exit codes.
    pub exited: Vec<i32>,
    /// States.
    pub statuses: Vec<Status>,
    /// Image names, identities or ancestors.
    pub ancestors: Vec<String>,
    /// Created before this container.
    pub before: Option<String>,
    /// Created after this container.
    pub since: Option<String>,
    /// Volumes' names or destinations.
    pub volumes: Vec<String>,
    /// Networks.
    pub networks: Vec<String>,
    /// Published ports.
    pub published: Vec<PortRange>,
    /// Exposed ports.
    pub exposed: Vec<PortRange>,
    /// Health states.
    pub health: Vec<String>,
}

/// A name, or a regular expression that is looked for in names with and without the slash that the
/// API puts in front. What is no expression, or too large a one, matches the name that it is.
#[derive(Debug, Clone)]
pub struct NamePattern {
    text: String,
    expression: Option<Regex>,
}

impl NamePattern {
    /// Reads a pattern.
    pub fn new(text: &str) -> Self {
        let expression = RegexBuilder::new(text)
            .size_limit(EXPRESSION_SIZE)
            .nest_limit(EXPRESSION_DEPTH)
            .build();
        Self {
            text: text.to_owned(),
            expression: expression.ok(),
        }
    }

    fn matches(&self, name: &str) -> bool {
        let slashed = format!("/{name}");
        self.text == name
            || self.text == slashed
            || self.expression.as_ref().is_some_and(|expression| {
                expression.is_match(name) || expression.is_match(&slashed)
            })
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NamePattern {}

/// Ports such as `80/tcp` or `8000-8080/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First one.
    pub first: ContainerPort,
    /// Number of the last one.
    pub last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: ContainerPort = format!("{first}/{protocol}").parse()?;
        let last: ContainerPort = format!("{last}/{protocol}").parse()?;
        if last.port < first.port {
            return Err(Error::invalid(format!(
                "invalid range specified for port: {text}"
            )));
        }
        Ok(Self {
            first,
            last: last.port,
        })
    }
}

impl PortRange {
    fn holds(self, port: ContainerPort) -> bool {
        port.protocol == self.first.protocol && (self.first.port..=self.last).contains(&port.port)
    }
}

/// What a filter needs to know beyond the container itself.
pub(crate) struct Surroundings<'a> {
    /// When the container of `before` was created.
    pub(crate) before: Option<jiff::Timestamp>,
    /// When the container of `since` was created.
    pub(crate) since: Option<jiff::Timestamp>,
    /// Whether the image of a container is, or descends from, the named one.
    pub(crate) descends: &'a (dyn Fn(&ContainerView, &str) -> bool + Sync),
}

impl ContainerFilter {
    /// Reads the filters of a request: key to values.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        let mut filter = Self::default();
        for (key, values) in filters {
            for value in values {
                filter.add(key, value)?;
            }
            if values.is_empty() && !KEYS.contains(&key.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{key}'")));
            }
        }
        Ok(filter)
    }

    fn add(&mut self, key: &str, value: &str) -> Result<()> {
        let bad = || Error::invalid(format!("invalid filter '{key}={value}'"));
        match key {
            "id" => self.ids.push(value.to_owned()),
            "name" => self.names.push(NamePattern::new(value)),
            "label" => self.labels.push(value.to_owned()),
            "exited" => self.exited.push(value.parse().map_err(|_| bad())?),
            "status" => self.statuses.push(value.parse().map_err(|()| bad())?),
            "ancestor" => self.ancestors.push(value.to_owned()),
            "before" => self.before = Some(value.to_owned()),
            "since" => self.since = Some(value.to_owned()),
            "volume" => self.volumes.push(value.to_owned()),
            "network" => self.networks.push(value.to_owned()),
            "publish" => self.published.push(value.parse().map_err(|_| bad())?),
            "expose" => self.exposed.push(value.parse().map_err(|_| bad())?),
            "health" => match value {
                "starting" | "healthy" | "unhealthy" | "none" => self.health.push(value.to_owned()),
                _ => return Err(bad()),
            },
            "isolation" => {}
            // Services do not exist here: a container is never a task.
            "is-task" if matches!(value, "false" | "0") => {}
            "is-task" if matches!(value, "true" | "1") => self.ids.push("-".to_owned()),
            "is-task" => return Err(bad()),
            _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
        }
        Ok(())
    }

    /// Returns whether ended containers are meant too, whatever the request says.
    pub fn includes_ended(&self) -> bool {
        !self.exited.is_empty()
            || !self.statuses.is_empty()
            || self.before.is_some()
            || self.since.is_some()
    }

    pub(crate) fn matches(&self, container: &ContainerView, around: &Surroundings<'_>) -> bool {
        any(&self.ids, |id| {
            container.id.as_str().starts_with(id.as_str())
        }) && any(&self.names, |pattern| {
            pattern.matches(container.name.as_str())
        }) && self.labels.iter().all(|label| match label.split_once('=') {
            Some((key, value)) => container.config.labels.get(key).is_some_and(|v| v == value),
            None => container.config.labels.contains_key(label),
        }) && any(&self.exited, |code| {
            container.lifecycle.status() == Status::Exited
                && container
                    .lifecycle
                    .last()
                    .is_some_and(|ended| ended.code == *code)
        }) && any(&self.statuses, |status| {
            container.lifecycle.status() == *status
        }) && any(&self.ancestors, |image| (around.descends)(container, image))
            && around.before.is_none_or(|at| container.created < at)
            && around.since.is_none_or(|at| container.created > at)
            && any(&self.volumes, |volume| {
                container.mounts.iter().any(|mount| {
                    mount.destination == *volume
                        || match mount.kind {
                            MountKind::Volume => mount.name == *volume,
                            MountKind::Bind => mount.source.as_os_str() == volume.as_str(),
                            MountKind::Tmpfs | MountKind::Image => false,
                        }
                })
            })
            && any(&self.networks, |network| {
                container.network.endpoints.iter().any(|(name, endpoint)| {
                    name == network
                        || (!network.is_empty()
                            && endpoint.network_id.starts_with(network.as_str()))
                })
            })
            && any(&self.published, |range| {
                let published = container.network.ports.keys();
                published
                    .chain(container.host.port_bindings.keys())
                    .any(|port| range.holds(*port))
            })
            && any(&self.exposed, |range| {
                let exposed = container.config.exposed_ports.iter();
                exposed
                    .chain(container.host.port_bindings.keys())
                    .any(|port| range.holds(*port))
            })
            && any(&self.health, |health| {
                let own = container.health.as_ref();
                own.map_or("none", |own| super::restart::word(own.status)) == health
            })
    }
}

const KEYS: [&str; 15] = [
    "id",
    "name",
    "label",
    "exited",
    "status",
    "ancestor",
    "before",
    "since",
    "volume",
    "network",
    "publish",
    "expose",
    "health",
    "isolation",
    "is-task",
];

fn any<T>(list: &[T], matches: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_regular_expressions() {
        for (name, pattern, fits) in [
            ("web1", "web", true),
            ("web1", "eb", true),
            ("web1", "^web$", false),
            ("web1", "^web1$", true),
            ("web1", "^/web1$", true),
            ("web1", "^eb", false),
            ("web1", "1$", true),
            ("web1", "^w.*1$", true),
            ("web1", "^w.*2$", false),
            ("web1", "x", false),
            ("web1", "^/?web[0-9]$", true),
            ("web1", "(db|web)1", true),
            ("web1", "w.b", true),
            ("web1", "WEB", false),
            ("web1", "(?i)WEB", true),
            ("web1", "web1(", false),
            ("web1", "/web1", true),
            ("web1", "", true),
        ] {
            assert_eq!(
                NamePattern::new(pattern).matches(name),
                fits,
                "{name} {pattern}"
            );
        }
    }

    #[test]
    fn expressions_have_a_bound() {
        for pattern in [
            "(".repeat(1000) + &")".repeat(1000),
            "((((a{1,100}){1,100}){1,100}){1,100}){1,100}".to_owned(),
        ] {
            assert!(NamePattern::new(&pattern).expression.is_none());
        }
    }

    #[test]
    fn unknown_and_malformed_filters_are_refused() {
        let parse = |key: &str, value: &str| {
            ContainerFilter::parse(&BTreeMap::from([(key.to_owned(), vec![value.to_owned()])]))
        };
        for (key, value) in [
            ("status", "flying"),
            ("exited", "x"),
            ("publish", "90-80"),
            ("expose", "a"),
            ("health", "so-so"),
            ("colour", "red"),
        ] {
            assert!(parse(key, value).is_err(), "{key}={value}");
        }
        assert_eq!(
            parse("colour", "red").unwrap_err().message(),
            "invalid filter 'colour'"
        );
        assert!(parse("status", "exited").unwrap().includes_ended());
        assert_eq!(parse("publish", "80-90/udp").unwrap().published[0].last, 90);
    }
}
