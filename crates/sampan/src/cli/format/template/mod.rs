//! Go's `text/template` over [`Data`], as far as `--format` needs it.
//!
//! Text, fields, pipelines, variables, `if`/`else if`/`with`/`range`/`break`/`continue`,
//! trimming, comments, named templates, Go's functions and Docker's own. `call` is not there.

mod call;
mod evaluate;
mod lex;
mod parse;
mod printf;

use super::data::Data;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    /// As errors call it.
    name: &'static str,
    tree: parse::Tree,
}

/// What is wrong with a template, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// The text is no template.
    #[error("template: {name}:{line}: {message}")]
    Parse {
        /// The template's name.
        name: &'static str,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template does not fit the values.
    #[error("template: {name}:1:{column}: executing \"{name}\" at <{at}>: {message}")]
    Execute {
        /// The template's name.
        name: &'static str,
        /// Offset of the expression.
        column: usize,
        /// The expression.
        at: String,
        /// What is wrong with it.
        message: String,
    },
}

/// What the root is called where a field's parent is asked for.
pub(crate) const ROOT: &str = ".";

/// What a template may know about its root value beside the fields.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    /// Go's name of the root's type, for errors about fields that are not there.
    pub(crate) type_name: &'s str,
    /// `.Label "key"` of the root.
    pub(crate) label: Option<&'s dyn Fn(&str) -> String>,
    /// The value of a field that the object left out or holds as `null`, given the names of the
    /// object that holds it ([`ROOT`] for the root, empty when not known) and of the field.
    pub(crate) absent: fn(parent: &str, field: &str) -> Option<Data>,
    /// The name in JSON of a field that Go calls otherwise.
    pub(crate) alias: fn(field: &str) -> Option<&'static str>,
    /// Go's name of the type of a struct that a field holds, for errors; none is a map.
    pub(crate) struct_name: fn(field: &str) -> Option<&'static str>,
    /// Whether the values are JSON of no known type: what is not there is nothing.
    pub(crate) untyped: bool,
    /// Whether this prints the header of a table: functions then hand the column's name through.
    pub(crate) header: bool,
}

impl Default for Scope<'_> {
    fn default() -> Self {
        Self {
            type_name: "map[string]interface {}",
            label: None,
            absent: |_, _| None,
            alias: |_| None,
            struct_name: |_| None,
            untyped: false,
            header: false,
        }
    }
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Self::parse_named(text, "")
    }

    /// Parses a template that errors call by a name.
    pub(crate) fn parse_named(text: &str, name: &'static str) -> Result<Self, TemplateError> {
        match parse::parse(text) {
            Ok(tree) => Ok(Self { name, tree }),
            Err(error) => Err(error.of(name)),
        }
    }

    /// Renders the template with `root` as the dot.
    pub(crate) fn render(&self, root: &Data, scope: Scope<'_>) -> Result<String, TemplateError> {
        let (text, error) = self.render_partly(root, scope);
        error.map_or(Ok(text), Err)
    }

    /// The same; what was printed before a mistake is kept.
    pub(crate) fn render_partly(
        &self,
        root: &Data,
        scope: Scope<'_>,
    ) -> (String, Option<TemplateError>) {
        let (text, error) = evaluate::render(&self.tree, root, scope);
        (text, error.map(|error| error.of(self.name)))
    }
}

impl TemplateError {
    /// Of a template with a name.
    fn of(mut self, called: &'static str) -> Self {
        match &mut self {
            Self::Parse { name, .. } | Self::Execute { name, .. } => *name = called,
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::Nil;
    use super::*;

    const ROOT: &str = r#"{
        "ID": "0123456789ab", "Name": "/web", "Empty": "", "Zero": 0, "N": 42, "F": 1.5,
        "Yes": true, "No": false, "Null": null, "List": ["a", "b", "c"], "None": [],
        "Labels": {"z": "26", "a": "1", "com.example.x": "y"},
        "State": {"Running": true, "Pid": 17, "Status": "running"},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": null},
        "Html": "<a&b>"
    }"#;

    fn render(template: &str) -> Result<String, TemplateError> {
        let root = Data::parse(ROOT.as_bytes()).unwrap();
        let label = |key: &str| format!("label of {key}");
        Template::parse(template)?.render(
            &root,
            Scope {
                type_name: "*test.Root",
                label: Some(&label),
                absent: |parent, field| match (parent, field) {
                    ("Labels", _) => Some(Data::Nil(Nil::Unknown)),
                    (_, "Health") => Some(Data::Nil(Nil::Pointer)),
                    _ => None,
                },
                alias: |field| (field == "Id").then_some("ID"),
                ..Scope::default()
            },
        )
    }

    #[test]
    fn expressions_give_what_go_gives() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.ID}}", "0123456789ab"),
            ("{{ .ID }}: {{.Name}}", "0123456789ab: /web"),
            ("{{.Id}}", "0123456789ab"),
            ("{{.Labels.nothing.below}}", "<no value>"),
            ("{{.State.Running}} {{.State.Pid}}", "true 17"),
            ("{{.Null}}", "<no value>"),
            ("{{.Health}}", "<nil>"),
            ("{{if .Health}}yes{{else}}no{{end}}", "no"),
            ("{{.Labels.nothing}}", "<no value>"),
            ("{{.List}}", "[a b c]"),
            ("{{.Labels}}", "map[a:1 com.example.x:y z:26]"),
            (
                "{{.Ports}}",
                "map[80/tcp:[map[HostIp:0.0.0.0 HostPort:8080]] 81/tcp:<nil>]",
            ),
            ("{{json .List}}", r#"["a","b","c"]"#),
            ("{{json .Html}}", r#""<a&b>""#),
            (
                "{{json .State}}",
                r#"{"Running":true,"Pid":17,"Status":"running"}"#,
            ),
            ("{{.List | json}}", r#"["a","b","c"]"#),
            ("{{json .Null}}", "null"),
            ("{{if .Yes}}y{{end}}{{if .No}}n{{end}}", "y"),
            (
                "{{if .Empty}}1{{else if .Zero}}2{{else if .N}}3{{else}}4{{end}}",
                "3",
            ),
            ("{{with .State}}{{.Status}}{{end}}", "running"),
            ("{{with .Null}}x{{else}}none{{end}}", "none"),
            ("{{with .Null}}x{{else with .State}}{{.Pid}}{{end}}", "17"),
            ("{{with $x := .N}}{{$x}}{{end}}", "42"),
            ("{{range .List}}<{{.}}>{{end}}", "<a><b><c>"),
            (
                "{{range $i, $e := .List}}{{$i}}={{$e}} {{end}}",
                "0=a 1=b 2=c ",
            ),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}",
                "a=1;com.example.x=y;z=26;",
            ),
            ("{{range .None}}x{{else}}empty{{end}}", "empty"),
            ("{{range .Null}}x{{else}}empty{{end}}", "empty"),
            (
                "{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}",
                "ac",
            ),
            (
                "{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
                "a",
            ),
            (
                "{{range $p, $c := .Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{break}}{{end}}",
                "80/tcp -> 8080",
            ),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{index .List 1}}", "b"),
            ("{{index .Labels \"com.example.x\"}}", "y"),
            ("{{index .Labels \"missing\"}}", ""),
            ("{{len .List}} {{len .ID}} {{len .Labels}}", "3 12 3"),
            ("{{slice .ID 0 4}} {{slice .List 1 2}}", "0123 [b]"),
            (
                "{{printf \"%s-%05d|%-4s|%4s|%q|%v|%.1f|%t|%x|%%\" .ID .N \"a\" \"b\" \"c\" .List .F .Yes 255}}",
                "0123456789ab-00042|a   |   b|\"c\"|[a b c]|1.5|true|ff|%",
            ),
            ("{{printf \"%d\" .ID}}", "%!d(string=0123456789ab)"),
            ("{{printf \"%.4s\" .ID}}", "0123"),
            ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
            ("{{println .N}}", "42\n"),
            (
                "{{join .List \",\"}} {{split \"a:b\" \":\"}}",
                "a,b,c [a b]",
            ),
            ("{{index (split .Name \"/\") 1}}", "web"),
            (
                "{{upper .Name}} {{lower \"AB\"}} {{title \"two words\"}}",
                "/WEB ab Two Words",
            ),
            ("{{truncate .ID 4}} {{pad \"x\" 1 2}}|", "0123  x  |"),
            (
                "{{eq .N 42}} {{ne .N 42}} {{eq .ID \"x\" \"0123456789ab\"}}",
                "true false true",
            ),
            (
                "{{lt 1 2}} {{le 2 2}} {{gt \"b\" \"a\"}} {{ge 1 2}}",
                "true true true false",
            ),
            (
                "{{and .Yes .No}} {{or .Empty .Name}} {{not .No}}",
                "false /web true",
            ),
            ("{{or .Yes (index .None 5)}}", "true"),
            ("{{$x := .N}}{{if .Yes}}{{$x = 1}}{{end}}{{$x}}", "1"),
            ("{{$.State.Pid}}{{with .State}}{{$.N}}{{end}}", "1742"),
            ("{{$s := .State}}{{$s.Status}}", "running"),
            ("a {{- .N -}} b", "a42b"),
            ("a{{/* nothing */}}b", "ab"),
            ("{{`raw\\n`}}{{\"q\\t\\\"\"}}{{'a'}}", "raw\\nq\t\"97"),
            ("{{.Label \"k\"}}", "label of k"),
            ("{{\"k\" | .Label}}", "label of k"),
            ("{{.N | printf \"%d-%d\" 1}}", "1-42"),
            ("{{true}} {{1.5}} {{-3}} {{0x10}}", "true 1.5 -3 16"),
            (
                "{{html .Html}} {{urlquery \"a b&\"}}",
                "&lt;a&amp;b&gt; a+b%26",
            ),
            ("{{range 3}}{{.}}{{end}}", "012"),
            (
                "{{define \"x\"}}<{{.}}>{{end}}{{template \"x\" .N}}{{template \"x\" .ID}}",
                "<42><0123456789ab>",
            ),
            (
                "{{block \"b\" .State}}{{.Pid}}{{end}}{{template \"b\" $.State}}",
                "1717",
            ),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn mistakes_are_told_in_go_words() {
        for (template, expected) in [
            ("{{.ID", "template: :1: unclosed action"),
            ("{{foo}}", "template: :1: function \"foo\" not defined"),
            ("{{if .ID}}", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            ("{{}}", "template: :1: missing value for command"),
            ("{{.ID}", "template: :1: bad character U+007D '}'"),
            (
                "{{nil}}",
                "template: :1:2: executing \"\" at <nil>: nil is not a command",
            ),
            ("{{$x}}", "template: :1: undefined variable \"$x\""),
            ("{{\"a}}", "template: :1: unterminated quoted string"),
            ("\n{{.A !}}", "template: :2: unexpected \"!\" in operand"),
            (
                "{{template \"x\" .ID}}",
                "template: :1:11: executing \"\" at <{{template \"x\" .ID}}>: template \"x\" not defined",
            ),
            (
                "{{.Foo}}",
                "template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *test.Root",
            ),
            (
                "{{.State.Foo}}",
                "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\"",
            ),
            (
                "{{index .List 9}}",
                "template: :1:2: executing \"\" at <index .List 9>: error calling index: index out of range: 9",
            ),
            (
                "{{len 3}}",
                "template: :1:2: executing \"\" at <len 3>: error calling len: len of type int",
            ),
            (
                "{{eq .N \"x\"}}",
                "template: :1:2: executing \"\" at <eq .N \"x\">: error calling eq: incompatible types for comparison",
            ),
            (
                "{{range .ID}}{{end}}",
                "template: :1:8: executing \"\" at <.ID>: range can't iterate over 0123456789ab",
            ),
        ] {
            assert_eq!(
                render(template).map_err(|error| error.to_string()),
                Err(expected.to_owned()),
                "{template}"
            );
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(render(&deep).is_err());
        assert!(render(&"{{if 1}}".repeat(100_000)).is_err());
    }

    #[test]
    fn headers_pass_through_functions() {
        let root = Data::Object(vec![("ID".into(), "CONTAINER ID".into())]);
        let label = |key: &str| key.to_owned();
        let scope = Scope {
            label: Some(&label),
            header: true,
            ..Scope::default()
        };
        for (template, expected) in [
            ("{{.ID}}", "CONTAINER ID"),
            ("{{lower .ID}}", "CONTAINER ID"),
            ("{{json .ID}}", "CONTAINER ID"),
            ("{{truncate .ID 3}}", "CONTAINER ID"),
            ("{{.Label \"x\"}}", "x"),
        ] {
            let rendered = Template::parse(template).unwrap().render(&root, scope);
            assert_eq!(rendered.as_deref(), Ok(expected));
        }
    }
}
