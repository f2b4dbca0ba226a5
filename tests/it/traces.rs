//! Traces, from the received event to the published one, as a collector receives them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, add_user, run},
    database::Kind,
    eventually,
    http::Api,
    server::free_port,
};

/// Trace and span of the sender of an event.
const SENDER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that receives traces by OTLP over HTTP.
struct Collector {
    endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _server: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let spans = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&spans);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _client)) = listener.accept().await {
                connections.spawn(receive(BufStream::new(stream), Arc::clone(&received)));
            }
        });
        Self { endpoint, spans, _server: server }
    }

    /// A collector, and a cluster on SQLite that sends its spans to it.
    async fn with_cluster() -> (Self, TestCluster) {
        let mut cluster = TestCluster::new(Kind::Sqlite).await;
        let collector = Self::start().await;
        cluster.set("TRACES__ENDPOINT", &collector.endpoint);
        (collector, cluster)
    }

    /// Waits for a span of this name in this trace, or in any trace.
    async fn span(&self, name: &str, trace: Option<&str>) -> Span {
        eventually(&format!("span {name:?} of trace {trace:?}"), || async {
            let spans = self.spans.lock().unwrap();
            let fits = |span: &&Span| {
                span.name == name && trace.is_none_or(|trace| hex(&span.trace_id) == trace)
            };
            spans.iter().find(fits).cloned()
        })
        .await
    }
}

/// Receives one request after another.
async fn receive(mut stream: BufStream<TcpStream>, spans: Arc<Mutex<Vec<Span>>>) {
    loop {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        for resource in request.resource_spans {
            spans.lock().unwrap().extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(response).await.unwrap();
        stream.flush().await.unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let text = |attribute: &KeyValue| {
        let Some(Value::StringValue(text)) = attribute.value.clone()?.value else { return None };
        Some((attribute.key.clone(), text))
    };
    span.attributes.iter().filter_map(text).collect()
}

on_every_database! { crate::support::cluster::TestCluster::new:
    a_trace_leads_from_the_event_in_to_the_event_out,
}

async fn a_trace_leads_from_the_event_in_to_the_event_out(mut cluster: TestCluster) {
    let collector = Collector::start().await;
    cluster.set("TRACES__ENDPOINT", &collector.endpoint);
    let client = cluster.client().await;
    let mut worker = cluster.worker().await;
    cluster.database.insert_room("webinar").await;
    let timer = cluster.database.now().await + 2;
    let change = json!({"token": "webinar", "state": 1, "timer": timer});
    client.publish_traced(&change, SENDER).await;

    // Processing continues the trace of the sender, and the commit is part of it.
    let (trace, sender) = (&SENDER[3..35], &SENDER[36..52]);
    let process = collector.span("process lobby.changed", Some(trace)).await;
    assert_eq!(hex(&process.parent_span_id), sender);
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert_eq!(attributes(&process)["lobbyd.outcome"], "applied");
    assert_eq!(attributes(&process)["lobbyd.room.token"], "webinar");
    let commit = collector.span("commit lobby", Some(trace)).await;
    assert_eq!(commit.parent_span_id, process.span_id);
    assert!(commit.start_time_unix_nano >= process.start_time_unix_nano);
    assert!(commit.end_time_unix_nano <= process.end_time_unix_nano);

    // The room that opens has the trace of its own event.
    let update = client.take_reset(&cluster.updates).await;
    let own = update.message_id.replace('-', "");
    let opening = collector.span("open room", Some(&own)).await;
    assert!(opening.parent_span_id.is_empty());
    assert_eq!(attributes(&opening)["messaging.message.id"], update.message_id);
    assert!(opening.start_time_unix_nano >= u64::try_from(timer).unwrap() * 1_000_000_000);

    // Its publication is part of that trace and passes it on.
    let publication = collector.span("publish event", Some(&own)).await;
    assert_eq!(publication.parent_span_id, opening.span_id);
    assert_eq!(publication.kind(), SpanKind::Producer);
    assert_eq!(attributes(&publication)["lobbyd.outcome"], "confirmed");
    let expected = format!("00-{own}-{}-01", hex(&publication.span_id));
    assert_eq!(update.headers["traceparent"], expected);
    assert!(worker.stop().await.success());
}

/// The API publishes the change; a worker receives it, and its timer is set already.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_api_published_begins_the_trace_of_its_event() {
    let (collector, cluster) = Collector::with_cluster().await;
    let _client = cluster.client().await;
    let program = Daemon::start_as("run", &cluster.settings);
    program.ready().await;
    add_user(&cluster.settings, "alice", "secret", &[]);
    let alice = Api::new(program.http_port).user("alice", "secret");
    let room = json!({"roomType": 3, "roomName": "Webinar"});
    let room = alice.post("/room", room).await.expect(201).data();
    let lobby = format!("/room/{}/webinar/lobby", room["token"].as_str().unwrap());
    let timer = cluster.database.now().await + 2;
    alice.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
    let process = collector.span("process lobby.changed", None).await;
    assert_eq!(attributes(&process)["lobbyd.outcome"], "stale");
    // The publication is the first in the trace of its event.
    let publication = collector.span("publish event", Some(&hex(&process.trace_id))).await;
    assert_eq!(process.parent_span_id, publication.span_id);
    assert!(publication.parent_span_id.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_unsampled_trace_is_not_traced() {
    let (collector, cluster) = Collector::with_cluster().await;
    let client = cluster.client().await;
    let mut worker = cluster.worker().await;
    for room in ["unsampled", "malformed"] {
        cluster.database.insert_room(room).await;
    }
    let timer = cluster.database.now().await + 2;
    let change = |room: &str| json!({"token": room, "state": 1, "timer": timer});
    client.publish_traced(&change("unsampled"), &SENDER.replace("-01", "-00")).await;
    client.publish_traced(&change("malformed"), "nonsense").await;
    for _room in ["unsampled", "malformed"] {
        client.take_reset(&cluster.updates).await;
    }
    assert!(worker.stop().await.success());
    // The program exports all spans before it exits.
    let spans = collector.spans.lock().unwrap();
    let processed: Vec<_> =
        spans.iter().filter(|span| span.name == "process lobby.changed").collect();
    assert_eq!(processed.len(), 1, "{spans:?}");
    assert_eq!(attributes(processed[0])["lobbyd.room.token"], "malformed");
    assert_eq!(spans.iter().filter(|span| span.name == "commit lobby").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_collector_loses_only_spans() {
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    cluster.set("TRACES__ENDPOINT", &format!("http://127.0.0.1:{}/v1/traces", free_port()));
    let client = cluster.client().await;
    let mut worker = cluster.worker().await;
    cluster.database.insert_rooms("room", 3000, cluster.database.now().await).await;
    cluster.database.all_open().await;
    cluster.all_done(&client, 3000).await;
    eventually("dropped spans", || async {
        worker.metric("lobbyd_spans_dropped_total").await.filter(|dropped| *dropped > 0)
    })
    .await;
    assert!(worker.stop().await.success());
    let errors = worker.log().matches("trace collector unavailable").count();
    assert_eq!(errors, 1, "{}", worker.log());
}

#[test]
fn an_invalid_endpoint_is_refused() {
    for endpoint in ["localhost:4318", "https://collector/v1/traces", "nonsense"] {
        let settings = vec![("LOBBYD__TRACES__ENDPOINT".to_owned(), endpoint.to_owned())];
        let output = run(&settings, &["config", "check"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(error.contains("traces.endpoint"), "{error}");
    }
}
