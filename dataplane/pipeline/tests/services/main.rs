//! Services and masquerading, packet by packet, on two simulated nodes with one, two and four workers.

mod choose;
mod leaks;
mod life;
mod pieces;
mod random;
mod whose;
mod wire;
mod world;
