//! `lobbyd user`: who may log in to the HTTP API.

use std::io::{self, Read};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use lobbyd::{
    accounts::Passwords,
    app,
    config::Config,
    store::{Database, User},
};

use super::say;

/// Longest name of a user, and of a group, in characters: the width of the columns.
const MAX_NAME: usize = 64;

/// Longest password, in bytes. What is longer is hardly meant as one.
const MAX_PASSWORD: usize = 4096;

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user
    Add(Add),
    /// Remove a user, also from all rooms
    Remove {
        /// Name of the user
        #[arg(value_parser = name)]
        name: String,
    },
    /// Give a user another password
    Passwd {
        /// Name of the user
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// List the users: name, name for people, groups
    List,
}

/// Add a user.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Name by which the user logs in
    #[arg(value_parser = name)]
    name: String,

    /// Name for people, the same by default
    #[arg(long, value_name = "NAME", value_parser = display_name)]
    display_name: Option<String>,

    /// Group of the user, for the right to enable SIP; may be given several times
    #[arg(long = "group", value_name = "GROUP", value_parser = name)]
    groups: Vec<String>,

    #[command(flatten)]
    password: PasswordSource,
}

#[derive(Debug, Args)]
pub(crate) struct PasswordSource {
    /// Read the password from the standard input, where no list of processes shows it
    #[arg(long, required = true)]
    password_stdin: bool,
}

impl UserCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let database = app::open_database(config)?;
        if config.database.migrate {
            database.migrate().await?;
        }
        let done = self.on(database.as_ref()).await;
        database.close().await;
        done
    }

    async fn on(self, database: &dyn Database) -> anyhow::Result<()> {
        match self {
            Self::Add(Add { name, display_name, mut groups, password: _ }) => {
                let hash = read_and_hash().await?;
                groups.sort();
                groups.dedup();
                let display_name = display_name.unwrap_or_else(|| name.clone());
                let user = User { id: name, display_name, groups };
                ensure!(
                    database.add_user(&user, &hash).await?,
                    "there is a user {} already",
                    user.id
                );
                say(&format!("user {} was added", user.id))
            }
            Self::Remove { name } => {
                ensure!(database.remove_user(&name).await?, "there is no user {name}");
                say(&format!("user {name} was removed"))
            }
            Self::Passwd { name, password: _ } => {
                let hash = read_and_hash().await?;
                ensure!(database.set_user_password(&name, &hash).await?, "there is no user {name}");
                say(&format!("user {name} has another password"))
            }
            Self::List => {
                for User { id, display_name, groups } in database.users().await? {
                    say(&format!("{id}\t{display_name}\t{}", groups.join(",")))?;
                }
                Ok(())
            }
        }
    }
}

async fn read_and_hash() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_PASSWORD + 2)?;
    io::stdin().lock().take(limit).read_to_end(&mut bytes).context("standard input")?;
    let text = String::from_utf8(bytes).context("the password is no text in UTF-8")?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("no password was given on the standard input");
    }
    ensure!(password.len() <= MAX_PASSWORD, "a password has at most {MAX_PASSWORD} bytes");
    Ok(Passwords::default().hash(password).await)
}

/// HTTP Basic ends a name at a colon.
fn name(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if length == 0 || length > MAX_NAME {
        return Err(format!("a name has 1 to {MAX_NAME} characters, this one has {length}"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/')) {
        return Err("a name has no white space, no colon and no slash".to_owned());
    }
    Ok(text.to_owned())
}

fn display_name(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if length > MAX_NAME || text.chars().any(char::is_control) {
        return Err(format!("a name for people has at most {MAX_NAME} printable characters"));
    }
    Ok(text.to_owned())
}
