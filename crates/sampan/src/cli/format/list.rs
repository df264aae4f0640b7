//! Lists: tables with headers, templates and JSON lines.

use super::data::Data;
use super::table;
use super::template::{Scope, Template, TemplateError};
use crate::cli::failure::Failure;
use crate::cli::output;

/// One line of a list.
pub(crate) struct Row {
    /// What templates see.
    pub(crate) fields: Vec<(String, Data)>,
    /// What `.Label "key"` answers.
    pub(crate) labels: Vec<(String, String)>,
}

impl Row {
    /// A row of texts.
    pub(crate) fn new(
        fields: impl IntoIterator<Item = (&'static str, String)>,
        labels: Vec<(String, String)>,
    ) -> Self {
        Self {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Data::Text(value)))
                .collect(),
            labels,
        }
    }
}

/// How a list is printed.
pub(crate) struct Style<'s> {
    /// The template: `--format`, or the usual table.
    pub(crate) format: &'s str,
    /// Headers of columns by field.
    pub(crate) headers: &'s [(&'s str, &'s str)],
    /// Go's name of the row's type, for errors.
    pub(crate) type_name: &'s str,
}

/// Renders a list.
pub(crate) fn render(rows: Vec<Row>, style: &Style<'_>) -> Result<String, Failure> {
    let (table, format) = match style.format.strip_prefix("table") {
        Some(rest) => (true, rest.trim()),
        None => (false, style.format),
    };
    let format = match format.trim() {
        "json" => "{{json .}}".to_owned(),
        _ => format
            .trim_matches(' ')
            .replace("\\t", "\t")
            .replace("\\n", "\n"),
    };
    let template = Template::parse(&format)
        .map_err(|error| Failure::message(format!("template parsing error: {error}")))?;
    let mut out = String::new();
    if table {
        let headers = style
            .headers
            .iter()
            .map(|(field, header)| ((*field).to_owned(), Data::from(*header)))
            .collect();
        let label = |key: &str| {
            let last = key.rsplit('.').next().unwrap_or(key);
            last.replace(['-', '_'], " ")
        };
        let scope = Scope {
            type_name: style.type_name,
            label: Some(&label),
            header: true,
            ..Scope::default()
        };
        out.push_str(
            &template
                .render(&Data::Object(headers), scope)
                .map_err(wrong)?,
        );
        out.push('\n');
    }
    for row in rows {
        let Row { mut fields, labels } = row;
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        let label = |key: &str| {
            let found = labels.iter().find(|(name, _)| name == key);
            found.map_or(String::new(), |(_, value)| value.clone())
        };
        let scope = Scope {
            type_name: style.type_name,
            label: Some(&label),
            ..Scope::default()
        };
        out.push_str(
            &template
                .render(&Data::Object(fields), scope)
                .map_err(wrong)?,
        );
        out.push('\n');
    }
    Ok(if table { table::align(&out) } else { out })
}

/// Prints a list.
pub(crate) fn print(rows: Vec<Row>, style: &Style<'_>) -> Result<(), Failure> {
    output::text(&render(rows, style)?);
    Ok(())
}

fn wrong(error: TemplateError) -> Failure {
    Failure::message(format!("template parsing error: {error}"))
}

/// Labels as `key=value,...` and as pairs, of an object of texts.
pub(crate) fn labels(data: Option<&Data>) -> (String, Vec<(String, String)>) {
    let pairs: Vec<(String, String)> = data
        .map(Data::sorted)
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.as_text().unwrap_or("").to_owned()))
        .collect();
    let joined: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    (joined.join(","), pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        [("1", "a", "x"), ("2", "longer name", "")]
            .map(|(id, name, label)| {
                Row::new(
                    [("ID", id.to_owned()), ("Name", name.to_owned())],
                    vec![("com.example.my-key".to_owned(), label.to_owned())],
                )
            })
            .into()
    }

    fn shown(format: &str) -> String {
        let style = Style {
            format,
            headers: &[("ID", "THE ID"), ("Name", "NAME")],
            type_name: "*formatter.testContext",
        };
        match render(rows(), &style) {
            Ok(text) => text,
            Err(failure) => failure.text(),
        }
    }

    #[test]
    fn formats_of_lists() {
        for (format, expected) in [
            (
                "table {{.ID}}\\t{{.Name}}",
                "THE ID    NAME\n1         a\n2         longer name\n",
            ),
            (
                "table {{.Name}}\t{{.Label \"com.example.my-key\"}}",
                "NAME          my key\na             x\nlonger name   \n",
            ),
            ("table {{upper .Name}}", "NAME\nA\nLONGER NAME\n"),
            ("{{.ID}}: {{.Name}}", "1: a\n2: longer name\n"),
            (
                "json",
                "{\"ID\":\"1\",\"Name\":\"a\"}\n{\"ID\":\"2\",\"Name\":\"longer name\"}\n",
            ),
            ("{{.ID}}\\t{{.Name}}", "1\ta\n2\tlonger name\n"),
            (
                "{{.Foo}}",
                "template parsing error: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.testContext",
            ),
        ] {
            assert_eq!(shown(format), expected, "{format}");
        }
    }
}
