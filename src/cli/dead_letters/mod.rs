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
use serde::Serialize;

use self::selection::{Bound, Selection, is_position, position};
use self::shown::{Letter, list, show};
use super::access::{explained_broker, open_bus};
use super::output::{self, Format};
use super::print;

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
    #[arg(long, value_name = "NUMBER", default_value_t = 50, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    bound: Bound,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Number or id in the list
    #[arg(value_name = "NUMBER|ID")]
    letter: String,

    #[command(flatten)]
    bound: Bound,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Remove the cause first: create the room, or correct the sender. An event that still cannot be applied \
comes back. One with a version, a time or a timestamp changes nothing if its room was changed \
meanwhile; any other counts as new. Only lobbyd receives it again, no other subscriber.

Interrupted, no event is lost; at worst one is applied twice.")]
pub(super) struct Replay {
    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    bound: Bound,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct DropCommand {
    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    bound: Bound,

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
        done.map_err(|error| explained_broker(error, &loaded.config))
    }
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
    /// Number of those that were not looked at.
    #[serde(skip_serializing_if = "is_zero")]
    unread: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Queue {
    async fn work(mut self, command: DeadLettersCommand) -> anyhow::Result<()> {
        let done = match command {
            DeadLettersCommand::List(list) => self.list(&list).await,
            DeadLettersCommand::Show(show) => self.show(&show).await,
            DeadLettersCommand::Replay(replay) => self.replay(&replay).await,
            DeadLettersCommand::Drop(drop) => self.delete(&drop).await,
        };
        let is_broken =
            done.as_ref().is_err_and(|error| error.downcast_ref::<BusError>().is_some());
        // After an error of the broker, it puts back what was taken by itself.
        let rest = if is_broken { 0 } else { self.letters.waiting().await? };
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
        let (mut found, mut failed) = (Vec::new(), None);
        let mut unread = waiting.saturating_sub(options.bound.max_read);
        for number in 1..=waiting - unread {
            if u32::try_from(found.len())? == options.limit {
                unread = 0;
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
                    failed = Some(error);
                    break;
                }
            }
        }
        list(&found, waiting, unread, options.format)?;
        failed.map_or(Ok(()), Err)
    }

    async fn show(&mut self, options: &Show) -> anyhow::Result<()> {
        let wanted = position(&options.letter);
        let waiting = self.letters.waiting().await?;
        let read = waiting.min(options.bound.max_read);
        for number in 1..=read {
            let Some(letter) = self.next(number).await? else { break };
            if wanted == Some(number) || letter.id == options.letter {
                return show(&Letter::new(number, &letter, self.now), &letter, options.format);
            }
        }
        let letter = output::printable(&options.letter);
        if read < waiting {
            bail!(
                "dead letter {letter} is not among the first {read} of {waiting}; --max-read reads more"
            );
        }
        bail!("there is no dead letter {letter}")
    }

    async fn replay(&mut self, options: &Replay) -> anyhow::Result<()> {
        let waiting = self.letters.waiting().await?;
        let progress = progress(waiting);
        let (mut replayed, mut cut, mut kept, mut unread) = (0, Vec::new(), 0, 0);
        for number in 1..=waiting {
            if kept == options.bound.max_read {
                unread = waiting - (number - 1);
                break;
            }
            let Some(letter) = self.next(number).await? else { break };
            progress.inc(1);
            let is_selected = options.selection.matches(&letter, self.now);
            if !is_selected || letter.is_cut() {
                kept += 1;
                cut.extend(is_selected.then_some(letter.id));
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
            number => {
                let ids = output::arguments(cut.iter().map(String::as_str));
                format!(
                    "; {number} cannot be, because only the beginning was kept: have it sent again, and \
                     lobbyd dead-letters drop {ids}"
                )
            }
        };
        let outcome = Outcome { replayed: Some(replayed), cut, unread, ..Outcome::default() };
        let text = format!("{replayed} of {waiting} replayed{cut_text}");
        report(&options.selection, &outcome, &text, options.format)
    }

    async fn delete(&mut self, options: &DropCommand) -> anyhow::Result<()> {
        let waiting = self.letters.waiting().await?;
        let selection = &options.selection;
        let is_agreed = options.yes || selection.is_everything();
        if is_agreed && !options.yes && waiting > 0 {
            confirm(waiting, waiting)?;
        }
        let progress = progress(waiting);
        let (mut dropped, mut kept, mut unread) = (0, 0, 0);
        let mut selected = Vec::new();
        for number in 1..=waiting {
            if kept == options.bound.max_read {
                unread = waiting - (number - 1);
                break;
            }
            let Some(letter) = self.next(number).await? else { break };
            progress.inc(1);
            if !selection.matches(&letter, self.now) {
                kept += 1;
            } else if is_agreed {
                self.letters.delete(&letter).await?;
                dropped += 1;
            } else {
                kept += 1;
                selected.push(letter);
            }
        }
        progress.finish_and_clear();
        if !selected.is_empty() {
            confirm(u32::try_from(selected.len())?, waiting)?;
        }
        for letter in &selected {
            self.letters.delete(letter).await?;
            dropped += 1;
        }
        let outcome = Outcome { dropped: Some(dropped), unread, ..Outcome::default() };
        let text = format!("{dropped} of {waiting} dropped");
        report(selection, &outcome, &text, options.format)
    }
}

/// Prints what was done. Fails if that was not all: some were not looked at, or ids were given and none of
/// them is in the queue.
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
    if outcome.unread > 0 {
        bail!(
            "{} dead letters were not looked at, because so many before them stay in the queue; \
             --max-read reads more",
            outcome.unread
        );
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
fn confirm(number: u32, waiting: u32) -> anyhow::Result<()> {
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
