//! Services: what a client gets who sends to an address and port.

mod config;

pub use config::{
    Backend, Choice, FrontendConfig, FrontendKind, Masquerade, OutsideConfig, Protocol, Reach, ServiceConfig, ServiceId,
    ServiceMap,
};
