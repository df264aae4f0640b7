//! An operation's news as a stream of JSON messages.

use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use sampan_api::types::message::Message;
use sampan_images::Progress;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::message::messages;
use crate::error::ApiError;
use crate::reply;

/// An operation under way. It is given up when this is dropped.
pub(super) struct Operation<T> {
    task: JoinHandle<sampan_engine::Result<T>>,
    _wanted: Option<oneshot::Sender<()>>,
}

impl<T: Send + 'static> Operation<T> {
    /// Runs an operation beside the answer.
    pub(super) fn spawn(
        operation: impl Future<Output = sampan_engine::Result<T>> + Send + 'static,
    ) -> Self {
        Self {
            task: tokio::spawn(operation),
            _wanted: None,
        }
    }

    /// Runs an operation on a thread of its own: its future borrows too much to move between
    /// threads.
    pub(super) fn on_a_thread<F>(operation: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = sampan_engine::Result<T>>,
    {
        let (wanted, unwanted) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                tokio::select! {
                    result = operation() => result,
                    _ = unwanted => Err(left()),
                }
            })
        });
        Self {
            task,
            _wanted: Some(wanted),
        }
    }

    async fn end(mut self) -> Result<T, ApiError> {
        match (&mut self.task).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ApiError::internal("the operation broke off")),
        }
    }
}

/// Waits for an operation whose future cannot move between threads.
pub(super) async fn on_a_thread<T, F>(
    operation: impl FnOnce() -> F + Send + 'static,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: Future<Output = sampan_engine::Result<T>>,
{
    Operation::on_a_thread(operation).end().await
}

/// Nobody gets to see it.
fn left() -> sampan_engine::Error {
    sampan_engine::Error::new(sampan_engine::ErrorKind::Unavailable, "the client has left")
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn told(news: UnboundedReceiver<Progress>) -> impl Stream<Item = Progress> + Send {
    stream::unfold(news, async |mut news| Some((news.recv().await?, news)))
}

/// Answers with all news of an operation and how it ended.
pub(super) async fn answer<T, L>(
    news: UnboundedReceiver<Progress>,
    operation: Operation<T>,
    last: L,
) -> Result<Response, ApiError>
where
    T: Send + 'static,
    L: FnOnce(T) -> Option<Message> + Send + 'static,
{
    answer_stream(told(news), operation, last).await
}

/// Answers with an operation's news and how it ended. One that fails before there are any news
/// is answered with a status of its own; one that fails later with a last message.
pub(super) async fn answer_stream<S, T, L>(
    news: S,
    operation: Operation<T>,
    last: L,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Progress> + Send + 'static,
    T: Send + 'static,
    L: FnOnce(T) -> Option<Message> + Send + 'static,
{
    let mut news = Box::pin(news);
    let Some(first) = news.next().await else {
        // It ended: nothing more is told by what has gone.
        let message = operation.end().await?;
        let line = last(message).map(|message| Ok(line(&message)));
        return Ok(reply::stream("application/json", stream::iter(line)));
    };
    let lines = stream::iter([lines(&first)]).chain(news.map(|progress| lines(&progress)));
    let end = stream::once(async move {
        match operation.end().await {
            Ok(value) => last(value).map(|message| line(&message)),
            Err(error) => Some(line(&Message::error(error.message()))),
        }
    });
    let end = end.filter_map(std::future::ready);
    Ok(reply::stream("application/json", lines.chain(end).map(Ok)))
}

fn lines(progress: &Progress) -> Bytes {
    let lines: Vec<Bytes> = messages(progress).iter().map(line).collect();
    lines.concat().into()
}

/// A message and the end of line that Docker writes in these streams.
fn line(message: &Message) -> Bytes {
    let mut line = serde_json::to_vec(message).expect("messages are always valid JSON");
    line.extend_from_slice(b"\r\n");
    line.into()
}
