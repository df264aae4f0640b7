//! HTTP by hand: what a client library would hide is what is tested.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sampan_testing::TestEngine;
use serde_json::Value;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Lines of the head behind the status, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The sentence of an error.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

pub(crate) fn connect(engine: &TestEngine) -> UnixStream {
    let stream = UnixStream::connect(engine.socket()).unwrap();
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    stream
}

/// Sends a request without a body and reads the answer.
pub(crate) fn ask(engine: &TestEngine, method: &str, path: &str) -> Answer {
    send(engine, method, path, &[], b"")
}

/// Sends a request with a JSON body and reads the answer.
pub(crate) fn tell(engine: &TestEngine, method: &str, path: &str, body: &str) -> Answer {
    let kind = ["Content-Type: application/json"];
    send(engine, method, path, &kind, body.as_bytes())
}

/// Sends a request and reads the answer.
pub(crate) fn send(
    engine: &TestEngine,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut stream = connect(engine);
    stream.write_all(head.as_bytes()).unwrap();
    // The engine may answer before it has read everything.
    let _ = stream.write_all(body);
    read_answer(&mut stream)
}

/// Reads an answer that ends with the connection.
#[track_caller]
pub(crate) fn read_answer(stream: &mut UnixStream) -> Answer {
    let mut raw = Vec::new();
    // A reset behind the answer says that not all of the body was wanted.
    let _ = stream.read_to_end(&mut raw);
    parse(&raw)
}

/// Reads the head of an answer, byte by byte, so that nothing behind it is taken.
pub(crate) fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[track_caller]
fn parse(raw: &[u8]) -> Answer {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(raw)));
    let head = std::str::from_utf8(&raw[..end]).unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let body = &raw[end + 4..];
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    Answer {
        status,
        headers,
        body: if chunked {
            unchunk(body)
        } else {
            body.to_vec()
        },
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}
