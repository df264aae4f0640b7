//! News: what happened to which object, kept for a while and told to whoever listens.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

/// How many past events are kept for listeners that ask for them.
const KEPT: usize = 256;
/// How far a listener may fall behind before it misses events.
const BACKLOG: usize = 4096;

/// What kind of object an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// The engine.
    Daemon,
}

impl EventKind {
    /// Returns Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Daemon => "daemon",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A client attached.
    Attach,
    /// A container was connected to a network.
    Connect,
    /// Made.
    Create,
    /// An image, or its last name, was removed.
    Delete,
    /// Gone.
    Destroy,
    /// A client left by its keys.
    Detach,
    /// A container's process ended.
    Die,
    /// A container left a network.
    Disconnect,
    /// An exec was made, of this command.
    ExecCreate(String),
    /// A client left an exec by its keys.
    ExecDetach,
    /// An exec ended.
    ExecDie,
    /// An exec started, of this command.
    ExecStart(String),
    /// An image was imported.
    Import,
    /// A signal was sent.
    Kill,
    /// An image was loaded.
    Load,
    /// A volume came into use by a container.
    Mount,
    /// A process was killed for want of memory.
    Oom,
    /// Frozen.
    Pause,
    /// An image was pulled.
    Pull,
    /// Renamed.
    Rename,
    /// A terminal changed its size.
    Resize,
    /// Restarted.
    Restart,
    /// Started.
    Start,
    /// Stopped by request.
    Stop,
    /// An image was given a name.
    Tag,
    /// A volume went out of use by a container.
    Unmount,
    /// Thawed.
    Unpause,
    /// An image lost a name.
    Untag,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::ExecCreate(command) => return write!(f, "exec_create: {command}"),
            Self::ExecStart(command) => return write!(f, "exec_start: {command}"),
            Self::Attach => "attach",
            Self::Connect => "connect",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Destroy => "destroy",
            Self::Detach => "detach",
            Self::Die => "die",
            Self::Disconnect => "disconnect",
            Self::ExecDetach => "exec_detach",
            Self::ExecDie => "exec_die",
            Self::Import => "import",
            Self::Kill => "kill",
            Self::Load => "load",
            Self::Mount => "mount",
            Self::Oom => "oom",
            Self::Pause => "pause",
            Self::Pull => "pull",
            Self::Rename => "rename",
            Self::Resize => "resize",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Tag => "tag",
            Self::Unmount => "unmount",
            Self::Unpause => "unpause",
            Self::Untag => "untag",
        };
        f.write_str(word)
    }
}

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Kind of the object.
    pub kind: EventKind,
    /// What happened to it.
    pub action: Action,
    /// Identity of the object; the name of a volume, the identity or name of an image.
    pub actor: String,
    /// Name, image, labels, exit code and so on.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: Timestamp,
}

/// Tells events to listeners and keeps the last of them. A cheap clone.
#[derive(Debug, Clone)]
pub struct EventBus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    past: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl EventBus {
    /// Makes a bus that nobody listens to yet.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                past: Mutex::new(VecDeque::with_capacity(KEPT)),
                live: broadcast::Sender::new(BACKLOG),
            }),
        }
    }

    /// Tells an event that happens now.
    pub fn publish(
        &self,
        kind: EventKind,
        action: Action,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        self.publish_at(kind, action, actor, attributes, Timestamp::now());
    }

    /// Tells an event that happened at a known time.
    pub(crate) fn publish_at(
        &self,
        kind: EventKind,
        action: Action,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
        at: Timestamp,
    ) {
        let event = Arc::new(Event {
            kind,
            action,
            actor: actor.into(),
            attributes,
            at,
        });
        // Both under the lock, so that a new listener sees each event exactly once.
        let mut past = self.past();
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody listens: nothing to do.
        let _ = self.shared.live.send(event);
    }

    /// Starts to listen. Kept events at or after `since` come first.
    pub fn subscribe(&self, since: Option<Timestamp>) -> Subscription {
        let past = self.past();
        let kept = match since {
            None => VecDeque::new(),
            Some(since) => past
                .iter()
                .filter(|event| event.at >= since)
                .cloned()
                .collect(),
        };
        Subscription {
            kept,
            live: self.shared.live.subscribe(),
        }
    }

    /// Returns the number of listeners.
    pub fn listeners(&self) -> usize {
        self.shared.live.receiver_count()
    }

    fn past(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.shared
            .past
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener. Dropping it ends the listening.
#[derive(Debug)]
pub struct Subscription {
    kept: VecDeque<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
}

impl Subscription {
    /// Returns the next event without waiting: the kept ones, then those told meanwhile.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.kept.pop_front() {
            return Some(event);
        }
        loop {
            match self.live.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// Returns the next event; `None` when the engine ends. A listener that was too slow goes on
    /// with the oldest event that is still there. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.kept.pop_front() {
            return Some(event);
        }
        loop {
            match self.live.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a listener was too slow for the events");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

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
                // Only one engine and no plugins, services or nodes: these match everything here.
                "daemon" | "scope" => continue,
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
            && any(&self.images, |image| match event.kind {
                EventKind::Image => {
                    event.actor == image
                        || attribute(event, "name").is_some_and(|n| same_image(n, image))
                }
                EventKind::Container => {
                    attribute(event, "image").is_some_and(|n| same_image(n, image))
                }
                EventKind::Network | EventKind::Volume | EventKind::Daemon => false,
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

    fn tell(bus: &EventBus, action: Action, at: i64) {
        let attributes = BTreeMap::from([
            ("name".into(), "box".into()),
            ("image".into(), "busybox:latest".into()),
        ]);
        bus.publish_at(
            EventKind::Container,
            action,
            "abc",
            attributes,
            Timestamp::from_second(at).unwrap(),
        );
    }

    #[test]
    fn kept_events_come_first_and_each_once() {
        let bus = EventBus::new();
        for second in 0..300 {
            tell(&bus, Action::Die, second);
        }
        let mut listener = bus.subscribe(Some(Timestamp::from_second(298).unwrap()));
        tell(&bus, Action::Destroy, 300);
        let seen: Vec<_> = std::iter::from_fn(|| listener.try_next())
            .map(|e| e.at.as_second())
            .collect();
        assert_eq!(seen, [298, 299, 300]);
        let all = bus.subscribe(Some(Timestamp::UNIX_EPOCH)).kept.len();
        assert_eq!(all, KEPT);
    }

    #[test]
    fn filters_select() {
        let bus = EventBus::new();
        tell(&bus, Action::ExecCreate("ls -l".into()), 1);
        let event = bus.past()[0].clone();
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
        ] {
            assert_eq!(filter(key, value).matches(&event), wanted, "{key}={value}");
        }
        assert!(EventFilter::parse(&BTreeMap::from([("x".into(), vec![])])).is_err());
    }
}
