//! Instants as people write them on the command line: "2026-11-27 10:00", "tomorrow 10:00", "10:00".

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::AmbiguousOffset;
use jiff::{Timestamp, ZonedDateTime};

use super::output::Zone;

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

/// Reads an instant. Words and times without an offset are of the user's zone; a time without a date
/// is today's.
pub(super) fn parse(text: &str, zone: &Zone, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(instant) = text.parse::<Timestamp>() {
        return to_chrono(instant);
    }
    zone.check()?;
    let now = Timestamp::from_second(now.timestamp())?.to_zoned_datetime(zone.rules.clone());
    let words = text.to_lowercase();
    let (day, time) = match words.split_once([' ', 't']) {
        Some((day, time)) if day.starts_with(|c: char| c.is_ascii_digit()) => (day, time),
        _ => words.rsplit_once(' ').unwrap_or(("today", &words)),
    };
    let (Some(date), Some(time)) = (date(day.trim(), &now)?, time_of_day(time.trim())) else {
        bail!("{text:?}: {EXPECTED}");
    };
    let local = date.to_datetime(time);
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
        ("today", _) => Some(today),
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
    DateTime::from_timestamp(instant.as_second() + second, 0).context("the time is out of range")
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
            ("10:00", "2026-11-26T09:00:00Z"),
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
        for text in ["", "soon", "2026-11-27", "27.11.2026 10:00", "tomorrow", "25:00", "10:61"] {
            let error = instant(text).unwrap_err();
            assert!(error.contains("expected a time such as"), "{text}: {error}");
        }
    }
}
