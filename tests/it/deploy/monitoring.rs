//! Alert rules and dashboard: each is checked by the program that reads it, and against the metrics
//! that lobbyd exports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    http::Api,
    server::folder,
    signaling::{SECRET, SignalingServer},
    tools::{debian, file, output, printed, yaml},
};
use crate::talk::Talk;

const ALERTS: &str = "deploy/monitoring/alerts.yaml";
const ALERT_TESTS: &str = "deploy/monitoring/alerts-test.yaml";
const DASHBOARD: &str = "deploy/monitoring/dashboard.json";
const ALERTMANAGER: &str = "deploy/monitoring/alertmanager.yaml";
const RUNBOOK: &str = "deploy/RUNBOOK.md";

/// Labels that Prometheus adds to scraped metrics, or that histogram buckets have.
const LABELS_OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = debian("promtool");
    command.args(arguments);
    command
}

fn alerts() -> Vec<Value> {
    yaml(&text(ALERTS))[0]["groups"][0]["rules"].as_array().unwrap().clone()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().unwrap()
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    printed(promtool(&["check", "rules"]).arg(file(ALERTS)));
    printed(promtool(&["test", "rules"]).arg(file(ALERT_TESTS)));
}

/// Whether the tests of the rules pass with these alerts.
fn tests_pass(alerts: &[Value]) -> bool {
    let folder = folder("rules-");
    let rules = json!({"groups": [{"name": "lobbyd", "rules": alerts}]});
    fs::write(folder.join("alerts.yaml"), rules.to_string()).unwrap();
    fs::copy(file(ALERT_TESTS), folder.join("alerts-test.yaml")).unwrap();
    let mut testing = promtool(&["test", "rules"]);
    output(testing.arg(folder.join("alerts-test.yaml"))).status.success()
}

/// The expression without its threshold, so that it always holds.
fn loosened(expr: &str) -> String {
    let (start, operator) = [" > ", " == "]
        .iter()
        .filter_map(|operator| Some((expr.rfind(operator)?, operator)))
        .max()
        .unwrap_or((0, &""));
    let (before, threshold) = (&expr[..start], &expr[start + operator.len()..]);
    let rest = threshold.find(' ').map_or("", |end| &threshold[end..]);
    if before.is_empty() { format!("{expr} or vector(1)") } else { format!("{before} >= 0{rest}") }
}

#[test]
fn each_alert_is_tested_on_both_sides_of_its_threshold_and_delay() {
    let alerts = alerts();
    assert!(tests_pass(&alerts));
    for index in 0..alerts.len() {
        let broken = |key: &str, value: Value| {
            let mut broken = alerts.clone();
            broken[index][key] = value;
            broken
        };
        let name = name(&alerts[index]);
        let expr = alerts[index]["expr"].as_str().unwrap();
        assert!(
            !tests_pass(&broken("expr", json!("vector(0) > 1"))),
            "no test needs {name} to fire"
        );
        assert!(
            !tests_pass(&broken("expr", json!(loosened(expr)))),
            "no test needs the threshold of {name}"
        );
        if alerts[index].get("for").is_some() {
            assert!(!tests_pass(&broken("for", json!("0s"))), "no test needs the delay of {name}");
        }
    }
}

#[test]
fn each_alert_has_a_section_in_the_runbook() {
    let alerts = alerts();
    let runbook = text(RUNBOOK);
    let sections: Vec<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|title| title.starts_with("Lobbyd"))
        .collect();
    let named: Vec<&str> = alerts.iter().map(name).collect();
    assert_eq!(sections, named, "sections of the runbook and alerts");
    for alert in &alerts {
        let annotations = &alert["annotations"];
        for annotation in ["summary", "description"] {
            assert!(annotations[annotation].is_string(), "{alert}");
        }
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()));
        let section = name(alert).to_lowercase();
        // The copy in the package.
        let url = format!("file:///usr/share/doc/lobbyd/RUNBOOK.md#{section}");
        assert_eq!(annotations["runbook_url"], url);
    }
}

/// Alertmanager accepts the example, and its rules name alerts that exist.
#[test]
fn the_inhibitions_name_alerts() {
    printed(debian("amtool").arg("check-config").arg(file(ALERTMANAGER)));
    let alerts = alerts();
    let named: Vec<&str> = alerts.iter().map(name).collect();
    let matchers: Vec<String> = yaml(&text(ALERTMANAGER))[0]["inhibit_rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| ["source_matchers", "target_matchers"].map(|side| rule[side].clone()))
        .flat_map(|matchers| serde_json::from_value::<Vec<String>>(matchers).unwrap())
        .filter(|matcher| matcher.starts_with("alertname"))
        .collect();
    assert!(matchers.len() > 8, "{matchers:?}");
    for matcher in matchers {
        let pattern = matcher.split_once('~').map_or_else(
            || matcher.trim_start_matches("alertname = ").to_owned(),
            |(_, pattern)| pattern.trim().trim_matches('"').to_owned(),
        );
        let alternatives = pattern.trim_start_matches("Lobbyd").trim_matches(['(', ')']);
        for alternative in alternatives.split('|') {
            let alert = format!("Lobbyd{alternative}");
            assert!(named.contains(&alert.as_str()), "{alert}");
        }
    }
}

/// A scrape: each metric with the values of each of its labels.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn exported(metrics: &str) -> Exported {
    let mut exported = Exported::new();
    for line in metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let end = line.find(['{', ' ']).unwrap();
        let labels = exported.entry(line[..end].to_owned()).or_default();
        if let Some((inside, _value)) = line[end..].trim_start_matches('{').split_once('}') {
            for (label, value) in inside.split(',').map(|pair| pair.split_once('=').unwrap()) {
                let value = value.trim_matches('"').to_owned();
                labels.entry(label.to_owned()).or_default().insert(value);
            }
        }
    }
    exported
}

/// The metrics of a program that has opened a room and answered a request.
async fn scrape() -> String {
    let database = Database::create(Kind::Sqlite).await;
    let talk = Talk::new(Kind::Postgres).await;
    let signaling = SignalingServer::start().await;
    let mut settings = talk.settings();
    let (url, backend) = (signaling.url(), signaling.backend());
    let servers = format!(r#"[{{ url = "{url}", backend = "{backend}", secret = "{SECRET}" }}]"#);
    settings.push(("LOBBYD__SIGNALING__SERVERS".to_owned(), servers));
    settings.extend(database.settings());
    let program = Daemon::start_as("run", &settings);
    program.ready().await;
    database.insert_rooms("room", 1, database.now().await).await;
    database.all_published().await;
    Api::new(program.http_port).guest().get("/room").await.expect(401);
    talk.close("talk", 3, 0).await;
    eventually("the metrics of two resets", || async {
        let (_status, metrics) = program.get("/metrics").await?;
        let is_complete = metrics.contains("lobbyd_timer_lag_seconds_count 2")
            && metrics.contains("lobbyd_talk_lag_seconds_count 1")
            && metrics.contains("lobbyd_signaling_lag_seconds_count 1");
        is_complete.then_some(metrics)
    })
    .await
}

/// The metrics in an expression, with the labels and values that they have to match.
fn selectors(expr: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut selectors = Vec::new();
    for (start, _) in expr.match_indices("lobbyd_") {
        let rest = &expr[start..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        let inside = rest[end..].strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let matchers = inside.map_or("", |(inside, _rest)| inside).trim();
        let matchers = matchers.split(',').filter(|matcher| !matcher.is_empty()).map(|matcher| {
            let (label, value) = matcher.split_once('=').unwrap();
            let value = value.trim_start_matches('~').trim_matches('"');
            (label.trim().to_owned(), value.to_owned())
        });
        selectors.push((rest[..end].to_owned(), matchers.collect()));
    }
    selectors
}

/// The labels that an expression groups or joins by, and those in its legend.
fn grouped<'a>(expr: &'a str, legend: &'a str) -> impl Iterator<Item = &'a str> {
    let lists = ["by (", "on ("].into_iter().flat_map(|word| expr.split(word).skip(1));
    let lists = lists.map(|rest| rest.split(')').next().unwrap());
    let shown = legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap());
    lists.flat_map(|list| list.split(',')).chain(shown).map(str::trim)
}

/// The metrics, labels and values in an expression that lobbyd does not export.
fn unknown(expr: &str, legend: &str, exported: &Exported) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut labels: BTreeSet<&str> = LABELS_OF_PROMETHEUS.into();
    let selectors = selectors(expr);
    for (metric, matchers) in &selectors {
        let Some(known) = exported.get(metric) else {
            unknown.push(metric.clone());
            continue;
        };
        labels.extend(known.keys().map(String::as_str));
        for (label, value) in matchers {
            if LABELS_OF_PROMETHEUS.contains(&label.as_str()) {
                continue;
            }
            let values = known.get(label);
            // The values of `status` depend on the requests.
            let known = values.is_some_and(|values| {
                label == "status" || value.split('|').all(|value| values.contains(value))
            });
            if !known {
                unknown.push(format!("{label}={value} of {metric}"));
            }
        }
    }
    let unknown_labels = grouped(expr, legend).filter(|label| !labels.contains(label));
    unknown.extend(unknown_labels.map(|label| format!("label {label} in {expr}")));
    unknown
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

/// The expressions of the dashboard, with their legends, after Grafana has replaced variables.
fn dashboard_queries(dashboard: &Value) -> Vec<(String, String)> {
    panels(dashboard)
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| {
            let expr = target["expr"].as_str().unwrap();
            let expr = expr.replace("$job", ".*").replace("$instance", ".*");
            let expr = expr.replace("$__rate_interval", "1m");
            assert!(!expr.contains('$'), "{expr}");
            (expr, target["legendFormat"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_use_only_exported_metrics() {
    let metrics = scrape().await;
    let exported = exported(&metrics);
    for alert in alerts() {
        let expr = alert["expr"].as_str().unwrap();
        assert_eq!(unknown(expr, "", &exported), [""; 0], "{}", name(&alert));
    }
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    for (expr, legend) in dashboard_queries(&dashboard) {
        assert_eq!(unknown(&expr, &legend, &exported), [""; 0], "{expr}");
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"]["query"].as_str().unwrap();
        let (metric, _label) = query.trim_start_matches("label_values(").rsplit_once(',').unwrap();
        assert_eq!(unknown(metric, "", &exported), [""; 0], "{query}");
    }
    for (metric, _matchers) in selectors(&text(RUNBOOK)) {
        // Tables have the same prefix.
        let sql = ["lobbyd_rooms", "lobbyd_outbox", "lobbyd_messages"].contains(&metric.as_str());
        assert!(sql || exported.contains_key(&metric), "{metric} in the runbook");
    }

    // The check itself finds unknown metrics, labels and values.
    let wrong = r#"sum by (kind) (lobbyd_logins_total{outcome=~"ok|fine"}) or lobbyd_timers_fire"#;
    assert_eq!(
        unknown(wrong, "", &exported),
        [
            "outcome=ok|fine of lobbyd_logins_total".to_owned(),
            "lobbyd_timers_fire".to_owned(),
            format!("label kind in {wrong}")
        ]
    );

    let scraped = folder("metrics-").join("metrics");
    fs::write(&scraped, &metrics).unwrap();
    printed(promtool(&["check", "metrics"]).stdin(File::open(scraped).unwrap()));
}

#[test]
fn grafana_can_import_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    assert_eq!(dashboard["uid"], "lobbyd");
    assert_eq!(dashboard["id"], Value::Null);
    let input = &dashboard["__inputs"][0];
    assert_eq!(
        (&input["name"], &input["pluginId"]),
        (&json!("DS_PROMETHEUS"), &json!("prometheus"))
    );
    let source = json!({"type": "prometheus", "uid": "${DS_PROMETHEUS}"});
    let required: BTreeSet<&str> = dashboard["__requires"]
        .as_array()
        .unwrap()
        .iter()
        .map(|required| required["id"].as_str().unwrap())
        .collect();

    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "the id of {title} is not unique");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{title} is too wide");
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} overlaps another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(required.contains(panel["type"].as_str().unwrap()), "{title}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        assert_eq!(panel["datasource"], source, "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"], source, "{title}");
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        assert_eq!(variable["datasource"], source);
    }

    // Prometheus accepts every expression.
    let rules: Vec<Value> = dashboard_queries(&dashboard)
        .into_iter()
        .enumerate()
        .map(|(number, (expr, _legend))| json!({"record": format!("query{number}"), "expr": expr}))
        .collect();
    let list = folder("queries-").join("rules.yaml");
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&list, rules.to_string()).unwrap();
    printed(promtool(&["check", "rules"]).arg(list));
}
