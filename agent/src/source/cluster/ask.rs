//! Asking for one pod, where waiting for it did not help.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kube::Api;
use podplane_index::{Kind, ObjectKey};
use tokio::time::{sleep, timeout};

use super::Watches;
use super::wire::Wire;
use crate::attachments::Ask;
use crate::cluster::explain;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// When it is looked whether the pod was not already gone when it was asked for: its end may have been told before.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl Ask for Watches {
    fn ask(self: Arc<Self>, namespace: String, name: String) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let around = ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: namespace.clone() };
            let key = ObjectKey { kind: Kind::Pod, namespace, name };
            for key in [&around, &key] {
                if !self.is_known(key) {
                    self.fetch(key).await;
                }
            }
            sleep(LOOK_AGAIN).await;
            if let Ok(Ok(None)) = self.get(&key).await {
                self.desired.edit(|index| index.delete(&key));
            }
        })
    }
}

impl Watches {
    fn is_known(&self, key: &ObjectKey) -> bool {
        self.desired.read(|index| index.knows(key))
    }

    async fn get(&self, key: &ObjectKey) -> Result<Result<Option<Wire>, kube::Error>, tokio::time::error::Elapsed> {
        let client = self.cluster.client.clone();
        let api: Api<Wire> = match key.namespace.as_str() {
            "" => Api::all_with(client, &key.kind),
            namespace => Api::namespaced_with(client, namespace, &key.kind),
        };
        timeout(WITHIN, api.get_opt(&key.name)).await
    }

    /// Asks once, and applies what there is.
    async fn fetch(&self, key: &ObjectKey) {
        let object = match self.get(key).await {
            Ok(Ok(Some(wire))) => wire.object(key.kind),
            Ok(Ok(None)) => Err("the API server has no such object".into()),
            Ok(Err(e)) => Err(explain(&self.cluster.url, &e)),
            Err(_) => Err(format!("no answer of the API server within {WITHIN:?}")),
        };
        let applied = object.and_then(|object| {
            // The watch may have told meanwhile, and of more than was asked for.
            let (applied, _) = self.desired.edit(|index| match index.knows(key) {
                true => Ok(()),
                false => index.apply(object),
            });
            applied
        });
        match applied {
            Ok(()) => tracing::info!(object = %key, "asked for, for the watch had not told of it"),
            Err(reason) => tracing::warn!(object = %key, reason, "asked for in vain"),
        }
    }
}
