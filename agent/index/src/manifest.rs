//! Objects from the text of a manifest: YAML with any number of documents, or JSON (which YAML contains), each
//! document one object or a list of objects.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Options, Spanned};

use crate::k8s::{
    EndpointSlice, Kind, Metadata, Namespace, Node, NodeSpec, NodeStatus, Object, Pod, PodSpec, PodStatus, Policy,
    Service, ServiceCidr, ServiceCidrSpec, ServiceSpec, ServiceStatus, SliceEndpoint, SlicePort,
};

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

/// Reads one object of a known kind from the JSON of an API server, which leaves the kind out of the items of lists.
/// Fields that the index does not use are passed over, not kept.
///
/// # Errors
/// What is wrong with the text, in one line.
pub fn object(kind: Kind, json: &str) -> Result<Object, String> {
    let (api_version, name) = kind.names();
    let stated = Type { api_version: api_version.to_owned(), kind: name.to_owned() };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let unread = OfType(stated).deserialize(&mut deserializer).map_err(|e| first_line(&e.to_string()))?;
    unread.object(kind)
}

/// Reads an object whose type is known before.
struct OfType(Type);

impl<'de> DeserializeSeed<'de> for OfType {
    type Value = Unread;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Unread, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OfType {
    type Value = Unread;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unread, A::Error> {
        let mut reading = Unread { stated: self.0, ..Unread::default() };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                // Whoever asked knows it; what it says must not change what is read.
                "apiVersion" | "kind" => drop(map.next_value::<IgnoredAny>()?),
                _ => reading.field(&key, &mut map)?,
            }
        }
        Ok(reading)
    }
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
    parts: Parts,
    /// Fields that came before the kind, by name.
    early: BTreeMap<String, Value>,
}

/// The fields of all kinds that are read beside `metadata`.
#[derive(Default)]
struct Parts {
    node: (NodeSpec, NodeStatus),
    pod: (PodSpec, PodStatus),
    service: Box<(ServiceSpec, ServiceStatus)>,
    service_cidr: ServiceCidrSpec,
    address_type: String,
    endpoints: Vec<SliceEndpoint>,
    ports: Vec<SlicePort>,
    policy: Value,
}

impl Parts {
    /// Reads a field with `reader`; `None`: the kind has no use for it, and it was not read.
    fn field<R: Reader>(&mut self, kind: Kind, name: &str, reader: R) -> Option<Result<(), R::Error>> {
        Some(match (kind, name) {
            (Kind::Node, "spec") => reader.read(&mut self.node.0),
            (Kind::Node, "status") => reader.read(&mut self.node.1),
            (Kind::Pod, "spec") => reader.read(&mut self.pod.0),
            (Kind::Pod, "status") => reader.read(&mut self.pod.1),
            (Kind::Service, "spec") => reader.read(&mut self.service.0),
            (Kind::Service, "status") => reader.read(&mut self.service.1),
            (Kind::ServiceCidr, "spec") => reader.read(&mut self.service_cidr),
            (Kind::NetworkPolicy | Kind::ClusterNetworkPolicy, "spec") => reader.read(&mut self.policy),
            (Kind::EndpointSlice, "addressType") => reader.read(&mut self.address_type),
            (Kind::EndpointSlice, "endpoints") => reader.read(&mut self.endpoints),
            (Kind::EndpointSlice, "ports") => reader.read(&mut self.ports),
            _ => return None,
        })
    }
}

/// A value that is not read yet; `null` reads as what is not stated.
trait Reader {
    type Error;
    fn read<T: de::DeserializeOwned + Default>(self, into: &mut T) -> Result<(), Self::Error>;
}

/// The next value of a map.
struct Next<'a, 'de, A>(&'a mut A, PhantomData<&'de ()>);

impl<'de, A: MapAccess<'de>> Reader for Next<'_, 'de, A> {
    type Error = A::Error;
    fn read<T: de::DeserializeOwned + Default>(self, into: &mut T) -> Result<(), A::Error> {
        *into = optional(self.0)?;
        Ok(())
    }
}

/// A value that was kept until the kind was known.
struct Kept(Value);

impl Reader for Kept {
    type Error = serde_json::Error;
    fn read<T: de::DeserializeOwned + Default>(self, into: &mut T) -> Result<(), serde_json::Error> {
        *into = serde_json::from_value::<Option<T>>(self.0)?.unwrap_or_default();
        Ok(())
    }
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
        let Unread { metadata, mut parts, early, .. } = self;
        if metadata.name.is_empty() {
            return Err(format!("a {kind:?} without \"metadata.name\""));
        }
        for (name, value) in early {
            parts.field(kind, &name, Kept(value)).transpose().map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(match kind {
            Kind::Node => Object::Node(Node { metadata, spec: parts.node.0, status: parts.node.1 }),
            Kind::Pod => Object::Pod(Pod { metadata, spec: parts.pod.0, status: parts.pod.1 }),
            Kind::Namespace => Object::Namespace(Namespace { metadata }),
            Kind::Service => {
                let (spec, status) = *parts.service;
                Object::Service(Box::new(Service { metadata, spec, status }))
            }
            Kind::EndpointSlice => {
                let Parts { address_type, endpoints, ports, .. } = parts;
                Object::EndpointSlice(EndpointSlice { metadata, address_type, endpoints, ports })
            }
            Kind::ServiceCidr => Object::ServiceCidr(ServiceCidr { metadata, spec: parts.service_cidr }),
            Kind::NetworkPolicy => Object::NetworkPolicy(Policy { metadata, spec: parts.policy }),
            Kind::ClusterNetworkPolicy => Object::ClusterNetworkPolicy(Policy { metadata, spec: parts.policy }),
        })
    }
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
            (_, Some(kind)) => match self.parts.field(kind, key, Next(map, PhantomData)) {
                Some(read) => read?,
                None => drop(map.next_value::<IgnoredAny>()?),
            },
            ("spec" | "status" | "addressType" | "endpoints" | "ports", None) if !stated => {
                self.early.insert(key.to_owned(), map.next_value()?);
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

fn optional<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
