//! A request by hand, where a process for each would take too long.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sampan_testing::TestEngine;
use serde_json::Value;

/// Sends a request and gives the whole answer.
pub(crate) fn ask(engine: &TestEngine, method: &str, path: &str, body: &[u8]) -> String {
    send(engine, method, path, "application/octet-stream", body)
}

/// Sends a document, or nothing for `null`; gives the status, and the document that comes back,
/// `null` where none does.
pub(crate) fn tell(engine: &TestEngine, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = match body {
        Value::Null => String::new(),
        document => document.to_string(),
    };
    let answer = send(engine, method, path, "application/json", body.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (
        status.unwrap_or_else(|| panic!("no answer: {answer}")),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

fn send(engine: &TestEngine, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // One that is refused early may be answered before it is read.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
