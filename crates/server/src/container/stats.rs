//! `GET /containers/{id}/stats`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use sampan_api::types::NEVER;
use sampan_api::types::stats as wire;
use sampan_engine::{Sample, Traffic, Usage};
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::{self, Json};

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Names of `memory.stat` that Docker passes on, of version 2.
const UNIFIED_MEMORY: [&str; 32] = [
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault_anon",
    "workingset_refault_file",
];

/// Answers one reading, or one each second until the client leaves or the container is removed.
pub(super) async fn stats(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let stream = query.flag_or("stream", true);
    let one_shot = query.flag("one-shot");
    if stream && one_shot {
        return Err(ApiError::invalid(
            "cannot have stream=true and one-shot=true",
        ));
    }
    // A name may go to another container meanwhile.
    let id = app.engine.containers().inspect(&id).await?.id.to_string();
    let mut readings = Readings {
        app,
        id,
        before: None,
        next: Instant::now(),
    };
    if stream {
        let lines = stream::unfold(readings, async |mut readings| {
            let line = readings.line().await?;
            Some((Ok(line), readings))
        });
        return Ok(reply::stream("application/json", lines));
    }
    let mut usage = readings.read().await?;
    if !one_shot && usage.sample.is_some() {
        // The share of the processors is told by two readings.
        readings.before = usage.sample;
        usage = readings.read().await?;
    }
    Ok(Json(show(&usage, readings.before.as_ref())).into_response())
}

/// Readings of one container, an interval apart.
struct Readings {
    app: App,
    id: String,
    before: Option<Sample>,
    next: Instant,
}

impl Readings {
    async fn read(&mut self) -> Result<Usage, ApiError> {
        sleep_until(self.next).await;
        self.next += INTERVAL;
        Ok(self.app.engine.containers().usage(&self.id).await?)
    }

    /// None when the container is gone.
    async fn line(&mut self) -> Option<Bytes> {
        let usage = self.read().await.ok()?;
        let line = reply::line(&show(&usage, self.before.as_ref()));
        self.before = usage.sample;
        Some(line)
    }
}

fn show(usage: &Usage, before: Option<&Sample>) -> wire::StatsResponse {
    let mut shown = wire::StatsResponse {
        id: usage.id.to_string(),
        name: format!("/{}", usage.name),
        os_type: "linux".to_owned(),
        read: NEVER.to_owned(),
        preread: NEVER.to_owned(),
        ..wire::StatsResponse::default()
    };
    let Some(sample) = &usage.sample else {
        return shown;
    };
    shown.read = sample.at.to_string();
    shown.cpu_stats = processors(sample);
    if let Some(before) = before {
        shown.preread = before.at.to_string();
        shown.precpu_stats = processors(before);
    }
    shown.memory_stats = memory(sample);
    shown.pids_stats = wire::PidsStats {
        current: sample.group.pids,
        limit: match sample.group.pids_limit {
            Some(limit) => limit,
            None if sample.unified => u64::MAX,
            None => 0,
        },
    };
    let entries = |counts: &[sampan_engine::IoCount]| -> Option<Vec<wire::BlkioEntry>> {
        let entries = counts.iter().map(|count| wire::BlkioEntry {
            major: count.major.into(),
            minor: count.minor.into(),
            op: count.operation.clone(),
            value: count.value,
        });
        (!counts.is_empty()).then(|| entries.collect())
    };
    shown.blkio_stats.io_service_bytes_recursive = entries(&sample.group.io_bytes);
    if !sample.unified {
        shown.blkio_stats.io_serviced_recursive = entries(&sample.group.io_operations);
    }
    let interfaces = sample.interfaces.iter().flatten();
    shown.networks = interfaces
        .map(|(name, traffic)| (name.clone(), interface(traffic)))
        .collect();
    shown
}

fn processors(sample: &Sample) -> wire::CpuStats {
    let cpu = &sample.group.cpu;
    wire::CpuStats {
        cpu_usage: wire::CpuUsage {
            total_usage: cpu.total,
            percpu_usage: cpu.of_each.clone(),
            usage_in_kernelmode: cpu.kernel,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: sample.system,
        online_cpus: sample.processors,
        throttling_data: wire::ThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled,
        },
    }
}

fn memory(sample: &Sample) -> wire::MemoryStats {
    let Some(memory) = &sample.group.memory else {
        return wire::MemoryStats::default();
    };
    let told = |name: &str| match sample.unified {
        true => UNIFIED_MEMORY.contains(&name),
        false => true,
    };
    let parts = memory.parts.iter().filter(|(name, _)| told(name));
    let parts: BTreeMap<String, u64> = parts.map(|(name, value)| (name.clone(), *value)).collect();
    wire::MemoryStats {
        usage: memory.usage,
        max_usage: memory.peak.unwrap_or(0),
        stats: parts,
        failcnt: memory.failures,
        // Without a limit there is what the host has.
        limit: match memory.limit {
            Some(limit) => limit.min(sample.host_memory),
            None => sample.host_memory,
        },
    }
}

fn interface(traffic: &Traffic) -> wire::NetworkStats {
    let (received, sent) = (traffic.received, traffic.sent);
    wire::NetworkStats {
        rx_bytes: received.bytes,
        rx_packets: received.packets,
        rx_errors: received.errors,
        rx_dropped: received.dropped,
        tx_bytes: sent.bytes,
        tx_packets: sent.packets,
        tx_errors: sent.errors,
        tx_dropped: sent.dropped,
    }
}
