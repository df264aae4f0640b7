//! Attaching by WebSocket, frame by frame.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::engine_with_busybox;
use crate::http::{ask, connect, send};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn open(stream: &mut UnixStream, query: &str) {
    let head = format!(
        "GET /v1.51/containers/box/attach/ws?{query} HTTP/1.1\r\nHost: docker\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{KEY}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
}

fn say(stream: &mut UnixStream, kind: u8, data: &[u8]) {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![0x80 | kind, 0x80 | u8::try_from(data.len()).unwrap()];
    bytes.extend(mask);
    bytes.extend(
        data.iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    stream.write_all(&bytes).unwrap();
}

/// A frame of the engine: kind and bytes.
fn hear(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert!(head[1] < 126, "the test has short texts only");
    let mut data = vec![0; head[1].into()];
    stream.read_exact(&mut data).unwrap();
    (head[0] & 0x0f, data)
}

#[test]
fn containers_are_attached_by_websocket() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let words = ["run", "-d", "-i", "--name", "box", "busybox", "cat"];
    let _ = engine.sampan(&words).ok();
    let mut stream = connect(&engine);
    open(&mut stream, "stream=1&stdin=1&stdout=1&stderr=1");
    say(&mut stream, 2, b"through\n");
    assert_eq!(hear(&mut stream), (2, b"through\n".to_vec()));
    say(&mut stream, 9, b"?");
    assert_eq!(hear(&mut stream), (10, b"?".to_vec()));
    // Another one sees the same, and what was before.
    let mut second = connect(&engine);
    open(&mut second, "logs=1&stream=1&stdout=1");
    assert_eq!(hear(&mut second), (2, b"through\n".to_vec()));
    say(&mut stream, 8, &1000_u16.to_be_bytes());
    assert_eq!(hear(&mut stream).0, 8);
    let _ = engine.sampan(&["kill", "box"]).ok();
    assert_eq!(hear(&mut second), (8, 1000_u16.to_be_bytes().to_vec()));
    let path = "/v1.51/containers/box/attach/ws?stream=1";
    let _ = ask(&engine, "GET", path).expect(400);
    let old = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 8",
    ];
    let _ = send(&engine, "GET", path, &old, b"").expect(426);
    let _ = ask(&engine, "GET", "/containers/nonesuch/attach/ws").expect(404);
    engine.remove_all();
}
