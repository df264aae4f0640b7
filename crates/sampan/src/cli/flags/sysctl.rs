//! `--sysctl name=value`.

use sampan_oci::sysctl::Parameter;

/// Reads a setting that a container can have for itself.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if Parameter::parse(name).is_ok() => {
            Ok((name.to_owned(), value.to_owned()))
        }
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
        assert!(parse("kernel.domainname=x").is_ok());
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
