//! The table at the end, for people, in Markdown.

use std::{collections::BTreeMap, fmt, fs, sync::Arc, time::Duration};

use chrono::DateTime;

use crate::{
    check::{Broken, Findings, history::History, percentile, readiness::OVERDUE},
    faults::{KINDS, Tally},
    notes::Notes,
    plan::Options,
    support::table::seconds,
};

/// Violations of each kind that are printed.
const SHOWN: usize = 10;

pub struct Report {
    pub options: Options,
    pub history: History,
    pub findings: Findings,
    pub tally: Arc<Tally>,
    pub notes: Arc<Notes>,
    pub lasted: Duration,
    /// From the end of the last fault until nothing was left to do.
    pub recovered: Duration,
    /// Of the servers.
    pub versions: String,
}

impl Report {
    /// Fails if a promise was broken.
    pub fn assert_kept(&self) {
        let findings = &self.findings;
        let stepped = findings.clock_step.map(|step| {
            format!("the clock of the machine was stepped by {step} ms: nothing can be compared")
        });
        let failed = findings.failed_routes.iter();
        let failed = failed.map(|failed| format!("only {failed} were confirmed"));
        let responses = [self.tally.wrong(), self.notes.wrong()].concat();
        let wrong: Vec<String> = stepped.into_iter().chain(failed).chain(responses).collect();
        let violations = &findings.violations;
        for text in wrong.iter().take(SHOWN) {
            println!("wrong: {text}");
        }
        let mut shown = BTreeMap::new();
        for violation in violations {
            let shown: &mut usize = shown.entry(violation.broken).or_default();
            *shown += 1;
            if *shown > SHOWN {
                continue;
            }
            println!("{:?}: {}", violation.broken, violation.what);
            for line in self.history.story(&violation.what) {
                println!("    {line}");
            }
        }
        let number = violations.len() + wrong.len();
        assert!(findings.opened > 0, "no room was opened");
        assert!(findings.answers > 0, "no worker said whether it is ready");
        assert!(number == 0, "{number} findings; again: {}", self.options);
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut add = |what: &str, number: String| rows.push((what.to_owned(), number));
        for what in KINDS {
            add(what, thousands(self.tally.number(what)));
        }
        add("**killed (SIGKILL), in all**", format!("**{}**", thousands(self.tally.kills())));
        for (what, number) in self.notes.counts() {
            add(what, thousands(number));
        }
        let findings = &self.findings;
        let count = |number: usize| thousands(u64::try_from(number).unwrap());
        let settings = self.notes.settings();
        let unknown = settings.iter().filter(|setting| setting.confirmed_at.is_none()).count();
        add("**timers set**", format!("**{}**", count(findings.timers)));
        add("moved, cancelled or overruled before they fired", count(findings.overruled));
        add("**rooms opened by their timer**", format!("**{}**", count(findings.opened)));
        add("settings without an answer", count(unknown));
        add("of these, executed", count(findings.unknown_made));
        add("announcements published again, with the same id", count(findings.duplicates));
        add("answers of workers about their readiness", count(findings.answers));
        let overdue = format!("of these, while a room was overdue for {} s", OVERDUE / 1000);
        add(&overdue, count(findings.overdue));
        for (what, broken) in [
            ("**lost**", Broken::Lost),
            ("**twice**", Broken::Twice),
            ("**early**", Broken::Early),
            ("**an older setting won**", Broken::StaleWon),
            ("**not announced**", Broken::Unannounced),
            ("**wrong or missing dead letters**", Broken::DeadLetter),
            ("**changes that nobody asked for**", Broken::Unasked),
            ("**ready while a room was overdue**", Broken::Green),
        ] {
            let is_known = findings.clock_step.is_none();
            let number = if is_known { count(findings.number(broken)) } else { "?".to_owned() };
            add(what, format!("**{number}**"));
        }
        let (lateness, delays) = (&findings.lateness, &findings.delays);
        for (what, values, share) in [
            ("half of the rooms opened within", lateness, 0.5),
            ("99 % of the rooms opened within", lateness, 0.99),
            ("the latest room opened within", lateness, 1.0),
            ("half of the events were applied within", delays, 0.5),
            ("99 % of the events were applied within", delays, 0.99),
            ("the latest event was applied within", delays, 1.0),
        ] {
            add(what, millis(percentile(values, share)));
        }
        add("after the last fault, all done within", seconds(self.recovered));
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = DateTime::from_timestamp_millis(self.notes.now()).unwrap_or_default();
        writeln!(
            formatter,
            "Seed {}, {}, {} of faults, {}, {}",
            self.options.seed,
            begin.format("%Y-%m-%d"),
            seconds(self.lasted),
            machine(),
            self.versions
        )?;
        writeln!(formatter, "\n| {} | |\n| --- | ---: |", self.options.database())?;
        self.rows()
            .iter()
            .try_for_each(|(what, number)| writeln!(formatter, "| {what} | {number} |"))
    }
}

fn millis(millis: i64) -> String {
    seconds(Duration::from_millis(millis.try_into().unwrap_or_default()))
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Processors and memory.
fn machine() -> String {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes: u64 =
        memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let model = model.trim_start_matches(['\t', ':', ' ']);
    format!("{cores} cores ({model}), {} GiB of memory", (kibibytes + 524_288) / 1_048_576)
}
