//! Progress as Docker's JSON messages.

use sampan_api::types::message::{Message, Progress as Amount};
use sampan_images::{LayerStatus, Progress};
use serde_json::json;

/// The messages for a piece of news.
pub(super) fn messages(progress: &Progress) -> Vec<Message> {
    let aux = |aux: serde_json::Value| Message {
        progress: Some(Amount::default()),
        aux: Some(aux),
        ..Message::default()
    };
    match progress {
        Progress::Pushed { tag, digest, size } => vec![
            Message::status(format!("{tag}: digest: {digest} size: {size}")),
            aux(json!({"Tag": tag, "Digest": digest, "Size": size})),
        ],
        Progress::OnlyManifest { index, manifest } => vec![aux(json!({
            "manifestPushedInsteadOfIndex": true,
            "originalIndex": index,
            "selectedManifest": manifest,
        }))],
        other => vec![message(other)],
    }
}

fn message(progress: &Progress) -> Message {
    match progress {
        Progress::PushRefersTo { repository } => {
            Message::status(format!("The push refers to repository [{repository}]"))
        }
        Progress::Pushed { .. } | Progress::OnlyManifest { .. } => Message::default(),
        Progress::PullingFrom {
            repository,
            reference,
        } => Message {
            id: reference.clone(),
            ..Message::status(format!("Pulling from {repository}"))
        },
        Progress::Layer { id, status } => {
            let text = match status {
                LayerStatus::Retrying { seconds } => {
                    let plural = if *seconds == 1 { "" } else { "s" };
                    format!("Retrying in {seconds} second{plural}")
                }
                LayerStatus::MountedFrom(repository) => format!("Mounted from {repository}"),
                other => other.as_str().to_owned(),
            };
            Message::progress(id, text, amount(status.amount()))
        }
        Progress::Digest(digest) => Message::status(format!("Digest: {digest}")),
        Progress::Downloaded { image } => {
            Message::status(format!("Status: Downloaded newer image for {image}"))
        }
        Progress::UpToDate { image } => {
            Message::status(format!("Status: Image is up to date for {image}"))
        }
        Progress::Renamed { name, old } => Message::stream(format!(
            "The image {name} already exists, renaming the old one with ID {old} to empty string\n"
        )),
        Progress::LoadedImage { name } => Message::stream(format!("Loaded image: {name}\n")),
        Progress::LoadedImageId(id) => Message::stream(format!("Loaded image ID: {id}\n")),
        Progress::DownloadingFrom { url } => Message::status(format!("Downloading from {url}")),
        Progress::Importing { current } => {
            Message::progress("", "Importing", amount(Some((*current, 0))))
        }
    }
}

fn amount(amount: Option<(u64, u64)>) -> Amount {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let (current, total) = amount.unwrap_or_default();
    Amount {
        current: signed(current),
        total: signed(total),
        ..Amount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(progress: &Progress) -> String {
        let lines = messages(progress);
        let lines: Vec<String> = lines
            .iter()
            .map(|message| serde_json::to_string(message).unwrap())
            .collect();
        lines.join("\n")
    }

    #[test]
    fn push_is_told_in_dockers_words() {
        let digest = sampan_oci::Digest::of(b"");
        let layer = |status| Progress::Layer {
            id: "0123456789ab".into(),
            status,
        };
        assert_eq!(
            json(&Progress::Pushed {
                tag: "v1".into(),
                digest,
                size: 7,
            }),
            format!(
                "{{\"status\":\"v1: digest: {digest} size: 7\"}}\n{{\"progressDetail\":{{}},\
                 \"aux\":{{\"Digest\":\"{digest}\",\"Size\":7,\"Tag\":\"v1\"}}}}"
            )
        );
        assert_eq!(
            json(&layer(LayerStatus::LayerExists)),
            r#"{"status":"Layer already exists","progressDetail":{},"id":"0123456789ab"}"#
        );
        assert_eq!(
            json(&layer(LayerStatus::MountedFrom("a/b".into()))),
            r#"{"status":"Mounted from a/b","progressDetail":{},"id":"0123456789ab"}"#
        );
    }

    #[test]
    fn pull_is_told_in_dockers_words() {
        let layer = |status| Progress::Layer {
            id: "0123456789ab".into(),
            status,
        };
        for (progress, expected) in [
            (
                Progress::PullingFrom {
                    repository: "library/busybox".into(),
                    reference: "latest".into(),
                },
                r#"{"status":"Pulling from library/busybox","id":"latest"}"#,
            ),
            (
                layer(LayerStatus::PullingFsLayer),
                r#"{"status":"Pulling fs layer","progressDetail":{},"id":"0123456789ab"}"#,
            ),
            (
                layer(LayerStatus::Downloading {
                    current: 1,
                    total: 2,
                }),
                r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"0123456789ab"}"#,
            ),
            (
                layer(LayerStatus::Retrying { seconds: 1 }),
                r#"{"status":"Retrying in 1 second","progressDetail":{},"id":"0123456789ab"}"#,
            ),
            (
                Progress::Downloaded {
                    image: "busybox:latest".into(),
                },
                r#"{"status":"Status: Downloaded newer image for busybox:latest"}"#,
            ),
            (
                Progress::LoadedImage {
                    name: "busybox:latest".into(),
                },
                r#"{"stream":"Loaded image: busybox:latest\n"}"#,
            ),
        ] {
            assert_eq!(json(&progress), expected);
        }
    }
}
