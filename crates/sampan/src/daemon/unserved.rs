//! What clients hear while there is no engine to answer them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listen::Listener;

/// A client says what it wants within this time.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long who has come in time is waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// More than this of a request is not read.
const LONGEST_REQUEST: usize = 64 << 10;

/// Answers every request with `sentence` and status 503, for a while.
pub(super) async fn answer(
    listeners: &[Listener],
    sentence: &str,
    time: Duration,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut accepting = JoinSet::new();
    for listener in listeners {
        // By TCP they wait: what is said there would be said in the clear.
        let Listener::Unix(listener) = listener else {
            continue;
        };
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener.try_clone()?)?;
        accepting.spawn(answer_at(listener, sentence.to_owned(), stop.clone()));
    }
    tokio::time::sleep(time).await;
    stop.cancel();
    while accepting.join_next().await.is_some() {}
    Ok(())
}

async fn answer_at(listener: tokio::net::UnixListener, sentence: String, stop: CancellationToken) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { break };
                let sentence = sentence.clone();
                let told = async move { tell(client, &sentence).await };
                clients.spawn(tokio::time::timeout(PATIENCE, told));
                while clients.try_join_next().is_some() {}
            }
            () = stop.cancelled() => break,
        }
    }
    // Who is being told hears it to the end.
    let _ = tokio::time::timeout(LAST_WORDS, clients.join_all()).await;
}

async fn tell(mut client: UnixStream, sentence: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head_ends = |request: &[u8]| request.windows(4).any(|bytes| bytes == b"\r\n\r\n");
    while !head_ends(&request) && request.len() < LONGEST_REQUEST {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    client.write_all(&response(&request, sentence)).await?;
    client.shutdown().await?;
    // Closed with something unread, the client would lose the answer.
    let mut rest = [0; 4096];
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}

fn response(request: &[u8], sentence: &str) -> Vec<u8> {
    let body = serde_json::json!({ "message": sentence }).to_string();
    let mut response = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    if !request.starts_with(b"HEAD ") {
        response.push_str(&body);
    }
    response.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_no_body() {
        let whole =
            String::from_utf8(response(b"GET / HTTP/1.1\r\n\r\n", "no \"engine\"")).unwrap();
        assert!(whole.ends_with(r#"{"message":"no \"engine\""}"#), "{whole}");
        let head = String::from_utf8(response(b"HEAD / HTTP/1.1\r\n\r\n", "no")).unwrap();
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn clients_are_told_why() {
        use std::io::{Read, Write};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listeners = [Listener::Unix(
            std::os::unix::net::UnixListener::bind(&path).unwrap(),
        )];
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(b"GET /info HTTP/1.1\r\n\r\n").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(answer(&listeners, "the reason", Duration::from_millis(200)))
            .unwrap();
        drop(runtime);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("the reason"), "{answer}");
    }
}
