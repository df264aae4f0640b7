//! `sampan info`.

use std::fmt::Write as _;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::{Data, Nil};
use super::format::template::{ROOT, Scope, Template};
use super::format::units;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["system info", "info"],
    usage: "[OPTIONS]",
    about: "Display system-wide information",
    flags: &[&[Flag::one(
        "format",
        "string",
        "Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    )
    .short('f')]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let mut info = session.wait(async {
        let request = client.request(http::Method::GET, "/info");
        super::read_data(request.send().await?).await
    })?;
    if let Data::Object(fields) = &mut info {
        let version = Data::Object(vec![
            ("Version".to_owned(), Data::from(env!("CARGO_PKG_VERSION"))),
            ("Context".to_owned(), Data::from("default")),
        ]);
        fields.push(("ClientInfo".to_owned(), version));
    }
    let text = match parsed.text("format").unwrap_or("") {
        "" => shown(&info),
        "json" => info.to_json() + "\n",
        format => {
            let template = Template::parse(format).map_err(Failure::from)?;
            let (text, error) = template.render_partly(&typed(info.clone()), SCOPE);
            output::line(&text);
            return error.map_or(Ok(0), |error| Err(Failure::from(error)));
        }
    };
    output::text(&text);
    for warning in info.list_at("Warnings").iter().filter_map(Data::as_text) {
        eprintln!("{warning}");
    }
    Ok(0)
}

/// What templates see of Go's types.
const SCOPE: Scope<'static> = Scope {
    type_name: "system.dockerInfo",
    label: None,
    absent: |parent, field| match (parent, field) {
        (ROOT, "Labels" | "SecurityOptions" | "Warnings" | "CDISpecDirs" | "DiscoveredDevices") => {
            Some(Data::Nil(Nil::Slice))
        }
        (ROOT, "Isolation" | "OSVersion" | "HttpProxy" | "HttpsProxy" | "NoProxy")
        | (ROOT, "HTTPProxy" | "HTTPSProxy" | "ProductLicense")
        | ("Swarm", "NodeID" | "NodeAddr" | "Error") => Some(Data::Text(String::new())),
        (ROOT, "KernelMemory" | "KernelMemoryTCP") => Some(Data::Bool(false)),
        _ => None,
    },
    alias: |field| match field {
        "CPUCfsPeriod" => Some("CpuCfsPeriod"),
        "CPUCfsQuota" => Some("CpuCfsQuota"),
        "HTTPProxy" => Some("HttpProxy"),
        "HTTPSProxy" => Some("HttpsProxy"),
        _ => None,
    },
    struct_name: |field| match field {
        "Swarm" => Some("swarm.Info"),
        "Plugins" => Some("system.PluginsInfo"),
        _ => None,
    },
    untyped: false,
    header: false,
};

/// Gives what Go has as structs their shape, and what it encodes by itself its order.
fn typed(mut info: Data) -> Data {
    let text = || Data::Text(String::new());
    let commit = [("ID", text()), ("Expected", text())];
    let plugins = ["Volume", "Network", "Authorization", "Log"];
    let plugins = plugins.map(|kind| (kind, Data::Nil(Nil::Slice)));
    if let Data::Object(fields) = &mut info {
        for (name, value) in fields {
            let taken = std::mem::replace(value, Data::Nil(Nil::Unknown));
            *value = match name.as_str() {
                "ContainerdCommit" | "RuncCommit" | "InitCommit" => taken.shaped(&commit),
                "Plugins" => taken.shaped(&plugins),
                "RegistryConfig" => sorted(taken),
                _ => taken,
            };
        }
    }
    info
}

/// With the fields of all objects in the order of their names.
fn sorted(data: Data) -> Data {
    match data {
        Data::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name, sorted(value)));
            let mut fields: Vec<_> = fields.collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Data::Object(fields)
        }
        other => other,
    }
}

fn shown(info: &Data) -> String {
    let mut out = format!(
        "Client: Sampan\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let number = |path: &str| info.int_at(path).to_string();
    line(&mut out, "Containers", &number("Containers"));
    line(&mut out, " Running", &number("ContainersRunning"));
    line(&mut out, " Paused", &number("ContainersPaused"));
    line(&mut out, " Stopped", &number("ContainersStopped"));
    line(&mut out, "Images", &number("Images"));
    line(&mut out, "Server Version", info.text_at("ServerVersion"));
    line(&mut out, "Storage Driver", info.text_at("Driver"));
    for pair in info.list_at("DriverStatus") {
        if let [name, value] = pair.items() {
            line(&mut out, &format!(" {name}"), &value.to_string());
        }
    }
    line(&mut out, "Logging Driver", info.text_at("LoggingDriver"));
    line(&mut out, "Cgroup Driver", info.text_at("CgroupDriver"));
    line(&mut out, "Cgroup Version", info.text_at("CgroupVersion"));
    let names = |path: &str| {
        let items = info.list_at(path).iter().filter_map(Data::as_text);
        items.collect::<Vec<_>>().join(" ")
    };
    let plugins = [
        ("  Volume", names("Plugins.Volume")),
        ("  Network", names("Plugins.Network")),
        ("  Log", names("Plugins.Log")),
    ];
    if plugins.iter().any(|(_, names)| !names.is_empty()) {
        heading(&mut out, " Plugins:");
    }
    for (kind, names) in &plugins {
        line(&mut out, &kind[1..], names);
    }
    let directories = info.list_at("CDISpecDirs");
    if !directories.is_empty() {
        heading(&mut out, " CDI spec directories:");
    }
    for directory in directories.iter().filter_map(Data::as_text) {
        heading(&mut out, &format!("  {directory}"));
    }
    let devices = info.list_at("DiscoveredDevices");
    if !devices.is_empty() {
        heading(&mut out, " Discovered Devices:");
    }
    for device in devices {
        let (source, id) = (device.text_at("Source"), device.text_at("ID"));
        heading(&mut out, &format!("  {source}: {id}"));
    }
    line(&mut out, "Swarm", info.text_at("Swarm.LocalNodeState"));
    let runtimes: Vec<&str> = info
        .sorted_at("Runtimes")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    line(&mut out, "Runtimes", &runtimes.join(" "));
    line(&mut out, "Default Runtime", info.text_at("DefaultRuntime"));
    line(&mut out, "Init Binary", info.text_at("InitBinary"));
    let options = info.list_at("SecurityOptions");
    if !options.is_empty() {
        heading(&mut out, " Security Options:");
    }
    for option in options.iter().filter_map(Data::as_text) {
        for part in option.split(',') {
            match part.split_once('=') {
                Some(("name", name)) => heading(&mut out, &format!("  {name}")),
                Some((key, value)) => {
                    heading(&mut out, &format!("   {}: {value}", capital(key)));
                }
                None => {}
            }
        }
    }
    line(&mut out, "Kernel Version", info.text_at("KernelVersion"));
    line(
        &mut out,
        "Operating System",
        info.text_at("OperatingSystem"),
    );
    line(&mut out, "OSType", info.text_at("OSType"));
    line(&mut out, "Architecture", info.text_at("Architecture"));
    line(&mut out, "CPUs", &number("NCPU"));
    line(
        &mut out,
        "Total Memory",
        &units::binary_size(info.int_at("MemTotal")),
    );
    line(&mut out, "Name", info.text_at("Name"));
    line(&mut out, "ID", info.text_at("ID"));
    line(&mut out, "Docker Root Dir", info.text_at("DockerRootDir"));
    line(&mut out, "Debug Mode", &info.bool_at("Debug").to_string());
    line(&mut out, "HTTP Proxy", info.text_at("HttpProxy"));
    line(&mut out, "HTTPS Proxy", info.text_at("HttpsProxy"));
    line(&mut out, "No Proxy", info.text_at("NoProxy"));
    line(
        &mut out,
        "Experimental",
        &info.bool_at("ExperimentalBuild").to_string(),
    );
    let indexes = info.sorted_at("RegistryConfig.IndexConfigs");
    let insecure = indexes
        .into_iter()
        .filter(|(_, index)| !index.bool_at("Secure"));
    let networks = info.list_at("RegistryConfig.InsecureRegistryCIDRs").iter();
    let insecure: Vec<&str> = insecure
        .map(|(name, _)| name)
        .chain(networks.filter_map(Data::as_text))
        .collect();
    if !insecure.is_empty() {
        heading(&mut out, " Insecure Registries:");
    }
    for registry in insecure {
        heading(&mut out, &format!("  {registry}"));
    }
    let mirrors = info.list_at("RegistryConfig.Mirrors");
    if !mirrors.is_empty() {
        heading(&mut out, " Registry Mirrors:");
    }
    for mirror in mirrors.iter().filter_map(Data::as_text) {
        heading(&mut out, &format!("  {mirror}"));
    }
    let live = info.bool_at("LiveRestoreEnabled");
    line(&mut out, "Live Restore Enabled", &live.to_string());
    out.push('\n');
    out
}

/// A line of a name and a value, unless the value is empty.
fn line(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        heading(out, &format!(" {name}: {value}"));
    }
}

fn heading(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
