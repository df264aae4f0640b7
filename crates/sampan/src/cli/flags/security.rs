//! `--security-opt`.

/// What the security options of a container ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    /// As the engine takes them.
    pub(crate) options: Vec<String>,
    /// `systempaths=unconfined`: nothing in /proc and /sys is masked.
    pub(crate) unmasked: bool,
}

/// Reads the options. A seccomp profile is replaced by the content of its file.
pub(crate) fn parse(
    options: &[&str],
    read: impl Fn(&str) -> Result<String, String>,
) -> Result<Security, String> {
    let mut security = Security::default();
    for option in options {
        if *option == "systempaths=unconfined" {
            security.unmasked = true;
            continue;
        }
        let (name, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((name, value)) => (name, Some(value)),
            None => (*option, None),
        };
        match (name, value) {
            ("no-new-privileges", _) => security.options.push((*option).to_owned()),
            ("seccomp", Some(value)) if value != "unconfined" && value != "builtin" => {
                let profile = read(value)
                    .map_err(|why| format!("opening seccomp profile ({value}) failed: {why}"))?;
                let profile: serde_json::Value = serde_json::from_str(&profile).map_err(|why| {
                    format!("compacting json for seccomp profile ({value}) failed: {why}")
                })?;
                security.options.push(format!("seccomp={profile}"));
            }
            (_, Some(_)) => security.options.push((*option).to_owned()),
            (_, None) => return Err(format!("Invalid --security-opt: {option:?}")),
        }
    }
    Ok(security)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_and_paths_unmasked() {
        let read = |name: &str| match name {
            "p.json" => Ok("{ \"a\" : 1 }".to_owned()),
            _ => Err("no such file or directory".to_owned()),
        };
        assert_eq!(
            parse(
                &[
                    "seccomp=p.json",
                    "seccomp=unconfined",
                    "no-new-privileges",
                    "label:disable",
                    "systempaths=unconfined"
                ],
                read
            ),
            Ok(Security {
                options: vec![
                    "seccomp={\"a\":1}".into(),
                    "seccomp=unconfined".into(),
                    "no-new-privileges".into(),
                    "label:disable".into(),
                ],
                unmasked: true,
            })
        );
        assert!(parse(&["seccomp=missing"], read).is_err());
        assert_eq!(
            parse(&["foo"], read),
            Err("Invalid --security-opt: \"foo\"".into())
        );
    }
}
