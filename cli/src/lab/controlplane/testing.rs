//! Objects for tests, from YAML.

use serde_json::Value;

/// One object.
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("the test's YAML")
}

/// A Service `default/web` with this spec.
pub fn service(spec: &str) -> Value {
    named_service("web", spec)
}

/// A Service in namespace `default` with this spec.
pub fn named_service(name: &str, spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{{spec}}}}}"
    ))
}
