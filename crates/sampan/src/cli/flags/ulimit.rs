//! `--ulimit name=soft[:hard]`.

use sampan_api::types::host_config::Ulimit;

const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads a limit; -1 is no limit.
pub(crate) fn parse(text: &str) -> Result<Ulimit, String> {
    let (name, values) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    if values.split(':').count() > 2 {
        return Err(format!(
            "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
        ));
    }
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        let shown = |value: i64| match value {
            -1 => "unlimited".to_owned(),
            other => other.to_string(),
        };
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {hard}",
            shown(soft)
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        hard,
        soft,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_soft_and_a_hard_value() {
        for (text, expected) in [
            ("nofile=1024", Some(("nofile", 1024, 1024))),
            ("nofile=1024:2048", Some(("nofile", 1024, 2048))),
            ("core=-1", Some(("core", -1, -1))),
            ("core=0:-1", Some(("core", 0, -1))),
            ("nofile", None),
            ("nofile=", None),
            ("nofile=x", None),
            ("nofile=1:2:3", None),
            ("nofile=2048:1024", None),
            ("nofile=-1:5", None),
            ("foo=1", None),
        ] {
            let parsed = parse(text).ok();
            let parsed = parsed
                .as_ref()
                .map(|limit| (limit.name.as_str(), limit.soft, limit.hard));
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
