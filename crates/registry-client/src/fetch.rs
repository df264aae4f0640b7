//! Files from anywhere, for `import URL`.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};

use crate::client::{Ask, Client, Place, Source};
use crate::payload::Payload;
use crate::{Access, Credentials, Error, Result};

/// A file on its way.
#[derive(Debug)]
pub struct Fetched {
    client: Client,
    response: Response,
}

impl Client {
    /// Fetches what is at a URL that the user gave. `authorization` is the header of that name; it
    /// is sent to the URL's own origin only.
    pub async fn fetch(&self, url: &str, authorization: Option<&str>) -> Result<Fetched> {
        self.settings();
        let authorization = authorization
            .map(|text| {
                let mut value = HeaderValue::from_str(text)
                    .map_err(|_| Error::Protocol("a header has line breaks in it".to_owned()))?;
                value.set_sensitive(true);
                Ok::<_, Error>(value)
            })
            .transpose()?;
        let address = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::Protocol(format!("{url:?} is no address of a file")))?;
        let source = Source {
            registry: String::new(),
            repository: String::new(),
            credentials: Credentials::default(),
            title: url.to_owned(),
            name: url.to_owned(),
            access: Access::Pull,
            is_mirror: false,
        };
        let ask = Ask {
            place: Place::Address {
                url: address,
                is_registry: false,
            },
            payload: Payload::None,
            ..Ask::new(&source, Method::GET, "")
        };
        let (_, response) = self.send(&ask, authorization.as_ref()).await?;
        match response.status() {
            StatusCode::OK => Ok(Fetched {
                client: self.clone(),
                response,
            }),
            status => Err(Error::Status {
                status: status.to_string(),
                code: status.as_u16(),
            }),
        }
    }
}

impl Fetched {
    /// Returns how many bytes will come, if the server says so.
    pub fn size(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Returns a header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Waits for the next bytes; none when all came.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|error| {
            self.client
                .transport_error(&Method::GET, self.response.url(), &error)
        })
    }
}
