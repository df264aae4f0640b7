//! What is null, what is empty and what is absent.

use serde_json::{Value, json};

use crate::engine_with_busybox;
use crate::http::{ask, tell};

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

#[test]
fn container_has_dockers_shape() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let created = tell(
        &engine,
        "POST",
        "/v1.51/containers/create?name=shape",
        r#"{"image":"busybox","CMD":"true","labels":{"a":"b"},"Unknown":[{}],
            "ExposedPorts":{"81/tcp":{}},"HostConfig":{"PortBindings":{"80/tcp":[{}]}}}"#,
    )
    .expect(201);
    assert!(created.body.ends_with(b"}\n"));
    assert_eq!(created.json()["Warnings"], json!([]));
    let id = created.json()["Id"].as_str().unwrap().to_owned();

    let inspect = ask(&engine, "GET", "/v1.51/containers/shape/json")
        .expect(200)
        .json();
    assert_eq!(inspect["Id"], id);
    assert_eq!(inspect["Name"], "/shape");
    assert_eq!(inspect["Path"], "true");
    assert_eq!(inspect["Args"], json!([]));
    assert_eq!(inspect["Config"]["Cmd"], json!(["true"]));
    assert_eq!(inspect["Config"]["Hostname"], id[..12]);
    assert_eq!(inspect["Config"]["OnBuild"], Value::Null);
    assert_eq!(inspect["Mounts"], json!([]));
    assert_eq!(inspect["ExecIDs"], Value::Null);
    assert_eq!(inspect["NetworkSettings"]["Ports"], json!({}));
    assert_eq!(inspect["HostConfig"]["Binds"], Value::Null);
    assert_eq!(inspect["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(inspect["State"]["Status"], "created");
    assert_eq!(inspect["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(inspect["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
    assert!(!keys(&inspect).contains(&"SizeRw"));
    let sized = ask(&engine, "GET", "/containers/shape/json?size=1")
        .expect(200)
        .json();
    assert!(sized["SizeRw"].is_i64() && sized["SizeRootFs"].as_i64() > Some(0));

    let list = ask(&engine, "GET", "/containers/json?all=1")
        .expect(200)
        .json();
    assert_eq!(list[0]["Names"], json!(["/shape"]));
    assert_eq!(list[0]["Ports"], json!([]));
    assert_eq!(list[0]["Mounts"], json!([]));
    assert_eq!(list[0]["Status"], "Created");
    assert_eq!(list[0]["HostConfig"]["NetworkMode"], "bridge");
    assert!(!keys(&list[0]).contains(&"SizeRw"));
    assert_eq!(ask(&engine, "GET", "/containers/json").json(), json!([]));

    // Both encodings of filters, and all three ways to name a container.
    for filters in [
        "%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D",
        "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D",
    ] {
        let path = format!("/containers/json?all=1&filters={filters}");
        assert_eq!(
            ask(&engine, "GET", &path).json().as_array().unwrap().len(),
            1
        );
    }
    for name in [&id, &id[..12], "shape", "%2Fshape"] {
        let _ = ask(&engine, "GET", &format!("/containers/{name}/json")).expect(200);
    }
}

#[test]
fn endpoint_has_a_gateway_priority_since_1_48() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let body = r#"{"Image":"busybox"}"#;
    let _ = tell(&engine, "POST", "/containers/create?name=gw", body).expect(201);
    let has = |version: &str| {
        let answer = ask(&engine, "GET", &format!("/v{version}/containers/gw/json")).json();
        answer["NetworkSettings"]["Networks"]["bridge"]
            .get("GwPriority")
            .is_some()
    };
    assert!(has("1.48") && !has("1.47"));
}

#[test]
fn image_has_the_fields_of_its_version() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let inspect = |version: &str| {
        ask(&engine, "GET", &format!("/v{version}/images/busybox/json"))
            .expect(200)
            .json()
    };
    let (new, old) = (inspect("1.51"), inspect("1.24"));
    for absent in ["VirtualSize", "Container", "ContainerConfig"] {
        assert!(
            new.get(absent).is_none() && old.get(absent).is_some(),
            "{absent}"
        );
    }
    assert!(new["Config"].get("Hostname").is_none());
    assert_eq!(old["Config"]["Hostname"], "");
    assert_eq!(new["RepoTags"], json!(["busybox:latest"]));
    assert_eq!(new["RepoDigests"], json!([]));
    assert_eq!(new["RootFS"]["Type"], "layers");
    let list = ask(&engine, "GET", "/images/json").expect(200).json();
    assert_eq!(list[0]["RepoTags"], json!(["busybox:latest"]));
    assert_eq!(list[0]["SharedSize"], -1);
    assert!(list[0].get("VirtualSize").is_none());
    let history = ask(&engine, "GET", "/images/busybox/history")
        .expect(200)
        .json();
    assert_eq!(history[0]["Tags"], json!(["busybox:latest"]));
    assert_eq!(history[1]["Id"], "<missing>");
}

#[test]
fn lists_of_nothing_are_lists() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = crate::engine();
    assert_eq!(
        ask(&engine, "GET", "/containers/json?all=1")
            .expect(200)
            .text(),
        "[]
"
    );
    assert_eq!(
        ask(&engine, "GET", "/volumes").expect(200).text(),
        "{\"Volumes\":[],\"Warnings\":null}\n"
    );
}

#[test]
fn statuses_are_dockers() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let body = r#"{"Image":"busybox","Cmd":["sleep","1000"],"StopSignal":"KILL"}"#;
    let create = "/containers/create?name=code";
    let missing = r#"{"Image":"nonesuch","Cmd":["x"]}"#;
    let steps = [
        ("POST", create, body, 201),
        ("POST", create, body, 409),
        ("POST", "/containers/create?name=-bad", body, 400),
        ("POST", "/containers/create", missing, 404),
        ("POST", "/containers/code/stop", "", 304),
        ("POST", "/containers/code/kill", "", 409),
        ("POST", "/containers/code/pause", "", 409),
        ("POST", "/containers/code/start", "", 204),
        ("POST", "/containers/code/start", "", 304),
        ("POST", "/containers/code/resize?h=1", "", 400),
        ("POST", "/containers/code/kill?signal=NONESUCH", "", 400),
        ("POST", "/containers/code/rename?name=", "", 400),
        ("POST", "/containers/code/wait?condition=x", "", 400),
        ("GET", "/containers/code/logs", "", 400),
        ("POST", "/containers/code/exec", "{}", 400),
        ("DELETE", "/containers/code", "", 409),
        ("DELETE", "/images/busybox", "", 409),
        ("POST", "/containers/code/pause", "", 204),
        ("POST", "/containers/code/exec", r#"{"Cmd":["x"]}"#, 409),
        ("POST", "/containers/code/attach?stream=1&stdout=1", "", 409),
        ("POST", "/containers/code/unpause", "", 204),
        ("POST", "/containers/code/restart?t=0", "", 204),
        ("POST", "/containers/code/stop?t=0", "", 204),
        ("POST", "/containers/code/exec", r#"{"Cmd":["x"]}"#, 409),
        ("DELETE", "/containers/code?v=1", "", 204),
        ("DELETE", "/containers/code", "", 404),
        ("POST", "/volumes/create", r#"{"Name":"vol"}"#, 201),
        ("POST", "/volumes/create", r#"{"Name":"vol"}"#, 201),
        ("POST", "/volumes/create", r#"{"Name":"../x"}"#, 400),
        ("DELETE", "/volumes/vol", "", 204),
        ("DELETE", "/volumes/vol", "", 404),
        ("DELETE", "/volumes/vol?force=1", "", 204),
        ("DELETE", "/networks/bridge", "", 403),
        ("DELETE", "/networks/nonesuch", "", 404),
        ("POST", "/images/busybox/tag?repo=UPPER", "", 400),
        ("POST", "/images/busybox/tag?repo=a/b&tag=c", "", 201),
        ("GET", "/images/a/b:c/json", "", 200),
        ("DELETE", "/images/a/b:c", "", 200),
        (
            "POST",
            "/images/create?fromSrc=http://127.0.0.1:1/x.tar",
            "",
            503,
        ),
        (
            "POST",
            "/images/create?fromSrc=ftp://127.0.0.1/x.tar",
            "",
            400,
        ),
        ("POST", "/images/create", "", 400),
    ];
    for (method, path, body, status) in steps {
        let answer = if body.is_empty() {
            ask(&engine, method, path)
        } else {
            tell(&engine, method, path, body)
        };
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        match status {
            204 | 304 => assert!(answer.body.is_empty(), "{method} {path}"),
            400.. => assert!(!answer.message().is_empty(), "{method} {path}"),
            _ => {}
        }
    }
}
