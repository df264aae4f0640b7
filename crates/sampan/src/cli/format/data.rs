//! The values that templates work on.
//!
//! JSON as it came: the order of an object's fields is kept, so that `{{json .Config}}` prints
//! what the server sent, in its order.

use std::fmt::{self, Write as _};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// No value.
    Nil(Nil),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Data>),
    /// An object: a map, as far as is known.
    Object(Vec<(String, Data)>),
    /// An object that is one of Go's structs, printed as its values in their order.
    Struct(Vec<(String, Data)>),
    /// A value that Go prints in words of its own, such as a duration.
    Shown(Box<Data>, String),
}

/// What kind of value is missing; Go prints and encodes them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nil {
    /// Nothing is known: `<no value>`.
    Unknown,
    /// A nil pointer: `<nil>`.
    Pointer,
    /// A nil map: `map[]`.
    Map,
    /// A nil slice: `[]`.
    Slice,
}

impl Data {
    /// Reads JSON.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The text, when this is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, when this is one.
    pub(crate) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The elements of a list, none of anything else.
    pub(crate) fn items(&self) -> &[Data] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// The fields of an object, none of anything else.
    pub(crate) fn fields(&self) -> &[(String, Data)] {
        match self {
            Self::Object(fields) | Self::Struct(fields) => fields,
            Self::Shown(value, _) => value.fields(),
            _ => &[],
        }
    }

    /// The field `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Data> {
        self.fields()
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// The value at a dotted path, such as `State.Status`.
    pub(crate) fn at(&self, path: &str) -> Option<&Data> {
        path.split('.').try_fold(self, |data, name| data.get(name))
    }

    /// The text at a dotted path, empty when there is none.
    pub(crate) fn text_at(&self, path: &str) -> &str {
        self.at(path).and_then(Data::as_text).unwrap_or("")
    }

    /// The whole number at a dotted path, 0 when there is none.
    pub(crate) fn int_at(&self, path: &str) -> i64 {
        self.at(path).and_then(Data::as_int).unwrap_or(0)
    }

    /// Whether the value at a dotted path is true.
    pub(crate) fn bool_at(&self, path: &str) -> bool {
        matches!(self.at(path), Some(Data::Bool(true)))
    }

    /// The list at a dotted path, empty when there is none.
    pub(crate) fn list_at(&self, path: &str) -> &[Data] {
        self.at(path).map(Data::items).unwrap_or_default()
    }

    /// The fields of the object at a dotted path, sorted by name.
    pub(crate) fn sorted_at(&self, path: &str) -> Vec<(&str, &Data)> {
        self.at(path).map(Data::sorted).unwrap_or_default()
    }

    /// The fields of an object, sorted by name as Go prints maps.
    pub(crate) fn sorted(&self) -> Vec<(&str, &Data)> {
        let mut fields: Vec<_> = self
            .fields()
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        fields.sort_by_key(|(key, _)| *key);
        fields
    }

    /// The value itself, whatever words Go has for it.
    pub(crate) fn plain(&self) -> &Self {
        match self {
            Self::Shown(value, _) => value,
            other => other,
        }
    }

    /// Whether `if` takes the value as true.
    pub(crate) fn truth(&self) -> bool {
        match self {
            Self::Nil(_) => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Object(fields) => !fields.is_empty(),
            Self::Struct(_) => true,
            Self::Shown(value, _) => value.truth(),
        }
    }

    /// An object that is printed as Go's struct with these fields: in their order, with their zero
    /// values where it has none. It is encoded as it is.
    pub(crate) fn shaped(self, shape: &[(&str, Data)]) -> Self {
        if !matches!(self, Self::Object(_) | Self::Struct(_)) {
            return self;
        }
        let all = shape.iter().map(|(name, zero)| {
            let value = self.get(name);
            let value = value.filter(|value| !matches!(value, Self::Nil(Nil::Unknown)));
            ((*name).to_owned(), value.unwrap_or(zero).clone())
        });
        let text = Self::Struct(all.collect()).to_string();
        Self::Shown(Box::new(self), text)
    }

    /// JSON in one line, with the escapes that Go's encoder makes for HTML.
    pub(crate) fn to_escaped_json(&self) -> String {
        // These characters can stand only in texts.
        self.to_json()
            .replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029")
    }

    /// JSON in one line, as Go's encoder writes it without HTML escapes.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers, lists and objects are always JSON")
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Data {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Go's `%v`.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil(Nil::Unknown) => f.write_str("<no value>"),
            other => other.print(f),
        }
    }
}

impl Data {
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil(Nil::Unknown | Nil::Pointer) => f.write_str("<nil>"),
            Self::Nil(Nil::Map) => f.write_str("map[]"),
            Self::Nil(Nil::Slice) => f.write_str("[]"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => f.write_str(&go_float(*number)),
            Self::Text(text) | Self::Shown(_, text) => f.write_str(text),
            Self::List(items) => {
                f.write_char('[')?;
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        f.write_char(' ')?;
                    }
                    item.print(f)?;
                }
                f.write_char(']')
            }
            Self::Struct(fields) => {
                f.write_char('{')?;
                for (position, (_, value)) in fields.iter().enumerate() {
                    if position > 0 {
                        f.write_char(' ')?;
                    }
                    value.print(f)?;
                }
                f.write_char('}')
            }
            Self::Object(_) => {
                f.write_str("map[")?;
                for (position, (key, value)) in self.sorted().into_iter().enumerate() {
                    if position > 0 {
                        f.write_char(' ')?;
                    }
                    write!(f, "{key}:")?;
                    value.print(f)?;
                }
                f.write_char(']')
            }
        }
    }
}

/// The shortest form of a float, with an exponent where Go uses one.
fn go_float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) && magnitude.is_finite() {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number}")
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil(_) => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(small), _) => to.serialize_i64(small),
                (_, Ok(large)) => to.serialize_u64(large),
                _ => to.serialize_f64(*number as f64),
            },
            Self::Float(number) => to.serialize_f64(*number),
            Self::Text(text) => to.serialize_str(text),
            Self::Shown(value, _) => value.serialize(to),
            Self::List(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Object(fields) | Self::Struct(fields) => {
                let mut object = to.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    object.serialize_entry(key, value)?;
                }
                object.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Data, E> {
                Ok(Data::Nil(Nil::Unknown))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Data, E> {
                Ok(Data::Bool(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Data, E> {
                Ok(Data::Int(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Data, E> {
                Ok(Data::Int(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Data, E> {
                Ok(Data::Float(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Data, E> {
                Ok(value.into())
            }

            fn visit_string<E: de::Error>(self, value: String) -> Result<Data, E> {
                Ok(Data::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Data::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Data::Object(fields))
            }
        }

        from.deserialize_any(Any)
    }
}

/// Indents JSON text without changing its order, numbers or escapes, as Go's `json.Indent`.
pub(crate) fn indent_json(json: &str, indent: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut in_text = false;
    let mut escaped = false;
    let mut opened = false;
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    };
    for c in json.chars() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if opened && c != ']' && c != '}' {
            opened = false;
            depth += 1;
            newline(&mut out, depth);
        }
        match c {
            '"' => {
                in_text = true;
                out.push(c);
            }
            '{' | '[' => {
                opened = true;
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '}' | ']' => {
                if opened {
                    opened = false;
                } else {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(c);
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_fields_is_kept() {
        let json = r#"{"b":1,"a":[true,null,-2.5,"x"],"c":{"z":{},"y":18446744073709551615}}"#;
        assert_eq!(Data::parse(json.as_bytes()).unwrap().to_json(), json);
    }

    #[test]
    fn values_print_as_go_prints_them() {
        for (json, printed) in [
            (
                r#"{"b":1,"a":[true,null,"x y"]}"#,
                "map[a:[true <nil> x y] b:1]",
            ),
            ("null", "<no value>"),
            ("1.5", "1.5"),
            ("1e21", "1e+21"),
            ("0.00001", "1e-05"),
            ("[]", "[]"),
            ("{}", "map[]"),
            (
                r#"{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"81/tcp":null}"#,
                "map[80/tcp:[map[HostIp:0.0.0.0 HostPort:8080]] 81/tcp:<nil>]",
            ),
        ] {
            assert_eq!(Data::parse(json.as_bytes()).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn indent_keeps_texts_and_empty_objects() {
        let json = r#"{"a":[],"b":{"c":"x: {,}\" \\"},"d":[1,2],"e":{}}"#;
        let indented = indent_json(json, "    ");
        assert_eq!(
            indented,
            "{\n    \"a\": [],\n    \"b\": {\n        \"c\": \"x: {,}\\\" \\\\\"\n    },\n    \"d\": [\n        1,\n        2\n    ],\n    \"e\": {}\n}"
        );
        assert_eq!(
            Data::parse(indented.as_bytes()).unwrap(),
            Data::parse(json.as_bytes()).unwrap()
        );
    }
}
