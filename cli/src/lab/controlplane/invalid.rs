//! Why an object is refused, in the words of an API server.

use std::fmt::{self, Display};

use serde::Serialize;
use serde_json::Value;

use super::types::text;

/// An object that an API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    kind: String,
    name: String,
    errors: Vec<String>,
}

impl Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The {} \"{}\" is invalid: ", self.kind, self.name)?;
        match self.errors.as_slice() {
            [one] => f.write_str(one),
            all => all.iter().try_for_each(|error| write!(f, "\n* {error}")),
        }
    }
}

impl Invalid {
    /// Of one field.
    pub fn one(object: &Value, field: &str, reason: impl Display) -> Invalid {
        Invalid::of(object, vec![format!("{field}: {reason}")])
    }

    fn of(object: &Value, errors: Vec<String>) -> Invalid {
        Invalid { kind: text(object, "/kind").to_owned(), name: text(object, "/metadata/name").to_owned(), errors }
    }
}

/// Complaints about the fields of one object.
#[derive(Debug, Default)]
pub struct Errors(Vec<String>);

impl Errors {
    /// A value that cannot be.
    pub fn invalid(&mut self, field: impl Display, value: impl Serialize, why: impl Display) {
        self.0.push(format!("{field}: Invalid value: {}: {why}", shown(&value)));
    }

    /// A value that must not be repeated.
    pub fn duplicate(&mut self, field: impl Display, value: impl Serialize) {
        self.0.push(format!("{field}: Duplicate value: {}", shown(&value)));
    }

    /// A field that must be there.
    pub fn required(&mut self, field: impl Display, why: &str) {
        let separator = if why.is_empty() { "" } else { ": " };
        self.0.push(format!("{field}: Required value{separator}{why}"));
    }

    /// A field that must not be there.
    pub fn forbidden(&mut self, field: impl Display, why: impl Display) {
        self.0.push(format!("{field}: Forbidden: {why}"));
    }

    /// A value that is not among those that are known; `supported` is sorted.
    pub fn supported(&mut self, field: impl Display, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
            self.0.push(format!("{field}: Unsupported value: {value:?}: supported values: {list}"));
        }
    }

    /// All of them, if there are any.
    pub fn check(self, object: &Value) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid::of(object, self.0)) }
    }
}

fn shown(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
