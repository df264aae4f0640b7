//! Counters, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::index::Totals;
use crate::registry::Collected;

/// Upper bounds of how long requests take, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

#[derive(Debug, Default)]
struct Times {
    /// How many took no longer than each bound.
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    times: Mutex<BTreeMap<&'static str, Times>>,
    sent: AtomicU64,
    received: AtomicU64,
    connections: AtomicI64,
    limited: AtomicU64,
    denied: AtomicU64,
    collected_blobs: AtomicU64,
    collected_bytes: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    cache_stale: AtomicU64,
}

/// What happened beside requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// So many bytes of content went out.
    Sent(u64),
    /// So many bytes of bodies came in.
    Received(u64),
    /// A request was refused because its client asks too often.
    Limited,
    /// A request was refused for who sent it.
    Denied,
    /// A collection ended.
    Collected(Collected),
    /// A cache had what was asked for.
    CacheHit,
    /// A cache asked its upstream.
    CacheMiss,
    /// A cache gave what it had because its upstream did not answer.
    CacheStale,
}

impl Metrics {
    pub(crate) fn note(&self, event: Event) {
        let add = |counter: &AtomicU64, number| {
            counter.fetch_add(number, Ordering::Relaxed);
        };
        match event {
            Event::Sent(bytes) => add(&self.sent, bytes),
            Event::Received(bytes) => add(&self.received, bytes),
            Event::Limited => add(&self.limited, 1),
            Event::Denied => add(&self.denied, 1),
            Event::Collected(collected) => {
                add(&self.collected_blobs, collected.blobs as u64);
                add(&self.collected_bytes, collected.bytes);
            }
            Event::CacheHit => add(&self.cache_hits, 1),
            Event::CacheMiss => add(&self.cache_misses, 1),
            Event::CacheStale => add(&self.cache_stale, 1),
        }
    }

    /// Counts a connection until the answer is dropped.
    pub(crate) fn connection(self: &std::sync::Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(std::sync::Arc::clone(self))
    }

    pub(crate) fn request(
        &self,
        route: &'static str,
        method: &'static str,
        status: u16,
        took: Duration,
    ) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, method, status)).or_default() += 1;
        drop(requests);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = times.entry(route).or_default();
        let seconds = took.as_secs_f64();
        times.count += 1;
        times.sum += seconds;
        for (count, bound) in times.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
    }

    /// Writes everything as text.
    pub(crate) fn text(&self, totals: &Totals, uploads: usize) -> String {
        let mut out = String::new();
        {
            let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            family(&mut out, "requests_total", "counter", "Requests answered.");
            for ((route, method, status), count) in requests.iter() {
                let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
                sample(&mut out, "requests_total", &labels, count);
            }
        }
        {
            let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            let name = "request_seconds";
            family(
                &mut out,
                name,
                "histogram",
                "Time to the head of the answer.",
            );
            for (route, times) in times.iter() {
                let bucket = format!("{name}_bucket");
                for (bound, count) in BUCKETS.iter().zip(times.counts) {
                    let labels = format!("route=\"{route}\",le=\"{bound}\"");
                    sample(&mut out, &bucket, &labels, count);
                }
                let labels = format!("route=\"{route}\",le=\"+Inf\"");
                sample(&mut out, &bucket, &labels, times.count);
                let labels = format!("route=\"{route}\"");
                sample(&mut out, &format!("{name}_sum"), &labels, times.sum);
                sample(&mut out, &format!("{name}_count"), &labels, times.count);
            }
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("sent_bytes_total", "Bytes of blobs sent.", load(&self.sent)),
            (
                "received_bytes_total",
                "Bytes of bodies received.",
                load(&self.received),
            ),
            (
                "limited_total",
                "Requests refused for their number.",
                load(&self.limited),
            ),
            (
                "denied_total",
                "Requests refused for who sent them.",
                load(&self.denied),
            ),
            (
                "collected_blobs_total",
                "Blobs collected.",
                load(&self.collected_blobs),
            ),
            (
                "collected_bytes_total",
                "Bytes of blobs collected.",
                load(&self.collected_bytes),
            ),
            (
                "cache_hits_total",
                "Requests that a cache answered.",
                load(&self.cache_hits),
            ),
            (
                "cache_misses_total",
                "Requests to an upstream.",
                load(&self.cache_misses),
            ),
            (
                "cache_stale_total",
                "Requests answered from a cache while its upstream was away.",
                load(&self.cache_stale),
            ),
        ];
        for (name, about, value) in counters {
            family(&mut out, name, "counter", about);
            sample(&mut out, name, "", value);
        }
        let gauges = [
            (
                "repositories",
                "Repositories with a manifest.",
                totals.repositories as u64,
            ),
            ("manifests", "Manifests.", totals.manifests as u64),
            ("tags", "Tags.", totals.tags as u64),
            ("blobs", "Blobs.", totals.blobs as u64),
            ("blob_bytes", "Bytes of blobs.", totals.bytes),
            ("uploads", "Unfinished uploads.", uploads as u64),
            (
                "connections",
                "Open connections.",
                u64::try_from(self.connections.load(Ordering::Relaxed)).unwrap_or_default(),
            ),
        ];
        for (name, about, value) in gauges {
            family(&mut out, name, "gauge", about);
            sample(&mut out, name, "", value);
        }
        out
    }
}

fn family(out: &mut String, name: &str, kind: &str, about: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP sampan_registry_{name} {about}");
    let _ = writeln!(out, "# TYPE sampan_registry_{name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "sampan_registry_{name} {value}"),
        labels => writeln!(out, "sampan_registry_{name}{{{labels}}} {value}"),
    };
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct Connected(std::sync::Arc<Metrics>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let metrics = std::sync::Arc::new(Metrics::default());
        metrics.request("blob", "GET", 200, Duration::from_millis(3));
        metrics.request("blob", "GET", 200, Duration::from_secs(3));
        metrics.note(Event::Sent(10));
        let _connected = metrics.connection();
        let text = metrics.text(&Totals::default(), 2);
        for line in [
            "sampan_registry_requests_total{route=\"blob\",method=\"GET\",status=\"200\"} 2",
            "sampan_registry_request_seconds_bucket{route=\"blob\",le=\"0.005\"} 1",
            "sampan_registry_request_seconds_bucket{route=\"blob\",le=\"10\"} 2",
            "sampan_registry_request_seconds_bucket{route=\"blob\",le=\"+Inf\"} 2",
            "sampan_registry_sent_bytes_total 10",
            "sampan_registry_uploads 2",
            "sampan_registry_connections 1",
            "# TYPE sampan_registry_request_seconds histogram",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}
