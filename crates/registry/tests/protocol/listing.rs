//! Lists of tags, repositories and referrers.

use sampan_oci::Digest;

use crate::support::{MANIFEST, Server, manifest};

#[test]
fn tags_come_in_order_and_in_pages() {
    let server = Server::start();
    server.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
    for tag in ["c", "a", "d", "b", "B"] {
        let _ = server.push_image("a", tag, b"layer");
    }
    let all = server.get("/v2/a/tags/list").expect(200).json();
    assert_eq!(all["name"], "a");
    assert_eq!(all["tags"], serde_json::json!(["B", "a", "b", "c", "d"]));
    let mut path = "/v2/a/tags/list?n=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = server.get(&path).expect(200);
        pages.push(answer.json()["tags"].clone());
        let Some(link) = answer.header("link") else {
            break;
        };
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
    }
    assert_eq!(
        serde_json::json!(pages),
        serde_json::json!([["B", "a"], ["b", "c"], ["d"]])
    );
    for (query, expected) in [
        ("n=0", serde_json::json!([])),
        ("last=c", serde_json::json!(["d"])),
        ("last=zzz", serde_json::json!([])),
        ("n=100&last=B", serde_json::json!(["a", "b", "c", "d"])),
    ] {
        let answer = server.get(&format!("/v2/a/tags/list?{query}")).expect(200);
        assert_eq!(answer.json()["tags"], expected, "{query}");
    }
    server
        .get("/v2/a/tags/list?n=x")
        .refused(400, "PAGINATION_NUMBER_INVALID");
}

#[test]
fn repositories_are_listed_that_have_a_manifest() {
    let server = Server::start();
    for name in ["b", "a/x", "c"] {
        let _ = server.push_image(name, "v1", b"layer");
    }
    let _ = server.push_blob("nothing/but/blobs", b"x");
    let answer = server.get("/v2/_catalog").expect(200);
    assert_eq!(
        answer.json()["repositories"],
        serde_json::json!(["a/x", "b", "c"])
    );
    let answer = server.get("/v2/_catalog?n=1&last=a/x").expect(200);
    assert_eq!(answer.json()["repositories"], serde_json::json!(["b"]));
    assert_eq!(
        answer.header("link"),
        Some("</v2/_catalog?last=b&n=1>; rel=\"next\"")
    );
}

#[test]
fn referrers_are_found_before_and_after_their_subject() {
    let server = Server::start();
    let subject = Digest::of(b"not there yet");
    let list = |query: &str| {
        let path = format!("/v2/a/referrers/{subject}{query}");
        server.get(&path).expect(200)
    };
    assert_eq!(list("").json()["manifests"], serde_json::json!([]));
    let config = server.push_blob("a", b"{}");
    let say = |kind: &str, annotation: &str| {
        let more = format!(
            r#","artifactType":"{kind}","subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":13}},"annotations":{{"note":"{annotation}"}}"#
        );
        let text = manifest(&[(config, 2)], &[], &more);
        let digest = Digest::of(text.as_bytes());
        let answer = server
            .send(
                "PUT",
                &format!("/v2/a/manifests/{digest}"),
                &[("Content-Type", MANIFEST)],
                text.as_bytes(),
            )
            .expect(201);
        assert_eq!(answer.header("oci-subject").unwrap(), subject.to_string());
        digest
    };
    let signature = say("application/signature", "one");
    let _ = say("application/sbom", "two");
    let all = list("");
    assert_eq!(
        all.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    let some = list("?artifactType=application%2Fsignature");
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));
    let entry = &some.json()["manifests"][0];
    assert_eq!(entry["digest"], signature.to_string());
    assert_eq!(entry["artifactType"], "application/signature");
    assert_eq!(entry["annotations"]["note"], "one");
    let page = list("?n=1");
    assert_eq!(page.json()["manifests"].as_array().unwrap().len(), 1);
    assert!(page.header("link").is_some());
    server
        .send("DELETE", &format!("/v2/a/manifests/{signature}"), &[], b"")
        .expect(202);
    assert_eq!(list("").json()["manifests"].as_array().unwrap().len(), 1);
    server
        .get("/v2/a/referrers/nonsense")
        .refused(400, "DIGEST_INVALID");
}
