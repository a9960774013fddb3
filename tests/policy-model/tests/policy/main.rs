//! The whole chain (index, configuration, compilation, packet path) against the oracle of policy, on two simulated nodes.

mod conformance;
mod cyclonus;
mod kept;
mod pairs;
mod policies;
mod random;
mod side;
mod traffic;
mod wire;
mod world;
