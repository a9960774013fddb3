//! The contract between agent and dataplane: raw v1 messages, their validation, the handshake.
