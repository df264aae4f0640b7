//! What is wrong with a request, in Docker's words: pure.

use sampan_oci::runtime::NamespaceKind;
use sampan_oci::sysctl::Parameter;

use super::config::{ContainerConfig, HostConfig, NetworkMode, Resources, RestartPolicy};
use super::security::{self, SecurityOptions};
use crate::{Error, Result, signal};

const MIN_MEMORY: i64 = 6 << 20;

/// Checks a configuration that has been completed from its image. Returns warnings.
pub(crate) fn check(
    config: &ContainerConfig,
    host: &HostConfig,
    cpus: usize,
) -> Result<Vec<String>> {
    check_config(config)?;
    if let Some(check) = &config.healthcheck {
        super::health::validate(check)?;
    }
    check_network(config, host)?;
    check_resources(&host.resources, cpus)?;
    check_unsupported(host)?;
    SecurityOptions::parse(&host.security_opt)?;
    security::capabilities(host, &[])?;
    super::log_config::check(&host.log, config)?;
    if host.auto_remove && host.restart_policy != RestartPolicy::No {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    for name in host.sysctls.keys() {
        let of_network = Parameter::parse(name)
            .is_ok_and(|parameter| parameter.namespace == NamespaceKind::Network);
        if host.network_mode == NetworkMode::Host && of_network {
            return Err(Error::invalid(format!(
                "sysctl {name:?} not allowed in host network namespace"
            )));
        }
    }
    let mut warnings = Vec::new();
    if host.resources.oom_kill_disable == Some(true) && host.resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
    if host.network_mode == NetworkMode::Host && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(warnings)
}

/// Takes out limits that control groups of version 2 do not have. Returns warnings.
pub(crate) fn discard_old(limits: &mut Resources) -> Vec<String> {
    let mut warnings = Vec::new();
    // Any other value is refused.
    if limits
        .memory_swappiness
        .take_if(|swappiness| (0..=100).contains(swappiness))
        .is_some()
    {
        warnings.push(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. \
             Memory swappiness discarded."
                .to_owned(),
        );
    }
    if limits.oom_kill_disable.take() == Some(true) {
        warnings.push(
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned(),
        );
    }
    warnings
}

/// Checks limits that are to take the place of others.
pub(crate) fn check_update(host: &HostConfig, cpus: usize) -> Result<()> {
    check_resources(&host.resources, cpus)?;
    check_unsupported(host)
}

fn check_config(config: &ContainerConfig) -> Result<()> {
    let hostname = &config.hostname;
    let strange = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if hostname.len() > 64 || hostname.contains(strange) {
        return Err(Error::invalid(format!(
            "invalid hostname format: {hostname}"
        )));
    }
    if config.domainname.len() > 64 || config.domainname.contains(strange) {
        return Err(Error::invalid(format!(
            "invalid domainname format: {}",
            config.domainname
        )));
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!(
                "invalid environment variable: {variable}"
            )));
        }
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    let texts = [
        config.entrypoint.as_deref(),
        config.cmd.as_deref(),
        Some(&config.env),
    ];
    let plain = [&config.user, &config.working_dir];
    let mut all = texts.into_iter().flatten().flatten().chain(plain);
    if all.any(|text| text.contains('\0')) {
        return Err(Error::invalid(
            "invalid configuration: a text contains a NUL byte",
        ));
    }
    Ok(())
}

fn check_network(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    if matches!(host.network_mode, NetworkMode::Container(_)) {
        let conflict = |what: &str| {
            Err(Error::invalid(format!(
                "conflicting options: {what} and the network mode"
            )))
        };
        if !config.hostname.is_empty() {
            return conflict("hostname");
        }
        if !host.links.is_empty() {
            return conflict(
                "container type network can't be used with links. This would result in undefined behavior",
            );
        }
        if !host.dns.is_empty() {
            return conflict("dns");
        }
        if !host.extra_hosts.is_empty() {
            return conflict("custom host-to-IP mapping");
        }
        if !host.port_bindings.is_empty() || host.publish_all_ports {
            return Err(Error::invalid(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
    }
    if !host.links.is_empty() && host.network_mode == NetworkMode::Host {
        return Err(Error::invalid(
            "conflicting options: host type networking can't be used with links. This would result in undefined \
             behavior",
        ));
    }
    for link in &host.links {
        super::link::parse(link)?;
    }
    for server in &host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!("bad nameserver address {server}")));
        }
    }
    for entry in &host.extra_hosts {
        extra_host(entry)?;
    }
    Ok(())
}

/// Reads `name:address`; the address `host-gateway` is returned as `None`.
pub(crate) fn extra_host(entry: &str) -> Result<(&str, Option<std::net::IpAddr>)> {
    let invalid = || Error::invalid(format!("bad format for add-host: {entry:?}"));
    let (name, address) = entry.split_once(['=', ':']).ok_or_else(invalid)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(invalid());
    }
    if address == "host-gateway" {
        return Ok((name, None));
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(address) => Ok((name, Some(address))),
        Err(_) => Err(Error::invalid(format!(
            "invalid IP address in add-host: {address:?}"
        ))),
    }
}

fn check_resources(limits: &Resources, cpus: usize) -> Result<()> {
    let invalid = |text: &str| Err(Error::invalid(text));
    if limits.memory != 0 && limits.memory < MIN_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if limits.memory > 0 && limits.memory_swap > 0 && limits.memory_swap < limits.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limits.memory == 0 && limits.memory_swap > 0 {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if limits.memory_swap < -1 {
        return invalid("invalid memory swap limit: it must be -1 or more");
    }
    if let Some(swappiness) = limits.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return Err(Error::invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if limits.memory_reservation != 0 && limits.memory_reservation < MIN_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if limits.memory > 0 && limits.memory_reservation > limits.memory {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if limits.nano_cpus != 0 && (limits.cpu_period != 0 || limits.cpu_quota != 0) {
        let other = if limits.cpu_period != 0 {
            "CPU Period"
        } else {
            "CPU Quota"
        };
        return Err(Error::invalid(format!(
            "Conflicting options: Nano CPUs and {other} cannot both be set."
        )));
    }
    let most = i64::try_from(cpus)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    if limits.nano_cpus != 0 && !(10_000_000..=most).contains(&limits.nano_cpus) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if limits.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            limits.cpu_shares
        )));
    }
    if limits.cpu_period != 0 && !(1000..=1_000_000).contains(&limits.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if limits.cpu_quota > 0 && limits.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    check_cpuset(&limits.cpuset_cpus, "cpus")?;
    check_cpuset(&limits.cpuset_mems, "mems")?;
    if limits.blkio_weight != 0 && !(10..=1000).contains(&limits.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    Ok(())
}

/// A list such as `0-2,7` with numbers that a host can have.
fn check_cpuset(list: &str, what: &str) -> Result<()> {
    const HIGHEST: u32 = 8191;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| text.parse::<u32>().ok())
            .flatten()
            .filter(|n| *n <= HIGHEST)
    };
    let good = list.is_empty()
        || list
            .split(',')
            .all(|part| match part.trim().split_once('-') {
                None => number(part.trim()).is_some(),
                Some((first, last)) => number(first)
                    .zip(number(last))
                    .is_some_and(|(first, last)| first <= last),
            });
    if good {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Invalid value {list} for cpuset {what}"
        )))
    }
}

/// What this version refuses by name instead of pretending.
fn check_unsupported(host: &HostConfig) -> Result<()> {
    if let Some((option, _)) = host.storage_opt.iter().next() {
        return Err(match option.as_str() {
            "size" => Error::not_implemented(
                "--storage-opt size is not supported: the engine sets no project quotas on its file system",
            )
            .with_hint(
                "to bound what a container writes, keep the engine's root on a file system of its own, or use \
                 --read-only with --tmpfs PATH:size=SIZE or a volume on a file system of the size",
            ),
            other => Error::invalid(format!("unknown storage option: {other}")),
        });
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(Error::invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut Resources)) -> Result<Vec<String>> {
        let mut host = HostConfig::default();
        change(&mut host.resources);
        check(&ContainerConfig::default(), &host, 2)
    }

    #[test]
    fn limits_are_checked_in_dockers_words() {
        let message = |result: Result<Vec<String>>| result.unwrap_err().message().to_owned();
        assert_eq!(
            message(limits(|r| r.memory = 1)),
            "Minimum memory limit allowed is 6MB"
        );
        assert!(message(limits(|r| r.nano_cpus = 3_000_000_000)).contains("only 2 CPUs available"));
        assert!(message(limits(|r| r.blkio_weight = 5)).contains("10 to 1000"));
        assert!(limits(|r| r.memory_swap = 1 << 30).is_err());
        assert!(limits(|r| r.memory = 64 << 20).is_ok());
        for list in ["0-4294967295", "a", "3-1", "1,", "-", "99999", "0--1"] {
            assert!(limits(|r| r.cpuset_cpus = list.into()).is_err(), "{list}");
        }
        assert!(limits(|r| r.cpuset_cpus = "0-1,3".into()).is_ok());
    }

    #[test]
    fn what_version_2_does_not_have_is_told_and_taken_out() {
        let mut limits = Resources {
            memory_swappiness: Some(10),
            oom_kill_disable: Some(true),
            ..Resources::default()
        };
        assert_eq!(discard_old(&mut limits).len(), 2);
        assert_eq!(
            (limits.memory_swappiness, limits.oom_kill_disable),
            (None, None)
        );
        limits.memory_swappiness = Some(101);
        assert_eq!(discard_old(&mut limits), [""; 0]);
        assert_eq!(limits.memory_swappiness, Some(101));
    }

    #[test]
    fn conflicting_modes_are_refused() {
        let host = HostConfig {
            network_mode: NetworkMode::Container("x".into()),
            ..HostConfig::default()
        };
        let config = ContainerConfig {
            hostname: "h".into(),
            ..ContainerConfig::default()
        };
        assert_eq!(
            check(&config, &host, 1).unwrap_err().message(),
            "conflicting options: hostname and the network mode"
        );
        assert!(check(&ContainerConfig::default(), &host, 1).is_ok());
    }

    #[test]
    fn extra_hosts_are_read() {
        assert_eq!(extra_host("db:10.0.0.1").unwrap().0, "db");
        assert_eq!(
            extra_host("db=::1").unwrap().1,
            Some("::1".parse().unwrap())
        );
        assert_eq!(extra_host("x:host-gateway").unwrap(), ("x", None));
        for entry in [
            "",
            "db",
            ":1.2.3.4",
            "db:1.2.3",
            "a b:1.2.3.4",
            "a\n:1.2.3.4",
        ] {
            assert!(extra_host(entry).is_err(), "{entry:?}");
        }
    }

    #[test]
    fn configurations_are_checked() {
        for config in [
            ContainerConfig {
                env: vec!["=x".into()],
                ..ContainerConfig::default()
            },
            ContainerConfig {
                working_dir: "rel".into(),
                ..ContainerConfig::default()
            },
            ContainerConfig {
                stop_signal: "FLY".into(),
                ..ContainerConfig::default()
            },
            ContainerConfig {
                hostname: "a/b".into(),
                ..ContainerConfig::default()
            },
            ContainerConfig {
                cmd: Some(vec!["a\0b".into()]),
                ..ContainerConfig::default()
            },
        ] {
            assert!(check(&config, &HostConfig::default(), 1).is_err());
        }
    }
}
