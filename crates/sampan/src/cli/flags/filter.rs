//! `--filter name=value`.

use sampan_api::Filters;

/// Reads filters.
pub(crate) fn parse(text: &str) -> Result<Option<(String, String)>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "bad format of filter (expected name=value)".to_owned())?;
    Ok(Some((name.trim().to_lowercase(), value.trim().to_owned())))
}

/// Collects filters.
pub(crate) fn collect(filters: impl IntoIterator<Item = Option<(String, String)>>) -> Filters {
    let mut collected = Filters::new();
    for (name, value) in filters.into_iter().flatten() {
        collected.add(name, value);
    }
    collected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_a_name_and_a_value() {
        assert_eq!(parse("Label=a=b"), Ok(Some(("label".into(), "a=b".into()))));
        assert_eq!(parse(""), Ok(None));
        assert!(parse("x").is_err());
    }
}
