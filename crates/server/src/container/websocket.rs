//! `GET /containers/{id}/attach/ws`: a container's streams in a WebSocket (RFC 6455).

use std::io;
use std::os::fd::OwnedFd;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode, header};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use sampan_api::ApiVersion;
use sampan_engine::{AttachOptions, Attachment, ClientStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::app::App;
use crate::error::ApiError;
use crate::hijack::{Hijack, RawConnection, write_now};
use crate::query::Query;

/// What a server adds to a client's key (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes that one frame of a client may have.
const LONGEST: u64 = 1 << 20;
/// Bytes of output in one frame.
const PIECE: usize = 32 << 10;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Gives the client what the container writes, without frames of Docker's: both streams in one.
pub(super) async fn attach(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
    hijack: Hijack,
) -> Result<Response, ApiError> {
    let options = AttachOptions {
        raw: true,
        ..super::attach::options(&query)
    };
    let containers = app.engine.containers();
    let full = containers.inspect(&id).await?.id.to_string();
    let attachment = containers.attach(&full, options).await?;
    let head = head(&headers)?;
    let note = app.attaching(&full);
    // Older clients get text, whatever it is.
    let kind = if version.at_least(28) { BINARY } else { TEXT };
    let response = hijack.take(async move |raw: RawConnection| {
        let begun = begin(&raw.socket, &head, attachment).await;
        drop(note);
        let carried = match begun {
            Ok(container) => carry(raw, container, kind).await,
            Err(error) => Err(error),
        };
        if let Err(error) = carried {
            tracing::debug!(%error, "a web socket ended");
        }
    });
    Ok(response.await)
}

/// The head of the answer to a client's handshake (RFC 6455, section 4.2).
fn head(headers: &HeaderMap) -> Result<String, ApiError> {
    let field = |name: header::HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let has = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).iter();
        let mut words = values.flat_map(|value| value.to_str().unwrap_or_default().split(','));
        words.any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let bad = |what: &str| ApiError::invalid(format!("bad web socket handshake: {what}"));
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(bad("no upgrade to a web socket is asked for"));
    }
    if field(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(ApiError::new(
            StatusCode::UPGRADE_REQUIRED,
            "bad web socket handshake: only version 13 is spoken",
        ));
    }
    let key = field(header::SEC_WEBSOCKET_KEY);
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(bad("there is no key"));
    }
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    ))
}

fn accept(key: &str) -> String {
    let hash = digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{MAGIC}").as_bytes(),
    );
    STANDARD.encode(hash)
}

/// Answers the handshake and attaches this end of a pair of sockets to the container.
async fn begin(socket: &OwnedFd, head: &str, attachment: Attachment) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    write_now(socket, head.as_bytes())?;
    let client = ClientStream {
        socket: theirs.into_std()?.into(),
        leftover: Vec::new(),
    };
    attachment
        .connect(client)
        .await
        .map_err(|error| io::Error::other(error.message().to_owned()))?;
    Ok(ours)
}

/// Carries both directions until the client leaves or the container has written all.
async fn carry(raw: RawConnection, container: UnixStream, kind: u8) -> io::Result<()> {
    // The standard library reads and writes a TCP socket through this type just as well.
    let client = std::os::unix::net::UnixStream::from(raw.socket);
    let client = UnixStream::from_std(client)?;
    let (from_client, to_client) = client.into_split();
    let (output, input) = container.into_split();
    let to_client = tokio::sync::Mutex::new(to_client);
    let inward = receive(from_client, raw.leftover, input, &to_client);
    let outward = async {
        let sent = send(output, &to_client, kind).await;
        // 1000: all is said.
        let _ = frame(&to_client, CLOSE, &1000_u16.to_be_bytes()).await;
        sent
    };
    tokio::select! {
        received = inward => received,
        sent = outward => sent,
    }
}

async fn send(
    mut output: impl AsyncRead + Unpin,
    client: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
    kind: u8,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match output.read(&mut piece).await? {
            0 => return Ok(()),
            length => frame(client, kind, &piece[..length]).await?,
        }
    }
}

/// Writes one whole message. A server's are not masked.
async fn frame(
    client: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
    kind: u8,
    data: &[u8],
) -> io::Result<()> {
    let mut bytes = vec![0x80 | kind];
    match data.len() {
        short @ 0..=125 => bytes.push(short as u8),
        middle @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(data);
    client.lock().await.write_all(&bytes).await
}

/// Gives the container what the client sends. Returns when the client has said goodbye or left.
async fn receive(
    mut client: impl AsyncRead + Unpin,
    leftover: Vec<u8>,
    mut input: impl AsyncWrite + Unpin,
    answers: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
) -> io::Result<()> {
    let mut bytes = BytesMut::from(leftover.as_slice());
    loop {
        while let Some(received) = take(&mut bytes)? {
            match received.kind {
                CONTINUATION | TEXT | BINARY => input.write_all(&received.data).await?,
                PING => frame(answers, PONG, &received.data).await?,
                CLOSE => {
                    let code = &received.data[..received.data.len().min(2)];
                    return frame(answers, CLOSE, code).await;
                }
                _ => {}
            }
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// A frame of a client.
struct Received {
    kind: u8,
    data: Vec<u8>,
}

/// Takes one whole frame off the front.
fn take(bytes: &mut BytesMut) -> io::Result<Option<Received>> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let [first, second, rest @ ..] = &bytes[..] else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(wrong("a client's frame is not masked"));
    }
    let (length, extra) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (u16::from_be_bytes(*length).into(), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Ok(None),
        },
        short => (short.into(), 0),
    };
    if length > LONGEST {
        return Err(wrong("a client's frame is too long"));
    }
    let kind = first & 0x0f;
    let at = 2 + extra + 4;
    let whole = at + length as usize;
    if bytes.len() < whole {
        return Ok(None);
    }
    let mask = [bytes[at - 4], bytes[at - 3], bytes[at - 2], bytes[at - 1]];
    let data = bytes[at..whole]
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    bytes.advance(whole);
    Ok(Some(Received { kind, data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_answered_as_the_standard_shows() {
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let mut headers = HeaderMap::new();
        assert!(head(&headers).is_err());
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        headers.insert(header::CONNECTION, "keep-alive, Upgrade".parse().unwrap());
        headers.insert(header::SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        headers.insert(
            header::SEC_WEBSOCKET_KEY,
            "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap(),
        );
        assert!(
            head(&headers)
                .unwrap()
                .contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        headers.insert(header::SEC_WEBSOCKET_KEY, "short".parse().unwrap());
        assert!(head(&headers).is_err());
    }

    #[test]
    fn frames_are_unmasked_and_halves_wait() {
        // "Hello" of section 5.7.
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        let mut bytes = BytesMut::from(&hello[..7]);
        assert!(take(&mut bytes).unwrap().is_none());
        bytes.extend_from_slice(&hello[7..]);
        let received = take(&mut bytes).unwrap().unwrap();
        assert_eq!((received.kind, &received.data[..]), (TEXT, &b"Hello"[..]));
        assert!(bytes.is_empty());
        assert!(take(&mut BytesMut::from(&b"\x81\x05Hello"[..])).is_err());
        let huge = [0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(take(&mut BytesMut::from(&huge[..])).is_err());
    }
}
