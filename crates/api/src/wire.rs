//! How a value looks on the wire: Go's `encoding/json` rules as a trait and a macro.
//!
//! Docker's clients depend on what Go's encoder leaves out (`omitempty`), writes as `null` (nil
//! slices and maps) and writes as `[]` or `{}`. Serde's derive can say this only by attributes
//! on every field, and it cannot read field names in any case; the [`wire!`] macro says it once.
//!
//! Rules of reading: names match in any ASCII case, `null` leaves the field as it is, unknown
//! fields are skipped, a repeated field overwrites the former, and numbers may be written as
//! floats when they are whole. Rules of writing: fields in the order of the declaration, those
//! marked `omitempty` only when they are not empty.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap};

/// A value that can stand in a field of a wire type.
pub trait Wire: Sized + Default {
    /// Reads the value; `null` was handled by the caller.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;

    /// Whether Go's `omitempty` would leave this value out.
    fn is_empty(&self) -> bool;
}

/// The fields of a wire type, so that one type can be flattened into another.
pub trait Fields: Default {
    /// Reads the field named `key`; answers false, leaving the value unread, when there is none.
    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
    ) -> Result<bool, A::Error>;

    /// Writes every field.
    fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

/// Reads one field's value into `into`; `null` leaves it alone. Errors name the field.
pub fn read_into<'de, T: Wire, A: MapAccess<'de>>(
    name: &str,
    map: &mut A,
    into: &mut T,
) -> Result<(), A::Error> {
    match map.next_value_seed(Nullable::<T>(PhantomData)) {
        Ok(Some(value)) => *into = value,
        Ok(None) => {}
        Err(error) => return Err(de::Error::custom(format_args!("{name}: {error}"))),
    }
    Ok(())
}

/// Reads a JSON object into a type made by [`wire!`].
pub fn read_object<'de, T: Fields, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Fields> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut value = T::default();
            while let Some(key) = map.next_key::<String>()? {
                if !value.read_field(&key, &mut map)? {
                    map.next_value::<de::IgnoredAny>()?;
                }
            }
            Ok(value)
        }

        fn visit_unit<E: de::Error>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }

    from.deserialize_any(Object(PhantomData))
}

/// Reads `T` or `null`.
struct Nullable<T>(PhantomData<T>);

impl<'de, T: Wire> DeserializeSeed<'de> for Nullable<T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<T>, D::Error> {
        from.deserialize_option(self)
    }
}

impl<'de, T: Wire> Visitor<'de> for Nullable<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Option<T>, D::Error> {
        T::read(from).map(Some)
    }
}

impl Wire for String {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        de::Deserialize::deserialize(from)
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl Wire for bool {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        de::Deserialize::deserialize(from)
    }

    fn is_empty(&self) -> bool {
        !self
    }
}

impl Wire for f64 {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        de::Deserialize::deserialize(from)
    }

    fn is_empty(&self) -> bool {
        *self == 0.0
    }
}

impl Wire for serde_json::Value {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        de::Deserialize::deserialize(from)
    }

    fn is_empty(&self) -> bool {
        self.is_null()
    }
}

/// Reads a whole number, also when it is written as a float such as `1e3`.
struct Whole;

impl Visitor<'_> for Whole {
    type Value = i128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i128, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i128, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i128, E> {
        // Beyond 2^64 the cast could only produce a number that no field takes.
        if value.fract() == 0.0 && value.abs() < 18_446_744_073_709_551_616.0 {
            Ok(value as i128)
        } else {
            Err(E::invalid_value(de::Unexpected::Float(value), &self))
        }
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let number = from.deserialize_any(Whole)?;
                <$type>::try_from(number).map_err(|_| {
                    de::Error::custom(format_args!("number {number} is out of range"))
                })
            }

            fn is_empty(&self) -> bool {
                *self == 0
            }
        }
    )*};
}

whole_numbers!(i32, i64, u16, u32, u64);

impl<T: Wire> Wire for Option<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Nullable::<T>(PhantomData).deserialize(from)
    }

    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T: Wire> Wire for Box<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from).map(Self::new)
    }

    fn is_empty(&self) -> bool {
        T::is_empty(self)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: Wire> Visitor<'de> for List<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element_seed(Nullable::<T>(PhantomData))? {
                    list.push(item.unwrap_or_default());
                }
                Ok(list)
            }
        }

        from.deserialize_seq(List(PhantomData))
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl<T: Wire> Wire for BTreeMap<String, T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Wire> Visitor<'de> for Entries<T> {
            type Value = BTreeMap<String, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let mut value = T::default();
                    read_into(&key, &mut map, &mut value)?;
                    entries.insert(key, value);
                }
                Ok(entries)
            }
        }

        from.deserialize_map(Entries(PhantomData))
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

/// Two numbers, as Go's `[2]uint`: missing ones are zero, further ones are dropped.
impl Wire for [u32; 2] {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u32>::read(from)?;
        let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
        Ok([at(0), at(1)])
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// Two strings, as the rows of `DriverStatus`.
impl Wire for [String; 2] {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut words = Vec::<String>::read(from)?.into_iter();
        Ok([
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        ])
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// Words of a command: an array of strings, or one string that stands for an array of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl Wire for Words {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Words, E> {
                Ok(Words(vec![word.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element_seed(Nullable::<String>(PhantomData))? {
                    words.push(word.unwrap_or_default());
                }
                Ok(Words(words))
            }
        }

        from.deserialize_any(Either)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Words {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl From<Vec<String>> for Words {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}

/// The empty object `{}`, Go's `struct{}` as the value of a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Empty;

impl Wire for Empty {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <de::IgnoredAny as de::Deserialize>::deserialize(from).map(|_| Self)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

impl Serialize for Empty {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_map(Some(0))?.end()
    }
}

/// Declares wire types. Each field is `"Name" field: Type`, with `omitempty` before the name for
/// fields that are left out when empty; `flatten "Type" field: Type` takes in another type's fields.
#[macro_export]
macro_rules! wire {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $( $(#[$field_attribute:meta])* $($mode:ident)? $json:literal $field:ident : $type:ty ),* $(,)?
        }
    )*) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone, Default, PartialEq)]
        $visibility struct $name {
            $( $(#[$field_attribute])* $visibility $field: $type, )*
        }

        impl $crate::wire::Fields for $name {
            fn read_field<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<bool, A::Error> {
                $( $crate::wire!(@read self, key, map, $($mode)? $json $field); )*
                let _ = (key, map);
                Ok(false)
            }

            fn write_fields<M: serde::ser::SerializeMap>(
                &self,
                map: &mut M,
            ) -> Result<(), M::Error> {
                $( $crate::wire!(@write self, map, $($mode)? $json $field); )*
                let _ = map;
                Ok(())
            }
        }

        impl $crate::wire::Wire for $name {
            fn read<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::wire::read_object(from)
            }

            fn is_empty(&self) -> bool {
                false
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::wire::read_object(from)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let mut map = to.serialize_map(None)?;
                $crate::wire::Fields::write_fields(self, &mut map)?;
                serde::ser::SerializeMap::end(map)
            }
        }
    )*};

    (@read $self:ident, $key:ident, $map:ident, flatten $json:literal $field:ident) => {
        if $crate::wire::Fields::read_field(&mut $self.$field, $key, $map)? {
            return Ok(true);
        }
    };
    (@read $self:ident, $key:ident, $map:ident, omitempty $json:literal $field:ident) => {
        $crate::wire!(@read $self, $key, $map, $json $field)
    };
    (@read $self:ident, $key:ident, $map:ident, $json:literal $field:ident) => {
        if $key.eq_ignore_ascii_case($json) {
            $crate::wire::read_into($json, $map, &mut $self.$field)?;
            return Ok(true);
        }
    };

    (@write $self:ident, $map:ident, flatten $json:literal $field:ident) => {
        $crate::wire::Fields::write_fields(&$self.$field, $map)?;
    };
    (@write $self:ident, $map:ident, omitempty $json:literal $field:ident) => {
        if !$crate::wire::Wire::is_empty(&$self.$field) {
            $map.serialize_entry($json, &$self.$field)?;
        }
    };
    (@write $self:ident, $map:ident, $json:literal $field:ident) => {
        $map.serialize_entry($json, &$self.$field)?;
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    wire! {
        /// A sample.
        struct Sample {
            "Name" name: String,
            "List" list: Option<Vec<String>>,
            omitempty "Count" count: i64,
            omitempty "Maybe" maybe: Option<bool>,
            "Cmd" cmd: Option<Words>,
            flatten "Inner" inner: Inner,
        }

        /// A part of the sample.
        struct Inner {
            "Set" set: BTreeMap<String, Empty>,
        }
    }

    fn read(text: &str) -> Sample {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn nil_is_null_and_omitempty_is_absent() {
        assert_eq!(
            serde_json::to_string(&Sample::default()).unwrap(),
            r#"{"Name":"","List":null,"Cmd":null,"Set":{}}"#
        );
    }

    #[test]
    fn pointer_to_false_is_written() {
        let sample = Sample {
            maybe: Some(false),
            ..Sample::default()
        };
        assert!(
            serde_json::to_string(&sample)
                .unwrap()
                .contains(r#""Maybe":false"#)
        );
    }

    #[test]
    fn names_match_in_any_case_and_the_last_wins() {
        let sample = read(r#"{"nAmE":"a","NAME":"b","set":{"x":{}},"unknown":[[1]]}"#);
        assert_eq!(sample.name, "b");
        assert!(sample.inner.set.contains_key("x"));
    }

    #[test]
    fn null_leaves_the_default() {
        let sample = read(r#"{"Name":null,"List":null,"Count":null,"Set":null,"Cmd":null}"#);
        assert_eq!(sample, Sample::default());
    }

    #[test]
    fn a_command_may_be_one_string() {
        assert_eq!(
            read(r#"{"Cmd":"true"}"#).cmd,
            Some(Words(vec!["true".into()]))
        );
        assert_eq!(
            read(r#"{"Cmd":["a",null]}"#).cmd,
            Some(Words(vec!["a".into(), String::new()]))
        );
    }

    #[test]
    fn whole_floats_are_numbers_and_others_are_not() {
        assert_eq!(read(r#"{"Count":1e3}"#).count, 1000);
        for bad in [
            r#"{"Count":1.5}"#,
            r#"{"Count":1e999}"#,
            r#"{"Count":NaN}"#,
            r#"{"Count":"1"}"#,
            r#"{"Count":18446744073709551615}"#,
        ] {
            assert!(serde_json::from_str::<Sample>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let error = serde_json::from_str::<Sample>(r#"{"List":[1]}"#).unwrap_err();
        assert!(
            error.to_string().starts_with("List: invalid type"),
            "{error}"
        );
    }
}
