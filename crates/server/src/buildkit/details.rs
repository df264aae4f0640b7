//! What is told of a failure beside its message: typed details, which BuildKit has as JSON in the
//! details of gRPC's status. With the source a client shows the lines of the Dockerfile.

use base64::Engine as _;
use prost::Message;
use sampan_buildkit::rpc;
use serde_json::json;
use tonic::{Code, Status};

use super::progress::Failed;

/// The names of the types, as containerd's `typeurl` has them.
const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

/// The Dockerfile of a build.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) name: String,
    /// None where it is among the files that are built from.
    pub(super) text: Option<Vec<u8>>,
}

impl Source {
    /// The status of a build that failed at a step.
    pub(super) fn explain(&self, failed: Failed) -> Status {
        let Failed {
            message,
            vertex,
            location,
        } = failed;
        let mut details = Vec::new();
        let mut add = |kind: &str, value: serde_json::Value| {
            details.push(prost_types::Any {
                type_url: kind.to_owned(),
                value: value.to_string().into_bytes(),
            });
        };
        if let Some(vertex) = vertex {
            add(VERTEX, json!({"digest": vertex}));
        }
        if let (Some(text), Some(location)) = (&self.text, location) {
            let data = base64::engine::general_purpose::STANDARD.encode(text);
            let (start, end) = (location.line, location.end_line);
            add(
                SOURCE,
                json!({
                    "info": {"filename": self.name, "data": data, "language": "Dockerfile"},
                    "ranges": [{"start": {"line": start}, "end": {"line": end}}],
                }),
            );
        }
        let status = rpc::Status {
            code: Code::Unknown.into(),
            message: message.clone(),
            details,
        };
        Status::with_details(Code::Unknown, message, status.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use sampan_dockerfile::Location;

    use super::*;

    #[test]
    fn a_failure_tells_where_it_is() {
        let source = Source {
            name: "Dockerfile".to_owned(),
            text: Some(b"FROM x\nRUN y\n".to_vec()),
        };
        let location = Location {
            line: 2,
            column: 1,
            end_line: 2,
        };
        let failed = Failed {
            message: "why".to_owned(),
            vertex: Some("sha256:1".to_owned()),
            location: Some(location),
        };
        let status = source.explain(failed.clone());
        assert_eq!((status.code(), status.message()), (Code::Unknown, "why"));
        let told = rpc::Status::decode(status.details()).unwrap();
        let kinds: Vec<_> = told.details.iter().map(|d| d.type_url.as_str()).collect();
        assert_eq!(kinds, [VERTEX, SOURCE]);
        let json: serde_json::Value = serde_json::from_slice(&told.details[1].value).unwrap();
        assert_eq!(json["ranges"][0]["start"]["line"], 2);
        assert_eq!(json["info"]["data"], "RlJPTSB4ClJVTiB5Cg==");
        let none = Source::default().explain(Failed {
            vertex: None,
            ..failed
        });
        assert!(
            rpc::Status::decode(none.details())
                .unwrap()
                .details
                .is_empty()
        );
    }
}
