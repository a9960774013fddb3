//! The objects of the folder, as an API server would return them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::state::{Lab, read, remove, write};

/// Kind, namespace (empty for cluster-scoped ones) and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl ObjectRef {
    /// Of an object that states at least kind and name.
    pub fn of(object: &Value) -> Result<ObjectRef> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let kind = text("/kind");
        let name = text("/metadata/name");
        if kind.is_empty() || name.is_empty() || text("/apiVersion").is_empty() {
            bail!("an object needs apiVersion, kind and metadata.name: {}", short(object));
        }
        if name.contains('/') || name.starts_with('.') {
            bail!("{name:?} is no name of an object");
        }
        let namespace = match (kind.as_str(), text("/metadata/namespace")) {
            ("Node" | "Namespace" | "ServiceCIDR" | "ClusterNetworkPolicy" | "IPPool", _) => String::new(),
            (_, namespace) if namespace.is_empty() => "default".to_owned(),
            (_, namespace) => namespace,
        };
        Ok(ObjectRef { kind, namespace, name })
    }

    /// "namespace/name", or the name of what has no namespace.
    pub fn full_name(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }

    fn file(&self, lab: &Lab) -> PathBuf {
        let kind = self.kind.to_lowercase();
        let name = if self.namespace.is_empty() {
            format!("{kind}_{}.json", self.name)
        } else {
            format!("{kind}_{}_{}.json", self.namespace, self.name)
        };
        lab.manifests().join(name)
    }
}

fn short(object: &Value) -> String {
    let text = object.to_string();
    text.chars().take(80).collect()
}

/// Reads a file of objects, or all such files of a folder by name.
pub fn read_path(path: &Path) -> Result<Vec<Value>> {
    if !path.is_dir() {
        return read_file(path);
    }
    let mut files: Vec<_> = std::fs::read_dir(path)
        .with_context(|| format!("reading {}", path.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|x| e == *x)))
        .collect();
    files.sort();
    let objects: Result<Vec<_>> = files.iter().map(|file| read_file(file)).collect();
    Ok(objects?.into_iter().flatten().collect())
}

/// Reads a file of objects: YAML documents or JSON, single ones or lists. `-` is standard input.
pub fn read_file(path: &Path) -> Result<Vec<Value>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    }
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.get("items").is_some_and(Value::is_array) => {
                objects.extend(
                    list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default(),
                );
            }
            object => objects.push(object),
        }
    }
    Ok(objects)
}

/// Stores an object: what the API server adds is added, and kept from the stored one where it does not change.
pub fn store(lab: &Lab, mut object: Value) -> Result<Value> {
    let which = ObjectRef::of(&object)?;
    let file = which.file(lab);
    let old: Option<Value> = read(&file).ok();
    let metadata = metadata(&mut object)?;
    if !which.namespace.is_empty() {
        metadata.insert("namespace".into(), json!(which.namespace));
    }
    let kept = |field: &str| old.as_ref().and_then(|old| old.pointer(&format!("/metadata/{field}"))).cloned();
    let uid = kept("uid").map_or_else(|| random_uid().map(Value::String), Ok)?;
    let created = kept("creationTimestamp").unwrap_or_else(|| json!(now()));
    metadata.insert("uid".into(), uid);
    metadata.insert("creationTimestamp".into(), created);
    metadata.insert("resourceVersion".into(), json!(next_version(lab)?.to_string()));
    if let (Some(old), None) = (&old, object.get("status")) {
        // `kubectl apply` of a manifest without status leaves the status alone.
        if let (Some(status), Some(object)) = (old.get("status"), object.as_object_mut()) {
            object.insert("status".into(), status.clone());
        }
    }
    write(&file, &object)?;
    Ok(object)
}

/// The stored object.
pub fn get(lab: &Lab, which: &ObjectRef) -> Option<Value> {
    read(&which.file(lab)).ok()
}

/// All stored objects of a kind, by namespace and name.
pub fn list(lab: &Lab, kind: &str) -> Vec<Value> {
    let prefix = format!("{}_", kind.to_lowercase());
    let entries = std::fs::read_dir(lab.manifests()).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    files.iter().filter_map(|entry| read(&entry.path()).ok()).collect()
}

/// Replaces one field of a stored object's status.
pub fn patch_status(lab: &Lab, which: &ObjectRef, field: &str, value: Value) -> Result<Value> {
    let mut object = get(lab, which).with_context(|| format!("{} {} is gone", which.kind, which.full_name()))?;
    object["status"][field] = value;
    store(lab, object)
}

/// Deletes an object; one that is not there is no error.
pub fn delete(lab: &Lab, which: &ObjectRef) -> Result<()> {
    remove(&which.file(lab))
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>> {
    object.pointer_mut("/metadata").and_then(Value::as_object_mut).context("metadata is no mapping")
}

/// A UUID of the kernel's making.
pub fn random_uid() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("asking the kernel for a UUID")?.trim().into())
}

/// The time as the API writes it.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn next_version(lab: &Lab) -> Result<u64> {
    let file = lab.dir.join("version.json");
    let version = read(&file).unwrap_or(0u64) + 1;
    write(&file, &version)?;
    Ok(version)
}
