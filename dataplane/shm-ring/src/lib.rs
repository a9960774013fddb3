//! A single-producer single-consumer byte ring over a sealed memfd that distrusts its peer.
