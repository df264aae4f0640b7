//! `-v [source:]destination[:options]`.

use std::path::Path;

/// What `-v` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A bind or a named volume, as the engine takes it.
    Bind(String),
    /// A volume without a name at a path.
    Anonymous(String),
}

/// Reads a volume. A source that begins with `.` or `~` is made absolute.
pub(crate) fn parse(text: &str, directory: &Path, home: &str) -> Result<Volume, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let Some((source, rest)) = text.split_once(':') else {
        return Ok(Volume::Anonymous(text.to_owned()));
    };
    if source.is_empty() || rest.is_empty() {
        return Err(format!(
            "invalid spec: {text}: empty section between colons"
        ));
    }
    let absolute = match source.strip_prefix('~') {
        Some(below) if below.is_empty() || below.starts_with('/') => format!("{home}{below}"),
        _ if source.starts_with('.') => clean(&directory.join(source)),
        _ => source.to_owned(),
    };
    Ok(Volume::Bind(format!("{absolute}:{rest}")))
}

/// Takes `.` and `..` out of an absolute path by its text, as Go's `filepath.Abs`.
pub(crate) fn clean(path: &Path) -> String {
    use std::path::Component;
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_absolute() {
        let bind = |text: &str| Volume::Bind(text.to_owned());
        for (text, expected) in [
            ("/data", Some(Volume::Anonymous("/data".into()))),
            ("/a:/b", Some(bind("/a:/b"))),
            ("/a:/b:ro", Some(bind("/a:/b:ro"))),
            ("name:/b", Some(bind("name:/b"))),
            ("./x:/b", Some(bind("/work/x:/b"))),
            ("../x:/b:ro", Some(bind("/x:/b:ro"))),
            (".:/b", Some(bind("/work:/b"))),
            ("~/x:/b", Some(bind("/home/me/x:/b"))),
            ("~:/b", Some(bind("/home/me:/b"))),
            ("", None),
            (":/b", None),
            ("/a:", None),
        ] {
            let parsed = parse(text, Path::new("/work"), "/home/me");
            assert_eq!(parsed.ok(), expected, "{text}");
        }
    }
}
