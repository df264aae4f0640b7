//! A request by hand, where a process for each would take too long.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sampan_testing::TestEngine;

/// Sends a request and gives the whole answer.
pub(crate) fn ask(engine: &TestEngine, method: &str, path: &str, body: &[u8]) -> String {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // One that is refused early may be answered before it is read.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
