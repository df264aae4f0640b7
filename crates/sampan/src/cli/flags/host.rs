//! `--add-host name:address` and `--dns address`.

use std::net::IpAddr;

/// Reads `name:address` or `name=address`; answers `name:address`.
pub(crate) fn extra_host(text: &str) -> Result<String, String> {
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(name, address)| !name.is_empty() && !address.is_empty())
        .ok_or_else(|| format!("bad format for add-host: {text:?}"))?;
    let address = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').unwrap_or(address),
        None => address,
    };
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{name}:{address}"))
}

/// Reads a link: `container` or `container:alias`.
pub(crate) fn link(text: &str) -> Result<String, String> {
    match text.split(':').count() {
        _ if text.is_empty() => Err("empty string specified for links".to_owned()),
        1 | 2 => Ok(text.to_owned()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

/// Reads an address.
pub(crate) fn address(text: &str) -> Result<String, String> {
    text.trim()
        .parse::<IpAddr>()
        .map(|address| address.to_string())
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// Reads a domain of `--dns-search`; `.` is none at all.
pub(crate) fn search_domain(text: &str) -> Result<String, String> {
    let domain = text.trim_end_matches('.');
    let letters = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text == "." || (domain.split('.').all(letters) && domain.len() <= 255) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is not a valid domain"))
    }
}

/// Reads a hardware address.
pub(crate) fn mac_address(text: &str) -> Result<String, String> {
    let octet = |octet: &str| octet.len() == 2 && octet.bytes().all(|b| b.is_ascii_hexdigit());
    let octets: Vec<&str> = text.split([':', '-']).collect();
    if octets.len() == 6 && octets.into_iter().all(octet) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is not a valid mac address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_a_name_and_an_address() {
        for (text, expected) in [
            ("a:1.2.3.4", Some("a:1.2.3.4")),
            ("a=1.2.3.4", Some("a:1.2.3.4")),
            ("a:::1", Some("a:::1")),
            ("a=[::1]", Some("a:::1")),
            ("gw:host-gateway", Some("gw:host-gateway")),
            ("foo", None),
            ("a:", None),
            (":1.2.3.4", None),
            ("a:b", None),
        ] {
            assert_eq!(extra_host(text).ok().as_deref(), expected, "{text}");
        }
        assert!(address("1.2.3").is_err());
    }
}
