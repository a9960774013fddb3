//! Objects as they come: the text whole, of which only what identifies it is read at once. What the index needs is read
//! from it where the kind is known, and an object that cannot be read is still known by its name.

use std::borrow::Cow;

use kube::Resource;
use kube::core::{DynamicResourceScope, ObjectMeta};
use podplane_index::manifest;
use podplane_index::{Kind, Object, ObjectKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of any kind.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    meta: ObjectMeta,
    text: Box<RawValue>,
}

/// All of an object that is read at once.
#[derive(Deserialize)]
struct Head {
    metadata: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl<'de> Deserialize<'de> for Wire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata: Identity { name, namespace, uid, resource_version } } =
            serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let meta = ObjectMeta { name: Some(name), namespace, uid, resource_version, ..ObjectMeta::default() };
        Ok(Wire { meta, text })
    }
}

impl Wire {
    pub(super) fn key(&self, kind: Kind) -> ObjectKey {
        let namespace = self.meta.namespace.clone().filter(|_| kind.is_namespaced()).unwrap_or_default();
        ObjectKey { kind, namespace, name: self.meta.name.clone().unwrap_or_default() }
    }

    pub(super) fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    /// The version that a watch can go on after; empty where the server did not state any.
    pub(super) fn version(&self) -> &str {
        self.meta.resource_version.as_deref().unwrap_or_default()
    }

    /// What the index needs of it.
    pub(super) fn object(&self, kind: Kind) -> Result<Object, String> {
        manifest::object(kind, self.text.get())
    }
}

impl Resource for Wire {
    type DynamicType = Kind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        kind.names().1.into()
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        kind.names().0.split_once('/').map_or("", |(group, _)| group).into()
    }

    fn version(kind: &Kind) -> Cow<'_, str> {
        let api_version = kind.names().0;
        api_version.split_once('/').map_or(api_version, |(_, version)| version).into()
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        plural(*kind).into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What a kind is called in paths.
pub(super) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "nodes",
        Kind::Namespace => "namespaces",
        Kind::Pod => "pods",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::ServiceCidr => "servicecidrs",
        Kind::NetworkPolicy => "networkpolicies",
        Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
    }
}
