//! Questions to the dataplane's introspection role and its answers, as JSON.
