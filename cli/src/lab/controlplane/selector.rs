//! Label selectors, labels and namespaces (`apimachinery/pkg/apis/meta/v1/validation`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Invalid;
use super::invalid::Errors;
use super::types::{decode, text};

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One of its `matchExpressions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Everything about a selector.
pub fn check(errors: &mut Errors, field: &str, selector: &LabelSelector) {
    for (key, value) in &selector.match_labels {
        check_label(errors, &format!("{field}.matchLabels"), key, Some(value));
    }
    for (i, requirement) in selector.match_expressions.iter().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        let values = format!("{field}.values");
        match requirement.operator.as_str() {
            "In" | "NotIn" if requirement.values.is_empty() => {
                errors.required(values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !requirement.values.is_empty() => {
                errors.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(format!("{field}.operator"), other, "not a valid selector operator"),
        }
        check_label(errors, &format!("{field}.key"), &requirement.key, None);
        for (j, value) in requirement.values.iter().enumerate().filter(|(_, value)| !is_label_value(value)) {
            errors.invalid(format!("{field}.values[{j}]"), value, LABEL_VALUE);
        }
    }
}

/// The labels of an object.
pub fn check_labels(object: &Value) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    let labels: BTreeMap<String, String> = decode(&object["metadata"], "labels").map_err(|_| {
        Invalid::one(object, "metadata.labels", "strict decoding error: labels are texts by their names")
    })?;
    labels.iter().for_each(|(key, value)| check_label(&mut errors, "metadata.labels", key, Some(value)));
    errors.check(object)
}

/// A Namespace as it is stored.
pub fn namespace(new: &Value) -> Result<Value, Invalid> {
    let name = text(new, "/metadata/name").to_owned();
    let mut errors = Errors::default();
    if name.len() > 63 || !is_dns(&name) || name.contains('.') {
        errors.invalid(
            "metadata.name",
            &name,
            "a lowercase RFC 1123 label must consist of lower case alphanumeric \
             characters or '-', and must start and end with an alphanumeric character",
        );
    }
    errors.check(new)?;
    let mut stored = new.clone();
    let metadata = stored["metadata"].as_object_mut();
    let labels = metadata.map(|metadata| metadata.entry("labels").or_insert_with(|| json!({})));
    if let Some(labels) = labels {
        if labels.is_null() {
            *labels = json!({});
        }
        labels["kubernetes.io/metadata.name"] = json!(name);
    }
    stored["spec"] = json!({ "finalizers": ["kubernetes"] });
    stored["status"] = json!({ "phase": "Active" });
    check_labels(&stored)?;
    Ok(stored)
}

/// A new Namespace without labels of its own.
pub fn new_namespace(name: &str) -> Result<Value, Invalid> {
    namespace(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
}

/// Labels after `kubectl label --overwrite`: KEY=VALUE sets one, KEY- removes it.
///
/// # Errors
/// The word that says neither.
pub fn relabel(labels: &mut Map<String, Value>, words: &[String]) -> Result<(), String> {
    for word in words {
        match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => drop(labels.insert(key.to_owned(), json!(value))),
            (None, Some(key)) if !key.is_empty() => drop(labels.remove(key)),
            _ => return Err(format!("{word:?} is no label: KEY=VALUE sets one, KEY- removes it")),
        }
    }
    Ok(())
}

const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                           and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                           '12345')";

fn check_label(errors: &mut Errors, field: &str, key: &str, value: Option<&str>) {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if name.is_empty() || !is_label_value(name) || prefix.is_some_and(|prefix| !is_dns(prefix)) {
        let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                   alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc'), with an optional DNS subdomain \
                   prefix and '/' (e.g. 'example.com/MyName')";
        errors.invalid(field, key, why);
    }
    if let Some(value) = value.filter(|value| !is_label_value(value)) {
        errors.invalid(field, value, LABEL_VALUE);
    }
}

fn is_label_value(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && ends(value.chars().next())
        && ends(value.chars().last())
}

/// An RFC 1123 subdomain.
pub fn is_dns(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part =
        |part: &str| !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-');
    (1..=253).contains(&name.len()) && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::controlplane::testing::yaml;

    #[test]
    fn a_namespace_knows_its_own_name() {
        let stored =
            namespace(&yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}")).unwrap();
        assert_eq!(stored["metadata"]["labels"], json!({ "a": "b", "kubernetes.io/metadata.name": "shop" }));
        assert_eq!(stored["status"]["phase"], "Active");
        let lies = "{kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: other}}}";
        assert_eq!(namespace(&yaml(lies)).unwrap()["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
        assert!(namespace(&yaml("{kind: Namespace, metadata: {name: Shop}}")).is_err());
        assert!(namespace(&yaml("{kind: Namespace, metadata: {name: shop, labels: {-a: b}}}")).is_err());
        assert!(namespace(&yaml("{kind: Namespace, metadata: {name: shop, labels: {a: 1}}}")).is_err());
    }

    #[test]
    fn labels_are_set_and_removed_by_words() {
        let mut labels = json!({ "a": "1", "b": "2" });
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        relabel(labels.as_object_mut().unwrap(), &words(&["a=3", "b-", "c-", "d="])).unwrap();
        assert_eq!(labels, json!({ "a": "3", "d": "" }));
        for wrong in ["a", "=b", "-"] {
            assert!(relabel(&mut Map::new(), &words(&[wrong])).is_err(), "{wrong}");
        }
    }
}
