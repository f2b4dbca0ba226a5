//! Herds: many timers that fall due in the same second.

use super::{
    chart::{self, Labels},
    clock,
    limits::{self, Curve, publisher::Publisher},
    options::{Options, Section},
    report::{Figure, Goal, Report, Unit},
    rooms,
    site::{Drain, Probe, Site},
    stats,
    support::database::{Database, Kind},
};

const HERD: u32 = 20_000;
const CROWD: u32 = 100_000;

/// Rooms of a herd that is not counted. It opens connections, and its updates are what the limit of
/// publishing publishes again.
const WARM_UP: u32 = 2_000;

/// Seconds after a crowd in each of which one more timer falls due.
const PROBES: u32 = 8;

/// A worker, and its limits on the same servers.
struct Race {
    site: Site,
    /// Where rooms are opened without lobbyd.
    bare: Database,
    publisher: Option<Publisher>,
}

/// What one herd cost lobbyd, and what its limits were.
struct Lap {
    drain: Drain,
    opening: Curve,
    publishing: Curve,
}

impl Race {
    async fn new(kind: Kind) -> Self {
        let site = Site::new(kind).await;
        let bare = Database::create(kind).await;
        bare.store().await;
        let mut race = Self { site, bare, publisher: None };
        race.site.drain(WARM_UP, 0).await;
        race.open(WARM_UP).await;
        if kind != Kind::Sqlite {
            let updates = race.site.take_updates(WARM_UP).await;
            let url = &race.site.cluster.amqp_url;
            race.publisher = Some(Publisher::connect(url, updates).await);
        }
        race
    }

    /// lobbyd first, then its limits.
    async fn lap(&self, number: u32, probes: u32) -> Lap {
        let drain = self.site.drain(number, probes).await;
        let opening = self.open(number).await;
        self.site.clear_queue().await;
        let publishing = match &self.publisher {
            Some(publisher) => publisher.publish(number).await,
            None => Curve::new(),
        };
        Lap { drain, opening, publishing }
    }

    /// Opens so many rooms without lobbyd.
    async fn open(&self, number: u32) -> Curve {
        rooms::clear(&self.bare).await;
        let due = self.bare.timestamp_sql(clock::second() - 1);
        rooms::add(&self.bare, "bare", number, &due).await;
        rooms::settle(&self.bare).await;
        limits::open_rooms(&self.bare).await
    }
}

/// 20,000 rooms on each of the databases.
pub async fn measure(kind: Kind, options: &Options, report: &mut Report) {
    let section = match kind {
        Kind::Postgres => Section::Herd,
        Kind::MariaDb => Section::Mariadb,
        Kind::Sqlite => Section::Sqlite,
    };
    let race = Race::new(kind).await;
    let mut laps = Vec::new();
    for _ in 0..options.runs() {
        laps.push(race.lap(HERD, 0).await);
    }
    let opened = each(&laps, |lap| lap.drain.opened_per_second());
    let opening = each(&laps, |lap| limits::rate(&lap.opening));
    let goal = Goal::RatioAtLeast(if kind == Kind::Sqlite { 0.7 } else { 0.8 });
    let figure = Figure::new(section, "20,000 due at once: opened", Unit::PerSecond, &opened);
    report.add(figure.beside(&opening).goal(goal));
    let announced = each(&laps, |lap| limits::steady_rate(&lap.drain.confirmed()));
    let name = "20,000 due at once: announced, from the first tenth to the last";
    let mut figure = Figure::new(section, name, Unit::PerSecond, &announced);
    if race.publisher.is_some() {
        let publishing = each(&laps, |lap| limits::steady_rate(&lap.publishing));
        figure = figure.beside(&publishing).goal(Goal::RatioAtLeast(0.8));
    }
    report.add(figure);
    let open = each(&laps, |lap| lap.drain.last_open());
    report.add(Figure::new(section, "20,000 due at once: last room open", Unit::Seconds, &open));
    let confirm = each(&laps, |lap| lap.drain.last_confirm());
    let name = "20,000 due at once: last update confirmed";
    report.add(Figure::new(section, name, Unit::Seconds, &confirm));
}

/// 100,000 rooms, and single timers that fall due while these are worked off.
pub async fn crowd(options: &Options, report: &mut Report) {
    let race = Race::new(Kind::Postgres).await;
    let mut laps = Vec::new();
    for _ in 0..options.long_runs() {
        laps.push(race.lap(CROWD, PROBES).await);
    }
    let seconds =
        |name: &str, values: &[f64]| Figure::new(Section::Crowd, name, Unit::Seconds, values);
    let open = each(&laps, |lap| lap.drain.last_open());
    let opening = each(&laps, |lap| limits::duration(&lap.opening));
    let figure = seconds("100,000 due at once: last room open", &open);
    report.add(figure.beside(&opening).goal(Goal::AtMost(3.0)));
    let confirm = each(&laps, |lap| lap.drain.last_confirm());
    let publishing = each(&laps, |lap| limits::duration(&lap.publishing));
    let figure = seconds("100,000 due at once: last update confirmed", &confirm);
    report.add(figure.beside(&publishing).goal(Goal::AtMost(7.0)));
    for (phase, when) in ["while rooms open", "while updates are published"].iter().enumerate() {
        let worst = |late: fn(&Probe) -> f64| -> Vec<f64> {
            let probes = laps.iter().map(|lap| lap.drain.probes_by_phase()[phase].clone());
            let lates = probes.map(|probes| probes.into_iter().map(late).collect::<Vec<_>>());
            lates.filter(|lates| !lates.is_empty()).map(|lates| stats::max(&lates)).collect()
        };
        let (opened, announced) = (worst(|probe| probe.opened), worst(|probe| probe.announced));
        if !opened.is_empty() {
            let name = format!("single timer due {when}: opened, longest");
            report.add(seconds(&name, &opened).goal(Goal::Below(0.5)));
            let name = format!("single timer due {when}: announced, longest");
            report.add(seconds(&name, &announced));
        }
    }
    let peak = [race.site.worker.peak_memory() as f64 / f64::from(1 << 20)];
    let name = "memory of the worker, peak (RSS)";
    report.add(Figure::new(Section::Crowd, name, Unit::Mebibytes, &peak));
    let last = laps.last().unwrap();
    report.add_picture("herd.svg", picture(last));
}

fn picture(lap: &Lap) -> String {
    let labels = Labels {
        title: "100,000 timers due in the same second",
        x: "seconds after the due time",
        y: "rooms",
    };
    let lines = [
        ("opened, lobbyd", lap.drain.opened()),
        ("opened, bare statements", lap.opening.clone()),
        ("confirmed, lobbyd", lap.drain.confirmed()),
        ("confirmed, bare publishing", lap.publishing.clone()),
    ];
    chart::lines(&labels, &lines)
}

fn each(laps: &[Lap], figure: impl Fn(&Lap) -> f64) -> Vec<f64> {
    laps.iter().map(figure).collect()
}
