//! The table that a long trial prints at its end.

use std::{fmt, time::Duration};

/// Steps of a trial, in their order.
#[derive(Default)]
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn add(&mut self, cells: &[&str]) {
        println!("{}", cells.join(" | "));
        self.rows.push(cells.iter().map(|cell| (*cell).to_owned()).collect());
    }
}

impl fmt::Display for Table {
    /// In Markdown.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "| {} |", self.columns.join(" | "))?;
        writeln!(formatter, "|{}", " --- |".repeat(self.columns.len()))?;
        self.rows.iter().try_for_each(|row| writeln!(formatter, "| {} |", row.join(" | ")))
    }
}

/// Seconds with two decimals.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
