//! The commands in groups, for the help of the program: clap lists them in one group only.

use std::fmt::Write;

use clap::Command;

/// Each command is in one group.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Run", &["demo", "run", "worker", "api", "talk", "migrate"]),
    ("See", &["rooms", "timers", "history", "status"]),
    ("Change and repair", &["lobby", "dead-letters", "publish", "user"]),
    ("Set up and check", &["config", "health", "generate"]),
];

/// The width of the column of names.
const NAMES: usize = 14;

/// Replaces the list of commands in the help.
pub(super) fn with_groups(command: Command) -> Command {
    let mut list = String::new();
    for (title, names) in GROUPS {
        writeln!(list, "{title}:").expect("writing to a String does not fail");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            writeln!(list, "  {name:NAMES$}{about}").expect("writing to a String does not fail");
        }
        list.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}Options:\n{{options}}{{after-help}}"
    );
    command.help_template(template)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// Lines that are broken by hand are ragged on any other width.
    #[test]
    fn explanations_of_commands_are_paragraphs() {
        fn check(command: &Command) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!text.replace("\n\n", "").contains('\n'), "{text}");
            command.get_subcommands().for_each(check);
        }
        Cli::command().get_subcommands().for_each(check);
    }

    #[test]
    fn each_command_is_in_one_group() {
        let mut grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_title, names)| *names).copied().collect();
        let command = Cli::command();
        let mut names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        names.sort_unstable();
        assert_eq!(grouped, names);
    }
}
