//! The manifests: Kubernetes accepts them, and they match the program.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use lobbyd::config::Config;
use serde_json::{Value, json};

use super::manifests::{
    EXAMPLES, MANIFESTS, containers, environment, example, kustomize, list, ours, pods, port,
    probes, sidecar, text, the, word,
};
use crate::support::{
    cluster::start_on_sqlite,
    daemon::{Settings, program, run},
    server::folder,
    tools::{file, output, printed, tool, yaml},
};

/// The oldest version that README.md supports, and the newest that the validator knows.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// Custom resources and their schemas.
const CUSTOM: [(&str, &str); 4] = [
    ("PodMonitor", "pod-monitor.json"),
    ("PrometheusRule", "prometheus-rule.json"),
    ("ScaledObject", "scaled-object.json"),
    ("TriggerAuthentication", "trigger-authentication.json"),
];

/// Validates resources against this version of Kubernetes, or a custom resource against its schema.
fn validated(resources: &[&Value], version: &str) -> Output {
    let document = folder("manifest-").join("manifest.yaml");
    let documents: Vec<String> = resources.iter().map(ToString::to_string).collect();
    fs::write(&document, documents.join("\n---\n")).unwrap();
    let mut command = if let Some(schema) = schema(resources[0]) {
        let mut command = tool("deploy/bin/check-jsonschema");
        command.arg("--schemafile").arg(file("tests/tools/crd-schemas").join(schema));
        command
    } else {
        let mut command = tool("deploy/bin/kubernetes-validate");
        command.args(["--strict", "--kubernetes-version", version]);
        command
    };
    output(command.arg(document))
}

fn schema(resource: &Value) -> Option<&'static str> {
    let custom = CUSTOM.iter().find(|(kind, _)| resource["kind"] == *kind);
    custom.map(|(_, schema)| *schema)
}

#[test]
fn kubernetes_accepts_the_examples() {
    let passed = |resources: &[&Value], version| {
        let output = validated(resources, version);
        let said = format!("{output:?}");
        // The validator only warns about an unknown kind.
        assert!(output.status.success() && !said.contains("find schema"), "{said}");
    };
    let all: Vec<Value> = EXAMPLES.into_iter().flat_map(example).collect();
    let (custom, known): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|resource| schema(resource).is_some());
    for version in VERSIONS {
        passed(&known, version);
    }
    for resource in custom {
        passed(&[resource], "");
    }

    // The check itself finds a misspelt key in every kind.
    for mut resource in example("standalone") {
        resource["specs"] = json!({});
        assert!(!validated(&[&resource], VERSIONS[1]).status.success(), "{}", resource["kind"]);
    }
}

#[test]
fn containers_have_only_the_privileges_that_they_need() {
    for (example, pod) in pods() {
        assert_eq!(pod["automountServiceAccountToken"], false, "{example}");
        assert_eq!(pod["enableServiceLinks"], false, "{example}");
        for container in containers(&pod) {
            let expected = json!({
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            });
            assert_eq!(container["securityContext"], expected, "{}", container["name"]);
            let resources = &container["resources"];
            for what in ["cpu", "memory"] {
                assert!(resources["requests"][what].is_string(), "{resources}");
            }
            assert!(resources["limits"]["memory"].is_string(), "{resources}");
            assert!(resources["limits"].get("cpu").is_none(), "{resources}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_answers_the_probes() {
    let (daemon, _settings) = start_on_sqlite().await;
    for (container, _) in ours() {
        assert!(probes(&container).len() >= 2);
        for probe in probes(&container) {
            assert_eq!(daemon.get(word(&probe["path"])).await.unwrap().0, 200, "{probe}");
        }
    }
    let resources = example("sidecar");
    let endpoint = &the(&resources, "PodMonitor", "lobbyd")["spec"]["podMetricsEndpoints"][0];
    assert_eq!(daemon.get(word(&endpoint["path"])).await.unwrap().0, 200);
}

#[test]
fn the_program_listens_on_the_ports_of_the_manifests() {
    for (container, _) in ours() {
        for (name, address) in environment(&container) {
            let Some(section) = name.strip_suffix("__LISTEN") else { continue };
            let section = section.strip_prefix("LOBBYD__").unwrap().to_lowercase();
            let number = port(&container, &json!(section));
            assert_eq!(address, format!("0.0.0.0:{number}"), "{name}");
        }
        for probe in probes(&container) {
            assert_eq!(port(&container, &probe["port"]), 9464);
        }
    }
    let standalone = example("standalone");
    let deployment = the(&standalone, "Deployment", "lobbyd-api");
    let api = &deployment["spec"]["template"]["spec"]["containers"][0];
    let service = &the(&standalone, "Service", "lobbyd-api")["spec"];
    assert_eq!(service["ports"][0]["port"], 80);
    assert_eq!(port(api, &service["ports"][0]["targetPort"]), 8080);

    let policy = &the(&standalone, "NetworkPolicy", "lobbyd")["spec"];
    let open = |direction: &str| -> Vec<u64> {
        let rules = list(&policy[direction]).iter();
        rules
            .flat_map(|rule| list(&rule["ports"]))
            .map(|port| port["port"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(open("ingress"), [8080, 9464]);
    assert_eq!(open("egress"), [53, 53, 5671, 5672, 5432, 3306, 443, 4318]);
}

#[test]
fn selectors_find_the_pods() {
    for name in EXAMPLES {
        let resources = example(name);
        let of_kind = |kind: &'static str| resources.iter().filter(move |it| it["kind"] == kind);
        let found = |selector: &Value| {
            let wanted = selector.as_object().unwrap();
            of_kind("Deployment")
                .filter(|deployment| {
                    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
                    wanted.iter().all(|(label, value)| labels[label] == *value)
                })
                .count()
        };
        for deployment in of_kind("Deployment").chain(of_kind("PodDisruptionBudget")) {
            assert_eq!(found(&deployment["spec"]["selector"]["matchLabels"]), 1);
        }
        for service in of_kind("Service") {
            assert_eq!(found(&service["spec"]["selector"]), 1);
        }
        let all = of_kind("Deployment").count();
        let monitor = the(&resources, "PodMonitor", "lobbyd");
        assert_eq!(found(&monitor["spec"]["selector"]["matchLabels"]), all);
        let policy = the(&resources, "NetworkPolicy", "lobbyd");
        // The application has a policy of its own.
        let ours = if name == "sidecar" { 0 } else { all };
        assert_eq!(found(&policy["spec"]["podSelector"]["matchLabels"]), ours);
    }
}

#[test]
fn the_grace_period_is_longer_than_a_shutdown() {
    let grace = Config::defaults().shutdown.grace;
    for (container, pod) in ours() {
        let given = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let slept = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
        let left = Duration::from_secs(given - slept.as_u64().unwrap_or(0));
        assert!(left > grace, "{left:?}");
    }
}

#[test]
fn the_program_accepts_configuration_and_environment() {
    let secrets = folder("secrets-");
    fs::write(secrets.join("database-url"), "postgres://lobbyd:secret@database/rooms").unwrap();
    fs::write(secrets.join("events-url"), "amqp://lobbyd:secret@broker/%2f").unwrap();
    for name in EXAMPLES {
        let resources = example(name);
        let map = the(&resources, "ConfigMap", "lobbyd");
        let configuration = folder("configuration-").join("lobbyd.toml");
        fs::write(&configuration, word(&map["data"]["lobbyd.toml"])).unwrap();
        for (container, pod) in ours() {
            let mounted = |path: &str| {
                let mount = list(&container["volumeMounts"])
                    .iter()
                    .find(|mount| mount["mountPath"] == path)
                    .unwrap_or_else(|| panic!("nothing is mounted at {path}"));
                assert_eq!(mount["readOnly"], true);
                let volumes = list(&pod["volumes"]);
                volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap().clone()
            };
            let volume = mounted("/etc/lobbyd/lobbyd.toml");
            assert_eq!(volume["configMap"]["name"], map["metadata"]["name"]);
            assert_eq!(mounted("/etc/lobbyd/secrets")["secret"]["secretName"], "lobbyd");

            let settings: Settings = environment(&container)
                .map(|(name, value)| {
                    let secret = value.strip_prefix("/etc/lobbyd/secrets/");
                    let here = secret.map(|name| secrets.join(name).display().to_string());
                    (name.to_owned(), here.unwrap_or_else(|| value.to_owned()))
                })
                .collect();
            let shown = printed(
                program(&settings).args(["config", "check", "--config"]).arg(&configuration),
            );
            for expected in ["@database/rooms", "@broker/%2f", "0.0.0.0:9464", r#""json""#] {
                assert!(shown.contains(expected), "{expected} in {shown}");
            }
            let http = if container["args"] == json!(["api"]) { "0.0.0.0" } else { "127.0.0.1" };
            assert!(shown.contains(&format!("{http}:8080")), "{shown}");
        }
    }
}

#[test]
fn arguments_are_commands_of_the_program() {
    for (container, _) in ours() {
        let arguments: Vec<&str> = list(&container["args"]).iter().map(word).collect();
        let help = run(&Settings::new(), &[&arguments[..], &["--help"]].concat());
        assert!(help.status.success(), "{arguments:?}: {help:?}");
    }
}

#[test]
fn an_application_stays_ready_without_the_broker() {
    let sidecar = sidecar();
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["args"], json!(["worker"]));
    let paths: Vec<&str> = probes(&sidecar).iter().map(|probe| word(&probe["path"])).collect();
    assert_eq!(paths, ["/livez"; 3]);
}

#[test]
fn the_sidecar_changes_nothing_else_in_the_application() {
    let rendered = example("sidecar");
    let mut changed = the(&rendered, "Deployment", "webinars").clone();
    let template = &mut changed["spec"]["template"];
    template["metadata"]["labels"].as_object_mut().unwrap().remove("lobbyd.metrics").unwrap();
    for added in ["initContainers", "volumes"] {
        template["spec"].as_object_mut().unwrap().remove(added).unwrap();
    }
    assert_eq!([changed], *yaml(&text("deploy/kubernetes/examples/sidecar/application.yaml")));
}

#[test]
fn one_process_can_be_restarted_while_another_works() {
    let resources = example("standalone");
    for name in ["lobbyd", "lobbyd-api"] {
        let budget = the(&resources, "PodDisruptionBudget", name);
        assert_eq!(budget["spec"]["maxUnavailable"], 1);
    }
    let replicas = |name| &the(&resources, "Deployment", name)["spec"]["replicas"];
    assert_eq!(replicas("lobbyd-api"), 2);
    // KEDA sets this number, and `kubectl apply` must not reset it.
    assert_eq!(replicas("lobbyd"), &Value::Null);
}

#[test]
fn keda_keeps_workers_when_the_queue_is_empty() {
    let resources = example("standalone");
    let scaled = &the(&resources, "ScaledObject", "lobbyd")["spec"];
    let workers = the(&resources, "Deployment", word(&scaled["scaleTargetRef"]["name"]));
    let container = &workers["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["worker"]));
    assert!(scaled["minReplicaCount"].as_u64().unwrap() >= 2);
    let trigger = &scaled["triggers"][0];
    assert_eq!(trigger["metadata"]["queueName"], Config::defaults().events.queue);
    let authentication =
        the(&resources, "TriggerAuthentication", word(&trigger["authenticationRef"]["name"]));
    let secret = &authentication["spec"]["secretTargetRef"][0];
    assert_eq!(*secret, json!({"parameter": "host", "name": "lobbyd", "key": "events-url"}));
}

#[test]
fn the_alert_rules_are_equal_to_those_of_monitoring() {
    let rules = &yaml(&text("deploy/monitoring/alerts.yaml"))[0];
    for name in EXAMPLES {
        let resources = example(name);
        assert_eq!(the(&resources, "PrometheusRule", "lobbyd")["spec"]["groups"], rules["groups"]);
    }
}

#[test]
fn the_overlay_of_the_readme_works() {
    let readme = text("deploy/kubernetes/README.md");
    for key in ["database-url", "events-url"] {
        assert!(readme.contains(&format!("--from-file={key}")), "{key}");
    }
    let overlay: String = readme
        .lines()
        .skip_while(|line| !line.starts_with("    apiVersion: kustomize"))
        .map_while(|line| line.strip_prefix("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let copy = folder("kubernetes-");
    let mut copying = Command::new("cp");
    printed(copying.arg("-r").arg(file(MANIFESTS).join(".")).arg(&copy));
    let here = copy.join("here");
    fs::create_dir(&here).unwrap();
    fs::write(here.join("kustomization.yaml"), overlay).unwrap();
    let resources = kustomize(&here);
    for resource in &resources {
        assert_eq!(resource["metadata"]["namespace"], "webinars", "{}", resource["kind"]);
    }
    for name in ["lobbyd", "lobbyd-api"] {
        let deployment = &the(&resources, "Deployment", name)["spec"];
        assert_eq!(deployment["replicas"], 2);
        let image = word(&deployment["template"]["spec"]["containers"][0]["image"]);
        assert_eq!(image, "registry.example.org/lobbyd:0.1.0");
    }
}
