//! Random clusters, updates and packets through the whole chain on two simulated nodes, held against the oracle.
//!
//! `MODEL_CASES` is how many random histories are run, 256 where it is not set. Without it they are the same ones each
//! time; with it they are drawn from `MODEL_SEED`, or from a seed that is told.

mod chain;
mod history;
mod kept;
mod random;
mod walk;
mod wire;
