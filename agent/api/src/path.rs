//! Paths of version 1.

/// `POST`: [`AddRequest`](crate::AddRequest) to [`AddReply`](crate::AddReply).
pub const ADD: &str = "/v1/cni/add";
/// `POST`: [`ReadyRequest`](crate::ReadyRequest) to nothing.
pub const READY: &str = "/v1/cni/ready";
/// `POST`: [`DelRequest`](crate::DelRequest) to [`Released`](crate::Released).
pub const DEL: &str = "/v1/cni/del";
/// `POST`: [`CheckRequest`](crate::CheckRequest) to [`AddReply`](crate::AddReply).
pub const CHECK: &str = "/v1/cni/check";
/// `POST`: [`GcRequest`](crate::GcRequest) to [`Released`](crate::Released).
pub const GC: &str = "/v1/cni/gc";
/// `GET`: nothing, or an error that says why pods cannot be added.
pub const CNI_STATUS: &str = "/v1/cni/status";
/// `GET`: [`AgentStatus`](crate::AgentStatus).
pub const STATUS: &str = "/v1/status";

/// `GET`: a list of [`ServiceStatus`](crate::ServiceStatus).
pub const SERVICES: &str = "/v1/services";

/// `GET`: [`PoliciesStatus`](crate::PoliciesStatus).
pub const POLICIES: &str = "/v1/policies";

/// The agent's socket in the run directory.
pub const SOCKET: &str = "agent.sock";
