//! The packet path's tables: flows, FIB, neighbours, timers, each with a slow oracle.
