//! `--restart`.

use sampan_api::types::host_config::RestartPolicy;

/// Reads `no`, `always`, `unless-stopped` or `on-failure[:N]`; the engine judges the name.
pub(crate) fn parse(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => {
            return Err(
                "invalid restart policy format: no policy provided before colon".to_owned(),
            );
        }
        Some((name, count)) => (name, count),
        None => (text, ""),
    };
    let maximum_retry_count = match count {
        "" => 0,
        count => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        for (text, name, count) in [
            ("no", "no", 0),
            ("always", "always", 0),
            ("on-failure", "on-failure", 0),
            ("on-failure:5", "on-failure", 5),
            ("on-failure:", "on-failure", 0),
        ] {
            let policy = parse(text).unwrap();
            assert_eq!(
                (policy.name.as_str(), policy.maximum_retry_count),
                (name, count)
            );
        }
        assert!(parse(":3").unwrap_err().contains("before colon"));
        assert!(parse("on-failure:x").unwrap_err().contains("an integer"));
    }
}
