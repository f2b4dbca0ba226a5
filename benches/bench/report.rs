//! The figures, and the table and files that show them.

use std::{
    fmt::{self, Display},
    fs,
    path::Path,
};

use serde::Serialize;
use serde_json::json;

use super::{machine::Description, options::Section, stats::median};

pub struct Report {
    machine: Description,
    figures: Vec<Figure>,
    /// File names and contents of the pictures.
    pictures: Vec<(&'static str, String)>,
}

/// A figure: the median of its runs, beside the limit in the same runs.
#[derive(Debug, Serialize)]
pub struct Figure {
    section: String,
    name: String,
    unit: Unit,
    value: f64,
    runs: usize,
    limit: Option<f64>,
    /// Median of the ratios of the runs.
    ratio: Option<f64>,
    goal: Option<Goal>,
    met: Option<bool>,
    #[serde(skip)]
    values: Vec<f64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    PerSecond,
    Seconds,
    Milliseconds,
    Mebibytes,
    Kibibytes,
    Bytes,
    Percent,
    Microseconds,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    Below(f64),
    AtMost(f64),
    AtLeast(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

impl Figure {
    /// A figure with its value in each run.
    pub fn new(section: Section, name: impl Into<String>, unit: Unit, values: &[f64]) -> Self {
        Self {
            section: section.to_string(),
            name: name.into(),
            unit,
            value: median(values),
            runs: values.len(),
            limit: None,
            ratio: None,
            goal: None,
            met: None,
            values: values.to_vec(),
        }
    }

    /// Adds what the limit was in each of the runs.
    pub fn beside(mut self, limits: &[f64]) -> Self {
        assert_eq!(limits.len(), self.values.len());
        let ratios: Vec<f64> =
            self.values.iter().zip(limits).map(|(value, limit)| value / limit).collect();
        self.limit = Some(median(limits));
        self.ratio = Some(median(&ratios));
        self
    }

    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.met = Some(match goal {
            Goal::Below(bound) => self.value < bound,
            Goal::AtMost(bound) => self.value <= bound,
            Goal::AtLeast(bound) => self.value >= bound,
            Goal::RatioAtLeast(bound) => self.ratio.unwrap() >= bound,
            Goal::RatioAtMost(bound) => self.ratio.unwrap() <= bound,
        });
        self
    }

    fn cells(&self) -> [String; 8] {
        let Self { section, name, unit, value, runs, limit, ratio, goal, met, .. } = self;
        let met = met.map(|met| if met { "yes" } else { "no" }.to_owned());
        [
            section.clone(),
            name.clone(),
            unit.show(*value),
            text(*limit, |limit| unit.show(limit)),
            text(*ratio, |ratio| format!("{ratio:.2}")),
            text(*goal, |goal| goal.show(*unit)),
            met.unwrap_or_default(),
            runs.to_string(),
        ]
    }
}

fn text<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map(show).unwrap_or_default()
}

impl Unit {
    fn show(self, value: f64) -> String {
        let number = number(value);
        match self {
            Self::PerSecond => format!("{number}/s"),
            Self::Seconds => format!("{number} s"),
            Self::Milliseconds => format!("{number} ms"),
            Self::Microseconds => format!("{number} µs"),
            Self::Mebibytes => format!("{number} MiB"),
            Self::Kibibytes => format!("{number} KiB"),
            Self::Bytes => format!("{number} B"),
            Self::Percent => format!("{number} %"),
        }
    }
}

/// Three significant digits, or all digits before the point with commas between thousands.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _large => 0,
    };
    let mut text = format!("{value:.digits$}");
    let end = text.find('.').unwrap_or(text.len());
    for place in (1..end).rev().filter(|place| (end - place) % 3 == 0) {
        if text.as_bytes()[place - 1].is_ascii_digit() {
            text.insert(place, ',');
        }
    }
    text
}

impl Goal {
    fn show(self, unit: Unit) -> String {
        let plain = |bound: f64| unit.show(bound).replace(".00", "");
        match self {
            Self::Below(bound) => format!("< {}", plain(bound)),
            Self::AtMost(bound) => format!("≤ {}", plain(bound)),
            Self::AtLeast(bound) => format!("≥ {}", plain(bound)),
            Self::RatioAtLeast(bound) => format!("≥ {bound} × limit"),
            Self::RatioAtMost(bound) => format!("≤ {bound} × limit"),
        }
    }
}

impl Report {
    pub fn new(machine: Description) -> Self {
        println!("{machine}");
        Self { machine, figures: Vec::new(), pictures: Vec::new() }
    }

    /// Adds a figure, and prints it as progress.
    pub fn add(&mut self, figure: Figure) {
        let [_section, name, value, limit, ratio, goal, met, _runs] = figure.cells();
        println!("  {name}: {value} | {limit} | {ratio} | {goal} | {met}");
        self.figures.push(figure);
    }

    pub fn add_picture(&mut self, name: &'static str, svg: String) {
        self.pictures.push((name, svg));
    }

    /// Prints the table, and writes the files.
    pub fn finish(&self, folder: &Path) {
        println!("\n{self}");
        fs::create_dir_all(folder).unwrap();
        let results = json!({"machine": self.machine, "figures": self.figures});
        let json = serde_json::to_string_pretty(&results).unwrap();
        fs::write(folder.join("results.json"), json).unwrap();
        fs::write(folder.join("results.md"), self.to_string()).unwrap();
        for (name, svg) in &self.pictures {
            fs::write(folder.join(name), svg).unwrap();
        }
        println!("Written to {}", folder.display());
    }
}

impl Display for Report {
    /// The machine and two tables, in Markdown: the figures that have a goal, and the others.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.machine)?;
        let (with_goal, others): (Vec<&Figure>, Vec<&Figure>) =
            self.figures.iter().partition(|figure| figure.goal.is_some());
        for figures in [with_goal, others] {
            write_table(formatter, &figures)?;
        }
        Ok(())
    }
}

fn write_table(formatter: &mut fmt::Formatter<'_>, figures: &[&Figure]) -> fmt::Result {
    if figures.is_empty() {
        return Ok(());
    }
    let heads = ["section", "figure", "lobbyd", "limit", "ratio", "goal", "met", "runs"];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(figures.iter().map(|figure| figure.cells()));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).filter_map(width).collect();
    rows.insert(1, std::array::from_fn(|column| "-".repeat(widths[column].max(3))));
    writeln!(formatter)?;
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            write!(formatter, "| {cell:width$} ")?;
        }
        writeln!(formatter, "|")?;
    }
    Ok(())
}
