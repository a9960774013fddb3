//! The agent's HTTP + JSON interface on a Unix socket: types and client.
