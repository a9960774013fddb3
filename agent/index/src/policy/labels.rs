//! Label selectors: read strictly, matched exactly (apimachinery's `LabelSelector`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::read::Field;

/// An object's labels.
pub(super) type LabelMap = BTreeMap<String, String>;

/// The label that every namespace has: its name.
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The longest name of a label key, and the longest value, in bytes.
const MAX_NAME: usize = 63;
/// The longest prefix of a label key, in bytes (a DNS subdomain, RFC 1123).
const MAX_PREFIX: usize = 253;

/// A label selector: all requirements must hold, none selects everything. Equal ones are equal however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Labels(Arc<[Requirement]>);

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Requirement {
    pub(super) key: String,
    pub(super) test: Test,
}

/// What a label must be; values are sorted, each once, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Test {
    In(Vec<String>),
    /// Also where the label is missing.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Labels {
    /// Reads a `LabelSelector`; a missing one is an empty one here, which selects everything.
    pub(super) fn read(field: &Field<'_>) -> Result<Labels, String> {
        let fields = field.fields()?;
        fields.only(&["matchLabels", "matchExpressions"])?;
        let mut requirements = Vec::new();
        let labels = fields.get("matchLabels").fields()?;
        for key in labels.names() {
            let at = labels.get(key);
            check_key(key).or_else(|reason| at.wrong(reason))?;
            let value = at.text()?.unwrap_or_default();
            check_value(value).or_else(|reason| at.wrong(reason))?;
            requirements.push(Requirement { key: key.to_owned(), test: Test::In(vec![value.to_owned()]) });
        }
        for expression in fields.get("matchExpressions").list()?.unwrap_or_default() {
            requirements.push(Requirement::read(&expression)?);
        }
        Ok(Labels::of(requirements))
    }

    fn of(mut requirements: Vec<Requirement>) -> Labels {
        requirements.sort_unstable();
        requirements.dedup();
        Labels(requirements.into())
    }

    /// Whether an object with these labels is selected.
    pub(super) fn matches(&self, labels: &LabelMap) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    pub(super) fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether it selects everything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one namespace that it can select, if it selects by name alone.
    pub(super) fn namespace_name(&self) -> Option<&str> {
        match &*self.0 {
            [Requirement { key, test: Test::In(values) }] if key == NAMESPACE_NAME && values.len() == 1 => {
                values.first().map(String::as_str)
            }
            _ => None,
        }
    }
}

impl Requirement {
    fn read(field: &Field<'_>) -> Result<Requirement, String> {
        let fields = field.fields()?;
        fields.only(&["key", "operator", "values"])?;
        let at = fields.get("key");
        let key = at.text()?.unwrap_or_default();
        check_key(key).or_else(|reason| at.wrong(reason))?;
        let at = fields.get("values");
        let mut values = Vec::new();
        for value in at.list()?.unwrap_or_default() {
            let text = value.text()?.unwrap_or_default();
            check_value(text).or_else(|reason| value.wrong(reason))?;
            values.push(text.to_owned());
        }
        values.sort_unstable();
        values.dedup();
        let operator = fields.get("operator");
        let test = match (operator.text()?.unwrap_or_default(), values.is_empty()) {
            ("In", false) => Test::In(values),
            ("NotIn", false) => Test::NotIn(values),
            ("Exists", true) => Test::Exists,
            ("DoesNotExist", true) => Test::DoesNotExist,
            (name @ ("In" | "NotIn"), true) => return at.wrong(format!("{name} needs at least one value")),
            (name @ ("Exists" | "DoesNotExist"), false) => return at.wrong(format!("{name} takes no values")),
            (other, _) => {
                return operator.wrong(format!("\"{other}\" is none of In, NotIn, Exists, DoesNotExist"));
            }
        };
        Ok(Requirement { key: key.to_owned(), test })
    }

    fn matches(&self, labels: &LabelMap) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.binary_search(value).is_ok()),
            Test::NotIn(values) => value.is_none_or(|value| values.binary_search(value).is_err()),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Labels {
    /// As `kubectl --selector` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Requirement { key, test }) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Exists => write!(f, "{key}")?,
                Test::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

/// A qualified name: an optional DNS subdomain and a slash, then a name.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let prefix_ok = prefix.is_none_or(|prefix| prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_label));
    if prefix_ok && is_name(name) { Ok(()) } else { Err(format!("\"{key}\" is no key of a label")) }
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) { Ok(()) } else { Err(format!("\"{value}\" is no value of a label")) }
}

fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    (1..=MAX_NAME).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| inner(*b))
}
