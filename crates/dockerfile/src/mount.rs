//! `RUN --mount=…` and `RUN --device=…`.

use serde::Serialize;

use crate::directive::boolean;
use crate::error::{Error, ErrorKind, did_you_mean, quoted};
use crate::shell::{Expansion, Shell};
use crate::variables::Variables;
use crate::words::csv;

/// A mount as written: values may have variables in them.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct MountFlag {
    fields: Vec<(String, Option<String>)>,
}

/// What is mounted while a command runs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Mount {
    /// The place in the container; relative ones begin at the working directory.
    /// Only secrets and agents may have none.
    pub target: Option<String>,
    /// Whether the command may not write to it.
    pub read_only: bool,
    /// What it is.
    pub kind: MountKind,
}

/// The types of mounts.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub enum MountKind {
    /// A part of the context, a stage or an image. What is written to it is dropped.
    Bind {
        /// A stage, a named context or an image; none is the context.
        from: Option<String>,
        /// The path in it.
        source: String,
    },
    /// A directory that stays with the builder.
    Cache {
        /// Which of them; the target if none is given.
        id: Option<String>,
        /// Whether others may use it at the same time.
        sharing: Sharing,
        /// Where a new one gets its content from; none is empty.
        from: Option<String>,
        /// The path in it.
        source: String,
        /// Permissions of a new one.
        mode: Option<u32>,
        /// Owner of a new one.
        uid: Option<u32>,
        /// Group of a new one.
        gid: Option<u32>,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Bytes at most, 0 is no limit.
        size: u64,
    },
    /// A secret as a file, a variable, or both.
    Secret {
        /// Which; the last part of the target if none is given.
        id: String,
        /// The name of the variable.
        env: Option<String>,
        /// Whether the step fails if the client has none.
        required: bool,
        /// Permissions of the file, 0400 if none are given.
        mode: Option<u32>,
        /// Owner of the file.
        uid: Option<u32>,
        /// Group of the file.
        gid: Option<u32>,
    },
    /// A socket of the client's SSH agent.
    Ssh {
        /// Which agent, `default` if none is given.
        id: Option<String>,
        /// Whether the step fails if the client has none.
        required: bool,
        /// Permissions of the socket, 0600 if none are given.
        mode: Option<u32>,
        /// Owner of the socket.
        uid: Option<u32>,
        /// Group of the socket.
        gid: Option<u32>,
    },
}

/// How steps use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub enum Sharing {
    /// All use it at once.
    #[default]
    Shared,
    /// A second one gets another, new one.
    Private,
    /// A second one waits.
    Locked,
}

/// A device by its CDI name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Device {
    /// As in `vendor.com/class=name`.
    pub name: String,
    /// Whether the step fails if the builder has none.
    pub required: bool,
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Flag, message)
}

impl MountFlag {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fields =
            csv(text).map_err(|reason| wrong(format!("failed to parse csv mounts: {reason}")))?;
        let fields: Vec<(String, Option<String>)> = fields
            .iter()
            .map(|field| match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
                None => (field.to_ascii_lowercase(), None),
            })
            .collect();
        let flag = Self { fields };
        if flag.raw("from").is_some_and(has_variable) {
            let message = "'from' doesn't support variable expansion, define alias stage instead";
            return Err(wrong(message).with_hint("FROM $NAME AS alias, then from=alias"));
        }
        let values = flag.fields.iter().filter_map(|(_, value)| value.as_deref());
        if !values.clone().any(has_variable) {
            // Without variables every mistake can be told at once.
            flag.resolve(&Shell::new('\\'), &Variables::default())?;
        }
        Ok(flag)
    }

    fn raw(&self, key: &str) -> Option<&str> {
        let mut fields = self.fields.iter().rev();
        fields
            .find(|(name, _)| name == key)
            .and_then(|(_, value)| value.as_deref())
    }

    /// The stage, named context or image that is needed before the step can run.
    /// It never depends on variables.
    pub fn source_name(&self) -> Option<&str> {
        let kind = self.raw("type").unwrap_or("bind").to_ascii_lowercase();
        let has_source = matches!(kind.as_str(), "bind" | "cache") || has_variable(&kind);
        self.raw("from")
            .filter(|from| has_source && !from.is_empty())
    }

    /// Expands the values and checks them.
    pub fn resolve(&self, shell: &Shell, variables: &Variables) -> Result<Mount, Error> {
        self.resolve_with(&mut |value| shell.expand(value, variables))
    }

    pub(crate) fn resolve_with(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<Expansion, Error>,
    ) -> Result<Mount, Error> {
        let mut draft = Draft::default();
        for (key, value) in &self.fields {
            match value {
                None => draft.switch(key)?,
                Some(value) => draft.set(key, &expand(value)?.text)?,
            }
        }
        draft.finish()
    }
}

fn has_variable(text: &str) -> bool {
    text.split_once('$')
        .is_some_and(|(_, after)| !after.is_empty())
}

#[derive(Default)]
struct Draft {
    kind: Option<&'static str>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    required: bool,
    size: Option<u64>,
    id: Option<String>,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Draft {
    fn kind(&self) -> &'static str {
        self.kind.unwrap_or("bind")
    }

    fn switch(&mut self, key: &str) -> Result<(), Error> {
        match key {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for(key, &["secret", "ssh"])?;
                self.required = true;
            }
            _ => {
                return Err(wrong(format!(
                    "invalid field '{key}' must be a key=value pair"
                )));
            }
        }
        Ok(())
    }

    /// A key must come after the type that it belongs to.
    fn only_for(&self, key: &str, kinds: &[&str]) -> Result<(), Error> {
        if kinds.contains(&self.kind()) {
            return Ok(());
        }
        Err(wrong(format!(
            "unexpected key '{key}' for mount type '{}'",
            self.kind()
        )))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let invalid = || wrong(format!("invalid value for {key}: {value}"));
        let truth = || boolean(value).ok_or_else(invalid);
        let number = |radix: u32| {
            u32::from_str_radix(value, radix)
                .ok()
                .filter(|_| !value.starts_with('+'))
                .ok_or_else(|| wrong(format!("invalid value {value} for {key}")))
        };
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "type" => {
                let lower = value.to_ascii_lowercase();
                self.kind = TYPES.into_iter().find(|known| *known == lower);
                if self.kind.is_none() {
                    let message = format!("unsupported mount type {}", quoted(value));
                    return Err(wrong(did_you_mean(message, value, TYPES)));
                }
            }
            "from" => self.from = text(),
            "source" | "src" => self.source = text(),
            "target" | "dst" | "destination" => self.target = text(),
            "readonly" | "ro" => self.read_only = Some(truth()?),
            "readwrite" | "rw" => self.read_only = Some(!truth()?),
            "required" => {
                self.only_for(key, &["secret", "ssh"])?;
                self.required = truth()?;
            }
            "size" => {
                self.only_for(key, &["tmpfs"])?;
                self.size = Some(bytes(value).ok_or_else(invalid)?);
            }
            "id" => self.id = text(),
            "sharing" => {
                self.sharing = Some(match value.to_ascii_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let message = format!("unsupported sharing value {}", quoted(value));
                        return Err(wrong(did_you_mean(message, value, SHARINGS)));
                    }
                });
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => {
                self.only_for(key, &["secret"])?;
                self.env = text();
            }
            _ => {
                let message = format!("unexpected key '{key}' in '{key}={value}'");
                return Err(wrong(did_you_mean(message, key, KEYS)));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, Error> {
        let kind = self.kind();
        if matches!(kind, "bind" | "tmpfs") {
            let owned = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = owned.iter().find(|(_, value)| value.is_some()) {
                return Err(wrong(format!(
                    "{key} not allowed for \"{kind}\" type mounts"
                )));
            }
        }
        if kind == "secret" {
            self.check_secret()?;
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(wrong(format!("invalid cache sharing set for {kind} mount")));
        }
        if self.target.is_none() && !matches!(kind, "secret" | "ssh") {
            return Err(wrong("invalid mount target \"\"").with_hint("give target=/path"));
        }
        let read_only = self.read_only.unwrap_or(!matches!(kind, "cache" | "tmpfs"));
        let source = self.source.clone().unwrap_or_else(|| "/".to_owned());
        let kind = match kind {
            "bind" => MountKind::Bind {
                from: self.from,
                source,
            },
            "cache" => MountKind::Cache {
                id: self.id,
                sharing: self.sharing.unwrap_or_default(),
                from: self.from,
                source,
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            },
            "tmpfs" => MountKind::Tmpfs {
                size: self.size.unwrap_or(0),
            },
            "secret" => MountKind::Secret {
                id: self.secret_id(),
                env: self.env,
                required: self.required,
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            },
            _ => MountKind::Ssh {
                id: self.id,
                required: self.required,
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            },
        };
        Ok(Mount {
            target: self.target,
            read_only,
            kind,
        })
    }

    fn check_secret(&self) -> Result<(), Error> {
        if self.from.is_some() {
            return Err(wrong("secret mount should not have a from"));
        }
        if self.sharing.is_some() {
            return Err(wrong("secret mount should not define sharing"));
        }
        if self.source.is_none() && self.target.is_none() && self.id.is_none() {
            return Err(wrong(
                "invalid secret mount. one of source, target required",
            ));
        }
        if self.source.is_some() && self.id.is_some() {
            return Err(wrong("both source and id can't be set"));
        }
        Ok(())
    }

    fn secret_id(&self) -> String {
        let given = self.source.as_ref().or(self.id.as_ref());
        given.cloned().unwrap_or_else(|| {
            let target = self.target.as_deref().unwrap_or_default();
            let target = target.trim_end_matches('/');
            target.rsplit('/').next().unwrap_or_default().to_owned()
        })
    }
}

impl Device {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fields =
            csv(text).map_err(|reason| wrong(format!("failed to parse csv devices: {reason}")))?;
        let mut name = None;
        let mut required = false;
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
                None => (field.to_ascii_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => required = true,
                ("required", Some(value)) => {
                    required = boolean(value)
                        .ok_or_else(|| wrong(format!("invalid value for {key}: {value}")))?;
                }
                ("name", Some(_)) if name.is_some() => {
                    return Err(wrong("device name is given twice"));
                }
                ("name", Some(value)) => name = Some(value.to_owned()),
                // A name has an equals sign of its own.
                _ if name.is_none() => name = Some(field),
                (_, Some(_)) => {
                    let message = format!("unexpected key '{key}' in '{field}'");
                    return Err(wrong(did_you_mean(message, &key, ["name", "required"])));
                }
                (_, None) => {
                    return Err(wrong(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            }
        }
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("a device needs a name"))?;
        Ok(Self { name, required })
    }
}

/// A size in memory: `64m`, `1.5GiB`; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.starts_with('i') => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let size = number * 1024f64.powi(power);
    (size < u64::MAX as f64).then_some(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        MountFlag::parse(text)
            .and_then(|flag| flag.resolve(&Shell::new('\\'), &Variables::default()))
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn each_type_has_its_defaults() {
        let bind = mount("target=/a").unwrap();
        assert!(bind.read_only);
        let source = "/".to_owned();
        assert_eq!(bind.kind, MountKind::Bind { from: None, source });
        assert!(!mount("target=/a,rw").unwrap().read_only);
        assert!(mount("target=/a,readwrite=false").unwrap().read_only);

        let cache = mount("type=cache,dst=/c,sharing=LOCKED,mode=0700,uid=1").unwrap();
        assert!(!cache.read_only);
        let MountKind::Cache {
            sharing,
            mode,
            uid,
            gid,
            id,
            ..
        } = cache.kind
        else {
            panic!()
        };
        assert_eq!(
            (sharing, mode, uid, gid, id),
            (Sharing::Locked, Some(0o700), Some(1), None, None)
        );

        let tmpfs = mount("TYPE=tmpfs,target=/t,size=1.5m").unwrap();
        assert_eq!(tmpfs.kind, MountKind::Tmpfs { size: 1_572_864 });

        let secret = mount("type=secret,target=/run/x/token,required").unwrap();
        let MountKind::Secret {
            id, required, env, ..
        } = secret.kind
        else {
            panic!()
        };
        assert_eq!((id.as_str(), required, env), ("token", true, None));
        let secret = mount("type=secret,id=a,env=A").unwrap();
        assert_eq!(secret.target, None);
        assert!(matches!(
            secret.kind,
            MountKind::Secret { env: Some(_), .. }
        ));
        assert!(matches!(
            mount("type=ssh").unwrap().kind,
            MountKind::Ssh { id: None, .. }
        ));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (
                "type=bnd,target=/a",
                "unsupported mount type \"bnd\" (did you mean bind?)",
            ),
            (
                "type=cache,target=/a,sharing=lockd",
                "unsupported sharing value \"lockd\" (did you mean locked?)",
            ),
            (
                "targte=/a",
                "unexpected key 'targte' in 'targte=/a' (did you mean target?)",
            ),
            ("target", "invalid field 'target' must be a key=value pair"),
            (
                "target=/a,size=1",
                "unexpected key 'size' for mount type 'bind'",
            ),
            (
                "target=/a,mode=0700",
                "mode not allowed for \"bind\" type mounts",
            ),
            ("type=cache,target=/a,mode=9", "invalid value 9 for mode"),
            ("type=cache,target=/a,uid=-1", "invalid value -1 for uid"),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            (
                "type=secret,id=a,source=b",
                "both source and id can't be set",
            ),
            (
                "type=secret,id=a,from=b",
                "secret mount should not have a from",
            ),
            (
                "type=tmpfs,target=/a,sharing=shared",
                "invalid cache sharing set for tmpfs mount",
            ),
            ("type=bind", "invalid mount target \"\""),
            ("target=/a,ro=maybe", "invalid value for ro: maybe"),
            (
                "from=$x,target=/a",
                "'from' doesn't support variable expansion, define alias stage instead",
            ),
            (
                "\"a",
                "failed to parse csv mounts: extraneous or missing \" in quoted-field",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(mount(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn values_expand_and_sources_are_known_before() {
        let flag = MountFlag::parse("type=cache,from=base,target=$dir/c,id=${id:-x}").unwrap();
        assert_eq!(flag.source_name(), Some("base"));
        let variables = Variables::from_environment(["dir=/d"]);
        let resolved = flag.resolve(&Shell::new('\\'), &variables).unwrap();
        assert_eq!(resolved.target.as_deref(), Some("/d/c"));
        assert!(matches!(resolved.kind, MountKind::Cache { id: Some(id), .. } if id == "x"));
        assert_eq!(
            MountFlag::parse("type=tmpfs,from=a,target=/a")
                .unwrap()
                .source_name(),
            None
        );
    }

    #[test]
    fn devices_have_a_name_with_an_equals_sign() {
        let device = |text: &str| Device::parse(text).map_err(|error| error.message().to_owned());
        let gpu = |required: bool| Device {
            name: "vendor.com/gpu=all".to_owned(),
            required,
        };
        assert_eq!(device("vendor.com/gpu=all").unwrap(), gpu(false));
        assert_eq!(
            device("name=vendor.com/gpu=all,required").unwrap(),
            gpu(true)
        );
        assert_eq!(device("vendor.com/gpu=all,required=1").unwrap(), gpu(true));
        assert!(
            device("a=b,requird=1")
                .unwrap_err()
                .contains("did you mean required?")
        );
        assert!(device("").is_err());
    }
}
