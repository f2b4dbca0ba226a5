//! `lobbyd user`: adds, changes, removes and lists the users of the HTTP API, in the database.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write};
use std::thread;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use lobbyd::auth::{MAX_PASSWORD_BYTES, Passwords};
use lobbyd::config::Loaded;
use lobbyd::domain;
use lobbyd::store::Database;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::access::{with_database, with_new_database};
use super::print;

const COMMAND: &str = "lobbyd user";

/// Longest name of a user or a group, and longest display name: the size of the columns.
const MAX_NAME_CHARS: usize = 64;

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Add a user
    Add(Add),
    /// Remove a user from lobbyd and from all rooms
    Remove {
        /// Login name
        name: String,
    },
    /// Change the password of a user
    Passwd {
        /// Login name
        name: String,

        #[command(flatten)]
        password: Password,
    },
    /// Print login name, display name and groups of each user, separated by tabs
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Login name
    #[arg(value_parser = login_name)]
    name: String,

    /// Name shown to other participants, instead of NAME
    #[arg(long, value_name = "TEXT", value_parser = printable_name)]
    display_name: Option<String>,

    /// Add the user to this group; can be repeated
    #[arg(long = "group", value_name = "GROUP", value_parser = printable_name)]
    groups: Vec<String>,

    #[command(flatten)]
    password: Password,
}

/// The source of a password: never an argument, which all processes can read.
#[derive(Debug, Args)]
pub(crate) struct Password {
    /// Read the password from standard input, one line; on a terminal it is not shown
    #[arg(long, required = true)]
    password_stdin: bool,
}

impl User {
    /// Until Ctrl-C, which leaves a terminal that shows what is typed.
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        // Before the terminal hides anything.
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            done = self.work(loaded) => done,
            _ = interrupt.recv() => bail!("interrupted"),
        }
    }

    async fn work(self, loaded: &Loaded) -> anyhow::Result<()> {
        match self {
            Self::Add(add) => {
                // Before a database is created.
                let hash = hashed(&read_password().await?).await;
                let create = async |users: &dyn Database| add.run(users, &hash).await;
                with_new_database(loaded, COMMAND, create).await
            }
            Self::Passwd { name, password: _ } => {
                with_database(loaded, COMMAND, async |users| {
                    let hash = hashed(&read_password().await?).await;
                    ensure!(users.set_user_password(&name, &hash).await?, unknown(&name));
                    print(&format!("{name}: password changed"))
                })
                .await
            }
            Self::Remove { name } => {
                with_database(loaded, COMMAND, async |users| {
                    ensure!(users.remove_user(&name, users.now().await?).await?, unknown(&name));
                    print(&format!("{name}: removed"))
                })
                .await
            }
            Self::List => {
                with_database(loaded, COMMAND, async |users| {
                    for user in users.users().await? {
                        let mut columns = vec![user.id, user.display_name];
                        columns.extend(user.groups);
                        print(&columns.join("\t"))?;
                    }
                    Ok(())
                })
                .await
            }
        }
    }
}

impl Add {
    async fn run(self, users: &dyn Database, hash: &str) -> anyhow::Result<()> {
        let user = domain::User {
            display_name: self.display_name.unwrap_or_else(|| self.name.clone()),
            id: self.name,
            // Without duplicates.
            groups: self.groups.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        };
        ensure!(users.add_user(&user, hash).await?, "there is a user {} already", user.id);
        print(&format!("{}: added", user.id))
    }
}

fn unknown(name: &str) -> String {
    format!("there is no user {name}")
}

async fn hashed(password: &str) -> String {
    Passwords::new().hash(password).await
}

/// Reads a password from standard input. On a terminal it is asked for, and not shown.
async fn read_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return password(io::stdin().lock());
    }
    let silence = Silence::new().context("terminal")?;
    write!(io::stderr().lock(), "Password: ")?;
    let (sender, line) = oneshot::channel();
    // On a thread of its own, for which an interruption does not wait.
    thread::spawn(move || sender.send(password(io::stdin().lock())));
    let line = line.await?;
    drop(silence);
    line
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Reads the first line, up to the longest password.
fn password(input: impl BufRead) -> anyhow::Result<String> {
    const LINE_END: &str = "\r\n";
    let mut line = Vec::new();
    let bound = u64::try_from(MAX_PASSWORD_BYTES + LINE_END.len())?;
    input.take(bound).read_until(b'\n', &mut line).context("standard input")?;
    // The error would contain the password.
    let Ok(line) = String::from_utf8(line) else { bail!("the password is not UTF-8") };
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let password = line.strip_suffix('\r').unwrap_or(line);
    ensure!(!password.is_empty(), "the password on standard input is empty");
    ensure!(
        password.len() <= MAX_PASSWORD_BYTES,
        "the password is longer than {MAX_PASSWORD_BYTES} bytes"
    );
    Ok(password.to_owned())
}

fn login_name(text: &str) -> Result<String, String> {
    let name = printable_name(text)?;
    // HTTP Basic ends the name with a colon, and in a URL it is one segment.
    if name.contains(|c: char| c.is_whitespace() || c == ':' || c == '/') {
        return Err("expected neither white space, nor : or /".to_owned());
    }
    Ok(name)
}

fn printable_name(text: &str) -> Result<String, String> {
    if !(1..=MAX_NAME_CHARS).contains(&text.chars().count()) {
        return Err(format!("expected 1 to {MAX_NAME_CHARS} characters"));
    }
    // A name must not contain the separators of the list, and MariaDB ignores spaces at its end.
    if text.contains(char::is_control) || text.trim() != text {
        return Err("expected no control characters, and no white space at the ends".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line() {
        let longest = "x".repeat(MAX_PASSWORD_BYTES);
        for (input, expected) in [
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret", "secret"),
            (" two words \nnext line\n", " two words "),
            (&format!("{longest}\r\n"), &longest),
        ] {
            assert_eq!(password(input.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn an_unusable_password_is_refused_without_being_shown() {
        let too_long = "x".repeat(MAX_PASSWORD_BYTES + 1);
        for input in ["", "\n", "\r\n", &too_long, &format!("{too_long}\n"), &too_long.repeat(2)] {
            let complaint = format!("{:?}", password(input.as_bytes()).unwrap_err());
            assert!(!complaint.contains("xx"), "{complaint}");
        }
        assert!(password(b"\xff\n".as_slice()).is_err());
    }

    #[test]
    fn a_name_is_safe_in_headers_urls_and_lists() {
        let longest = "\u{e9}".repeat(MAX_NAME_CHARS);
        for name in ["alice", "a.b_c-d@example.org", "J\u{fc}rgen", "o'neill", &longest] {
            assert_eq!(login_name(name).as_deref(), Ok(name));
        }
        let too_long = "x".repeat(MAX_NAME_CHARS + 1);
        for name in ["", "a b", "a:b", "a/b", "a\tb", "a\u{a0}b", "a\u{7f}", &too_long] {
            assert!(login_name(name).is_err(), "{name:?}");
        }
        assert!(printable_name("Alice B. (Sales)").is_ok());
        for name in ["", "a\tb", "a\nb", "a ", &too_long] {
            assert!(printable_name(name).is_err(), "{name:?}");
        }
    }
}
