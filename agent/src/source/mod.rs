//! Where objects come from: a watched folder; later also the API server.

pub mod folder;
