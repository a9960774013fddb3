//! Where objects come from: a watched folder, or the cluster's API server.

use std::path::PathBuf;

use podplane_api::RefusedObject;

use crate::cluster::ClusterOptions;
use crate::desired::Desired;

pub mod cluster;
pub mod folder;

/// Where objects are to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOptions {
    /// A folder of manifests.
    Folder(PathBuf),
    /// An API server.
    Cluster(ClusterOptions),
}

/// Where objects come from; dropping it ends the watching.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder(folder::Folder),
    /// An API server.
    Cluster(cluster::Watches),
}

impl Source {
    /// What it is: `folder` or `cluster`.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Folder(_) => "folder",
            Source::Cluster(_) => "cluster",
        }
    }

    /// Why objects do not come, or not all.
    pub fn troubles(&self) -> Vec<String> {
        match self {
            Source::Folder(folder) => folder.trouble().into_iter().collect(),
            Source::Cluster(watches) => watches.troubles(),
        }
    }

    /// Writes what is to outlive the agent.
    pub fn close(&self) {
        match self {
            Source::Folder(_) => {}
            Source::Cluster(watches) => watches.close(),
        }
    }

    /// Objects that are not used as they are now, with their places.
    pub fn refused(&self, desired: &Desired) -> Vec<RefusedObject> {
        match self {
            Source::Folder(folder) => folder.refused(desired),
            Source::Cluster(watches) => watches.refused(desired),
        }
    }
}
