//! `sampan system df`.

use jiff::Timestamp;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::quote::short_id;
use super::format::units;
use super::output;
use super::ps::{self, FORMAT_HELP};
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["system df"],
    usage: "[OPTIONS]",
    about: "Show disk usage, and what keeps it in use",
    flags: &[&[
        Flag::one("format", "string", FORMAT_HELP),
        Flag::switch("verbose", "Show detailed information on space usage").short('v'),
    ]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

const TABLE: &str =
    "table {{.Type}}\\t{{.TotalCount}}\\t{{.Active}}\\t{{.Size}}\\t{{.Reclaimable}}";
const RAW: &str = "type: {{.Type}}\\ntotal: {{.TotalCount}}\\nactive: {{.Active}}\\nsize: {{.Size}}\\nreclaimable: {{.Reclaimable}}\\n";

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let usage = session.wait(async {
        let request = client
            .request(http::Method::GET, "/system/df")
            .query("sampan", "1");
        super::read_data(request.send().await?).await
    })?;
    let given = parsed.text("format").filter(|text| !text.is_empty());
    if parsed.switch("verbose")? {
        return verbose(&usage, given);
    }
    let format = match given.unwrap_or("table") {
        "table" => TABLE,
        "raw" => RAW,
        other => other,
    };
    list::print(
        summary(&usage),
        &Style {
            format,
            headers: HEADERS,
            // The first line's.
            type_name: "*formatter.diskUsageImagesContext",
        },
    )?;
    Ok(0)
}

/// A line for each type of object, and one for the cache of packed layers.
fn summary(usage: &Data) -> Vec<Row> {
    let images = usage.list_at("Images");
    let containers = usage.list_at("Containers");
    let volumes = usage.list_at("Volumes");
    let sum =
        |items: &[Data], field: &str| -> i64 { items.iter().map(|item| item.int_at(field)).sum() };
    let used = |volume: &&Data| volume.int_at("UsageData.RefCount") > 0;
    let unused_volumes: Vec<Data> = volumes.iter().filter(|v| !used(v)).cloned().collect();
    let stopped: Vec<Data> = containers.iter().filter(|c| !runs(c)).cloned().collect();
    let blobs = usage.list_at("Sampan.Blobs");
    let cache = usage.list_at("BuildCache");
    let own: Vec<Data> = cache
        .iter()
        .filter(|r| !r.bool_at("Shared"))
        .cloned()
        .collect();
    let unused: Vec<Data> = own
        .iter()
        .filter(|r| !r.bool_at("InUse"))
        .cloned()
        .collect();
    let used_images = images.iter().filter(|i| i.int_at("Containers") > 0);
    let mut rows = vec![
        line(
            "Images",
            images.len(),
            used_images.count(),
            usage.int_at("LayersSize"),
            usage.int_at("Sampan.LayersReclaimable"),
        ),
        line(
            "Containers",
            containers.len(),
            containers.len() - stopped.len(),
            sum(containers, "SizeRw"),
            sum(&stopped, "SizeRw"),
        ),
        line(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(used).count(),
            sum(volumes, "UsageData.Size"),
            sum(&unused_volumes, "UsageData.Size"),
        ),
        line(
            "Build Cache",
            cache.len(),
            cache.iter().filter(|r| r.bool_at("InUse")).count(),
            sum(&own, "Size"),
            sum(&unused, "Size"),
        ),
    ];
    if usage.get("Sampan").is_some() {
        let pinned = blobs.iter().filter(|blob| !is_reclaimable(blob));
        rows.push(line(
            "Packed Layers",
            blobs.len(),
            pinned.count(),
            sum(blobs, "Size"),
            usage.int_at("Sampan.BlobsReclaimable"),
        ));
    }
    rows
}

fn is_reclaimable(blob: &Data) -> bool {
    blob.bool_at("Reclaimable")
}

fn runs(container: &Data) -> bool {
    ["running", "paused", "restarting"].contains(&container.text_at("State"))
}

fn line(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Row {
    let percent = match size {
        0 => String::new(),
        size => format!(" ({}%)", reclaimable * 100 / size),
    };
    Row::new(
        [
            ("Type", kind.to_owned()),
            ("TotalCount", total.to_string()),
            ("Active", active.to_string()),
            ("Size", units::size_precise(size)),
            (
                "Reclaimable",
                format!("{}{percent}", units::size_precise(reclaimable)),
            ),
        ],
        Vec::new(),
    )
}

/// A part of the verbose form: what it says, its table and its rows.
struct Section {
    title: String,
    table: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// The name of its list when the whole is formatted.
    field: &'static str,
    rows: Vec<Row>,
}

fn verbose(usage: &Data, format: Option<&str>) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let format = format.filter(|format| *format != "table");
    let full = format.is_some();
    let sections = [
        images(usage, full, now),
        containers(usage, full, now),
        volumes(usage),
        builds(usage, now),
        blobs(usage),
        layers(usage),
    ];
    if let Some(format) = format {
        return formatted(sections, format);
    }
    for section in sections {
        // Layers without image are a rarity that nobody needs to hear of when there are none.
        if section.field == "Layers" && section.rows.is_empty() {
            continue;
        }
        output::line(&section.title);
        output::line("");
        list::print(
            section.rows,
            &Style {
                format: section.table,
                headers: section.headers,
                type_name: "*formatter.diskUsageContext",
            },
        )?;
        output::line("");
    }
    let part = |name: &str| units::size_precise(usage.int_at(&format!("Sampan.Disk.{name}")));
    output::line(&format!(
        "On disk: {} (layers {}, packed layers {}, containers {}, volumes {}, other {})",
        part("Total"),
        part("Layers"),
        part("Blobs"),
        part("Containers"),
        part("Volumes"),
        part("Other"),
    ));
    Ok(0)
}

/// The whole, for a template or as JSON.
fn formatted(sections: [Section; 6], format: &str) -> Result<u8, Failure> {
    let fields = sections.into_iter().map(|section| {
        let rows = section.rows.into_iter();
        let list = rows.map(|row| Data::Object(row.fields)).collect();
        (section.field.to_owned(), Data::List(list))
    });
    let whole = Row {
        fields: fields.collect(),
        labels: Vec::new(),
    };
    let style = Style {
        format,
        headers: &[],
        type_name: "*formatter.diskUsageContext",
    };
    let text = list::render(vec![whole], &style)?;
    // As Docker prints it: the template says where lines end.
    output::text(text.strip_suffix('\n').unwrap_or(&text));
    Ok(0)
}

/// What keeps an object, or a dash.
fn kept_by(usage: &Data, kind: &str, id: &str) -> String {
    let kept = usage.list_at("Sampan.Kept").iter();
    let mut found = kept.filter(|kept| kept.text_at("Type") == kind && kept.text_at("Id") == id);
    let by: Vec<&str> = found
        .next()
        .map(|kept| {
            kept.list_at("By")
                .iter()
                .filter_map(Data::as_text)
                .collect()
        })
        .unwrap_or_default();
    if by.is_empty() {
        "-".to_owned()
    } else {
        by.join(", ")
    }
}

fn images(usage: &Data, full: bool, now: Timestamp) -> Section {
    let rows = usage.list_at("Images").iter().map(|image| {
        let id = image.text_at("Id");
        let tag = image.list_at("RepoTags").first().and_then(Data::as_text);
        let digest = image.list_at("RepoDigests").first().and_then(Data::as_text);
        let (repository, tag) = match (tag.and_then(|t| t.rsplit_once(':')), digest) {
            (Some((repository, tag)), _) => (repository, tag),
            (None, Some(digest)) => (digest.split('@').next().unwrap_or(digest), "<none>"),
            (None, None) => ("<none>", "<none>"),
        };
        let (size, shared) = (image.int_at("Size"), image.int_at("SharedSize"));
        Row::new(
            [
                ("Repository", repository.to_owned()),
                ("Tag", tag.to_owned()),
                ("Digest", String::new()),
                ("ID", if full { id } else { short_id(id) }.to_owned()),
                ("CreatedSince", units::ago(image.int_at("Created"), now)),
                ("CreatedAt", units::local_time(image.int_at("Created"))),
                ("Size", units::size(size)),
                ("VirtualSize", units::size_precise(size)),
                ("SharedSize", units::size_precise(shared)),
                ("UniqueSize", units::size_precise(size - shared)),
                ("Containers", image.int_at("Containers").to_string()),
                ("KeptBy", kept_by(usage, "image", id)),
            ],
            Vec::new(),
        )
    });
    Section {
        title: "Images space usage:".to_owned(),
        table: "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}\\t{{.SharedSize}}\\t{{.UniqueSize}}\\t{{.Containers}}\\t{{.KeptBy}}",
        headers: &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
            ("KeptBy", "KEPT BY"),
        ],
        field: "Images",
        rows: rows.collect(),
    }
}

fn containers(usage: &Data, full: bool, now: Timestamp) -> Section {
    let rows = usage.list_at("Containers").iter().map(|container| {
        let mut row = ps::row(container, full, now);
        let kept = kept_by(usage, "container", container.text_at("Id"));
        row.fields.push(("KeptBy".to_owned(), kept.into()));
        row
    });
    Section {
        title: "Containers space usage:".to_owned(),
        table: "table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.LocalVolumes}}\\t{{.Size}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Names}}\\t{{.KeptBy}}",
        headers: &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("RunningFor", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
            ("KeptBy", "KEPT BY"),
        ],
        field: "Containers",
        rows: rows.collect(),
    }
}

fn volumes(usage: &Data) -> Section {
    let rows = usage.list_at("Volumes").iter().map(|volume| {
        let name = volume.text_at("Name");
        Row::new(
            [
                ("Name", name.to_owned()),
                ("Driver", volume.text_at("Driver").to_owned()),
                ("Scope", volume.text_at("Scope").to_owned()),
                ("Mountpoint", volume.text_at("Mountpoint").to_owned()),
                ("Labels", list::labels(volume.get("Labels")).0),
                ("Group", "N/A".to_owned()),
                ("Availability", "N/A".to_owned()),
                ("Status", "N/A".to_owned()),
                ("Links", volume.int_at("UsageData.RefCount").to_string()),
                ("Size", units::size(volume.int_at("UsageData.Size"))),
                ("KeptBy", kept_by(usage, "volume", name)),
            ],
            Vec::new(),
        )
    });
    Section {
        title: "Local Volumes space usage:".to_owned(),
        table: "table {{.Name}}\\t{{.Links}}\\t{{.Size}}\\t{{.KeptBy}}",
        headers: &[
            ("Name", "VOLUME NAME"),
            ("Links", "LINKS"),
            ("Size", "SIZE"),
            ("KeptBy", "KEPT BY"),
        ],
        field: "Volumes",
        rows: rows.collect(),
    }
}

fn builds(usage: &Data, now: Timestamp) -> Section {
    let cache = usage.list_at("BuildCache");
    let own = cache.iter().filter(|record| !record.bool_at("Shared"));
    let size = own.map(|record| record.int_at("Size")).sum();
    let rows = cache.iter().map(|record| {
        Row::new(
            [
                ("ID", short_id(record.text_at("ID")).to_owned()),
                ("CacheType", record.text_at("Type").to_owned()),
                ("Size", units::size(record.int_at("Size"))),
                ("CreatedSince", since(record.text_at("CreatedAt"), now)),
                ("LastUsedSince", since(record.text_at("LastUsedAt"), now)),
                ("UsageCount", record.int_at("UsageCount").to_string()),
                ("Shared", record.bool_at("Shared").to_string()),
            ],
            Vec::new(),
        )
    });
    Section {
        title: format!("Build cache usage: {}", units::size_precise(size)),
        table: "table {{.ID}}\\t{{.CacheType}}\\t{{.Size}}\\t{{.CreatedSince}}\\t{{.LastUsedSince}}\\t{{.UsageCount}}\\t{{.Shared}}",
        headers: &[
            ("ID", "CACHE ID"),
            ("CacheType", "CACHE TYPE"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("LastUsedSince", "LAST USED"),
            ("UsageCount", "USAGE"),
            ("Shared", "SHARED"),
        ],
        field: "BuildCache",
        rows: rows.collect(),
    }
}

/// How long ago a time was that is written as RFC 3339; empty for none.
pub(crate) fn since(text: &str, now: Timestamp) -> String {
    let time = text.parse::<Timestamp>();
    time.map_or_else(|_| String::new(), |time| units::ago(time.as_second(), now))
}

fn blobs(usage: &Data) -> Section {
    let rows = usage.list_at("Sampan.Blobs").iter().map(|blob| {
        let images: Vec<&str> = blob
            .list_at("Images")
            .iter()
            .filter_map(Data::as_text)
            .collect();
        let kept = match (is_reclaimable(blob), blob.text_at("Kind")) {
            (true, _) => "-".to_owned(),
            (false, "layer") => "no registry is known to have it".to_owned(),
            (false, _) => format!("image {}", images.join(", ")),
        };
        Row::new(
            [
                ("Digest", short_id(blob.text_at("Digest")).to_owned()),
                ("Kind", blob.text_at("Kind").to_owned()),
                ("Size", units::size(blob.int_at("Size"))),
                ("Images", images.join(", ")),
                ("KeptBy", kept),
            ],
            Vec::new(),
        )
    });
    Section {
        title: "Packed layers space usage:".to_owned(),
        table: "table {{.Digest}}\\t{{.Kind}}\\t{{.Size}}\\t{{.Images}}\\t{{.KeptBy}}",
        headers: &[
            ("Digest", "DIGEST"),
            ("Kind", "KIND"),
            ("Size", "SIZE"),
            ("Images", "IMAGES"),
            ("KeptBy", "KEPT BY"),
        ],
        field: "PackedLayers",
        rows: rows.collect(),
    }
}

fn layers(usage: &Data) -> Section {
    let kept = usage.list_at("Sampan.Kept").iter();
    let rows = kept
        .filter(|kept| kept.text_at("Type") == "layer")
        .map(|layer| {
            let id = layer.text_at("Id");
            Row::new(
                [
                    ("ID", short_id(id).to_owned()),
                    ("KeptBy", kept_by(usage, "layer", id)),
                ],
                Vec::new(),
            )
        });
    Section {
        title: "Layers without image:".to_owned(),
        table: "table {{.ID}}\\t{{.KeptBy}}",
        headers: &[("ID", "LAYER ID"), ("KeptBy", "KEPT BY")],
        field: "Layers",
        rows: rows.collect(),
    }
}
