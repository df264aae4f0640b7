//! `sampan inspect` of every kind of object.

use sampan_api::Client;
use sampan_api::client::Kind;
use sampan_text::duration;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::{Data, Nil, indent_json};
use super::format::template::{ROOT, Scope, Template};
use super::output;
use super::session::Session;

const FORMAT: Flag = Flag::one(
    "format",
    "string",
    "Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
)
.short('f');

pub(crate) const ANY: Command = Command {
    names: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Return low-level information on Docker objects",
    flags: &[&[
        FORMAT,
        Flag::switch("size", "Display total file sizes if the type is container").short('s'),
        Flag::one("type", "string", "Only inspect objects of the given type"),
    ]],
    arguments: Arguments::AtLeast(1),
    run: any,
    ..Command::PLAIN
};

pub(crate) const CONTAINER: Command = Command {
    names: &["container inspect"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Display detailed information on one or more containers",
    flags: &[&[
        FORMAT,
        Flag::switch("size", "Display total file sizes").short('s'),
    ]],
    arguments: Arguments::AtLeast(1),
    run: |session, parsed| {
        let size = parsed.switch("size")?;
        print(session, parsed, &[Object::Container { size }])
    },
    ..Command::PLAIN
};

pub(crate) const IMAGE: Command = Command {
    names: &["image inspect"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Display detailed information on one or more images",
    flags: &[&[FORMAT]],
    refused: &[("platform", None)],
    arguments: Arguments::AtLeast(1),
    run: |session, parsed| print(session, parsed, &[Object::Image]),
    ..Command::PLAIN
};

pub(crate) const VOLUME: Command = Command {
    names: &["volume inspect"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Display detailed information on one or more volumes",
    flags: &[&[FORMAT]],
    arguments: Arguments::AtLeast(1),
    run: |session, parsed| print(session, parsed, &[Object::Volume]),
    ..Command::PLAIN
};

pub(crate) const NETWORK: Command = Command {
    names: &["network inspect"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Display detailed information on one or more networks",
    flags: &[&[FORMAT]],
    refused: &[("verbose", Some('v'))],
    arguments: Arguments::AtLeast(1),
    run: |session, parsed| print(session, parsed, &[Object::Network]),
    ..Command::PLAIN
};

/// What kind of object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    Container { size: bool },
    Image,
    Network,
    Volume,
}

/// Docker's types of objects.
const TYPES: &str = "\"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"";

fn any(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let size = parsed.switch("size")?;
    let container = Object::Container { size };
    let kinds = match parsed.text("type") {
        None => vec![container, Object::Image, Object::Network, Object::Volume],
        Some("container") => vec![container],
        Some("image") => vec![Object::Image],
        Some("network") => vec![Object::Network],
        Some("volume") => vec![Object::Volume],
        Some("") => {
            return Err(Failure::message(format!(
                "type is empty: must be one of {TYPES}"
            )));
        }
        Some(other) => {
            return Err(Failure::message(format!(
                "unknown type: {other:?}: must be one of {TYPES}"
            )));
        }
    };
    print(session, parsed, &kinds)
}

/// Prints all objects of any of `kinds`, and then what was not found or does not fit.
fn print(session: &Session, parsed: &Parsed<'_>, kinds: &[Object]) -> Result<u8, Failure> {
    let format = parsed.text("format").unwrap_or("");
    let template = match format {
        "" | "json" => None,
        text => Some(Template::parse(text).map_err(Failure::from)?),
    };
    let client = session.client()?;
    let names = parsed.arguments();
    let answers = session.wait(find_all(client, &names, kinds));
    let mut failures = Vec::new();
    let mut found = Vec::new();
    let mut out = String::new();
    let size = parsed.switch("size")?;
    for answer in answers {
        if let (true, Ok((_, kind))) = (size, &answer) {
            warn_of_size(*kind);
        }
        let shown =
            answer
                .map_err(|failure| failure.text())
                .and_then(|(json, _)| match &template {
                    Some(template) => fill(template, &json).map(|text| out.push_str(&text)),
                    None => {
                        found.push(json);
                        Ok(())
                    }
                });
        failures.extend(shown.err());
    }
    if template.is_some() {
        if out.is_empty() {
            out.push('\n');
        }
    } else {
        let all = format!("[{}]", found.join(","));
        out = match format {
            "json" => compact(&indent_json(&all, "")),
            _ => indent_json(&all, "    "),
        };
        out.push('\n');
    }
    output::text(&out);
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::Message(failures.join("\n")))
    }
}

/// Fills a template with an object and ends the line. As Docker does, tries Go's types first and
/// then plain JSON, whose mistake is told.
fn fill(template: &Template, json: &str) -> Result<String, String> {
    let plain =
        Data::parse(json.as_bytes()).map_err(|error| format!("cannot read the answer: {error}"))?;
    let mut typed = plain.clone();
    give_types(&mut typed, "");
    template
        .render(&typed, SCOPE)
        .or_else(|_| template.render(&plain, PLAIN))
        .map(|text| text + "\n")
        .map_err(|error| format!("template parsing error: {error}"))
}

/// JSON without blanks between its parts.
fn compact(json: &str) -> String {
    Data::parse(json.as_bytes()).map_or_else(|_| json.to_owned(), |data| data.to_json())
}

async fn find_all(
    client: &Client,
    names: &[&str],
    kinds: &[Object],
) -> Vec<Result<(String, Object), Failure>> {
    let mut answers = Vec::new();
    for name in names {
        answers.push(find(client, name, kinds).await);
    }
    answers
}

async fn find(client: &Client, name: &str, kinds: &[Object]) -> Result<(String, Object), Failure> {
    let name = name.trim();
    for kind in kinds {
        match fetch(client, name, *kind).await {
            Err(failure) if failure.is_not_found() && kinds.len() > 1 => {}
            other => return other.map(|json| (json, *kind)),
        }
    }
    Err(Failure::message(format!("Error: No such object: {name}")))
}

/// Says that `--size` has no meaning for what was found.
fn warn_of_size(found: Object) {
    let name = match found {
        Object::Container { .. } => return,
        Object::Image => "image",
        Object::Network => "network",
        Object::Volume => "volume",
    };
    eprintln!("WARNING: --size ignored for {name}");
}

async fn fetch(client: &Client, name: &str, kind: Object) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::message(
            "invalid container name or ID: value is empty",
        ));
    }
    let segment = sampan_api::client::encode_segment(name);
    let response = match kind {
        Object::Container { size } => client.inspect_container_raw(name, size).await,
        Object::Image => client.inspect_image_raw(name).await,
        Object::Network => {
            let path = format!("/networks/{segment}");
            client.request(http::Method::GET, path).send().await
        }
        Object::Volume => {
            let path = format!("/volumes/{segment}");
            client.request(http::Method::GET, path).send().await
        }
    };
    // A name that only another kind of object can have is not this kind.
    let response = match response {
        Err(error)
            if error.kind() == Kind::Invalid && kind != (Object::Container { size: false }) =>
        {
            let message = error.to_string();
            return Err(Failure::Client(sampan_api::client::Error::Status {
                status: 404,
                message,
                hint: None,
            }));
        }
        other => other?,
    };
    let bytes = response.bytes().await?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// What templates of `inspect` may rely on: Go evaluates them on typed values, so that a field
/// that was left out of the JSON is there with its zero value.
const SCOPE: Scope<'static> = Scope {
    type_name: "map[string]interface {}",
    label: None,
    absent,
    alias,
    struct_name: |_| None,
    untyped: false,
    header: false,
};

/// What templates that do not fit Go's types are tried with.
const PLAIN: Scope<'static> = Scope {
    type_name: "map[string]interface {}",
    label: None,
    absent: |_, _| None,
    alias: |_| None,
    struct_name: |_| None,
    untyped: true,
    header: false,
};

/// Fields that hold maps with keys of any name.
const MAPS: &[&str] = &[
    "Annotations",
    "AuxiliaryAddresses",
    "Containers",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Fields that hold lists.
const LISTS: &[&str] = &[
    "Aliases",
    "Args",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "Log",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "Shell",
    "Test",
    "Ulimits",
    "VolumesFrom",
];

/// Pointers, left out of the JSON or null when nothing is there.
const POINTERS: &[&str] = &[
    "BindOptions",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "ImageManifestDescriptor",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "SizeRootFs",
    "SizeRw",
    "StopTimeout",
    "TmpfsOptions",
    "UsageData",
    "VolumeOptions",
];

/// Texts that are left out of the JSON when they are empty.
const TEXTS: &[&str] = &[
    "Author",
    "Comment",
    "Container",
    "CreatedAt",
    "DockerVersion",
    "Driver",
    "HostIp",
    "MacAddress",
    "Name",
    "Parent",
    "Runtime",
    "StopSignal",
    "Type",
    "Variant",
];

/// Switches that are left out of the JSON when they are off.
const SWITCHES: &[&str] = &["ArgsEscaped", "NetworkDisabled", "PublishAllPorts"];

fn absent(parent: &str, field: &str) -> Option<Data> {
    let has = |names: &[&str]| names.binary_search(&field).is_ok();
    if MAPS.contains(&parent) {
        return Some(Data::Nil(Nil::Unknown));
    }
    // Objects of some kinds have these, and then always.
    if parent == ROOT && ["Args", "Mounts", "Name", "RepoDigests", "RepoTags"].contains(&field) {
        return None;
    }
    if MAPS.contains(&field) {
        Some(Data::Nil(Nil::Map))
    } else if has(LISTS) {
        Some(Data::Nil(Nil::Slice))
    } else if has(POINTERS) {
        Some(Data::Nil(Nil::Pointer))
    } else if has(TEXTS) {
        Some(Data::Text(String::new()))
    } else if has(SWITCHES) {
        Some(Data::Bool(false))
    } else {
        None
    }
}

/// Fields whose name in Go is not their name in JSON.
fn alias(field: &str) -> Option<&'static str> {
    match field {
        "ID" => Some("Id"),
        "HostIP" => Some("HostIp"),
        "DNS" => Some("Dns"),
        "DNSOptions" => Some("DnsOptions"),
        "DNSSearch" => Some("DnsSearch"),
        "OSVersion" => Some("OsVersion"),
        "CPUShares" => Some("CpuShares"),
        "CPUPeriod" => Some("CpuPeriod"),
        "CPUQuota" => Some("CpuQuota"),
        "CPURealtimePeriod" => Some("CpuRealtimePeriod"),
        "CPURealtimeRuntime" => Some("CpuRealtimeRuntime"),
        "CPUCount" => Some("CpuCount"),
        "CPUPercent" => Some("CpuPercent"),
        "NanoCPUs" => Some("NanoCpus"),
        _ => None,
    }
}

/// Tells structs from maps by the names of the fields that hold them, gives nulls their type, and
/// gives what Go prints in another way its words.
fn give_types(data: &mut Data, name: &str) {
    match data {
        Data::Object(fields) => {
            let map = MAPS.contains(&name);
            let ports = matches!(name, "Ports" | "PortBindings");
            for (key, value) in &mut *fields {
                match value {
                    Data::Nil(_) if ports => *value = Data::Nil(Nil::Slice),
                    Data::Nil(Nil::Unknown) if !map => {
                        *value = absent(name, key).unwrap_or(Data::Nil(Nil::Unknown));
                    }
                    // The key of a map says nothing about its value.
                    value if map => give_types(value, ""),
                    // The one map that is called as a struct elsewhere.
                    value if name == "LogConfig" => give_types(value, "Options"),
                    Data::Int(nanoseconds)
                        if name == "Healthcheck" && DURATIONS.contains(&key.as_str()) =>
                    {
                        let text = duration::written(*nanoseconds);
                        *value = Data::Shown(Box::new(Data::Int(*nanoseconds)), text);
                    }
                    value => give_types(value, key),
                }
            }
            if map {
                return;
            }
            let object = Data::Struct(std::mem::take(fields));
            *data = match name {
                "Ulimits" => {
                    let (soft, hard) = (object.int_at("Soft"), object.int_at("Hard"));
                    let text = format!("{}={soft}:{hard}", object.text_at("Name"));
                    Data::Shown(Box::new(object), text)
                }
                _ => shaped(object, name),
            };
        }
        Data::List(items) => items.iter_mut().for_each(|item| give_types(item, name)),
        _ => {}
    }
}

/// An object as Go prints the struct that a field holds, where some of its fields are left out of
/// the JSON.
fn shaped(object: Data, name: &str) -> Data {
    let fields: &[&str] = match name {
        "State" => &[
            "Status",
            "Running",
            "Paused",
            "Restarting",
            "OOMKilled",
            "Dead",
            "Pid",
            "ExitCode",
            "Error",
            "StartedAt",
            "FinishedAt",
            "Health",
        ],
        "Mounts" if object.get("Destination").is_some() => &[
            "Type",
            "Name",
            "Source",
            "Destination",
            "Driver",
            "Mode",
            "RW",
            "Propagation",
        ],
        "GraphDriver" => &["Data", "Name"],
        "Config" if object.get("Hostname").is_some() => &[
            "Hostname",
            "Domainname",
            "User",
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "ExposedPorts",
            "Tty",
            "OpenStdin",
            "StdinOnce",
            "Env",
            "Cmd",
            "Healthcheck",
            "ArgsEscaped",
            "Image",
            "Volumes",
            "WorkingDir",
            "Entrypoint",
            "NetworkDisabled",
            "MacAddress",
            "OnBuild",
            "Labels",
            "StopSignal",
            "StopTimeout",
            "Shell",
        ],
        _ => return object,
    };
    let zero = |field| absent(name, field).unwrap_or(Data::Text(String::new()));
    let fields: Vec<(&str, Data)> = fields.iter().map(|field| (*field, zero(field))).collect();
    object.shaped(&fields)
}

/// Fields of a health check that are nanoseconds.
const DURATIONS: &[&str] = &["Interval", "Timeout", "StartPeriod", "StartInterval"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_are_sorted() {
        for names in [MAPS, LISTS, POINTERS, TEXTS, SWITCHES] {
            assert!(names.is_sorted());
        }
    }

    #[test]
    fn what_was_left_out_has_gos_zero_value() {
        let json = r#"{"State":{"Running":true},"Config":{"Labels":{"a":"1"},"Volumes":null,"Env":null},
            "NetworkSettings":{"Ports":{"443/tcp":null,"80/tcp":[{"HostIp":"","HostPort":"8080"}]}}}"#;
        let mut data = Data::parse(json.as_bytes()).unwrap();
        give_types(&mut data, "");
        for (template, expected) in [
            (
                "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}",
                "none",
            ),
            (
                "{{.Config.Volumes}} {{.Config.Env}} {{.Config.Healthcheck}}",
                "map[] [] <nil>",
            ),
            ("{{json .Config.Volumes}}", "null"),
            (
                "{{index .Config.Labels \"b\"}}|{{.Config.Labels.b}}",
                "|<no value>",
            ),
            ("{{.Config.StopSignal}}", ""),
            ("{{range .Config.Env}}{{println .}}{{end}}", ""),
            ("{{len .Config.Env}}", "0"),
            (
                "{{.NetworkSettings.Ports}}",
                "map[443/tcp:[] 80/tcp:[{ 8080}]]",
            ),
            (
                "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
                "8080",
            ),
        ] {
            let rendered = Template::parse(template).unwrap().render(&data, SCOPE);
            assert_eq!(rendered.as_deref(), Ok(expected), "{template}");
        }
        let wrong = Template::parse("{{.Foo}}").unwrap().render(&data, SCOPE);
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""
        );
    }
}
