//! Query arguments, with Docker's idea of truth.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use http::request::Parts;
use sampan_api::Filters;

use crate::error::ApiError;

/// The arguments of a request. Of a name that comes twice the first value counts.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands behind the question mark.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// The first value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let first = self.0.iter().find(|(key, _)| key == name);
        first.map(|(_, value)| value.as_str())
    }

    /// The first value of `name`, when it is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Every value of `name`.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether `name` says yes. Absent is no.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// Whether `name` says yes, or `default` when it is absent.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, is_true)
    }

    /// A whole number; absent and empty are none.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    ApiError::invalid(format!("invalid value for {name}: {value:?} is no number"))
                })
            })
            .transpose()
    }

    /// The filters as the engine reads them; it knows which names there are.
    pub(crate) fn filter_lists(&self) -> Result<BTreeMap<String, Vec<String>>, ApiError> {
        let filters = Filters::parse(self.get("filters").unwrap_or_default())
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let lists = filters.iter().map(|(name, values)| {
            let values = values.iter().cloned().collect();
            (name.to_owned(), values)
        });
        Ok(lists.collect())
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

fn is_true(value: &str) -> bool {
    let value = value.trim();
    !["", "0", "no", "false", "none"]
        .iter()
        .any(|no| value.eq_ignore_ascii_case(no))
}

fn decode(text: &str) -> Result<String, ApiError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                match (digit(), digit()) {
                    (Some(high), Some(low)) => {
                        decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                    }
                    _ => return Err(ApiError::invalid("invalid URL escape in the query")),
                }
            }
            other => decoded.push(other),
        }
    }
    String::from_utf8(decoded).map_err(|_| ApiError::invalid("the query is not valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_dockers() {
        let query = Query::parse("a=1&b=0&c=&d=No&e=FALSE&f=none&g=yes&h&a=0&i=%20false+").unwrap();
        for yes in ["a", "g"] {
            assert!(query.flag(yes), "{yes}");
        }
        for no in ["b", "c", "d", "e", "f", "h", "i", "absent"] {
            assert!(!query.flag(no), "{no}");
        }
        assert!(query.flag_or("absent", true));
        assert!(!query.flag_or("h", true));
    }

    #[test]
    fn escapes_are_read_and_bad_ones_refused() {
        let query = Query::parse("n=a%2Fb+c&n=x").unwrap();
        assert_eq!(query.get("n"), Some("a/b c"));
        assert_eq!(query.all("n").count(), 2);
        for bad in ["a=%", "a=%z1", "%4", "a=%ff"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_are_lists_and_nonsense_is_refused() {
        let query = Query::parse("filters=%7B%22x%22%3A%5B%221%22%5D%7D").unwrap();
        assert_eq!(
            query.filter_lists().unwrap(),
            BTreeMap::from([("x".to_owned(), vec!["1".to_owned()])])
        );
        assert!(Query::parse("filters=x").unwrap().filter_lists().is_err());
        assert!(Query::default().filter_lists().unwrap().is_empty());
    }

    #[test]
    fn numbers_are_numbers() {
        let query = Query::parse("t=-1&u=x&v=").unwrap();
        assert_eq!(query.number::<i64>("t").unwrap(), Some(-1));
        assert_eq!(query.number::<i64>("v").unwrap(), None);
        assert!(query.number::<i64>("u").is_err());
        assert!(query.number::<u16>("t").is_err());
    }
}
