//! Strict reading of a policy's `spec`: every mistake names its field.
//!
//! A policy is read from the raw value and not by a derived `Deserialize`: a field of the wrong type is then a mistake
//! of one policy and not of its whole file, and what can be read of a wrong policy (its selector, its directions) still
//! counts. A field that is not known is a mistake as well: to skip it could select more than was meant.

use serde_json::{Map, Value};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'v> {
    /// As a person would name it: `spec.ingress[0].from[1].ipBlock.cidr`.
    pub(super) path: String,
    /// `None`: missing or null, which is the same.
    value: Option<&'v Value>,
}

/// The fields of an object.
#[derive(Clone, Debug)]
pub(super) struct Fields<'v> {
    path: String,
    map: Option<&'v Map<String, Value>>,
}

impl<'v> Field<'v> {
    pub(super) fn new(path: impl Into<String>, value: &'v Value) -> Field<'v> {
        Field { path: path.into(), value: Some(value).filter(|value| !value.is_null()) }
    }

    pub(super) fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// An error at this field.
    pub(super) fn wrong<T>(&self, reason: impl std::fmt::Display) -> Result<T, String> {
        Err(format!("{}: {reason}", self.path))
    }

    /// An object; what is missing has no fields.
    pub(super) fn fields(&self) -> Result<Fields<'v>, String> {
        match self.value {
            None => Ok(Fields { path: self.path.clone(), map: None }),
            Some(Value::Object(map)) => Ok(Fields { path: self.path.clone(), map: Some(map) }),
            Some(other) => self.wrong(format!("{} where an object is expected", kind(other))),
        }
    }

    /// A list; `None`: missing.
    pub(super) fn list(&self) -> Result<Option<Vec<Field<'v>>>, String> {
        match self.value {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let item = |(i, value): (usize, &'v Value)| Field::new(format!("{}[{i}]", self.path), value);
                Ok(Some(items.iter().enumerate().map(item).collect()))
            }
            Some(other) => self.wrong(format!("{} where a list is expected", kind(other))),
        }
    }

    /// A text; `None`: missing.
    pub(super) fn text(&self) -> Result<Option<&'v str>, String> {
        match self.value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.wrong(format!("{} where a text is expected", kind(other))),
        }
    }

    /// A whole number; `None`: missing.
    pub(super) fn integer(&self) -> Result<Option<i64>, String> {
        match self.value {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => self.wrong(format!("{} where a whole number is expected", kind(value))),
            },
        }
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.value, Some(Value::String(_)))
    }
}

impl<'v> Fields<'v> {
    /// Those of an object that cannot be read: none.
    pub(super) fn none() -> Fields<'v> {
        Fields { path: "spec".into(), map: None }
    }

    pub(super) fn get(&self, name: &str) -> Field<'v> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Field { path, value: self.map.and_then(|map| map.get(name)).filter(|value| !value.is_null()) }
    }

    /// The fields' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.map.into_iter().flatten().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// The first field that is none of `known`.
    pub(super) fn unknown(&self, known: &[&str]) -> Option<Field<'v>> {
        self.names().find(|name| !known.contains(name)).map(|name| self.get(name))
    }

    /// Refuses fields that are none of `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), String> {
        self.unknown(known).map_or(Ok(()), |field| field.wrong("this field is not known"))
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
