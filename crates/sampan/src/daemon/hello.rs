//! The bundled `hello-world` image, as an archive of `docker save`'s form.
//! The bytes depend on the program alone, so the image's ID is stable.

use sampan_oci::digest::Digest;
use serde_json::json;

/// The name under which the image is found.
pub(super) const REFERENCE: &str = "hello-world:latest";

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello-world"));

/// Builds the archive.
pub(super) fn archive() -> Vec<u8> {
    let layer = tar(&[("hello", PROGRAM, 0o755)]);
    let diff_id = Digest::of(&layer).to_string();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let created = "2026-01-01T00:00:00Z";
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": {
            "Cmd": ["/hello"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [
            {"created": created, "created_by": "COPY hello / # bundled with Sampan"},
            {"created": created, "created_by": "CMD [\"/hello\"]", "empty_layer": true},
        ],
    });
    let config = config.to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [REFERENCE],
        "Layers": ["layer.tar"],
    }]);
    tar(&[
        ("manifest.json", manifest.to_string().as_bytes(), 0o644),
        (&config_name, config.as_bytes(), 0o644),
        ("layer.tar", &layer, 0o644),
    ])
}

fn tar(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        builder
            .append_data(&mut header, name, *content)
            .expect("writing to memory does not fail, and the names are short");
    }
    builder
        .into_inner()
        .expect("writing to memory does not fail")
}
