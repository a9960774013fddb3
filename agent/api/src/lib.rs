//! The agent's interface on its Unix socket: HTTP/1.1 with JSON bodies, root only.
//!
//! The CNI plugin and the operator's command are its clients. Paths carry the version (`/v1/...`). An error answer
//! has a 4xx or 5xx status and an [`ApiError`] as its body.
#![forbid(unsafe_code)]

pub mod client;
pub mod enforced;
pub mod path;
pub mod pending;
pub mod policies;
pub mod services;
pub mod types;

pub use client::{AgentClient, ClientError};
pub use policies::*;
pub use services::*;
pub use types::*;
