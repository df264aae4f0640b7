//! `sampan events`.

use std::time::Duration;

use jiff::Timestamp;
use sampan_api::{Client, Filters, client};

use super::attached::is_lost;
use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::duration::timestamp;
use super::flags::filter;
use super::format::data::{Data, Nil};
use super::format::template::{ROOT, Scope, Template, TemplateError};
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["system events", "events"],
    usage: "[OPTIONS]",
    about: "Get real time events from the server",
    flags: &[&[
        Flag::many("filter", "filter", "Filter output based on conditions provided").short('f'),
        Flag::one(
            "format",
            "string",
            "Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
        ),
        Flag::one("since", "string", "Show all events created since timestamp"),
        Flag::one("until", "string", "Stream events until this timestamp"),
    ]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let filters = filter::collect(parsed.values("filter", filter::parse)?);
    let now = Timestamp::now();
    let time = |long: &str| match parsed.text(long) {
        None | Some("") => Ok(None),
        Some(text) => timestamp(text, now).map(Some).map_err(Failure::message),
    };
    let (since, until) = (time("since")?, time("until")?);
    let template = match parsed.text("format").unwrap_or("") {
        "" => None,
        "json" => Some("{{json .}}".to_owned()),
        text => Some(text.replace("\\t", "\t").replace("\\n", "\n")),
    };
    let template = template
        .map(|text| Template::parse(&text))
        .transpose()
        .map_err(wrong_format)?;
    if let Some(template) = &template {
        // A field that no event has is told before any event.
        let nothing = Data::Object(Vec::new());
        let _ = template.render(&nothing, NOTHING).map_err(wrong_format)?;
    }
    let client = session.client()?;
    let mut listening = Listening { since, lost: 0 };
    session.wait(async {
        loop {
            let heard = listen(
                client,
                &mut listening,
                until.as_deref(),
                &filters,
                |event| {
                    let text = match &template {
                        Some(template) => {
                            let event = typed(event.clone());
                            template.render(&event, SCOPE).map_err(Failure::from)?
                        }
                        None => shown(event),
                    };
                    output::text(&format!("{text}\n"));
                    Ok(())
                },
            );
            match heard.await? {
                End::Over => return Ok(0),
                End::Lost(error) if listening.lost > TRIES => return Err(error.into()),
                End::Lost(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
}

/// How often an engine that was lost is asked again, and how soon.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// How far the events have been heard.
struct Listening {
    /// Where to go on: seconds since 1970, with a fraction.
    since: Option<String>,
    /// How often the engine was lost since it was heard last.
    lost: u32,
}

enum End {
    /// The engine has said all.
    Over,
    /// The engine is gone. The next one goes on where it left off.
    Lost(client::Error),
}

async fn listen(
    client: &Client,
    listening: &mut Listening,
    until: Option<&str>,
    filters: &Filters,
    mut show: impl FnMut(&Data) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let asked = Timestamp::now();
    let request = client
        .request(http::Method::GET, "/events")
        .maybe("since", listening.since.clone())
        .maybe("until", until)
        .filters(filters);
    let mut answer = match request.send().await {
        Ok(answer) => answer.into_json_stream::<Data>(),
        // Nobody was there at all.
        Err(error) if listening.lost == 0 => return Err(error.into()),
        Err(error) if is_lost(&error) => {
            listening.lost += 1;
            return Ok(End::Lost(error));
        }
        Err(error) => return Err(error.into()),
    };
    // What happens from here on is not to be missed, even if nothing is heard before a loss.
    listening.since.get_or_insert_with(|| seconds(asked));
    loop {
        match answer.next().await {
            Ok(None) => return Ok(End::Over),
            Ok(Some(event)) => {
                show(&event)?;
                listening.lost = 0;
                let after = i128::from(event.int_at("timeNano")) + 1;
                if let Ok(after) = Timestamp::from_nanosecond(after) {
                    listening.since = Some(seconds(after));
                }
            }
            Err(error) if is_lost(&error) => {
                listening.lost += 1;
                return Ok(End::Lost(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn seconds(time: Timestamp) -> String {
    format!("{}.{:09}", time.as_second(), time.subsec_nanosecond())
}

const SCOPE: Scope<'static> = Scope {
    type_name: "*events.Message",
    label: None,
    absent: |parent, field| match (parent, field) {
        ("Attributes", _) => Some(Data::Nil(Nil::Unknown)),
        (_, "Status" | "ID" | "From" | "Scope") => Some(Data::Text(String::new())),
        _ => None,
    },
    // Names of fields in Go whose names in JSON are others.
    alias: |field| match field {
        "ID" => Some("id"),
        "Status" => Some("status"),
        "From" => Some("from"),
        "Scope" => Some("scope"),
        "Time" => Some("time"),
        "TimeNano" => Some("timeNano"),
        _ => None,
    },
    struct_name: |_| None,
    untyped: false,
    header: false,
};

/// The same of an event that has nothing but its fields.
const NOTHING: Scope<'static> = Scope {
    absent: |parent, field| match (parent, field) {
        (ROOT, "Actor") => Some(Data::Object(Vec::new())),
        ("Actor", "Attributes") => Some(Data::Nil(Nil::Map)),
        (ROOT, "Time" | "TimeNano") => Some(Data::Int(0)),
        (ROOT, "Type" | "Action") | ("Actor", "ID") => Some(Data::Text(String::new())),
        _ => (SCOPE.absent)(parent, field),
    },
    ..SCOPE
};

/// Gives an event the shape of Go's structs.
fn typed(mut event: Data) -> Data {
    let text = || Data::Text(String::new());
    let actor = [("ID", text()), ("Attributes", Data::Nil(Nil::Map))];
    if let Data::Object(fields) = &mut event
        && let Some((_, value)) = fields.iter_mut().find(|(name, _)| name == "Actor")
    {
        let taken = std::mem::replace(value, Data::Nil(Nil::Unknown));
        *value = taken.shaped(&actor);
    }
    event.shaped(&[
        ("status", text()),
        ("id", text()),
        ("from", text()),
        ("Type", text()),
        ("Action", text()),
        ("Actor", Data::Nil(Nil::Unknown)),
        ("scope", text()),
        ("time", Data::Int(0)),
        ("timeNano", Data::Int(0)),
    ])
}

fn wrong_format(error: TemplateError) -> Failure {
    Failure::Usage {
        message: format!("Error parsing format: {error}"),
        code: 64,
    }
}

/// One line: time, type, action, identity and attributes.
fn shown(event: &Data) -> String {
    let nanoseconds = event.int_at("timeNano");
    let time = if nanoseconds != 0 {
        Timestamp::from_nanosecond(nanoseconds.into())
    } else {
        Timestamp::from_second(event.int_at("time"))
    };
    let time = time
        .map(|time| {
            time.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
                .to_string()
                .replace("+00:00", "Z")
        })
        .unwrap_or_default();
    let attributes: Vec<String> = event
        .sorted_at("Actor.Attributes")
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut out = format!(
        "{time} {} {} {}",
        event.text_at("Type"),
        event.text_at("Action"),
        event.text_at("Actor.ID")
    );
    if !attributes.is_empty() {
        out.push_str(&format!(" ({})", attributes.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines() {
        let event = Data::parse(
            br#"{"Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"name":"x","exitCode":"0"}},
            "scope":"local","time":1795435200,"timeNano":1795435200000000001}"#,
        )
        .unwrap();
        let line = shown(&event);
        assert!(
            line.ends_with(" container die abc (exitCode=0, name=x)"),
            "{line}"
        );
        assert!(line.contains(":00.000000001"), "{line}");
    }
}
