//! Objects from the text of a manifest: YAML with any number of documents, or JSON (which YAML contains), each
//! document one object or a list of objects.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Options, Spanned};

use crate::k8s::{Kind, Metadata, Namespace, Node, NodeSpec, NodeStatus, Object, Pod, PodSpec, PodStatus};

/// What a manifest holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Objects of the kinds that the index keeps, in the order of the text.
    pub objects: Vec<Placed>,
    /// Objects of other kinds: accepted and not used.
    pub ignored: Vec<Ignored>,
}

/// An object and the line where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Line, from 1.
    pub line: u64,
    /// The object.
    pub object: Object,
}

/// An object that this agent does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Line, from 1.
    pub line: u64,
    /// `apiVersion` and `kind`.
    pub kind: String,
}

/// Why a manifest was refused whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a manifest.
pub fn parse(text: &str) -> Result<Manifest, ParseError> {
    let documents: Vec<Spanned<Entry>> = serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| {
        let line = e.location().map_or(1, |l| l.line());
        ParseError { line, reason: first_line(&e.to_string()) }
    })?;
    let mut manifest = Manifest::default();
    for document in documents {
        manifest.take(document, None)?;
    }
    Ok(manifest)
}

fn options() -> Options {
    serde_saphyr::options! {
        // Manifests come from a folder that only root writes; a whole cluster's objects may stand in one file.
        budget: serde_saphyr::budget! { max_events: 50_000_000, max_nodes: 20_000_000, max_documents: 1_000_000 },
        strict_booleans: true,
        with_snippet: false,
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("not readable").trim_end_matches([' ', ':']).to_owned()
}

impl Manifest {
    fn take(&mut self, entry: Spanned<Entry>, list: Option<&Type>) -> Result<(), ParseError> {
        let line = entry.referenced.line();
        match entry.value {
            Entry::Nothing => {}
            Entry::List(list, items) => {
                for item in items {
                    self.take(item, Some(&list))?;
                }
            }
            Entry::Object(unread) => {
                let (known, kind) = unread.kind(list).map_err(|reason| ParseError { line, reason })?;
                match known {
                    None => self.ignored.push(Ignored { line, kind }),
                    Some(known) => {
                        let object = unread.object(known).map_err(|reason| ParseError { line, reason })?;
                        self.objects.push(Placed { line, object });
                    }
                }
            }
        }
        Ok(())
    }
}

/// `apiVersion` and `kind`; empty where not stated.
#[derive(Clone, Default)]
struct Type {
    api_version: String,
    kind: String,
}

/// A document, or an item of a list.
enum Entry {
    Nothing,
    Object(Box<Unread>),
    List(Type, Vec<Spanned<Entry>>),
}

/// An object, read as far as its kind was known while it was read. The rest of it is known by its first line only:
/// what stood before `kind`, and the items of a typed list (`NodeList`), which state no kind of their own.
#[derive(Default)]
struct Unread {
    stated: Type,
    metadata: Metadata,
    node: (NodeSpec, NodeStatus),
    pod: (PodSpec, PodStatus),
    spec: Value,
    status: Value,
}

impl Unread {
    /// The kind with its name for people; `None`: one that is not used.
    fn kind(&self, list: Option<&Type>) -> Result<(Option<Kind>, String), String> {
        let of_list = |f: fn(&Type) -> &str| list.map(f).unwrap_or_default().to_owned();
        let or = |stated: &String, other: String| if stated.is_empty() { other } else { stated.clone() };
        let kind = or(&self.stated.kind, of_list(|l| l.kind.strip_suffix("List").unwrap_or_default()));
        let api_version = or(&self.stated.api_version, of_list(|l| &l.api_version));
        if kind.is_empty() {
            return Err("an object without \"kind\"".into());
        }
        if api_version.is_empty() {
            return Err(format!("a {kind} without \"apiVersion\""));
        }
        Ok((Kind::of(&api_version, &kind), format!("{api_version} {kind}")))
    }

    fn object(self, kind: Kind) -> Result<Object, String> {
        let Unread { metadata, mut node, mut pod, .. } = self;
        if metadata.name.is_empty() {
            return Err(format!("a {kind:?} without \"metadata.name\""));
        }
        match kind {
            Kind::Node => {
                late("spec", self.spec, &mut node.0)?;
                late("status", self.status, &mut node.1)?;
                Ok(Object::Node(Node { metadata, spec: node.0, status: node.1 }))
            }
            Kind::Pod => {
                late("spec", self.spec, &mut pod.0)?;
                late("status", self.status, &mut pod.1)?;
                Ok(Object::Pod(Pod { metadata, spec: pod.0, status: pod.1 }))
            }
            Kind::Namespace => Ok(Object::Namespace(Namespace { metadata })),
        }
    }
}

/// Reads a part that was kept until the kind was known.
fn late<T: de::DeserializeOwned>(name: &str, value: Value, into: &mut T) -> Result<(), String> {
    if !value.is_null() {
        *into = serde_json::from_value(value).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object or a list of them")
    }

    /// An empty document.
    fn visit_unit<E>(self) -> Result<Entry, E> {
        Ok(Entry::Nothing)
    }

    fn visit_none<E>(self) -> Result<Entry, E> {
        Ok(Entry::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut reading = Unread::default();
        let mut items = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" && reading.may_be_list() {
                items = Some(map.next_value::<Option<_>>()?.unwrap_or_default());
            } else {
                reading.field(&key, &mut map)?;
            }
        }
        match items {
            Some(items) if reading.may_be_list() => Ok(Entry::List(reading.stated, items)),
            _ => Ok(Entry::Object(Box::new(reading))),
        }
    }
}

impl Unread {
    fn may_be_list(&self) -> bool {
        self.stated.kind.is_empty() || self.stated.kind.ends_with("List")
    }

    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let Type { api_version, kind } = &self.stated;
        let stated = !api_version.is_empty() && !kind.is_empty();
        match (key, Kind::of(api_version, kind)) {
            ("apiVersion", _) => self.stated.api_version = map.next_value()?,
            ("kind", _) => self.stated.kind = map.next_value()?,
            ("metadata", _) => self.metadata = optional(map)?,
            ("spec", Some(Kind::Node)) => self.node.0 = optional(map)?,
            ("status", Some(Kind::Node)) => self.node.1 = optional(map)?,
            ("spec", Some(Kind::Pod)) => self.pod.0 = optional(map)?,
            ("status", Some(Kind::Pod)) => self.pod.1 = optional(map)?,
            ("spec", None) if !stated => self.spec = map.next_value()?,
            ("status", None) if !stated => self.status = map.next_value()?,
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

fn optional<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
