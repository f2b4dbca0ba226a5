//! Timers and durations as people write them on the command line: "2026-11-27 10:00", "tomorrow 10:00",
//! "10:00", "20m". What no database can hold is refused here, before any is asked.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use clap::Args;
use jiff::civil::{self, Date, Time, Weekday};
use jiff::tz::AmbiguousOffset;
use jiff::{Timestamp, ZonedDateTime};
use lobbyd::domain::{InvalidLobby, Lobby, LobbyRequest, LobbyState};

use super::output::Zone;

/// The days of which every zone has each time: timers begin in 1970, and jiff ends in 9999.
const DAYS: (Date, Date) = (civil::date(1970, 1, 2), civil::date(9999, 12, 29));

const EXPECTED: &str = "expected a time such as \"2026-11-27 10:00\", \"tomorrow 10:00\", \
                        \"friday 10:00\", \"10:00\" or 2026-11-27T10:00:00Z";

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];

/// When a room opens.
#[derive(Debug, Args)]
pub(super) struct TimerOptions {
    /// Open the room at this time: "2026-11-27 10:00", "tomorrow 10:00", "friday 10:00", "10:00", or
    /// RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "after", allow_hyphen_values = true,
          value_parser = checked)]
    at: Option<String>,

    /// Open the room after this time, for example 30s, 20m or "1h 30m"
    #[arg(long = "in", value_name = "DURATION", allow_hyphen_values = true, value_parser = delay)]
    after: Option<Duration>,
}

impl TimerOptions {
    pub(super) fn is_given(&self) -> bool {
        self.at.is_some() || self.after.is_some()
    }

    /// The lobby with this state and timer.
    pub(super) fn lobby(&self, state: LobbyState, now: DateTime<Utc>) -> anyhow::Result<Lobby> {
        let timer = match (&self.at, self.after) {
            (Some(words), _) => Some(parse(words, &Zone::local(), now).context("--at")?),
            (None, Some(after)) => Some(later(after, now).context("--in")?),
            (None, None) => None,
        };
        Ok(with_timer(state, timer)?)
    }
}

fn with_timer(state: LobbyState, timer: Option<DateTime<Utc>>) -> Result<Lobby, InvalidLobby> {
    let timer = timer.map(|timer| timer.timestamp());
    Lobby::parse(LobbyRequest { state: state.number(), timer })
}

/// The time after a duration, in whole seconds: a timer must not fire early.
fn later(after: Duration, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    let at = TimeDelta::from_std(after).ok().and_then(|after| now.checked_add_signed(after));
    at.map(round_up)
        .filter(|at| with_timer(LobbyState::NonModerators, Some(*at)).is_ok())
        .context("after the year 9999")
}

fn round_up(time: DateTime<Utc>) -> DateTime<Utc> {
    match time.trunc_subsecs(0) {
        whole if whole == time => whole,
        whole => whole + Duration::from_secs(1),
    }
}

/// Checks the text of an instant.
#[expect(clippy::disallowed_methods, reason = "what counts is read by the database's clock later")]
fn checked(text: &str) -> Result<String, String> {
    let parsed = parse(text, &Zone::local(), Utc::now());
    parsed.map(|_at| text.to_owned()).map_err(|error| format!("{error:#}"))
}

/// Reads the duration until a timer.
#[expect(clippy::disallowed_methods, reason = "what counts is read by the database's clock later")]
fn delay(text: &str) -> Result<Duration, String> {
    let after = duration(text)?;
    later(after, Utc::now()).map(|_at| after).map_err(|error| error.to_string())
}

/// Reads a duration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text.contains('M') {
        return Err("M would be months: write m for minutes, or month".to_owned());
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected a duration such as 30s, 20m or \"1h 30m\""))
}

/// Reads an instant. Words and times without an offset are of the user's zone; a time without a date
/// is today's, and not over.
pub(super) fn parse(text: &str, zone: &Zone, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(instant) = text.parse::<Timestamp>() {
        return to_chrono(instant);
    }
    zone.check()?;
    let today = Timestamp::from_second(now.timestamp())?.to_zoned_datetime(zone.rules.clone());
    let words = text.to_lowercase();
    let (day, time) = match words.split_once([' ', 't']) {
        Some((day, time)) if day.starts_with(|c: char| c.is_ascii_digit()) => (day, time),
        _ => words.rsplit_once(' ').unwrap_or(("", &words)),
    };
    let date = date(day.trim(), &today)?.context(EXPECTED)?;
    let (first, last) = DAYS;
    ensure!(date >= first, "{date} is before {first}; {EXPECTED}");
    ensure!(date <= last, "{date} is too late, the last day of a timer is {last}");
    let local = date.to_datetime(time_of_day(time.trim()).context(EXPECTED)?);
    let at = resolve(local, zone)?;
    if day.is_empty() && at <= now {
        let (time, now) = (local.strftime("%H:%M"), zone.time(now));
        bail!(
            "{time} is over, it is {now} ({}) now: write \"tomorrow {time}\", or open the room now \
             with `lobbyd lobby clear`",
            zone.name
        );
    }
    Ok(at)
}

/// The instant of a time in a zone.
fn resolve(local: civil::DateTime, zone: &Zone) -> anyhow::Result<DateTime<Utc>> {
    let instant = zone.rules.to_ambiguous_timestamp(local);
    let (name, shown) = (&zone.name, local.strftime("%Y-%m-%d %H:%M"));
    match instant.offset() {
        AmbiguousOffset::Unambiguous { .. } => to_chrono(instant.unambiguous()?),
        AmbiguousOffset::Gap { .. } => {
            bail!("{shown} does not exist in {name}: the clocks are set forward then")
        }
        AmbiguousOffset::Fold { before, after } => {
            let (day, time) = (local.strftime("%Y-%m-%d"), local.strftime("%H:%M:%S"));
            bail!(
                "{shown} occurs twice in {name}, because the clocks are set back: write \
                 {day}T{time}{before}:00 or {day}T{time}{after}:00"
            )
        }
    }
}

/// The date that a word or a date means; `None` if it is neither.
fn date(day: &str, now: &ZonedDateTime) -> anyhow::Result<Option<Date>> {
    let today = now.date();
    let weekday = WEEKDAYS.iter().find(|(name, _weekday)| *name == day);
    Ok(match (day, weekday) {
        ("today" | "", _) => Some(today),
        ("tomorrow", _) => Some(today.tomorrow().context("the last day of time")?),
        (_, Some((_name, weekday))) => Some(today.nth_weekday(1, *weekday)?),
        (date, None) => Date::strptime("%Y-%m-%d", date).ok(),
    })
}

fn time_of_day(text: &str) -> Option<Time> {
    ["%H:%M", "%H:%M:%S"].iter().find_map(|format| Time::strptime(format, text).ok())
}

fn to_chrono(instant: Timestamp) -> anyhow::Result<DateTime<Utc>> {
    // Timers are whole seconds, and must not fire early.
    let second = i64::from(instant.subsec_nanosecond() > 0);
    let at = DateTime::from_timestamp(instant.as_second() + second, 0);
    at.filter(|at| at.timestamp() > 0).with_context(|| format!("before 1970; {EXPECTED}"))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    /// Parses in Berlin, on Thursday 2026-11-26 at 12:30.
    fn instant(text: &str) -> Result<String, String> {
        let name = "Europe/Berlin";
        let berlin = Zone::new(TimeZone::get(name).unwrap(), name);
        let now = "2026-11-26T11:30:00Z".parse().unwrap();
        let parsed = parse(text, &berlin, now).map_err(|error| error.to_string())?;
        Ok(parsed.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    #[test]
    fn words_and_times_are_of_the_users_zone() {
        for (text, expected) in [
            ("2026-11-27 10:00", "2026-11-27T09:00:00Z"),
            ("2026-07-01 10:00:30", "2026-07-01T08:00:30Z"),
            ("2026-11-27T10:00", "2026-11-27T09:00:00Z"),
            ("tomorrow 10:00", "2026-11-27T09:00:00Z"),
            ("Tomorrow 9:05", "2026-11-27T08:05:00Z"),
            ("today 18:00", "2026-11-26T17:00:00Z"),
            ("18:00", "2026-11-26T17:00:00Z"),
            ("today 10:00", "2026-11-26T09:00:00Z"),
            ("thursday 10:00", "2026-12-03T09:00:00Z"),
            ("friday 10:00", "2026-11-27T09:00:00Z"),
            ("tuesday 10:00", "2026-12-01T09:00:00Z"),
            ("2026-11-27T10:00:00Z", "2026-11-27T10:00:00Z"),
            ("2026-11-27T10:00:00.001+01:00", "2026-11-27T09:00:01Z"),
        ] {
            assert_eq!(instant(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_daylight_saving_makes_unclear_is_refused() {
        let gap = instant("2026-03-29 02:30").unwrap_err();
        assert!(gap.contains("2026-03-29 02:30 does not exist in Europe/Berlin"), "{gap}");
        let fold = instant("2026-10-25 02:30").unwrap_err();
        assert!(fold.contains("2026-10-25 02:30 occurs twice in Europe/Berlin"), "{fold}");
        let (before, after) = ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00");
        assert!(fold.contains(&format!("{before} or {after}")), "{fold}");
        assert_eq!(instant(before).as_deref(), Ok("2026-10-25T00:30:00Z"));
        assert_eq!(instant(after).as_deref(), Ok("2026-10-25T01:30:00Z"));
    }

    #[test]
    fn other_texts_are_refused_with_examples() {
        for text in [
            "",
            "soon",
            "-1",
            "2026-11-27",
            "27.11.2026 10:00",
            "tomorrow",
            "25:00",
            "10:61",
            "26-12-24 8:00",
            "0026-12-24T08:00:00Z",
            "1970-01-01T00:00:00Z",
        ] {
            let error = instant(text).unwrap_err();
            assert!(error.contains("expected a time such as"), "{text}: {error}");
        }
        let error = instant("10:00").unwrap_err();
        assert!(error.contains("10:00 is over, it is 2026-11-26 12:30:00"), "{error}");
        assert!(error.contains("\"tomorrow 10:00\""), "{error}");
    }

    #[test]
    fn what_no_database_can_hold_is_refused() {
        for text in ["9999-12-31 23:59", "9999-12-31T23:59:59Z"] {
            let error = instant(text).unwrap_err();
            assert!(error.contains("the last day of a timer is 9999-12-29"), "{text}: {error}");
        }
        assert_eq!(instant("9999-12-29 23:59").as_deref(), Ok("9999-12-29T22:59:00Z"));
        assert_eq!(delay("8000y").unwrap_err(), "after the year 9999");
        assert_eq!(delay("300000y").unwrap_err(), "after the year 9999");
    }

    #[test]
    fn durations_are_not_mistaken() {
        assert_eq!(duration("20m"), Ok(Duration::from_mins(20)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        for (text, problem) in
            [("20M", "m for minutes, or month"), ("-5m", "such as 30s"), ("", "20m")]
        {
            let error = duration(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_fraction_of_a_second_is_rounded_up() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let whole = time("2026-12-01T18:00:00Z");
        assert_eq!(round_up(whole), whole);
        assert_eq!(round_up(time("2026-12-01T17:59:59.001Z")), whole);
    }
}
