//! Header views, identities, checksums and packet buffer traits of the packet path; no_std.
