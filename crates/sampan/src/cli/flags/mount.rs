//! `--mount type=...,source=...,target=...`.

use std::path::Path;

use sampan_api::types::mount::{
    BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeDriver, VolumeOptions,
};

use super::size;
use super::volume::clean;

/// Reads a mount. A bind's relative source is taken from `directory`.
pub(crate) fn parse(text: &str, directory: &Path) -> Result<Mount, String> {
    let mut mount = Mount {
        kind: "volume".to_owned(),
        ..Mount::default()
    };
    let mut bind = BindOptions::default();
    let mut volume = VolumeOptions::default();
    let mut driver = VolumeDriver::default();
    let mut tmpfs = TmpfsOptions::default();
    let mut image = ImageOptions::default();
    let mut first_of_kind: [Option<String>; 3] = [const { None }; 3];
    for field in csv_fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let family = ["bind-", "volume-", "tmpfs-"]
            .iter()
            .position(|prefix| key.starts_with(prefix));
        if let Some(family) = family {
            first_of_kind[family].get_or_insert_with(|| key.clone());
        }
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => mount.read_only = true,
                "volume-nocopy" => volume.no_copy = true,
                "bind-nonrecursive" => bind.non_recursive = true,
                "bind-create-src" => bind.create_mountpoint = true,
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            continue;
        };
        let boolean = || match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(format!("invalid value for {key}: {value}")),
        };
        match key.as_str() {
            "type" => mount.kind = value.to_ascii_lowercase(),
            "source" | "src" => mount.source = value.to_owned(),
            "target" | "dst" | "destination" => mount.target = value.to_owned(),
            "readonly" | "ro" => mount.read_only = boolean()?,
            "consistency" => mount.consistency = value.to_ascii_lowercase(),
            "bind-propagation" => bind.propagation = value.to_ascii_lowercase(),
            "bind-nonrecursive" => bind.non_recursive = boolean()?,
            "bind-create-src" => bind.create_mountpoint = boolean()?,
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => bind.non_recursive = true,
                "writable" => bind.read_only_non_recursive = true,
                "readonly" => bind.read_only_force_recursive = true,
                _ => {
                    return Err(format!(
                        "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            },
            "volume-subpath" => volume.subpath = value.to_owned(),
            "volume-nocopy" => volume.no_copy = boolean()?,
            "volume-label" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                volume.labels.insert(key.to_owned(), value.to_owned());
            }
            "volume-driver" => driver.name = value.to_owned(),
            "volume-opt" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                driver.options.insert(key.to_owned(), value.to_owned());
            }
            "image-subpath" => image.subpath = value.to_owned(),
            "tmpfs-size" => {
                tmpfs.size_bytes =
                    size::bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
            }
            "tmpfs-mode" => {
                tmpfs.mode = u32::from_str_radix(value, 8)
                    .map_err(|_| format!("invalid value for {key}: {value}"))?;
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let kind = mount.kind.clone();
    let stray = |family: usize, name: &str| match &first_of_kind[family] {
        Some(_) => Err(format!(
            "cannot mix '{name}-*' options with mount type '{kind}'"
        )),
        None => Ok(()),
    };
    if kind != "bind" {
        stray(0, "bind")?;
    }
    if kind != "volume" {
        stray(1, "volume")?;
    }
    if kind != "tmpfs" {
        stray(2, "tmpfs")?;
    }
    match kind.as_str() {
        "bind" => {
            if mount.source.starts_with('.') {
                mount.source = clean(&directory.join(&mount.source));
            }
            if bind != BindOptions::default() {
                mount.bind_options = Some(bind);
            }
        }
        "volume" => {
            if driver != VolumeDriver::default() {
                volume.driver_config = Some(driver);
            }
            if volume != VolumeOptions::default() {
                mount.volume_options = Some(volume);
            }
        }
        "tmpfs" if tmpfs != TmpfsOptions::default() => mount.tmpfs_options = Some(tmpfs),
        "image" if image != ImageOptions::default() => mount.image_options = Some(image),
        // The engine knows best what it can mount.
        _ => {}
    }
    Ok(mount)
}

/// The fields of one CSV record; a quoted field may hold commas and doubled quotes.
pub(crate) fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("value is empty".to_owned());
    }
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    let mut start = true;
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is always a last field");
        match c {
            '"' if start => quoted = true,
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => {
                quoted = false;
                if !matches!(chars.peek(), None | Some(',')) {
                    return Err("extraneous or missing \" in quoted-field".to_owned());
                }
            }
            '"' => return Err("bare \" in non-quoted-field".to_owned()),
            ',' if !quoted => {
                fields.push(String::new());
                start = true;
                continue;
            }
            other => field.push(other),
        }
        start = false;
    }
    if quoted {
        return Err("extraneous or missing \" in quoted-field".to_owned());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<String, String> {
        parse(text, Path::new("/work")).map(|mount| serde_json::to_string(&mount).unwrap())
    }

    #[test]
    fn mounts_of_each_type() {
        for (text, expected) in [
            (
                "type=bind,source=/a,target=/b,readonly",
                r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}"#,
            ),
            (
                "type=bind,src=./a,dst=/b,bind-propagation=rshared,bind-create-src",
                r#"{"Type":"bind","Source":"/work/a","Target":"/b","BindOptions":{"Propagation":"rshared","CreateMountpoint":true}}"#,
            ),
            (
                "source=v,destination=/b,volume-nocopy,volume-label=k=v,volume-opt=o=x,ro=false",
                r#"{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"NoCopy":true,"Labels":{"k":"v"},"DriverConfig":{"Options":{"o":"x"}}}}"#,
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}}"#,
            ),
            (
                "type=volume,target=/t,\"volume-opt=o=a,b\"",
                r#"{"Type":"volume","Target":"/t","VolumeOptions":{"DriverConfig":{"Options":{"o":"a,b"}}}}"#,
            ),
            (
                "type=image,src=busybox,dst=/i,image-subpath=bin",
                r#"{"Type":"image","Source":"busybox","Target":"/i","ImageOptions":{"Subpath":"bin"}}"#,
            ),
        ] {
            assert_eq!(json(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_in_dockers_words() {
        for (text, expected) in [
            ("", "value is empty"),
            ("type=bind", "target is required"),
            (
                "target=/x,foo",
                "invalid field 'foo' must be a key=value pair",
            ),
            ("target=/x,foo=1", "unexpected key 'foo' in 'foo=1'"),
            (
                "target=/x,readonly=maybe",
                "invalid value for readonly: maybe",
            ),
            (
                "type=bind,target=/x,volume-nocopy",
                "cannot mix 'volume-*' options with mount type 'bind'",
            ),
            (
                "type=tmpfs,target=/x,tmpfs-mode=9",
                "invalid value for tmpfs-mode: 9",
            ),
            ("target=/x,\"a", "extraneous or missing \" in quoted-field"),
        ] {
            assert_eq!(json(text), Err(expected.to_owned()), "{text}");
        }
    }
}
