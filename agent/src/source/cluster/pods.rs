//! Where the cluster's pods come from: their labels, addresses and named ports.

use futures_util::future::BoxFuture;
use podplane_index::Kind;

use super::sink::Sink;
use super::watch::Watch;
use crate::cluster::Cluster;

/// Tells of all pods of the cluster. For some hundreds of nodes each agent may watch all pods; with thousands of them
/// that would melt an API server, and a controller publishes them in slices instead. Nothing else knows which it is.
pub trait PodSource: Send {
    /// Feeds `into` with pods until nobody needs them: a list between [`Sink::begin`] and [`Sink::end`] first, changes
    /// then, [`Sink::settle`] whenever what has come so far should be in force.
    fn follow(self: Box<Self>, into: Sink) -> BoxFuture<'static, ()>;
}

/// Watches the pods themselves.
pub(super) struct AllPods(pub(super) Cluster);

impl PodSource for AllPods {
    fn follow(self: Box<Self>, into: Sink) -> BoxFuture<'static, ()> {
        Box::pin(Watch::new(Kind::Pod, self.0, into).run())
    }
}
