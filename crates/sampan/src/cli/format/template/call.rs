//! The functions that templates can call: Go's and Docker's.

use std::cmp::Ordering;

use super::{Scope, printf};
use crate::cli::format::data::{Data, Nil};

macro_rules! functions {
    ($($variant:ident $name:literal $least:literal $most:expr,)*) => {
        /// A function by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Function { $($variant,)* }

        impl Function {
            /// Finds a function.
            pub(super) fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The name in templates.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Least and greatest number of arguments.
            fn arity(self) -> (usize, usize) {
                match self { $(Self::$variant => ($least, $most),)* }
            }
        }
    };
}

/// No bound on the number of arguments.
const ANY: usize = usize::MAX;

functions! {
    And "and" 1 ANY,
    Or "or" 1 ANY,
    Not "not" 1 1,
    Eq "eq" 2 ANY,
    Ne "ne" 2 2,
    Lt "lt" 2 2,
    Le "le" 2 2,
    Gt "gt" 2 2,
    Ge "ge" 2 2,
    Len "len" 1 1,
    Index "index" 1 ANY,
    Slice "slice" 1 4,
    Print "print" 0 ANY,
    Printf "printf" 1 ANY,
    Println "println" 0 ANY,
    Html "html" 0 ANY,
    Js "js" 0 ANY,
    UrlQuery "urlquery" 0 ANY,
    Json "json" 1 1,
    Split "split" 2 2,
    Join "join" 2 2,
    Title "title" 1 1,
    Lower "lower" 1 1,
    Upper "upper" 1 1,
    Pad "pad" 3 3,
    Truncate "truncate" 2 2,
}

impl Function {
    /// For `and` and `or`: the truth that ends the evaluation.
    pub(super) fn short_circuit(self) -> Option<bool> {
        match self {
            Self::And => Some(false),
            Self::Or => Some(true),
            _ => None,
        }
    }

    /// Whether it takes so many arguments; the error is Go's message.
    pub(super) fn takes(self, count: usize) -> Result<(), String> {
        let (least, most) = self.arity();
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let want = match (least, most) {
            (least, ANY) => format!("at least {least}"),
            (least, most) if least == most => format!("{least}"),
            (least, most) => format!("{least} to {most}"),
        };
        Err(format!(
            "wrong number of args for {}: want {want} got {count}",
            self.name()
        ))
    }

    /// Whether the argument at `position` may be this value, which the template may have as a
    /// literal; the error is Go's message.
    pub(super) fn takes_value(
        self,
        position: usize,
        value: &Data,
        literal: Option<&str>,
    ) -> Result<(), String> {
        let (wanted, word, fits) = match (self, position) {
            (Self::Lower | Self::Upper | Self::Title | Self::Pad | Self::Truncate, 0)
            | (Self::Printf, 0)
            | (Self::Split, _)
            | (Self::Join, 1) => ("string", "string", matches!(value, Data::Text(_))),
            (Self::Pad | Self::Truncate, _) => ("int", "integer", matches!(value, Data::Int(_))),
            (Self::Join, _) => {
                let fits = matches!(value, Data::List(_) | Data::Nil(_));
                ("[]string", "[]string", fits)
            }
            _ => return Ok(()),
        };
        match literal {
            _ if fits => Ok(()),
            Some(text) => Err(format!("expected {word}; found {text}")),
            None => Err(format!(
                "wrong type for value; expected {wanted}; got {}",
                type_name(value)
            )),
        }
    }

    /// Calls the function with arguments that it takes; the error is Go's message without the
    /// place.
    pub(super) fn call(self, arguments: &[Data], scope: &Scope<'_>) -> Result<Data, String> {
        if scope.header && self.keeps_header() {
            return Ok(arguments[0].clone());
        }
        self.apply(arguments, scope.untyped)
            .map_err(|message| format!("error calling {}: {message}", self.name()))
    }

    /// Whether the function hands its argument through in the header of a table.
    fn keeps_header(self) -> bool {
        matches!(
            self,
            Self::Json | Self::Title | Self::Lower | Self::Upper | Self::Truncate
        )
    }

    fn apply(self, arguments: &[Data], untyped: bool) -> Result<Data, String> {
        let text = |position: usize| match &arguments[position] {
            Data::Text(text) => Ok(text.as_str()),
            other => Err(format!("expected string; found {}", type_name(other))),
        };
        let number = |position: usize| match arguments[position] {
            Data::Int(number) => usize::try_from(number).map_err(|_| "index out of range".into()),
            ref other => Err(format!("expected integer; found {}", type_name(other))),
        };
        Ok(match self {
            // `and` and `or` are evaluated lazily and end up here only with one value.
            Self::And | Self::Or => arguments[0].clone(),
            Self::Not => Data::Bool(!arguments[0].truth()),
            Self::Eq => {
                let mut any = false;
                for other in &arguments[1..] {
                    any |= equal(&arguments[0], other)?;
                }
                Data::Bool(any)
            }
            Self::Ne => Data::Bool(!equal(&arguments[0], &arguments[1])?),
            Self::Lt => Data::Bool(order(&arguments[0], &arguments[1])?.is_lt()),
            Self::Le => Data::Bool(order(&arguments[0], &arguments[1])?.is_le()),
            Self::Gt => Data::Bool(order(&arguments[0], &arguments[1])?.is_gt()),
            Self::Ge => Data::Bool(order(&arguments[0], &arguments[1])?.is_ge()),
            Self::Len => Data::Int(length(&arguments[0])? as i128),
            Self::Index => index(arguments, untyped)?,
            Self::Slice => slice(arguments)?,
            Self::Print => Data::Text(printf::print(arguments)),
            Self::Printf => Data::Text(printf::printf(text(0)?, &arguments[1..])),
            Self::Println => Data::Text(printf::println(arguments)),
            Self::Html => Data::Text(escape_html(&printf::print(arguments))),
            Self::Js => Data::Text(escape_js(&printf::print(arguments))),
            Self::UrlQuery => Data::Text(escape_query(&printf::print(arguments))),
            Self::Json => Data::Text(arguments[0].to_json()),
            Self::Split => Data::List(split(text(0)?, text(1)?)),
            Self::Join => {
                let items: Result<Vec<&str>, String> = match &arguments[0] {
                    Data::List(items) => items
                        .iter()
                        .map(|item| {
                            item.as_text().ok_or_else(|| {
                                format!("expected string; found {}", type_name(item))
                            })
                        })
                        .collect(),
                    Data::Nil(_) => Ok(Vec::new()),
                    other => Err(format!("expected []string; found {}", type_name(other))),
                };
                Data::Text(items?.join(text(1)?))
            }
            Self::Title => Data::Text(title(text(0)?)),
            Self::Lower => Data::Text(text(0)?.to_lowercase()),
            Self::Upper => Data::Text(text(0)?.to_uppercase()),
            Self::Pad => {
                let text = text(0)?;
                if text.is_empty() {
                    return Ok(Data::Text(String::new()));
                }
                let blanks = |count: usize| " ".repeat(count.min(10_000));
                Data::Text(format!(
                    "{}{text}{}",
                    blanks(number(1)?),
                    blanks(number(2)?)
                ))
            }
            Self::Truncate => Data::Text(text(0)?.chars().take(number(1)?).collect()),
        })
    }
}

/// Go's name of a value's type, as errors show it.
pub(super) fn type_name(data: &Data) -> &'static str {
    match data {
        Data::Nil(_) => "interface {}",
        Data::Bool(_) => "bool",
        Data::Int(_) => "int",
        Data::Float(_) => "float64",
        Data::Text(_) => "string",
        Data::Shown(value, _) => type_name(value),
        Data::List(_) => "[]interface {}",
        Data::Object(_) | Data::Struct(_) => "map[string]interface {}",
    }
}

fn equal(a: &Data, b: &Data) -> Result<bool, String> {
    match (a.plain(), b.plain()) {
        (Data::Nil(_), Data::Nil(_)) => Ok(true),
        (Data::Nil(_), _) | (_, Data::Nil(_)) => Ok(false),
        (Data::Bool(a), Data::Bool(b)) => Ok(a == b),
        (Data::List(_) | Data::Object(_) | Data::Struct(_), _)
        | (_, Data::List(_) | Data::Object(_) | Data::Struct(_)) => {
            Err("invalid type for comparison".into())
        }
        _ => order(a, b).map(Ordering::is_eq),
    }
}

fn order(a: &Data, b: &Data) -> Result<Ordering, String> {
    match (a.plain(), b.plain()) {
        (Data::Int(a), Data::Int(b)) => Ok(a.cmp(b)),
        (Data::Text(a), Data::Text(b)) => Ok(a.cmp(b)),
        (Data::Int(_) | Data::Float(_), Data::Int(_) | Data::Float(_)) => {
            let float = |data: &Data| match data {
                Data::Int(number) => *number as f64,
                Data::Float(number) => *number,
                _ => f64::NAN,
            };
            Ok(float(a).total_cmp(&float(b)))
        }
        (Data::Int(_) | Data::Float(_) | Data::Text(_) | Data::Bool(_), _) => {
            Err("incompatible types for comparison".into())
        }
        _ => Err("invalid type for comparison".into()),
    }
}

fn length(data: &Data) -> Result<usize, String> {
    match data {
        Data::Text(text) => Ok(text.len()),
        Data::List(items) => Ok(items.len()),
        // Docker tries again with plain maps where Go refuses structs.
        Data::Object(fields) | Data::Struct(fields) => Ok(fields.len()),
        Data::Nil(Nil::Map | Nil::Slice) => Ok(0),
        Data::Nil(_) => Err("len of nil pointer".into()),
        other => Err(format!("len of type {}", type_name(other))),
    }
}

fn index(arguments: &[Data], untyped: bool) -> Result<Data, String> {
    let mut value = &arguments[0];
    let mut missing;
    for key in &arguments[1..] {
        let next = match (value, key) {
            (Data::Object(fields) | Data::Struct(fields), Data::Text(name)) => {
                match fields.iter().find(|(key, _)| key == name) {
                    Some((_, value)) => value,
                    None => {
                        missing = match untyped {
                            true => Data::Nil(Nil::Unknown),
                            false => absent_entry(fields),
                        };
                        &missing
                    }
                }
            }
            (Data::Nil(Nil::Map), Data::Text(_)) => {
                missing = Data::Text(String::new());
                &missing
            }
            (Data::List(items), Data::Int(position)) => usize::try_from(*position)
                .ok()
                .and_then(|position| items.get(position))
                .ok_or_else(|| format!("index out of range: {position}"))?,
            (Data::Text(text), Data::Int(position)) => {
                let byte = usize::try_from(*position)
                    .ok()
                    .and_then(|position| text.as_bytes().get(position))
                    .ok_or_else(|| format!("index out of range: {position}"))?;
                missing = Data::Int((*byte).into());
                &missing
            }
            (Data::Nil(Nil::Slice), _) => return Err(format!("index out of range: {key}")),
            (Data::Nil(_), _) => return Err("index of untyped nil".into()),
            (Data::List(_) | Data::Text(_), other) => {
                return Err(format!(
                    "cannot index slice/array with type {}",
                    type_name(other)
                ));
            }
            (Data::Object(_) | Data::Struct(_), other) => {
                return Err(format!(
                    "value has type {}; should be string",
                    type_name(other)
                ));
            }
            (other, _) => return Err(format!("can't index item of type {}", type_name(other))),
        };
        value = next;
    }
    Ok(value.clone())
}

/// The zero value of a map's elements, judged by the others.
fn absent_entry(fields: &[(String, Data)]) -> Data {
    match fields.first().map(|(_, value)| value) {
        None | Some(Data::Text(_)) => Data::Text(String::new()),
        Some(Data::List(_)) => Data::Nil(Nil::Slice),
        Some(_) => Data::Nil(Nil::Pointer),
    }
}

fn slice(arguments: &[Data]) -> Result<Data, String> {
    let length = length(&arguments[0])?;
    let bound = |position: usize, default: usize| match arguments.get(position) {
        None => Ok(default),
        Some(Data::Int(number)) => usize::try_from(*number)
            .ok()
            .filter(|number| *number <= length)
            .ok_or_else(|| format!("index out of range: {number}")),
        Some(other) => Err(format!(
            "cannot index slice/array with type {}",
            type_name(other)
        )),
    };
    let (start, end) = (bound(1, 0)?, bound(2, length)?);
    if start > end {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    match &arguments[0] {
        Data::Text(text) => Ok(Data::Text(
            String::from_utf8_lossy(&text.as_bytes()[start..end]).into_owned(),
        )),
        Data::List(items) => Ok(Data::List(items[start..end].to_vec())),
        other => Err(format!("can't slice item of type {}", type_name(other))),
    }
}

fn split(text: &str, separator: &str) -> Vec<Data> {
    if separator.is_empty() {
        return text.chars().map(|c| Data::Text(c.to_string())).collect();
    }
    text.split(separator).map(Data::from).collect()
}

fn title(text: &str) -> String {
    let mut after_letter = false;
    text.chars()
        .flat_map(|c| {
            let letter = c.is_alphanumeric() || matches!(c, '_' | '\'');
            let upper = letter && !after_letter;
            after_letter = letter;
            let (upper, same) = if upper {
                (Some(c.to_uppercase()), None)
            } else {
                (None, Some(c))
            };
            upper.into_iter().flatten().chain(same)
        })
        .collect()
}

fn escape_html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c < ' ' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
