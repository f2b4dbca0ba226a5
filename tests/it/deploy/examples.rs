//! The programs in `deploy/examples`: each sets lobbies and follows rooms, beside a real broker.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::Value;

use crate::support::{
    PATIENCE,
    cluster::TestCluster,
    database::Kind,
    server::folder,
    tools::{debian, file, printed},
};

#[tokio::test(flavor = "multi_thread")]
async fn python() {
    sets_lobbies_and_follows_rooms(Binds::Yes, || {
        let mut command = debian("/usr/bin/python3");
        command.arg(file("deploy/examples/python/webinar.py"));
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    sets_lobbies_and_follows_rooms(Binds::Yes, || {
        let mut command = debian("/usr/bin/node");
        command.arg(file("deploy/examples/node/webinar.js"));
        command.env("NODE_PATH", file("target/test-tools/amqplib/node_modules"));
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn php() {
    sets_lobbies_and_follows_rooms(Binds::Yes, || {
        let mut command = debian("/usr/bin/php");
        command.arg(file("deploy/examples/php/webinar.php"));
        command
    })
    .await;
}

/// With the library of Debian's package instead of a module, which would be downloaded.
#[tokio::test(flavor = "multi_thread")]
async fn go() {
    let program = folder("go-").join("webinar");
    let mut build = debian("/usr/bin/go");
    build.args(["build", "-o"]).arg(&program).arg(file("deploy/examples/go/main.go"));
    printed(build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode"));
    sets_lobbies_and_follows_rooms(Binds::Yes, || debian(program.to_str().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shell() {
    let versions = folder("versions-");
    sets_lobbies_and_follows_rooms(Binds::No, || {
        let mut command = debian("/bin/sh");
        command.arg(file("deploy/examples/shell/webinar.sh")).env("VERSIONS", &versions);
        command
    })
    .await;
}

/// Whether a program declares and binds its queue.
#[derive(PartialEq)]
enum Binds {
    Yes,
    No,
}

async fn sets_lobbies_and_follows_rooms(binds: Binds, program: impl Fn() -> Command) {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let (_worker, client) = (cluster.worker().await, cluster.client().await);
    let queue = format!("{}.example", cluster.exchange);
    let command = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).env("AMQP_URL", &cluster.amqp_url);
        command.env("EXCHANGE", &cluster.exchange).env("QUEUE", &queue);
        command
    };
    if binds == Binds::No {
        client.record_in_quorum_queue(&queue).await;
    }
    let consumer = Consumer::start(command(&["consume"]));
    assert_eq!(consumer.line(), "waiting for updates");
    client.consumer_begins(&queue).await;
    cluster.database.insert_room("webinar").await;
    let timer = (cluster.database.now().await + 2).to_string();
    printed(&mut command(&["publish", "webinar", "1", &timer]));
    assert_eq!(consumer.line(), "webinar lobby_non_moderators 1");
    assert_eq!(consumer.line(), "webinar lobby_timer_reached 0");
    // The reset once more, and after it what came before.
    let reset = client.take_reset(&cluster.updates).await;
    let mut older: Value = reset.json();
    older["data"]["version"] = 1.into();
    for body in [reset.body, serde_json::to_vec(&older).unwrap()] {
        let content_type = "application/cloudevents+json";
        client.send("room.updated.webinar", &body, content_type).await.await.unwrap();
    }
    printed(&mut command(&["publish", "webinar", "1", "0"]));
    assert_eq!(consumer.line(), "webinar lobby_non_moderators 1");
    client.drained(&queue).await;
}

/// A program that prints a line for each update.
struct Consumer {
    program: Child,
    lines: Receiver<String>,
}

impl Consumer {
    fn start(mut command: Command) -> Self {
        let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(program.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().try_for_each(|line| sender.send(line.unwrap())));
        Self { program, lines }
    }

    fn line(&self) -> String {
        tokio::task::block_in_place(|| self.lines.recv_timeout(PATIENCE)).expect("a line")
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // `timeout` passes it on to its program.
        let program = nix::unistd::Pid::from_raw(self.program.id().cast_signed());
        nix::sys::signal::kill(program, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.program.wait().unwrap();
    }
}
