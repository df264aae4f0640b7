//! `--sysctl name=value`.

/// Settings of the kernel that namespaces have for themselves, beside those below [`BELOW`].
const ALONE: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Groups of such settings.
const BELOW: &[&str] = &["net.", "fs.mqueue."];

/// Reads a setting that a container can have for itself.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    let allowed =
        |name: &str| ALONE.contains(&name) || BELOW.iter().any(|group| name.starts_with(group));
    match text.split_once('=') {
        Some((name, value)) if allowed(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_namespaces_are_taken() {
        assert_eq!(
            parse("net.ipv4.ip_forward=1"),
            Ok(("net.ipv4.ip_forward".to_owned(), "1".to_owned()))
        );
        assert_eq!(
            parse("kernel.shmmax=5=6"),
            Ok(("kernel.shmmax".to_owned(), "5=6".to_owned()))
        );
        for text in [
            "kernel.hostname=x",
            "net.ipv4.ip_forward",
            "vm.swappiness=1",
            "",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
