//! The package on a booted Debian with systemd, PostgreSQL and RabbitMQ: `make test-systemd`.
//!
//! `LOBBYD_TEST_PACKAGE` names the package.

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::support::{
    eventually,
    machine::Machine,
    server::folder,
    table::{Table, seconds},
    tools::{debian, printed},
};

/// Longest time that the start of the service, and so the installation, may take while the database
/// is unavailable. A start waits for it for 15 seconds.
const START: Duration = Duration::from_secs(30);

/// The servers as an administrator sets them up, and a subscriber's queue.
const SERVERS: &str = r#"
    runuser -u postgres -- psql -Xq -c "CREATE ROLE lobbyd LOGIN PASSWORD 'first'" \
        -c "CREATE DATABASE lobbyd OWNER lobbyd ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0"
    cat >/tmp/subscriber.json <<END
    {"exchanges": [
        {"vhost": "/", "name": "lobbyd.events", "type": "topic", "durable": true,
         "auto_delete": false, "internal": false, "arguments": {}}],
     "queues": [
        {"vhost": "/", "name": "subscriber", "durable": true, "auto_delete": false,
         "arguments": {"x-queue-type": "quorum"}}],
     "bindings": [
        {"vhost": "/", "source": "lobbyd.events", "destination": "subscriber",
         "destination_type": "queue", "routing_key": "room.updated.#", "arguments": {}}]}
END
    rabbitmqctl --quiet import_definitions /tmp/subscriber.json
    rabbitmqctl --quiet add_user lobbyd secret
    rabbitmqctl --quiet set_permissions lobbyd '^lobbyd\.' '^(lobbyd\..*|amq\.default)$' '^lobbyd\.'
    mkdir -p -m 700 /etc/credstore
    umask 077
    echo postgres://lobbyd:first@localhost/lobbyd >/etc/credstore/lobbyd.database-url
    echo amqp://lobbyd:secret@localhost/%2f >/etc/credstore/lobbyd.events-url
"#;

struct Trial {
    machine: Machine,
    table: Table,
    timers: usize,
}

impl Trial {
    /// The result of a query in lobbyd's database.
    fn query(&self, sql: &str) -> Option<String> {
        let query = format!("runuser -u postgres -- psql -AtXq -d lobbyd -c \"{sql}\"");
        let output = self.machine.try_run(&query);
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim().to_owned())
    }

    /// Sets a timer, as another program that shares the database may do.
    async fn arm(&mut self, token: &str, seconds: u32) {
        self.timers += 1;
        let insert = format!(
            "INSERT INTO lobbyd_rooms (token, type, name, lobby_state, lobby_timer) VALUES
             ('{token}', 3, 'Webinar', 1, date_trunc('second', now()) + interval '{seconds} s')
             RETURNING 1"
        );
        eventually("a timer to be set", || async { self.query(&insert) }).await;
    }

    /// Waits until the opening of a room has its publisher confirm, and returns how late the room was
    /// opened.
    async fn opened(&self, token: &str) -> Duration {
        let lag = format!(
            "SELECT extract(epoch FROM (data::jsonb->>'firedAt')::timestamptz - due_at)
             FROM lobbyd_outbox WHERE token = '{token}' AND published_at IS NOT NULL
             AND data LIKE '%lobby_timer_reached%'"
        );
        eventually(&format!("room {token} to open"), || async {
            // Negative if it was early; then the conversion fails.
            self.query(&lag)?.parse().ok().map(Duration::from_secs_f64)
        })
        .await
    }

    fn property(&self, name: &str) -> String {
        self.machine.run(&format!("systemctl show --value --property={name} lobbyd"))
    }

    async fn ready(&self) {
        self.machine.eventually("curl -fsS http://localhost:9464/readyz >/dev/null").await;
    }

    /// Runs a command of the administrator, and returns how long it took.
    fn timed(&self, script: &str) -> Duration {
        let begin = Instant::now();
        self.machine.run(script);
        begin.elapsed()
    }

    fn step(&mut self, step: &str, took: Duration, late: Option<Duration>) {
        let late = late.map_or_else(|| "–".to_owned(), seconds);
        self.table.add(&[step, &seconds(took), &late]);
    }

    /// The states of both services.
    fn services(&self) -> String {
        self.machine.run(
            "for unit in lobbyd lobbyd-api lobbyd-run; do
                 systemctl is-enabled $unit || true; systemctl is-active $unit || true
             done",
        )
    }
}

/// The same package with a higher revision.
fn next_revision(package: &PathBuf) -> PathBuf {
    let folder = folder("revision-");
    let (tree, next) = (folder.join("tree"), folder.join("next.deb"));
    printed(debian("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let fields = fs::read_to_string(&control).unwrap();
    fs::write(&control, fields.replacen("-1\n", "-2\n", 1)).unwrap();
    printed(debian("dpkg-deb").args(["--build", "-Znone"]).arg(&tree).arg(&next));
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_lost_on_a_booted_debian() {
    let package =
        PathBuf::from(env::var_os("LOBBYD_TEST_PACKAGE").expect("LOBBYD_TEST_PACKAGE is set"));
    let next = next_revision(&package);
    let begin = Instant::now();
    let machine = Machine::boot();
    assert_eq!(machine.booted().await, "running");
    let table = Table::new(&["step", "took", "opened late by"]);
    let mut trial = Trial { machine, table, timers: 0 };
    trial.step("boot without lobbyd", begin.elapsed(), None);
    trial.machine.copy(&package, "/opt/lobbyd.deb");
    trial.machine.copy(&next, "/opt/next.deb");
    trial.machine.run(SERVERS);

    install(&mut trial).await;
    restart(&mut trial).await;
    freeze(&mut trial).await;
    reload(&mut trial).await;
    rotate(&mut trial).await;
    upgrade(&mut trial).await;
    reboot(&mut trial).await;
    return_after_removal(&mut trial).await;
    one_process(&mut trial).await;
    nothing_is_lost(&trial).await;
    purge(&mut trial);
    println!("\n{}", trial.table);
}

/// The database is down when the package is installed.
async fn install(trial: &mut Trial) {
    trial.machine.run("systemctl stop postgresql");
    let took = trial.timed("apt-get -qq --no-install-recommends install /opt/lobbyd.deb");
    assert!(took < START, "the installation took {took:?}");
    assert_eq!(trial.property("ActiveState"), "active");
    assert!(trial.property("StatusText").contains("database"), "{}", trial.property("StatusText"));
    trial.step("install, database down", took, None);
    let begin = Instant::now();
    trial.machine.run("systemctl start postgresql");
    trial.ready().await;
    trial.step("database up, until ready", begin.elapsed(), None);
    let modes = "stat -c '%a %U' /run/credentials/lobbyd.service/* /var/lib/private/lobbyd";
    let modes = trial.machine.run(modes);
    assert!(modes.lines().take(2).all(|mode| mode.starts_with('4')), "{modes}");
    assert!(modes.lines().nth(2).unwrap().starts_with("700 "), "{modes}");
}

async fn restart(trial: &mut Trial) {
    let took = trial.timed("systemctl restart lobbyd");
    assert_eq!(trial.property("ActiveState"), "active");
    trial.ready().await;
    trial.arm("first", 3).await;
    let late = trial.opened("first").await;
    trial.step("restart", took, Some(late));
    // A publisher's event, by the command that needs the broker.
    trial.machine.run(
        "runuser -u postgres -- psql -Xq -d lobbyd \
            -c \"INSERT INTO lobbyd_rooms (token, type, name) VALUES ('event', 3, 'Webinar')\"
         LOBBYD__EVENTS__URL_FILE=/etc/credstore/lobbyd.events-url \
         LOBBYD__DATABASE__URL_FILE=/etc/credstore/lobbyd.database-url \
            lobbyd publish event --state 1 --in 3s",
    );
    trial.timers += 1;
    let begin = Instant::now();
    let late = trial.opened("event").await;
    trial.step("timer by an event", begin.elapsed(), Some(late));
}

/// The watchdog ends a process that makes no progress.
async fn freeze(trial: &mut Trial) {
    trial.arm("frozen", 5).await;
    let process = trial.property("MainPID");
    let begin = Instant::now();
    trial.machine.run("systemctl kill --signal=STOP lobbyd");
    eventually("a new process", || async {
        let new = trial.property("MainPID");
        (new != process && new != "0" && trial.property("ActiveState") == "active").then_some(())
    })
    .await;
    let took = begin.elapsed();
    let late = trial.opened("frozen").await;
    trial.step("frozen process, until the watchdog's new one", took, Some(late));
    assert_eq!(trial.property("NRestarts"), "1");
    assert_eq!(trial.machine.run("find / -xdev -name 'core*' -type f -size +1M"), "");
}

async fn reload(trial: &mut Trial) {
    let process = trial.property("MainPID");
    trial.machine.write("/etc/lobbyd/lobbyd.toml", "[log]\nlevel = \"debug\"\n");
    let took = trial.timed("systemctl reload lobbyd");
    trial.machine.eventually("journalctl -u lobbyd | grep -q 'log.level'").await;
    trial.step("reload", took, None);

    trial.machine.write("/etc/lobbyd/lobbyd.toml", "[log]\nlevl = \"info\"\n");
    let begin = Instant::now();
    let reload = trial.machine.try_run("systemctl reload lobbyd");
    let took = begin.elapsed();
    assert!(!reload.status.success(), "a broken file was reloaded");
    trial.machine.eventually("journalctl -u lobbyd | grep -q levl").await;
    assert_eq!(trial.property("ActiveState"), "active");
    assert_eq!(trial.property("MainPID"), process);
    trial.arm("reload", 2).await;
    let late = trial.opened("reload").await;
    trial.step("reload of a broken file: refused", took, Some(late));
    trial.machine.write("/etc/lobbyd/lobbyd.toml", "");
    trial.machine.run("systemctl reload lobbyd");
}

/// A new password for the database. Credentials are read when a service starts.
async fn rotate(trial: &mut Trial) {
    let begin = Instant::now();
    trial.machine.run(
        "runuser -u postgres -- psql -Xq -c \"ALTER ROLE lobbyd PASSWORD 'second'\"
         umask 077
         echo postgres://lobbyd:second@localhost/lobbyd >/etc/credstore/lobbyd.database-url
         systemctl restart lobbyd",
    );
    trial.ready().await;
    let took = begin.elapsed();
    trial.arm("rotated", 2).await;
    let late = trial.opened("rotated").await;
    trial.step("new password and restart, until ready", took, Some(late));
}

async fn upgrade(trial: &mut Trial) {
    trial.machine.run("systemctl enable --quiet --now lobbyd-api");
    trial.machine.eventually("curl -fsS http://localhost:9465/readyz >/dev/null").await;
    let (services, process) = (trial.services(), trial.property("MainPID"));
    trial.arm("upgrade", 2).await;
    // dpkg stops nothing; the service restarts at the end.
    eventually("the timer to be due within a second", || async {
        let due = "SELECT 1 FROM lobbyd_rooms WHERE token = 'upgrade'
                   AND (lobby_timer IS NULL OR lobby_timer < now() + interval '1 s')";
        trial.query(due).filter(|found| !found.is_empty())
    })
    .await;
    let begin = Instant::now();
    trial.machine.run(
        "apt-get -qq --no-install-recommends install /opt/next.deb
         test \"$(dpkg-query -W -f '${Version}' lobbyd | sed 's/.*-//')\" = 2",
    );
    let took = begin.elapsed();
    assert_ne!(trial.property("MainPID"), process);
    let late = trial.opened("upgrade").await;
    assert_eq!(trial.services(), services);
    trial.step("upgrade with a timer due", took, Some(late));
}

async fn reboot(trial: &mut Trial) {
    trial.arm("reboot", 2).await;
    let took = trial.machine.reboot().await;
    let late = trial.opened("reboot").await;
    trial.ready().await;
    trial.step("reboot with a timer due", took, Some(late));
}

/// Removing and installing leaves the services as they were.
async fn return_after_removal(trial: &mut Trial) {
    let services = trial.services();
    trial.arm("removed", 3).await;
    let begin = Instant::now();
    trial.machine.run("apt-get -qq remove lobbyd");
    assert_eq!(trial.machine.run("systemctl list-units --no-legend 'lobbyd*'"), "");
    trial.machine.run("apt-get -qq --no-install-recommends install /opt/next.deb");
    let took = begin.elapsed();
    let late = trial.opened("removed").await;
    assert_eq!(trial.services(), services);
    trial.step("remove and install", took, Some(late));
}

/// The unit for both parts replaces the two others.
async fn one_process(trial: &mut Trial) {
    let took = trial.timed(
        "systemctl disable --quiet --now lobbyd lobbyd-api; systemctl enable --quiet --now lobbyd-run",
    );
    trial.ready().await;
    trial.arm("both", 2).await;
    let late = trial.opened("both").await;
    let services = trial.services();
    assert_eq!(services, "disabled\ninactive\ndisabled\ninactive\nenabled\nactive");
    trial.machine.run("apt-get -qq remove lobbyd");
    trial.machine.run("apt-get -qq --no-install-recommends install /opt/next.deb");
    assert_eq!(trial.services(), services);
    trial.step("lobbyd run instead of both", took, Some(late));
}

/// Each timer opened its room once, and the subscriber has an update of each.
async fn nothing_is_lost(trial: &Trial) {
    let closed = "SELECT count(*) FROM lobbyd_rooms WHERE lobby_state <> 0";
    assert_eq!(trial.query(closed).unwrap(), "0");
    let reset = "SELECT count(*) || ' ' || count(DISTINCT token) FROM lobbyd_outbox
                 WHERE data LIKE '%lobby_timer_reached%'";
    assert_eq!(trial.query(reset).unwrap(), format!("{0} {0}", trial.timers));
    let published = "SELECT count(*) FROM lobbyd_outbox WHERE published_at IS NOT NULL";
    let published: usize = trial.query(published).unwrap().parse().unwrap();
    eventually("the updates in the subscriber's queue", || async {
        let queues = trial.machine.run("rabbitmqctl --quiet list_queues name messages");
        let queue = queues.lines().find_map(|line| line.strip_prefix("subscriber\t"))?;
        (queue.parse() == Ok(published)).then_some(())
    })
    .await;
    println!(
        "\n{} timers: lost 0, opened twice 0, early 0; {published} updates, as many were received",
        trial.timers
    );
}

/// Only what the documents name is left.
fn purge(trial: &mut Trial) {
    let took = trial.timed("apt-get -qq purge lobbyd");
    let left = "find / -xdev -name '*lobbyd*' -not -path '/proc/*' -not -path '/sys/*' \
                -not -path '/var/log/*' -not -path '/var/lib/postgresql/*' \
                -not -path '/var/lib/rabbitmq/*' -not -path '/run/*' | sort";
    let left = trial.machine.run(left);
    let documented = [
        "/etc/credstore/lobbyd.database-url",
        "/etc/credstore/lobbyd.events-url",
        "/var/lib/lobbyd",
        "/var/lib/private/lobbyd",
    ];
    let left: Vec<&str> = left.lines().filter(|path| !path.starts_with("/root/")).collect();
    assert!(left.iter().all(|path| documented.contains(path)), "{left:?}");
    trial.step("purge", took, None);
}
