//! Images on the wire: what a push tells, what registries are asked, what is written out.

use sampan_testing::{Fixture, Registry, fixture};
use serde_json::Value;

use crate::engine_with_busybox;
use crate::http::{ask, tell};

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_push_ends_with_what_programs_want_to_know() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let engine = engine_with_busybox();
    let name = format!("{}/team/app", registry.address());
    let _ = engine
        .sampan(&["tag", "busybox", &format!("{name}:v1")])
        .ok();
    let answer = ask(
        &engine,
        "POST",
        &format!("/v1.51/images/{name}/push?tag=v1"),
    )
    .expect(200);
    let told = lines(&answer.text());
    let refers = format!("The push refers to repository [{name}]");
    assert_eq!(told[0]["status"], refers.as_str());
    let layer: Vec<&Value> = told.iter().filter(|line| line["id"].is_string()).collect();
    assert_eq!(layer[0]["status"], "Preparing");
    assert_eq!(layer.last().unwrap()["status"], "Pushed");
    let [.., said, aux] = &told[..] else {
        panic!("{told:?}");
    };
    let digest = aux["aux"]["Digest"].as_str().unwrap();
    let size = aux["aux"]["Size"].as_u64().unwrap();
    assert_eq!(aux["aux"]["Tag"], "v1");
    assert_eq!(
        said["status"],
        format!("v1: digest: {digest} size: {size}").as_str()
    );
    let path = format!("/v1.51/distribution/{name}:v1/json");
    let remote = ask(&engine, "GET", &path).expect(200).json();
    assert_eq!(remote["Descriptor"]["digest"], digest);
    assert_eq!(remote["Descriptor"]["size"], size);
    assert_eq!(remote["Platforms"].as_array().unwrap().len(), 1);
    let path = format!("/v1.51/distribution/{name}:v2/json");
    assert_eq!(ask(&engine, "GET", &path).status, 404);
    let unknown = ask(
        &engine,
        "POST",
        &format!("/v1.51/images/{name}/push?tag=v2"),
    )
    .expect(200);
    let told = lines(&unknown.text());
    let error = told.last().unwrap();
    assert_eq!(error["errorDetail"]["message"], error["error"]);
    let bad = format!("/v1.51/images/{name}/push?tag=v1&compression=lzma");
    assert_eq!(ask(&engine, "POST", &bad).status, 400);
}

#[test]
fn a_registry_is_searched_by_its_catalog() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let _ = registry.push(&fixture(Fixture::Busybox));
    let engine = engine_with_busybox();
    let search = |rest: &str| {
        let path = format!("/v1.51/images/search?term={}/{rest}", registry.address());
        ask(&engine, "GET", &path)
    };
    let found = search("BUSY").expect(200).json();
    let name = format!("{}/busybox", registry.address());
    assert_eq!(
        found,
        serde_json::json!([{
            "star_count": 0,
            "is_official": false,
            "name": name,
            "is_automated": false,
            "description": "",
        }])
    );
    assert_eq!(search("nothing").expect(200).json(), serde_json::json!([]));
    let starred = "busy&filters=%7B%22stars%22%3A%5B%221%22%5D%7D";
    assert_eq!(search(starred).expect(200).json(), serde_json::json!([]));
    assert_eq!(search("busy&limit=101").status, 400);
    assert_eq!(search("busy&limit=-1").status, 400);
    assert_eq!(ask(&engine, "GET", "/v1.51/images/search").status, 400);
}

#[test]
fn archives_say_how_long_they_are() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for path in [
        "/v1.51/images/busybox/get",
        "/v1.51/images/get?names=busybox",
    ] {
        let answer = ask(&engine, "GET", path).expect(200);
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!(answer.body.len(), length);
        assert_eq!(answer.header("content-type"), Some("application/x-tar"));
    }
    assert_eq!(ask(&engine, "GET", "/v1.51/images/none/get").status, 404);
    assert_eq!(ask(&engine, "GET", "/v1.51/images/get").status, 400);
}

#[test]
fn a_commit_takes_a_configuration() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = engine
        .sampan(&["create", "-e", "A=1", "busybox", "true"])
        .ok();
    let path = format!(
        "/v1.51/commit?container={id}&repo=made&tag=1&comment=c&author=me&changes=ENV+C%3D3"
    );
    let body = r#"{"Cmd":["env"],"Env":["B=2"]}"#;
    let answer = tell(&engine, "POST", &path, body).expect(201).json();
    let image = answer["Id"].as_str().unwrap();
    let inspected = ask(&engine, "GET", "/v1.51/images/made:1/json").json();
    assert_eq!(inspected["Id"], image);
    assert_eq!(inspected["Author"], "me");
    assert_eq!(inspected["Config"]["Cmd"], serde_json::json!(["env"]));
    let env: Vec<&str> = inspected["Config"]["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable.as_str().unwrap())
        .collect();
    for variable in ["A=1", "B=2", "C=3"] {
        assert!(env.contains(&variable), "{env:?}");
    }
    let path = format!("/v1.51/commit?container={id}&changes=RUN+true");
    let refused = tell(&engine, "POST", &path, "null");
    assert_eq!(refused.status, 400);
    assert_eq!(refused.message(), "RUN is not a valid change command");
    assert_eq!(
        tell(&engine, "POST", "/v1.51/commit?container=no", "").status,
        404
    );
    assert_eq!(tell(&engine, "POST", "/v1.51/commit", "").status, 400);
}
