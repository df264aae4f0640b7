//! What strangers may send never breaks a parser, and what is accepted is accepted again.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sampan_oci::manifest::Document;
use sampan_oci::{Digest, ImageConfig, MediaType, Platform, Reference};

/// Texts near the border between good and bad.
fn near_reference() -> impl Strategy<Value = String> {
    "([a-zA-Z0-9._-]{0,9}(:[0-9a-z]{0,5})?/){0,3}[a-zA-Z0-9._/-]{0,12}(:[a-zA-Z0-9._-]{0,9})?(@(sha256|sha512|x):[0-9a-f]{60,66})?"
}

fn near_manifest() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "null",
        "1",
        "2",
        "-1",
        "1e999",
        "\"layers\"",
        "\"manifests\"",
        "\"config\"",
        "\"schemaVersion\"",
        "\"mediaType\"",
        "\"digest\"",
        "\"size\"",
        "\"\\u0000\"",
        "\"application/vnd.oci.image.index.v1+json\"",
        "\"rootfs\"",
        "\"diff_ids\"",
        "\"history\"",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn accepted_references_are_stable(text in near_reference()) {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
            prop_assert!(!reference.repository().split('/').any(|p| p.is_empty() || p == ".."));
            prop_assert!(reference.repository().len() <= 255);
        }
    }

    #[test]
    fn any_text_is_refused_or_taken(text in any::<String>()) {
        let _ = text.parse::<Reference>();
        let _ = text.parse::<Digest>();
        let _ = text.parse::<Platform>();
        let _ = MediaType::from_header(&text);
    }

    #[test]
    fn any_bytes_are_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Document::parse(&bytes, &MediaType::OciManifest);
        let _ = ImageConfig::parse(&bytes);
    }

    #[test]
    fn near_manifests_are_refused_or_taken(text in near_manifest()) {
        let _ = Document::parse(text.as_bytes(), &MediaType::default());
        let _ = ImageConfig::parse(text.as_bytes());
    }

    #[test]
    fn digests_round_trip(bytes in any::<[u8; 32]>()) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        prop_assert_eq!(Digest::from_hex(&digest.hex()).unwrap(), digest);
    }
}
