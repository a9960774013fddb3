//! Raw bindings to the distribution's libdpdk (22.11 or newer), with a C shim for its inline functions.
