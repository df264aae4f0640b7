//! The instructions that `import --change` and `commit --change` take: those lines of a
//! Dockerfile that only touch the configuration.

use sampan_oci::config::{Healthcheck, RunConfig};
use sampan_text::duration;

use crate::{Error, Result};

/// Returns the configuration with the instructions applied in order.
pub fn apply(config: &RunConfig, changes: &[String]) -> Result<RunConfig> {
    let mut config = config.clone();
    let mut has_command = false;
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (instruction, rest) = line
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((line, ""));
        instruct(&mut config, instruction, rest.trim())?;
        has_command |= instruction.eq_ignore_ascii_case("CMD");
        // The arguments of another program mean nothing to this one.
        if instruction.eq_ignore_ascii_case("ENTRYPOINT") && !has_command {
            config.cmd = None;
        }
    }
    Ok(config)
}

fn instruct(config: &mut RunConfig, instruction: &str, rest: &str) -> Result<()> {
    let upper = instruction.to_ascii_uppercase();
    let known = matches!(
        upper.as_str(),
        "CMD"
            | "ENTRYPOINT"
            | "ENV"
            | "EXPOSE"
            | "HEALTHCHECK"
            | "LABEL"
            | "ONBUILD"
            | "STOPSIGNAL"
            | "USER"
            | "VOLUME"
            | "WORKDIR"
    );
    if !known {
        return Err(Error::Invalid(format!(
            "{instruction} is not a valid change command"
        )));
    }
    let may_be_empty = matches!(upper.as_str(), "CMD" | "ENTRYPOINT");
    if rest.is_empty() && !may_be_empty {
        return Err(Error::Invalid(format!(
            "{upper} requires at least one argument"
        )));
    }
    match upper.as_str() {
        "CMD" => config.cmd = Some(command(config, rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(config, rest));
        }
        "ENV" => {
            for (name, value) in pairs(&upper, rest, &config.env)? {
                set_env(&mut config.env, &name, &value);
            }
        }
        "EXPOSE" => {
            for word in words(rest, &config.env)? {
                config.exposed_ports.extend(ports(&word)?);
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(config, rest)?),
        "LABEL" => {
            let labels = pairs(&upper, rest, &config.env)?;
            config.labels.extend(labels);
        }
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "STOPSIGNAL" => config.stop_signal = one(&upper, rest, config)?,
        "USER" => config.user = one(&upper, rest, config)?,
        "VOLUME" => {
            let list = match json_list(rest) {
                Some(list) => list,
                None => words(rest, &config.env)?,
            };
            if list.iter().any(|path| path.trim().is_empty()) {
                return Err(Error::Invalid(
                    "VOLUME specified can not be an empty string".into(),
                ));
            }
            config.volumes.extend(list);
        }
        _ => {
            let path = one(&upper, rest, config)?;
            config.working_dir = join(&config.working_dir, &path);
        }
    }
    Ok(())
}

/// Reads the exec form, a JSON list, or the shell form, any other text.
fn command(config: &RunConfig, rest: &str) -> Vec<String> {
    if let Some(list) = json_list(rest) {
        return list;
    }
    if rest.is_empty() {
        return Vec::new();
    }
    let mut words = if config.shell.is_empty() {
        vec!["/bin/sh".to_owned(), "-c".to_owned()]
    } else {
        config.shell.clone()
    };
    words.push(rest.to_owned());
    words
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn one(instruction: &str, rest: &str, config: &RunConfig) -> Result<String> {
    let expanded = expand(rest, &config.env);
    if expanded.trim().is_empty() {
        return Err(Error::Invalid(format!(
            "{instruction} requires exactly one argument"
        )));
    }
    Ok(expanded)
}

/// Reads `name=value ...` or the old `name value`.
fn pairs(instruction: &str, rest: &str, env: &[String]) -> Result<Vec<(String, String)>> {
    let first = rest.split_ascii_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let Some((name, value)) = rest.split_once(|c: char| c.is_ascii_whitespace()) else {
            return Err(Error::Invalid(format!(
                "{instruction} must have two arguments"
            )));
        };
        return Ok(vec![(name.to_owned(), expand(value.trim(), env))]);
    }
    words(rest, env)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Error::Invalid(format!(
                "{instruction} names can not be blank"
            ))),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Error::Invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let old = env
        .iter_mut()
        .find(|e| e.split_once('=').map_or(e.as_str(), |(n, _)| n) == name);
    match old {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// Splits at blanks outside quotes, drops quotes and backslashes, and puts variables in except
/// inside single quotes.
fn words(text: &str, env: &[String]) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => {
                if let Some(next) = rest.chars().next() {
                    // Inside quotes a backslash only hides what means something there.
                    if quote.is_some() && !matches!(next, '"' | '\\' | '$') {
                        word.get_or_insert_default().push('\\');
                    }
                    word.get_or_insert_default().push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            ('$', None | Some('"')) => {
                let (value, after) = variable(rest, env);
                word.get_or_insert_default().push_str(&value);
                rest = after;
            }
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::Invalid(format!(
            "unexpected end of statement while looking for matching quote: {text}"
        )));
    }
    words.extend(word);
    Ok(words)
}

/// Puts variables in.
fn expand(text: &str, env: &[String]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(escaped) = before.strip_suffix('\\') {
            out.truncate(out.len() - before.len() + escaped.len());
            out.push('$');
            rest = after;
            continue;
        }
        let (value, after) = variable(after, env);
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Reads the name after a `$`, in braces or not; returns its value and what follows.
fn variable<'a>(text: &'a str, env: &[String]) -> (String, &'a str) {
    let (name, rest) = match text.strip_prefix('{').and_then(|t| t.split_once('}')) {
        Some((name, rest)) => (name, rest),
        None => {
            let end = text
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(text.len());
            text.split_at(end)
        }
    };
    if name.is_empty() {
        return ("$".to_owned(), text);
    }
    let (name, default) = match name.split_once(":-") {
        Some((name, default)) => (name, default),
        None => (name, ""),
    };
    let value = env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
        .unwrap_or(default);
    (value.to_owned(), rest)
}

/// Reads `80`, `80/udp` or `8000-8010/tcp`.
fn ports(word: &str) -> Result<Vec<String>> {
    let bad = || Error::Invalid(format!("invalid containerPort: {word}"));
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::Invalid(format!("invalid proto: {protocol}")));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

fn healthcheck(config: &RunConfig, rest: &str) -> Result<Healthcheck> {
    let mut health = Healthcheck::default();
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((flag, ""));
        rest = after.trim_start();
        let bad = || Error::Invalid(format!("unknown or bad flag: --{flag}"));
        let (name, value) = flag.split_once('=').ok_or_else(bad)?;
        let field = match name {
            "interval" => &mut health.interval,
            "timeout" => &mut health.timeout,
            "start-period" => &mut health.start_period,
            "start-interval" => &mut health.start_interval,
            "retries" => {
                health.retries = value.parse().map_err(|_| bad())?;
                continue;
            }
            _ => return Err(bad()),
        };
        *field = duration::parse(value)
            .filter(|nanoseconds| *nanoseconds >= 0)
            .ok_or_else(bad)?;
    }
    let (kind, command) = rest
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((rest, ""));
    health.test = match (kind.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") => vec!["NONE".into()],
        ("CMD", "") => {
            return Err(Error::Invalid(
                "Missing command after HEALTHCHECK CMD".into(),
            ));
        }
        ("CMD", command) => match json_list(command) {
            Some(list) => [vec!["CMD".to_owned()], list].concat(),
            None => vec!["CMD-SHELL".into(), command.into()],
        },
        _ => {
            let _ = config;
            return Err(Error::Invalid(format!(
                "Unknown type {kind:?} in HEALTHCHECK (try CMD)"
            )));
        }
    };
    Ok(health)
}

/// Joins a path to the directory before it and resolves `.` and `..`.
fn join(before: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{before}/{path}")
    };
    sampan_text::path::absolute(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<RunConfig> {
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        apply(&RunConfig::default(), &lines)
    }

    #[test]
    fn every_instruction_lands_in_its_field() {
        let config = changed(&[
            "CMD [\"a\", \"b c\"]",
            "entrypoint run it",
            "ENV A=1 B=\"two words\" C='$A' D=$A\\ x",
            "ENV E the rest",
            "EXPOSE 80 53/UDP 8000-8001",
            "LABEL k=v \"my key\"=\"my value\"",
            "ONBUILD RUN true",
            "STOPSIGNAL SIGQUIT",
            "USER me:us",
            "VOLUME [\"/a\"]",
            "VOLUME /b /c",
            "WORKDIR /w/x",
            "WORKDIR ../y",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f localhost",
        ])
        .unwrap();
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(
            config.env,
            ["A=1", "B=two words", "C=$A", "D= x", "E=the rest"]
        );
        let ports: Vec<_> = config.exposed_ports.into_iter().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]);
        assert_eq!(config.labels["my key"], "my value");
        assert_eq!(config.on_build, ["RUN true"]);
        assert_eq!(config.stop_signal, "SIGQUIT");
        assert_eq!(config.user, "me:us");
        assert_eq!(
            config.volumes.into_iter().collect::<Vec<_>>(),
            ["/a", "/b", "/c"]
        );
        assert_eq!(config.working_dir, "/w/y");
        let health = config.healthcheck.unwrap();
        assert_eq!(health.interval, 90_000_000_000);
        assert_eq!(health.retries, 2);
        assert_eq!(health.test, ["CMD-SHELL", "curl -f localhost"]);
    }

    #[test]
    fn variables_of_earlier_lines_are_put_in() {
        let config = changed(&["ENV A=1", "ENV A=2 B=${A}0 C=${X:-d}", "USER u$A"]).unwrap();
        assert_eq!(config.env, ["A=2", "B=10", "C=d"]);
        assert_eq!(config.user, "u2");
    }

    #[test]
    fn bad_changes_are_refused() {
        for line in [
            "FROM x",
            "RUN true",
            "ENV",
            "ENV A",
            "ENV =x",
            "ENV A=1 B",
            "ENV A=\"x",
            "EXPOSE 0",
            "EXPOSE 99999",
            "EXPOSE 2-1",
            "EXPOSE 80/icmp",
            "VOLUME [\"\"]",
            "HEALTHCHECK",
            "HEALTHCHECK RUN x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD y",
        ] {
            assert!(changed(&[line]).is_err(), "{line}");
        }
        let error = changed(&["RUN true"]).unwrap_err();
        assert_eq!(error.to_string(), "RUN is not a valid change command");
    }
}
