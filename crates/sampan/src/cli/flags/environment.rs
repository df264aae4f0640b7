//! `-e`, `--env-file` and `--label`.

/// Looks a variable of the command line's own environment up.
pub(crate) type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Reads `NAME=value`, or `NAME` for the own value; none when there is no such value.
pub(crate) fn variable(text: &str, lookup: Lookup<'_>) -> Result<Option<String>, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(match value {
        Some(_) => Some(text.to_owned()),
        None => lookup(name).map(|value| format!("{name}={value}")),
    })
}

/// Reads the lines of a file of variables.
pub(crate) fn file(content: &[u8], name: &str, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut variables = Vec::new();
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| {
            format!(
                "env file {name} contains invalid utf8 bytes at line {}: {:?}",
                number + 1,
                String::from_utf8_lossy(line)
            )
        })?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let variable = line.split('=').next().unwrap_or_default();
        if variable.contains(char::is_whitespace) {
            return Err(format!("variable '{variable}' contains whitespaces"));
        }
        if variable.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if line.contains('=') {
            variables.push(line.to_owned());
        } else if let Some(value) = lookup(variable) {
            variables.push(format!("{variable}={value}"));
        }
    }
    Ok(variables)
}

/// Reads `key=value` or `key`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Option<String> {
        (name == "OWN").then(|| "mine".to_owned())
    }

    #[test]
    fn variables_without_a_value_take_the_own_one() {
        let read = |text: &str| variable(text, &own);
        assert_eq!(read("A=b=c"), Ok(Some("A=b=c".into())));
        assert_eq!(read("A="), Ok(Some("A=".into())));
        assert_eq!(read("OWN"), Ok(Some("OWN=mine".into())));
        assert_eq!(read("OTHER"), Ok(None));
        assert_eq!(read(""), Err("invalid environment variable: ".into()));
        assert!(read("=x").is_err());
    }

    #[test]
    fn files_have_comments_and_no_quoting() {
        let content = b"\xef\xbb\xbfA=1\n  # comment\n\nB=\"two words\" #x\r\nOWN\nOTHER\n  C= x ";
        assert_eq!(
            file(content, "f", &own).unwrap(),
            ["A=1", "B=\"two words\" #x", "OWN=mine", "C= x "]
        );
        assert_eq!(
            file(b"A B=1", "f", &own),
            Err("variable 'A B' contains whitespaces".into())
        );
        assert!(file(b"=1", "f", &own).is_err());
        assert!(file(b"A=\xff", "f", &own).is_err());
    }

    #[test]
    fn labels_have_a_key() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert!(label("=x").is_err());
    }
}
