//! `sampan version`.

use sampan_api::ApiVersion;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::{Data, Nil};
use super::format::template::{Scope, Template};
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["version"],
    usage: "[OPTIONS]",
    about: "Show the Sampan version information",
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
    let server = session.client().and_then(|client| {
        session.wait(async {
            let request = client.request(http::Method::GET, "/version");
            super::read_data(request.send().await?).await
        })
    });
    let (server, failure) = match server {
        Ok(server) => (Some(server), None),
        Err(failure) => (None, Some(failure)),
    };
    let client = client();
    let text = match parsed.text("format").unwrap_or("") {
        "" => shown(&client, server.as_ref()),
        format => {
            let all = Data::Object(vec![
                ("Client".to_owned(), client),
                (
                    "Server".to_owned(),
                    server.map_or(Data::Nil(Nil::Pointer), typed),
                ),
            ]);
            if format == "json" {
                all.to_json() + "\n"
            } else {
                let template = Template::parse_named(format, "version").map_err(Failure::from)?;
                let (text, error) = template.render_partly(&all, SCOPE);
                output::line(&text);
                return match (error, failure) {
                    (Some(error), _) => Err(Failure::from(error)),
                    (None, Some(failure)) => Err(failure),
                    (None, None) => Ok(0),
                };
            }
        }
    };
    output::text(&text);
    failure.map_or(Ok(0), Err)
}

const SCOPE: Scope<'static> = Scope {
    type_name: "system.versionInfo",
    label: None,
    absent: |parent, field| match (parent, field) {
        ("Server", "BuildTime" | "GitCommit" | "GoVersion" | "KernelVersion") => {
            Some(Data::Text(String::new()))
        }
        ("Server", "Experimental") => Some(Data::Bool(false)),
        _ => None,
    },
    alias: |field| (field == "APIVersion").then_some("ApiVersion"),
    struct_name: |field| match field {
        "Client" => Some("system.clientVersion"),
        "Server" => Some("*types.Version"),
        _ => None,
    },
    untyped: false,
    header: false,
};

/// Gives what the server says the shape of Go's structs.
fn typed(server: Data) -> Data {
    let text = || Data::Text(String::new());
    let component = [
        ("Name", text()),
        ("Version", text()),
        ("Details", Data::Nil(Nil::Map)),
    ];
    let shape = [
        ("Platform", Data::Struct(Vec::new())),
        ("Components", Data::Nil(Nil::Slice)),
        ("Version", text()),
        ("ApiVersion", text()),
        ("MinAPIVersion", text()),
        ("GitCommit", text()),
        ("GoVersion", text()),
        ("Os", text()),
        ("Arch", text()),
        ("KernelVersion", text()),
        ("Experimental", Data::Bool(false)),
        ("BuildTime", text()),
    ];
    let mut server = server;
    if let Data::Object(fields) = &mut server {
        for (name, value) in fields {
            let taken = std::mem::replace(value, Data::Nil(Nil::Unknown));
            *value = match (name.as_str(), taken) {
                ("Platform", platform) => platform.shaped(&[("Name", text())]),
                ("Components", Data::List(all)) => {
                    Data::List(all.into_iter().map(|one| one.shaped(&component)).collect())
                }
                (_, other) => other,
            };
        }
    }
    server.shaped(&shape)
}

fn client() -> Data {
    let text = |name: &str, value: &str| (name.to_owned(), Data::from(value));
    Data::Object(vec![
        (
            "Platform".to_owned(),
            Data::Object(vec![text("Name", "Sampan")]),
        ),
        text("Version", env!("CARGO_PKG_VERSION")),
        text("ApiVersion", &ApiVersion::NEWEST.to_string()),
        text("DefaultAPIVersion", &ApiVersion::NEWEST.to_string()),
        text("Os", "linux"),
        text("Arch", architecture()),
        text("Context", "default"),
    ])
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn shown(client: &Data, server: Option<&Data>) -> String {
    let mut out = format!("Client: {}\n", client.text_at("Platform.Name"));
    let line = |out: &mut String, indent: &str, name: &str, value: &str| {
        if !value.is_empty() {
            // Values begin in one column, whatever the indent.
            let width = 20 - indent.len();
            out.push_str(&format!("{indent}{:<width$}{value}\n", format!("{name}:")));
        }
    };
    line(&mut out, " ", "Version", client.text_at("Version"));
    line(&mut out, " ", "API version", client.text_at("ApiVersion"));
    line(
        &mut out,
        " ",
        "OS/Arch",
        &format!("linux/{}", architecture()),
    );
    line(&mut out, " ", "Context", "default");
    let Some(server) = server else {
        return out;
    };
    let name = match server.text_at("Platform.Name") {
        "" => "Sampan",
        name => name,
    };
    out.push_str(&format!("\nServer: {name}\n"));
    let components = server.list_at("Components");
    for component in components {
        out.push_str(&format!(" {}:\n", component.text_at("Name")));
        component_lines(&mut out, component, &line);
    }
    if components.is_empty() {
        out.push_str(" Engine:\n");
        line(&mut out, "  ", "Version", server.text_at("Version"));
        line(&mut out, "  ", "API version", &api_versions(server));
        line(&mut out, "  ", "OS/Arch", &platform(server));
    }
    out
}

fn component_lines(
    out: &mut String,
    component: &Data,
    line: &impl Fn(&mut String, &str, &str, &str),
) {
    line(out, "  ", "Version", component.text_at("Version"));
    let Some(details) = component.get("Details") else {
        return;
    };
    if details.get("ApiVersion").is_some() {
        line(out, "  ", "API version", &api_versions(details));
        line(out, "  ", "Git commit", details.text_at("GitCommit"));
        line(out, "  ", "Built", details.text_at("BuildTime"));
        line(out, "  ", "OS/Arch", &platform(details));
        line(out, "  ", "Experimental", details.text_at("Experimental"));
    } else {
        for (name, value) in details.sorted() {
            line(out, "  ", name, value.as_text().unwrap_or(""));
        }
    }
}

fn api_versions(data: &Data) -> String {
    let newest = data.text_at("ApiVersion");
    match data.text_at("MinAPIVersion") {
        "" => newest.to_owned(),
        oldest => format!("{newest} (minimum version {oldest})"),
    }
}

fn platform(data: &Data) -> String {
    format!("{}/{}", data.text_at("Os"), data.text_at("Arch"))
}
