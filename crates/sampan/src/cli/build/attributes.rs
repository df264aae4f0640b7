//! What is asked of a build, in the names that BuildKit's frontend has for it.

use std::collections::HashMap;

use sampan_buildkit::control::{CacheOptions, CacheOptionsEntry};
use sampan_oci::Digest;
use serde_json::Value;

use super::context::{Source, is_address};
use super::files::{Directories, Directory};
use super::lend::Input;
use super::stores::Stores;
use crate::cli::command::Parsed;
use crate::cli::failure::Failure;
use crate::cli::flags::{integer, size, ulimit};
use crate::cli::format::table;
use crate::cli::output;

/// All that is asked, and what is offered for it.
pub(super) struct Asked {
    pub(super) attributes: HashMap<String, String>,
    pub(super) cache: CacheOptions,
    pub(super) entitlements: Vec<String>,
    pub(super) directories: Directories,
    pub(super) stores: Stores,
    pub(super) input: Input,
    pub(super) dockerfile: Option<(String, String)>,
    pub(super) shared_key: String,
}

/// A question about a Dockerfile, instead of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Check,
    Outline,
    Targets,
}

impl Call {
    fn request(self) -> &'static str {
        match self {
            Self::Check => "frontend.lint",
            Self::Outline => "frontend.outline",
            Self::Targets => "frontend.targets",
        }
    }

    /// Prints the answer; answers the exit code.
    pub(super) fn print(self, response: &HashMap<String, String>) -> Result<u8, Failure> {
        let field = |name: &str| response.get(name).map(String::as_str);
        let json = field("result.json").unwrap_or("{}");
        let text = field("result.txt").filter(|text| !text.is_empty());
        let result: Value = serde_json::from_str(json).unwrap_or_default();
        let table = match self {
            Self::Check => None,
            Self::Outline => Some(outline(&result)),
            Self::Targets => Some(targets(&result)),
        };
        if let Some(table) = table {
            output::text(&table);
            return Ok(0);
        }
        let warnings = result["warnings"].as_array().map_or(0, Vec::len);
        let told = match warnings {
            0 if field("result.statuscode") == Some("1") => String::new(),
            0 => "Check complete, no warnings found.\n".to_owned(),
            1 => "Check complete, 1 warning has been found!\n\n".to_owned(),
            count => format!("Check complete, {count} warnings have been found!\n\n"),
        };
        output::text(&told);
        output::text(text.unwrap_or_default());
        Ok(u8::from(field("result.statuscode") == Some("1")))
    }
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// The stages that can be built.
fn targets(list: &Value) -> String {
    let mut text = String::from("TARGET\tDESCRIPTION\n");
    for target in rows(list, "Targets") {
        let mark = match target["default"].as_bool() {
            Some(true) => " (default)",
            _ => "",
        };
        let (name, about) = (word(target, "name"), word(target, "description"));
        text.push_str(&format!("{name}{mark}\t{about}\n"));
    }
    table::align(&text)
}

/// What a build of the target can be given.
fn outline(outline: &Value) -> String {
    let mut text = format!("TARGET:\t{}\n", word(outline, "name"));
    let about = word(outline, "description");
    if !about.is_empty() {
        text.push_str(&format!("DESCRIPTION:\t{about}\n"));
    }
    let arguments = rows(outline, "args");
    if !arguments.is_empty() {
        text.push_str("\nBUILD ARG\tVALUE\n");
    }
    for argument in arguments {
        text.push_str(&format!(
            "{}\t{}\n",
            word(argument, "name"),
            word(argument, "value")
        ));
    }
    for (title, name) in [("SECRET", "secrets"), ("SSH", "ssh")] {
        let lent = rows(outline, name);
        if !lent.is_empty() {
            text.push_str(&format!("\n{title}\tREQUIRED\n"));
        }
        for lent in lent {
            let required = lent["required"].as_bool().unwrap_or(false);
            text.push_str(&format!("{}\t{required}\n", word(lent, "name")));
        }
    }
    table::align(&text)
}

/// What `--call` and `--check` ask, if it is no build.
pub(super) fn call(parsed: &Parsed<'_>) -> Result<Option<Call>, Failure> {
    let call = parsed.text("call").unwrap_or("build");
    let call = match (call, parsed.switch("check")?) {
        ("build" | "check" | "lint", true) | ("check" | "lint", false) => Some(Call::Check),
        ("outline", false) => Some(Call::Outline),
        ("targets", false) => Some(Call::Targets),
        ("build" | "", false) => None,
        (other, true) => {
            return Err(Failure::message(format!(
                "--check and --call={other} contradict each other"
            )));
        }
        (other, false) => {
            return Err(Failure::message(format!(
                "--call={other} is unknown: there are build, check, outline and targets"
            )));
        }
    };
    Ok(call)
}

/// Reads all flags that say how to build.
pub(super) fn read(
    parsed: &Parsed<'_>,
    source: Source,
    call: Option<Call>,
) -> Result<Asked, Failure> {
    let Source {
        mut attributes,
        mut directories,
        input,
        dockerfile,
        mut shared_key,
    } = source;
    let mut put = |name: &str, value: String| attributes.insert(name.to_owned(), value);
    if let Some(call) = call {
        put("requestid", call.request().to_owned());
        put(
            "frontend.caps",
            "moby.buildkit.frontend.subrequests".to_owned(),
        );
    }
    for text in parsed.texts("build-arg") {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(Failure::message(format!("invalid build argument: {text}")));
        }
        if let Some(value) = value {
            put(&format!("build-arg:{name}"), value);
        }
    }
    for text in parsed.texts("label") {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        put(&format!("label:{name}"), value.to_owned());
    }
    for (flag, name) in [
        ("target", "target"),
        ("platform", "platform"),
        ("cpuset-cpus", "cpusetcpus"),
        ("cpuset-mems", "cpusetmems"),
        ("cgroup-parent", "cgroup-parent"),
    ] {
        if let Some(text) = parsed.text(flag).filter(|text| !text.is_empty()) {
            put(name, text.to_owned());
        }
    }
    for (name, number) in [
        ("memory", parsed.value("memory", size::bytes)?),
        ("memswap", parsed.value("memory-swap", size::swap)?),
        ("shm-size", parsed.value("shm-size", size::bytes)?),
        ("cpushares", parsed.value("cpu-shares", integer)?),
        ("cpuperiod", parsed.value("cpu-period", integer)?),
        ("cpuquota", parsed.value("cpu-quota", integer)?),
    ] {
        if let Some(number) = number {
            put(name, number.to_string());
        }
    }
    let limits = parsed.values("ulimit", ulimit::parse)?;
    if !limits.is_empty() {
        let limits = limits.iter();
        let limits = limits.map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard));
        put("ulimit", limits.collect::<Vec<_>>().join(","));
    }
    let hosts = parsed.texts("add-host");
    if !hosts.is_empty() {
        put("add-hosts", hosts_of(&hosts)?);
    }
    match parsed.text("network").unwrap_or("default") {
        "" | "default" => {}
        network => {
            put("force-network-mode", network.to_owned());
        }
    }
    let stages = parsed.texts("no-cache-filter");
    match (parsed.switch("no-cache")?, stages.is_empty()) {
        (true, true) => {
            put("no-cache", String::new());
        }
        (false, false) => {
            put("no-cache", stages.join(","));
        }
        (false, true) => {}
        (true, false) => {
            return Err(Failure::message(
                "--no-cache and --no-cache-filter cannot currently be used together",
            ));
        }
    }
    if parsed.switch("pull")? {
        put("image-resolve-mode", "pull".to_owned());
    }
    if parsed.switch("reproducible")? {
        put("reproducible", "true".to_owned());
    }
    if parsed.text("on-failure").is_some() {
        put("on-failure", "keep".to_owned());
    }
    for kind in ["provenance", "sbom"] {
        match parsed.text(kind) {
            None | Some("false" | "0" | "") => {}
            Some(_) => {
                return Err(Failure::message(format!(
                    "attestations are not supported: leave --{kind} out, or say --{kind}=false"
                )));
            }
        }
    }
    let mut stores = Stores::default();
    for text in parsed.texts("build-context") {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| {
                Failure::message(format!("invalid context value: {text}, expected key=value"))
            })?;
        let name = name.to_ascii_lowercase();
        if let Some(layout) = value.strip_prefix("oci-layout://") {
            put(&format!("context:{name}"), stores.image(layout)?);
            continue;
        }
        if is_address(value) {
            put(&format!("context:{name}"), value.to_owned());
            continue;
        }
        if !std::path::Path::new(value).is_dir() {
            return Err(Failure::message(format!(
                "failed to get build context {name}: {value} is not a directory"
            )));
        }
        // The engine keeps what it was sent by these names.
        let key = format!("named-{name}");
        put(&format!("context:{name}"), format!("local:{key}"));
        let whole = std::fs::canonicalize(value).unwrap_or_else(|_| value.into());
        let both = format!("{shared_key}\n{name}\n{}", whole.display());
        shared_key = Digest::of(both.as_bytes()).hex();
        directories.insert(key, Directory::Disk(value.into()));
    }
    let entries = |flag: &str| {
        let texts = parsed.texts(flag);
        let entries = texts.iter().map(|text| cache_entry(text));
        entries.collect::<Result<Vec<_>, _>>()
    };
    let exports = entries("cache-to")?;
    for entry in &exports {
        stores.export(entry)?;
    }
    let mut imports = Vec::new();
    for mut entry in entries("cache-from")? {
        if stores.import(&mut entry)? {
            imports.push(entry);
        }
    }
    let entitlements = parsed.texts("allow").into_iter();
    let entitlements = entitlements.flat_map(|names| names.split(','));
    Ok(Asked {
        cache: CacheOptions {
            imports,
            exports,
            ..CacheOptions::default()
        },
        entitlements: entitlements.map(str::to_owned).collect(),
        attributes,
        directories: Directories(directories.into()),
        stores,
        input: Input::new(input),
        dockerfile,
        shared_key,
    })
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`, joined as the frontend wants them.
fn hosts_of(hosts: &[&str]) -> Result<String, Failure> {
    let hosts = hosts.iter().map(|host| {
        let (name, address) = host
            .split_once('=')
            .or_else(|| host.split_once(':'))
            .filter(|(name, address)| !name.is_empty() && !address.is_empty())
            .ok_or_else(|| {
                Failure::message(format!("invalid host {host}, expected name:address"))
            })?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        Ok::<_, Failure>(format!("{name}={address}"))
    });
    Ok(hosts.collect::<Result<Vec<_>, _>>()?.join(","))
}

/// `type=KIND,NAME=VALUE…`, or the name of an image in a registry.
fn cache_entry(text: &str) -> Result<CacheOptionsEntry, Failure> {
    if !text.contains('=') {
        return Ok(CacheOptionsEntry {
            r#type: "registry".to_owned(),
            attrs: HashMap::from([("ref".to_owned(), text.to_owned())]),
        });
    }
    let fields = text.split(',').map(|field| {
        let (name, value) = field.split_once('=')?;
        let name = name.to_ascii_lowercase();
        // The engine knows nothing of where this command runs.
        let value = match name.as_str() {
            "src" | "dest" => std::path::absolute(value).ok()?.to_str()?.to_owned(),
            _ => value.to_owned(),
        };
        Some((name, value))
    });
    let mut attrs: HashMap<String, String> = fields
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::message(format!("invalid value {text}, expected key=value")))?;
    let kind = attrs.remove("type");
    Ok(CacheOptionsEntry {
        r#type: kind.ok_or_else(|| Failure::message(format!("type required form> {text:?}")))?,
        attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_joined() {
        let hosts = ["a:1.2.3.4", "b=::1", "c:[fe80::1]"];
        assert_eq!(hosts_of(&hosts).unwrap(), "a=1.2.3.4,b=::1,c=fe80::1");
        assert!(hosts_of(&["a"]).is_err());
    }

    #[test]
    fn caches_are_named_or_described() {
        let entry = cache_entry("r.io/a:b").unwrap();
        assert_eq!(
            (entry.r#type.as_str(), entry.attrs["ref"].as_str()),
            ("registry", "r.io/a:b")
        );
        let entry = cache_entry("type=local,dest=/x,mode=max").unwrap();
        assert_eq!(
            (entry.attrs["dest"].as_str(), entry.attrs["mode"].as_str()),
            ("/x", "max")
        );
        assert!(cache_entry("mode=max").is_err());
        assert!(cache_entry("type=local,x").is_err());
    }
}
