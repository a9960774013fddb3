//! Errors as the CNI specification wants them.

use serde_json::json;

use crate::Version;

/// Error codes: 1 to 99 are the specification's ("Error", well-known codes), from 100 on they are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The configuration's `cniVersion` is not supported.
    IncompatibleVersion = 1,
    /// A field of the configuration is not supported.
    UnsupportedField = 2,
    /// The container or its attachment is not known.
    UnknownContainer = 3,
    /// A `CNI_*` variable is missing or wrong; the message names it.
    InvalidEnvironment = 4,
    /// Input or output failed.
    Io = 5,
    /// The configuration is not JSON or not of the expected types.
    Decode = 6,
    /// The configuration says something that cannot be.
    InvalidConfig = 7,
    /// The same call may succeed later.
    TryAgain = 11,
    /// STATUS: pods cannot be added now.
    NotAvailable = 50,
    /// The agent refused.
    Refused = 100,
    /// The kernel refused to make or change devices.
    Wiring = 101,
    /// CHECK: the pod's network is not as it was made.
    CheckFailed = 102,
}

/// An error of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", .details.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
pub struct CniError {
    /// Code.
    pub code: Code,
    /// What failed.
    pub message: String,
    /// The cause below it.
    pub details: Option<String>,
}

impl CniError {
    /// An error without a deeper cause.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        CniError { code, message: message.into(), details: None }
    }

    /// An error with its cause.
    pub fn caused(code: Code, message: impl Into<String>, cause: impl ToString) -> Self {
        CniError { code, message: message.into(), details: Some(cause.to_string()) }
    }

    /// The JSON that goes to stdout.
    pub fn to_json(&self, version: Version) -> String {
        let mut body = json!({"cniVersion": version.as_str(), "code": self.code as u32, "msg": self.message});
        if let Some(details) = &self.details {
            body["details"] = json!(details);
        }
        body.to_string()
    }
}

impl From<podplane_hostnet::Error> for CniError {
    fn from(error: podplane_hostnet::Error) -> Self {
        CniError::new(Code::Wiring, error.to_string())
    }
}
