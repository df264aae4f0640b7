//! What a 401 asks for.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A way to authenticate that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from another service.
    Bearer {
        realm: String,
        service: String,
        /// Why the token that was sent does not do, as in `insufficient_scope`.
        error: String,
    },
    /// User name and password.
    Basic,
}

/// Picks the best of the ways that a response offers.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all: Vec<(String, Vec<(String, String)>)> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(parse)
        .collect();
    let bearer = all.iter().find_map(|(scheme, parameters)| {
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
        };
        (scheme == "bearer").then_some(())?;
        Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service").unwrap_or_default(),
            error: get("error").unwrap_or_default(),
        })
    });
    let basic = all.iter().any(|(scheme, _)| scheme == "basic");
    bearer.or(basic.then_some(Challenge::Basic))
}

/// Parses `Scheme name="value", name=value`.
fn parse(header: &str) -> Option<(String, Vec<(String, String)>)> {
    let header = header.trim_start();
    let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        parameters.push((name, value));
        rest = after;
    }
    Some((scheme.to_ascii_lowercase(), parameters))
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((i, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[i + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn bearer_is_preferred() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.io/token?a=b,c".into(),
            service: "a \"quoted\" one".into(),
            error: String::new(),
        };
        let text = r#"Bearer realm="https://auth.io/token?a=b,c",service="a \"quoted\" one",scope="repository:x:pull,push""#;
        assert_eq!(of(&[text]), Some(bearer.clone()));
        assert_eq!(of(&[r#"Basic realm="x""#, text]), Some(bearer));
        assert_eq!(of(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(of(&["basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in [
            "",
            "Bearer",
            "Bearer realm=\"x",
            "Negotiate",
            "Bearer x",
            "=,=,=",
        ] {
            assert_eq!(of(&[text]), None, "{text:?}");
        }
        assert_eq!(of(&[]), None);
    }
}
