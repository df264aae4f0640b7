//! `sampan update`.

use sampan_api::types::container::UpdateRequest;
use sampan_api::types::host_config::{Resources, RestartPolicy};

use super::command::{Arguments, Command, Flag, Parsed};
use super::each::each_printing;
use super::failure::Failure;
use super::flags::{device, integer, size};
use super::output;
use super::session::Session;

const FLAGS: &[Flag] = &[
    Flag::one(
        "blkio-weight",
        "uint16",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
    ),
    Flag::one(
        "cpu-period",
        "int",
        "Limit CPU CFS (Completely Fair Scheduler) period",
    ),
    Flag::one(
        "cpu-quota",
        "int",
        "Limit CPU CFS (Completely Fair Scheduler) quota",
    ),
    Flag::one(
        "cpu-rt-period",
        "int",
        "Limit the CPU real-time period in microseconds",
    ),
    Flag::one(
        "cpu-rt-runtime",
        "int",
        "Limit the CPU real-time runtime in microseconds",
    ),
    Flag::one("cpu-shares", "int", "CPU shares (relative weight)").short('c'),
    Flag::one("cpus", "decimal", "Number of CPUs"),
    Flag::one(
        "cpuset-cpus",
        "string",
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    Flag::one(
        "cpuset-mems",
        "string",
        "MEMs in which to allow execution (0-3, 0,1)",
    ),
    Flag::one("memory", "bytes", "Memory limit").short('m'),
    Flag::one("memory-reservation", "bytes", "Memory soft limit"),
    Flag::one(
        "memory-swap",
        "bytes",
        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
    ),
    Flag::one(
        "pids-limit",
        "int",
        "Tune container pids limit (set -1 for unlimited)",
    ),
    Flag::one(
        "restart",
        "string",
        "Restart policy to apply when a container exits",
    ),
];

pub(crate) const COMMAND: Command = Command {
    names: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    flags: &[FLAGS],
    refused: &[
        ("kernel-memory", None),
        ("blkio-weight-device", None),
        ("device-read-bps", None),
        ("device-read-iops", None),
        ("device-write-bps", None),
        ("device-write-iops", None),
    ],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    if !parsed.any_flag() {
        return Err(Failure::message(
            "you must provide one or more flags when using this command",
        ));
    }
    let changes = changes(parsed)?;
    let client = session.client()?;
    let warnings = std::cell::RefCell::new(Vec::new());
    let done = session.wait(each_printing(&parsed.arguments(), |name| {
        let (changes, warnings) = (&changes, &warnings);
        async move {
            let told = client.update_container(name, changes).await?;
            warnings.borrow_mut().extend(told);
            Ok(format!("{name}\n"))
        }
    }));
    for warning in warnings.into_inner() {
        output::line(&warning);
    }
    done
}

fn changes(parsed: &Parsed<'_>) -> Result<UpdateRequest, Failure> {
    let number = |long: &str| Ok::<_, Failure>(parsed.value(long, integer)?.unwrap_or(0));
    let bytes = |long: &str| Ok::<_, Failure>(parsed.value(long, size::bytes)?.unwrap_or(0));
    let text = |long: &str| parsed.text(long).unwrap_or_default().to_owned();
    let weight = parsed.value("blkio-weight", device::weight)?;
    let policy = parsed.text("restart").filter(|text| !text.is_empty());
    Ok(UpdateRequest {
        resources: Resources {
            blkio_weight: weight.unwrap_or(0),
            cpu_period: number("cpu-period")?,
            cpu_quota: number("cpu-quota")?,
            cpu_realtime_period: number("cpu-rt-period")?,
            cpu_realtime_runtime: number("cpu-rt-runtime")?,
            cpu_shares: number("cpu-shares")?,
            nano_cpus: parsed.value("cpus", size::cpus)?.unwrap_or(0),
            cpuset_cpus: text("cpuset-cpus"),
            cpuset_mems: text("cpuset-mems"),
            memory: bytes("memory")?,
            memory_reservation: bytes("memory-reservation")?,
            memory_swap: parsed.value("memory-swap", size::swap)?.unwrap_or(0),
            pids_limit: Some(number("pids-limit")?).filter(|limit| *limit != 0),
            ..Resources::default()
        },
        restart_policy: policy
            .map(restart_policy)
            .transpose()
            .map_err(Failure::message)?,
    })
}

/// Reads `on-failure:3`.
fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let count = count.map(|count| {
        count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })
    });
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: count.transpose()?.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_read() {
        let policy = restart_policy("on-failure:3").unwrap();
        assert_eq!(
            (policy.name.as_str(), policy.maximum_retry_count),
            ("on-failure", 3)
        );
        assert_eq!(restart_policy("no").unwrap().maximum_retry_count, 0);
        assert!(restart_policy(":3").is_err());
        assert!(restart_policy("on-failure:x").is_err());
    }
}
