//! What the lab's API server and controllers do when objects change: admit, store, and bring what follows up to date.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::controlplane::{admit, balancer, cidr, policy, selector, slices, types};
use super::objects::{ObjectRef, delete, get, list, patch_status, read_path, store};
use super::state::Lab;
use super::{dns, pod};

/// Creates or replaces the objects of a file or a folder. Each is applied or refused by itself, as kubectl does it.
/// `unchecked`: policies are stored as they are, so that it can be seen what the agent makes of ones that are wrong.
pub fn apply(lab: &Lab, path: &Path, unchecked: bool) -> Result<()> {
    apply_objects(lab, read_path(path)?, unchecked)
}

/// Creates or replaces objects.
pub fn apply_objects(lab: &Lab, objects: Vec<Value>, unchecked: bool) -> Result<()> {
    let mut refused = Vec::new();
    for object in objects {
        if let Err(error) = one(lab, object, unchecked) {
            refused.push(format!("{error:#}"));
        }
    }
    settle(lab)?;
    if refused.is_empty() { Ok(()) } else { bail!("{}", refused.join("\n")) }
}

fn one(lab: &Lab, object: Value, unchecked: bool) -> Result<()> {
    let which = ObjectRef::of(&object)?;
    ensure_namespace(lab, &which.namespace)?;
    if which.kind == "Pod" {
        return pod::apply(lab, &which, object);
    }
    let unchecked = unchecked && matches!(which.kind.as_str(), "NetworkPolicy" | "ClusterNetworkPolicy");
    store(lab, if unchecked { object } else { admitted(lab, &which, object)? })?;
    println!("{} {} applied", which.kind.to_lowercase(), which.name);
    Ok(())
}

/// Makes a namespace that objects name and nobody has made: a lab spares the newcomer that step.
pub fn ensure_namespace(lab: &Lab, name: &str) -> Result<()> {
    let which = ObjectRef { kind: "Namespace".into(), namespace: String::new(), name: name.to_owned() };
    if !name.is_empty() && get(lab, &which).is_none() {
        store(lab, selector::new_namespace(name)?)?;
    }
    Ok(())
}

/// The object as an API server stores it.
fn admitted(lab: &Lab, which: &ObjectRef, mut object: Value) -> Result<Value> {
    let old = get(lab, which);
    Ok(match which.kind.as_str() {
        "Service" => {
            object["metadata"]["namespace"] = json!(which.namespace);
            let ranges = cidr::ranges(&list(lab, "ServiceCIDR"));
            let taken = admit::Taken::of(&list(lab, "Service"), ranges, (&which.namespace, &which.name));
            admit::service(&object, old.as_ref(), &taken)?
        }
        "EndpointSlice" => slices::admit(&object, old.as_ref())?,
        "ServiceCIDR" => cidr::admit(&object, old.as_ref())?,
        "NetworkPolicy" => policy::network_policy(&object)?,
        "ClusterNetworkPolicy" => policy::cluster_network_policy(&object)?,
        "Namespace" => selector::namespace(&object)?,
        _ => object,
    })
}

/// Deletes the objects of a file or a folder.
pub fn delete_all(lab: &Lab, path: &Path) -> Result<()> {
    for object in read_path(path)? {
        let which = ObjectRef::of(&object)?;
        match which.kind.as_str() {
            "Pod" => pod::remove(lab, &which.full_name())?,
            "ServiceCIDR" => {
                let (all, services) = (list(lab, "ServiceCIDR"), list(lab, "Service"));
                if let Some(holder) =
                    get(lab, &which).and_then(|object| cidr::holder(&object, &all, &services).cloned())
                {
                    let holder = ObjectRef::of(&holder)?.full_name();
                    bail!("servicecidr {} is in use by service {holder}: delete that first", which.name);
                }
                delete(lab, &which)?;
            }
            "Namespace" => {
                if let Some(pod) = lab.pods()?.iter().find(|pod| pod.namespace == which.name) {
                    bail!("namespace {} still has pod {}: delete that first", which.name, pod.full_name());
                }
                delete(lab, &which)?;
            }
            _ => delete(lab, &which)?,
        }
        println!("{} {} deleted", which.kind.to_lowercase(), which.name);
    }
    settle(lab)
}

/// What the controllers do: addresses for load balancers, EndpointSlices for what Services select.
pub fn settle(lab: &Lab) -> Result<()> {
    let mut services = list(lab, "Service");
    for i in 0..services.len() {
        if let Some(status) = balancer::status(&services[i], &services) {
            services[i] = patch_status(lab, &ObjectRef::of(&services[i])?, "loadBalancer", status)?;
        }
    }
    let (pods, nodes, mut stored) = (list(lab, "Pod"), list(lab, "Node"), list(lab, "EndpointSlice"));
    stored.retain(slices::is_derived);
    let mut wanted = Vec::new();
    for service in &services {
        let label = format!("/metadata/labels/{}", slices::SERVICE_NAME.replace('/', "~1"));
        let is_its = |slice: &&Value| {
            types::text(slice, &label) == types::text(service, "/metadata/name")
                && types::text(slice, "/metadata/namespace") == types::text(service, "/metadata/namespace")
        };
        let existing: Vec<_> = stored.iter().filter(is_its).collect();
        wanted.extend(slices::derive(service, &pods, &nodes, &existing));
    }
    let name = |slice: &Value| ObjectRef::of(slice);
    for slice in &stored {
        let which = name(slice)?;
        if !wanted.iter().any(|wanted| name(wanted).is_ok_and(|wanted| wanted == which)) {
            delete(lab, &which)?;
        }
    }
    for slice in wanted {
        let which = name(&slice)?;
        let same = |old: &Value| {
            ["labels", "ownerReferences"].iter().all(|f| old["metadata"][f] == slice["metadata"][f])
                && ["endpoints", "ports"].iter().all(|f| old[f] == slice[f])
        };
        if !get(lab, &which).as_ref().is_some_and(same) {
            store(lab, slice).with_context(|| format!("storing endpointslice {}", which.name))?;
        }
    }
    dns::refresh(lab)
}
