//! Progress as Docker's JSON messages.

use sampan_api::types::message::{Message, Progress as Amount};
use sampan_images::{LayerStatus, Progress};

/// The message for a piece of news; none for what Docker does not tell.
pub(super) fn message(progress: &Progress) -> Message {
    match progress {
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
        serde_json::to_string(&message(progress)).unwrap()
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
