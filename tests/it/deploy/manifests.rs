//! Reads the manifests of Kubernetes: resources, Pods, containers.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::tools::{file, printed, tool, yaml};

pub const MANIFESTS: &str = "deploy/kubernetes";
pub const EXAMPLES: [&str; 2] = ["standalone", "sidecar"];

pub fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

pub fn kustomize(folder: &Path) -> Vec<Value> {
    yaml(&printed(tool("deploy/bin/kubectl").arg("kustomize").arg(folder)))
}

pub fn example(name: &str) -> Vec<Value> {
    kustomize(&file(MANIFESTS).join("examples").join(name))
}

/// The only resource of this kind and name. The hash at the end of a `ConfigMap`'s name is ignored.
pub fn the<'a>(resources: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found: Vec<&Value> = resources
        .iter()
        .filter(|resource| resource["kind"] == kind)
        .filter(|resource| kind == "ConfigMap" || resource["metadata"]["name"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found[0]
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The Pods of the examples, with the name of each example.
pub fn pods() -> Vec<(&'static str, Value)> {
    let pods: Vec<_> = EXAMPLES
        .into_iter()
        .flat_map(|name| example(name).into_iter().map(move |resource| (name, resource)))
        .filter(|(_, resource)| resource["kind"] == "Deployment")
        .map(|(name, resource)| (name, resource["spec"]["template"]["spec"].clone()))
        .collect();
    assert_eq!(pods.len(), 3);
    pods
}

pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

/// The containers of lobbyd, each with its Pod: worker, API, sidecar.
pub fn ours() -> Vec<(Value, Value)> {
    let mut ours = Vec::new();
    for (_, pod) in pods() {
        let found = containers(&pod).filter(|container| container["image"] == "lobbyd:0.1.0");
        ours.extend(found.map(|container| (container.clone(), pod.clone())));
    }
    assert_eq!(ours.len(), 3);
    ours
}

/// The sidecar, which is an init container.
pub fn sidecar() -> Value {
    let example = example("sidecar");
    let pod = &the(&example, "Deployment", "webinars")["spec"]["template"]["spec"];
    list(&pod["initContainers"])[0].clone()
}

pub fn environment(container: &Value) -> impl Iterator<Item = (&str, &str)> {
    list(&container["env"]).iter().map(|entry| (word(&entry["name"]), word(&entry["value"])))
}

/// The number of a named port.
pub fn port(container: &Value, name: &Value) -> u64 {
    let ports = list(&container["ports"]);
    let port = ports.iter().find(|port| port["name"] == *name);
    port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].as_u64().unwrap()
}

pub fn probes(container: &Value) -> Vec<&Value> {
    ["startupProbe", "livenessProbe", "readinessProbe"]
        .iter()
        .filter_map(|probe| container.get(probe))
        .map(|probe| &probe["httpGet"])
        .collect()
}
