//! `lobbyd dead-letters`: the events that could not be applied: list, show, replay and drop them.
//!
//! Whatever interrupts a command, no event is lost: a dead letter leaves its queue only after the broker
//! has stored it elsewhere, or after somebody has agreed to drop it.

mod selection;
mod shown;

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use lobbyd::bus::{BusError, DeadLetter, DeadLetters};
use lobbyd::config::Loaded;
use lobbyd::logging;
use serde::Serialize;

use self::selection::{Selection, is_position, position};
use self::shown::{Letter, list, show};
use super::access::open_bus;
use super::output::{self, Format};
use super::print;

/// So many dead letters are read at most: each stays in the memory of the broker until the end.
const MAX_READ: u32 = 10_000;

/// A queue of so many is always read as a whole: the broker puts back what was read behind what was read
/// earlier, so that only a whole queue keeps its order.
const KEPT_IN_ORDER: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List events that could not be applied, with the reasons
    List(List),
    /// Show one of them with its headers and its body
    Show(Show),
    /// Have workers apply them again: all, or those that are selected
    Replay(Replay),
    /// Delete them: all, or those that are selected
    Drop(DropCommand),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    selection: Selection,

    /// Maximum number of dead letters
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Number or id in the list
    #[arg(value_name = "NUMBER|ID")]
    letter: String,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Remove the cause first: create the room, or correct the sender. An event that still cannot be applied
comes back. One with a version, a time or a timestamp changes nothing if its room was changed
meanwhile; any other counts as new. Only lobbyd receives it again, no other subscriber.
Interrupted, no event is lost; at worst one is applied twice.")]
pub(super) struct Replay {
    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct DropCommand {
    #[command(flatten)]
    selection: Selection,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    format: Format,
}

impl DeadLettersCommand {
    #[expect(clippy::disallowed_methods, reason = "the age of a dead letter is for people")]
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        let bus = open_bus(loaded)?;
        let now = Utc::now();
        let done = match bus.dead_letters().await {
            Ok(letters) => Queue { letters, now }.work(self).await,
            Err(error) => Err(error.into()),
        };
        bus.close().await;
        done.map_err(explained)
    }
}

/// Says what can be done about an error of the broker.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let Some(cause) = error.downcast_ref::<BusError>() else { return error };
    if matches!(cause, BusError::Unparseable { .. }) {
        return error.context(
            "the broker has moved this dead letter here, because it ends the connection of each \
             program that reads it; remove it with RabbitMQ's management plugin",
        );
    }
    if logging::causes(cause).contains("ACCESS_REFUSED") {
        return error.context(
            "set LOBBYD__EVENTS__URL to the URL of a user who may read the queue of dead letters, \
             and write to the default exchange",
        );
    }
    error
}

/// The queue of dead letters.
struct Queue {
    letters: Box<dyn DeadLetters>,
    now: DateTime<Utc>,
}

/// What has become of the selected ones.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    /// Those of which the broker keeps only the beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cut: Vec<String>,
}

impl Queue {
    async fn work(mut self, command: DeadLettersCommand) -> anyhow::Result<()> {
        let done = match command {
            DeadLettersCommand::List(list) => self.list(&list).await,
            DeadLettersCommand::Show(show) => self.show(&show).await,
            DeadLettersCommand::Replay(replay) => self.replay(&replay).await,
            DeadLettersCommand::Drop(drop) => self.delete(&drop).await,
        };
        // After an error, the broker puts back what was taken by itself.
        let rest = if done.is_ok() { self.letters.waiting().await? } else { 0 };
        if rest <= KEPT_IN_ORDER {
            for _ in 0..rest {
                if !matches!(self.letters.take().await, Ok(Some(_letter))) {
                    break;
                }
            }
        }
        let closed = self.letters.close().await;
        done.and(closed.map_err(Into::into))
    }

    /// Takes the next dead letter. Those that arrive while the command runs are left.
    async fn next(&mut self, number: u32) -> anyhow::Result<Option<DeadLetter>> {
        let taken = self.letters.take().await;
        taken.with_context(|| format!("dead letter {number} of the queue cannot be read"))
    }

    async fn list(&mut self, options: &List) -> anyhow::Result<()> {
        let waiting = self.letters.waiting().await?;
        let (mut found, mut unread) = (Vec::new(), None);
        for number in 1..=waiting.min(MAX_READ) {
            if found.len() == options.limit {
                break;
            }
            match self.next(number).await {
                Ok(Some(letter)) => {
                    if options.selection.matches(&letter, self.now) {
                        found.push(Letter::new(number, &letter, self.now));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // What was read before is worth showing.
                    unread = Some(error);
                    break;
                }
            }
        }
        list(&found, waiting, options.format)?;
        unread.map_or(Ok(()), Err)
    }

    async fn show(&mut self, options: &Show) -> anyhow::Result<()> {
        let wanted = position(&options.letter);
        for number in 1..=self.letters.waiting().await?.min(MAX_READ) {
            let Some(letter) = self.next(number).await? else { break };
            if wanted == Some(number) || letter.id == options.letter {
                return show(&Letter::new(number, &letter, self.now), &letter, options.format);
            }
        }
        bail!("there is no dead letter {}", output::printable(&options.letter))
    }

    async fn replay(&mut self, options: &Replay) -> anyhow::Result<()> {
        let waiting = self.letters.waiting().await?;
        let progress = progress(waiting);
        let (mut replayed, mut cut, mut skipped) = (0, Vec::new(), 0);
        for number in 1..=waiting {
            let Some(letter) = self.next(number).await? else { break };
            progress.inc(1);
            if !options.selection.matches(&letter, self.now) {
                skipped += 1;
                if skipped == MAX_READ {
                    break;
                }
                continue;
            }
            if letter.is_cut() {
                cut.push(letter.id);
                continue;
            }
            let stored = self.letters.replay(&letter).await;
            stored.with_context(|| {
                format!("after {replayed} were replayed, the next one could not be")
            })?;
            replayed += 1;
        }
        progress.finish_and_clear();
        let cut_text = match cut.len() {
            0 => String::new(),
            number => format!("; {number} cannot be, because only the beginning was kept"),
        };
        let outcome = Outcome { replayed: Some(replayed), cut, ..Outcome::default() };
        let text = format!("{replayed} of {waiting} replayed{cut_text}");
        report(&options.selection, &outcome, &text, options.format)
    }

    async fn delete(&mut self, options: &DropCommand) -> anyhow::Result<()> {
        let waiting = self.letters.waiting().await?;
        let mut selected = Vec::new();
        for number in 1..=waiting.min(MAX_READ) {
            let Some(letter) = self.next(number).await? else { break };
            if options.selection.matches(&letter, self.now) {
                selected.push(letter);
            }
        }
        if !options.yes && !selected.is_empty() {
            confirm(selected.len(), waiting)?;
        }
        let number = u64::try_from(selected.len())?;
        for letter in &selected {
            self.letters.delete(letter).await?;
        }
        let outcome = Outcome { dropped: Some(number), ..Outcome::default() };
        let text = format!("{number} of {waiting} dropped");
        report(&options.selection, &outcome, &text, options.format)
    }
}

/// Prints what was done. Fails if ids were given and none of them is in the queue.
fn report(
    selection: &Selection,
    outcome: &Outcome,
    text: &str,
    format: Format,
) -> anyhow::Result<()> {
    if format.json {
        output::print_json(outcome)?;
    } else {
        print(text)?;
    }
    let done = outcome.replayed.or(outcome.dropped).unwrap_or_default();
    let is_missing = done == 0 && outcome.cut.is_empty() && selection.names_some();
    if is_missing {
        if selection.ids().any(is_position) {
            bail!("no dead letter has this id; numbers are those of a list, use the ids");
        }
        bail!("no dead letter has this id");
    }
    Ok(())
}

/// A progress bar on standard error, if that is a terminal and there is more than one.
fn progress(number: u32) -> ProgressBar {
    if number > 1 { ProgressBar::new(number.into()) } else { ProgressBar::hidden() }
}

/// Asks whether so many dead letters are to be deleted.
fn confirm(number: usize, waiting: u32) -> anyhow::Result<()> {
    ensure!(
        io::stdin().is_terminal(),
        "{number} of {waiting} would be dropped; confirm with --yes"
    );
    write!(io::stderr().lock(), "Drop {number} of {waiting} dead letters? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("standard input")?;
    ensure!(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()), "nothing was dropped");
    Ok(())
}
