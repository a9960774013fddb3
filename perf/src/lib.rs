//! The measuring harness: interleaved runs against a peer, CPU accounting, median and spread.
