//! `lobbyd generate`: man pages and shell completions, generated from the command line and from the
//! defaults, so that they always agree with them. `make deb` runs it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, manual, print};

/// Write man pages and shell completions, for packagers.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Folder for the files; it is created if it does not exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Generate {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let folder = self.folder.display();
        write(&self.folder).with_context(|| folder.to_string())?;
        print(&format!("{folder}: man pages, and completions for bash, fish and zsh"))
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, folder)?;
    fs::write(folder.join("lobbyd.toml.5"), manual::configuration())?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "lobbyd", folder)?;
    }
    Ok(())
}

/// Writes the page of a command and those of its subcommands.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        write_pages(subcommand, folder)?;
    }
    // By default, a subcommand's page would show its own name and no version.
    let page = Man::new(command.clone()).source(manual::SOURCE);
    let mut text = Vec::new();
    page.render(&mut text)?;
    if command.get_name() == "lobbyd" {
        text.extend_from_slice(manual::ENVIRONMENT.as_bytes());
    }
    fs::write(folder.join(page.get_filename()), text)
}
