//! How commands show what they list: tables for people, JSON for scripts, times, durations, colours.
//!
//! A command gives it rows and texts, and formats nothing itself. Texts of rooms and messages are other
//! people's: no control character of them reaches the terminal.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use comfy_table::{
    Attribute, Cell as TableCell, Color, ColumnConstraint, ContentArrangement, Width, presets,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

/// Clears the terminal from its first line on.
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";

/// Space between two columns.
const GAP: u16 = 2;

/// A narrower column would not be readable.
const MIN_WRAPPED: usize = 8;

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Format {
    /// Print one JSON document instead of a table; its times are in UTC
    #[arg(long)]
    pub(super) json: bool,
}

/// The time zone of the user.
pub(super) struct Zone {
    pub(super) rules: TimeZone,
    pub(super) name: String,
    /// Why this is UTC instead of what the user has set.
    problem: Option<String>,
}

impl Zone {
    pub(super) fn new(zone: TimeZone, name: &str) -> Self {
        Self { rules: zone, name: name.to_owned(), problem: None }
    }

    /// That of the environment variable `TZ`, or of the machine. Without either, it is UTC.
    pub(super) fn local() -> Self {
        let wanted = env::var_os("TZ").filter(|wanted| !wanted.is_empty());
        match (TimeZone::try_system(), wanted) {
            (Ok(zone), _) => {
                let name = match zone.iana_name() {
                    _ if zone.is_unknown() => "UTC",
                    Some("Etc/UTC") => "UTC",
                    Some(name) => name,
                    None => "local time",
                };
                let name = name.to_owned();
                Self { rules: zone, name, problem: None }
            }
            (Err(_unknown), None) => Self::new(TimeZone::UTC, "UTC"),
            (Err(_unknown), Some(wanted)) => {
                let wanted = printable(&wanted.to_string_lossy());
                let problem = format!("TZ={wanted}: this machine knows no such time zone");
                Self { problem: Some(problem), ..Self::new(TimeZone::UTC, "UTC") }
            }
        }
    }

    /// The zone in which times are shown. Warns, once, if it is not what the user has set.
    pub(super) fn shown() -> Self {
        static WARNING: Once = Once::new();
        let zone = Self::local();
        if let Some(problem) = &zone.problem {
            WARNING.call_once(|| {
                writeln!(io::stderr().lock(), "lobbyd: {problem}, times are in UTC").ok();
            });
        }
        zone
    }

    /// Fails if a time without an offset would be taken for one of another zone than the user's.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match &self.problem {
            None => Ok(()),
            Some(problem) => bail!(
                "{problem}; correct TZ, install the package tzdata, or write the time with its offset: \
                 2026-11-27T10:00:00+01:00"
            ),
        }
    }

    /// The header of a column of times, which names the zone.
    pub(super) fn header(&self, title: &str) -> String {
        format!("{title} ({})", self.name)
    }

    /// Date and time, to the second.
    pub(super) fn time(&self, time: DateTime<Utc>) -> String {
        match Timestamp::from_second(time.timestamp()) {
            Ok(second) => {
                let local = second.to_zoned_datetime(self.rules.clone());
                local.strftime("%Y-%m-%d %H:%M:%S").to_string()
            }
            Err(_out_of_range) => time.to_string(),
        }
    }
}

/// What a value means for the reader. On a terminal it becomes a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Plain,
    Good,
    Warning,
    Bad,
    /// Less important than the others.
    Faint,
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    mood: Mood,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>, mood: Mood) -> Self {
        Self { text: printable(text.as_ref()), mood }
    }

    /// The cell with a text in front of its own.
    pub(super) fn after(self, text: &str) -> Self {
        Self { text: format!("{text}{}", self.text), ..self }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Mood::Plain)
    }
}

/// A list of rows under a header.
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
    fit: Option<Fit>,
}

/// How a table fits a narrow terminal.
struct Fit {
    /// The only column whose texts are wrapped.
    wrapped: usize,
    /// The columns without which the table is still useful, the least important first.
    optional: Vec<usize>,
}

impl Fit {
    /// The width of each column, with which it is not wrapped; or that it is hidden.
    fn constraints(
        &self,
        width: u16,
        header: &[String],
        contents: &[u16],
    ) -> Vec<Option<ColumnConstraint>> {
        let gap = usize::from(GAP);
        // A header may be wrapped between its words.
        let widths = header.iter().zip(contents).enumerate().map(|(index, (title, content))| {
            let word = title.split(' ').map(|word| word.chars().count()).max().unwrap_or_default();
            let needed = word.max(usize::from(*content));
            gap + if index == self.wrapped { needed.min(MIN_WRAPPED) } else { needed }
        });
        let mut widths: Vec<usize> = widths.collect();
        for index in &self.optional {
            if widths.iter().sum::<usize>() <= usize::from(width) {
                break;
            }
            widths.get_mut(*index).map(std::mem::take);
        }
        let constraint = |(index, width)| match u16::try_from(width) {
            Ok(0) => Some(ColumnConstraint::Hidden),
            Ok(width) if index != self.wrapped => {
                Some(ColumnConstraint::Absolute(Width::Fixed(width)))
            }
            Ok(_) | Err(_) => None,
        };
        widths.into_iter().enumerate().map(constraint).collect()
    }
}

impl Table {
    pub(super) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { header: header.map(str::to_owned).into(), rows: Vec::new(), fit: None }
    }

    /// Keeps words whole on a narrow terminal: only one column is wrapped, and some may be missing, the
    /// least important first.
    pub(super) fn fit<const N: usize>(&mut self, wrapped: usize, optional: [usize; N]) {
        self.fit = Some(Fit { wrapped, optional: optional.into() });
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// The table as it fits standard output: on a terminal with colours and long texts on several
    /// lines, otherwise with one line per row.
    pub(super) fn render(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        // Some terminals do not know their width, and say 0.
        let width = table.width().filter(|width| *width > 0);
        if let Some(width) = width {
            table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        if !has_colours() {
            table.force_no_tty();
        }
        for row in &self.rows {
            table.add_row(row.iter().map(table_cell));
        }
        let contents = table.column_max_content_widths();
        table.set_header(
            self.header.iter().map(|title| TableCell::new(title).add_attribute(Attribute::Bold)),
        );
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        if let (Some(width), Some(fit)) = (width, &self.fit) {
            let constraints = fit.constraints(width, &self.header, &contents);
            for (column, constraint) in table.column_iter_mut().zip(constraints) {
                if let Some(constraint) = constraint {
                    column.set_constraint(constraint);
                }
            }
        }
        table.trim_fmt()
    }
}

fn table_cell(cell: &Cell) -> TableCell {
    let shown = TableCell::new(&cell.text);
    match cell.mood {
        Mood::Plain => shown,
        Mood::Good => shown.fg(Color::Green),
        Mood::Warning => shown.fg(Color::Yellow),
        Mood::Bad => shown.fg(Color::Red),
        Mood::Faint => shown.add_attribute(Attribute::Dim),
    }
}

/// Whether standard output is a terminal whose user wants colours, see <https://no-color.org>.
fn has_colours() -> bool {
    let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_refused
}

/// The text without the characters that a terminal would obey: control characters, and those that change
/// the direction of what follows or end a line.
pub(super) fn printable(text: &str) -> String {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_obeyed(c) { '\u{fffd}' } else { c }).collect()
}

/// As [`printable`], of a text with several lines, which may be indented.
pub(super) fn printable_lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A text as a shell reads it, for commands that people can paste.
pub(super) fn quoted(text: &str) -> String {
    shlex::try_quote(text).map_or_else(|_nul| text.to_owned(), Cow::into_owned)
}

/// A text as the last argument of a command that people can paste.
pub(super) fn argument(text: &str) -> String {
    arguments([text])
}

/// As [`argument`], of several.
pub(super) fn arguments<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.into_iter().collect();
    let is_option = texts.iter().any(|text| text.starts_with('-'));
    let texts = texts.into_iter().map(quoted).collect::<Vec<_>>().join(" ");
    if is_option { format!("-- {texts}") } else { texts }
}

/// Prints a value as one JSON document.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    super::print(&serde_json::to_string_pretty(value)?)
}

/// Replaces what the terminal shows.
pub(super) fn refresh(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{HOME_AND_CLEAR}{text}").context("standard output")
}

/// A number of things: "1 timer", "2 timers".
pub(super) fn counted(number: impl Into<u64>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

/// A duration with its two largest units: "2h 3m".
pub(super) fn duration(duration: TimeDelta) -> String {
    let seconds = Duration::from_secs(duration.num_seconds().unsigned_abs());
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A short duration with milliseconds: "12 ms", "1.234 s", and longer ones as [`duration`].
pub(super) fn lag(lag: TimeDelta) -> String {
    let milliseconds = lag.num_milliseconds();
    if milliseconds < 1000 {
        format!("{milliseconds} ms")
    } else if milliseconds < 60_000 {
        format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
    } else {
        duration(lag)
    }
}

/// When a timer fires, seen from now.
pub(super) fn countdown(due_at: DateTime<Utc>, now: DateTime<Utc>) -> Cell {
    let left = due_at - now;
    if left > TimeDelta::zero() {
        // The second that has begun counts, so that the countdown ends with the timer.
        return Cell::new(
            format!("in {}", duration(left + TimeDelta::milliseconds(999))),
            Mood::Good,
        );
    }
    Cell::new(format!("overdue {}", duration(left)), Mood::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::new(TimeZone::get(name).unwrap(), name)
    }

    #[test]
    fn times_are_in_the_zone_that_the_header_names() {
        let berlin = zone("Europe/Berlin");
        let time = |text: &str| berlin.time(text.parse().unwrap());
        assert_eq!(time("2026-07-01T10:00:00Z"), "2026-07-01 12:00:00");
        assert_eq!(time("2026-12-01T10:00:00.9Z"), "2026-12-01 11:00:00");
        assert_eq!(berlin.header("Due"), "Due (Europe/Berlin)");
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (7380, "2h 3m"), (-61, "1m 1s"), (90_061, "1day 1h")]
        {
            assert_eq!(duration(TimeDelta::seconds(seconds)), expected);
        }
        for (milliseconds, expected) in
            [(5, "5 ms"), (1234, "1.234 s"), (60_000, "1m"), (-3, "-3 ms")]
        {
            assert_eq!(lag(TimeDelta::milliseconds(milliseconds)), expected);
        }
    }

    #[test]
    fn a_countdown_ends_with_the_timer() {
        let now = DateTime::UNIX_EPOCH;
        let shown = |milliseconds| countdown(now + TimeDelta::milliseconds(milliseconds), now).text;
        assert_eq!(shown(1), "in 1s");
        assert_eq!(shown(2000), "in 2s");
        assert_eq!(shown(0), "overdue 0s");
        assert_eq!(shown(-61_000), "overdue 1m 1s");
    }

    #[test]
    fn a_shell_reads_arguments_as_they_are() {
        assert_eq!(argument("abc-1"), "abc-1");
        assert_eq!(argument("$(id)"), "'$(id)'");
        assert_eq!(argument("-x"), "-- -x");
        assert_eq!(arguments(["a", "-b;"]), "-- a '-b;'");
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(printable_lines("a\r\n\tb\x1bc"), "a\n\tb\u{fffd}c");
        assert_eq!(
            printable("a\u{202e}b\u{2066}\u{200f}\u{2028}c"),
            "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c"
        );
        let family = "\u{1f468}\u{200d}\u{1f469}";
        assert_eq!(printable(family), family, "its joiner stays");
        let mut table = Table::new(["Room", "Name"]);
        table.row(["abc".into(), "\x1b[31mred".into()]);
        table.row(["longer".into(), "".into()]);
        assert_eq!(table.render(), "Room    Name\nabc     \u{fffd}[31mred\nlonger");
    }
}
