//! The same for each of several objects.

use std::future::Future;

use futures_util::stream::{self, StreamExt};

use super::failure::Failure;
use super::output;

/// So many at a time.
const AT_ONCE: usize = 50;

/// Does something for each name and prints each name when it is done, in order. The failures of
/// all are told together at the end.
pub(crate) async fn each<'n, F>(
    names: &[&'n str],
    mut action: impl FnMut(&'n str) -> F,
) -> Result<u8, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    each_printing(names, |name| {
        let done = action(name);
        async move {
            named(name)?;
            done.await.map(|()| format!("{name}\n"))
        }
    })
    .await
}

/// Refuses a name that is none.
pub(crate) fn named(name: &str) -> Result<(), Failure> {
    match name.trim() {
        "" => Err(Failure::message(
            "invalid container name or ID: value is empty",
        )),
        _ => Ok(()),
    }
}

/// Does something for each name and prints what it answers, in order.
pub(crate) async fn each_printing<'n, F>(
    names: &[&'n str],
    action: impl FnMut(&'n str) -> F,
) -> Result<u8, Failure>
where
    F: Future<Output = Result<String, Failure>>,
{
    let mut failures = Vec::new();
    let mut answers = stream::iter(names.iter().copied())
        .map(action)
        .buffered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(text) => output::text(&text),
            Err(failure) => {
                let hint = failure
                    .hint()
                    .map_or(String::new(), |hint| format!("\nhint: {hint}"));
                failures.push(failure.text() + &hint);
            }
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::Message(failures.join("\n")))
    }
}
