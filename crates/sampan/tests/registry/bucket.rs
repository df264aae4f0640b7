//! The registry over a bucket.

use std::path::Path;
use std::time::Duration;

use sampan_oci::Digest;
use sampan_testing::{Bucket, Fixture, run, until};

use crate::clients::skopeo_digest;
use crate::http::send;
use crate::server::Server;

/// A configuration file for a registry over this bucket.
pub(crate) fn configuration(bucket: &Bucket, directory: &Path, more: &str) -> String {
    let file = directory.join("config.toml");
    let text = format!(
        "[s3]\nbucket = {:?}\nendpoint = {:?}\nprefix = \"registry\"\n\
         access-key-id = \"id\"\nsecret-access-key = \"key\"\n{more}",
        Bucket::NAME,
        bucket.endpoint()
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn skopeo_copy(from: &str, to: &str) {
    let flags = ["copy", "--quiet", "--src-tls-verify=false"];
    let arguments = [&flags[..], &["--dest-tls-verify=false", from, to]].concat();
    let _ = run("skopeo", &arguments).ok();
}

#[test]
fn a_bucket_keeps_images_over_a_kill_and_gives_deleted_ones_back() {
    let bucket = Bucket::start();
    let directory = tempfile::tempdir().unwrap();
    let collect = "[collect]\nevery = \"1s\"\nlease = \"2s\"\n";
    let config = configuration(&bucket, directory.path(), collect);
    let mut server = Server::start(&["--config", &config]);
    let address = server.address();
    let (first, second) = (format!("{address}/a/one:v1"), format!("{address}/b/two:v1"));
    skopeo_copy(&Fixture::Busybox.layout(), &format!("docker://{first}"));
    skopeo_copy(&format!("docker://{first}"), &format!("docker://{second}"));
    let digest = skopeo_digest(&first);
    assert_eq!(skopeo_digest(&second), digest);
    assert_eq!(
        bucket.count("registry/data/"),
        2,
        "a layer and a configuration"
    );

    server.kill();
    server.again();
    assert_eq!(skopeo_digest(&first), digest);
    let copy = format!("dir:{}", directory.path().join("copy").display());
    // It verifies all digests.
    skopeo_copy(&format!("docker://{second}"), &copy);

    let delete = |name: &str| {
        let path = format!("/v2/{name}/manifests/{digest}");
        send(&address, "DELETE", &path, &[], b"").unwrap().status
    };
    assert_eq!(delete("a/one"), 202);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(
        bucket.count("registry/data/"),
        2,
        "another repository has them"
    );
    assert_eq!(delete("b/two"), 202);
    until("the bytes are gone from the bucket", || {
        bucket.count("registry/data/") == 0
    });
    assert_eq!(bucket.count("registry/records/"), 0);
    assert_eq!(bucket.count("registry/blobs/"), 0);
    skopeo_copy(&copy, &format!("docker://{first}"));
    assert_eq!(skopeo_digest(&first), digest);
}

#[test]
fn large_blobs_and_parts_of_them_come_back_from_a_bucket() {
    let bucket = Bucket::start();
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(&bucket, directory.path(), "");
    let server = Server::start(&["--config", &config]);
    let address = server.address();
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    let begun = send(&address, "POST", "/v2/a/blobs/uploads/", &[], b"").unwrap();
    let location = begun.header("location").unwrap().to_owned();
    let mut start = 0;
    for end in [9_000_000, 9_000_001, 18_000_000] {
        let range = format!("{start}-{}", end - 1);
        let headers = [("Content-Range", range.as_str())];
        let chunk = &bytes[start..end];
        let taken = send(&address, "PATCH", &location, &headers, chunk).unwrap();
        assert_eq!(taken.status, 202);
        start = end;
    }
    let finish = format!("{location}?digest={digest}");
    let finished = send(&address, "PUT", &finish, &[], &bytes[start..]).unwrap();
    assert_eq!(finished.status, 201);
    assert_eq!(bucket.count("registry/uploads/"), 0);
    let path = format!("/v2/a/blobs/{digest}");
    let whole = send(&address, "GET", &path, &[], b"").unwrap();
    assert!(whole.body == bytes);
    let range = [("Range", "bytes=8388600-8388700")];
    let part = send(&address, "GET", &path, &range, b"").unwrap();
    assert_eq!(part.status, 206);
    assert_eq!(part.body, bytes[8_388_600..=8_388_700]);
    let wrong = Digest::of(b"other");
    let path = format!("/v2/a/blobs/uploads/?digest={wrong}");
    let refused = send(&address, "POST", &path, &[], &bytes).unwrap();
    assert_eq!(refused.status, 400);
    assert_eq!(bucket.count("registry/data/"), 1);
}
