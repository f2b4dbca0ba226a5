//! The parts that work with a Nextcloud Talk: built of the configuration, and checked by `lobbyd talk
//! check`.

use std::sync::Arc;

use chrono::DateTime;
use secrecy::SecretString;

use crate::config::{Config, ConfigError, Secret, TalkConfig};
use crate::domain::RoomToken;
use crate::logging;
use crate::nextcloud::{Answer, Credentials, TalkClient, Trouble};
use crate::store;
use crate::store::TalkRooms;

/// Difference of the clocks of Talk and its database that is worth a word, in seconds. Both are told in
/// whole seconds.
const CLOCK_DIFFERENCE: i64 = 2;

/// Talk's table and Talk's API.
#[derive(Clone)]
pub(super) struct Talk {
    pub(super) rooms: Arc<dyn TalkRooms>,
    pub(super) client: Arc<TalkClient>,
}

impl Talk {
    /// `None` if no Talk is configured. Nothing is connected yet.
    pub(super) fn open(config: &TalkConfig) -> Result<Option<Self>, ConfigError> {
        let Some(url) = &config.url else { return Ok(None) };
        let client = TalkClient::new(url.expose(), &config.user_agent, credentials(config)?)
            .map_err(|problem| ConfigError::new("talk.url", problem))?;
        if !store::is_table_name(&config.table) {
            let problem = "expected the name of a table, perhaps with that of its schema";
            return Err(ConfigError::new("talk.table", problem));
        }
        let database = config.database_url.as_ref().ok_or_else(|| {
            ConfigError::new("talk.database_url", "expected the URL of Talk's database")
        })?;
        let rooms = store::connect_talk(&database.expose(), &config.table)
            .map_err(|error| ConfigError::new("talk.database_url", error))?;
        Ok(Some(Self { rooms, client: Arc::new(client) }))
    }

    /// Takes over changed credentials and URLs of the database, which are tried first. Returns the
    /// outcome of each that has changed.
    pub(super) async fn reload(
        &self,
        current: &mut TalkConfig,
        next: TalkConfig,
    ) -> Vec<(&'static str, Result<(), String>)> {
        let mut outcomes = Vec::new();
        for (key, is_changed) in [
            ("talk.secret", current.secret != next.secret),
            ("talk.password", current.password != next.password),
        ] {
            outcomes.extend(is_changed.then_some((key, Ok(()))));
        }
        let mut changed = current.clone();
        (changed.secret, changed.secret_file) = (next.secret, next.secret_file);
        (changed.password, changed.password_file) = (next.password, next.password_file);
        match credentials(&changed) {
            Err(error) => outcomes = vec![("talk.password", Err(error.to_string()))],
            Ok(_same) if outcomes.is_empty() => {}
            Ok(credentials) => {
                self.client.use_credentials(credentials);
                *current = changed;
            }
        }
        if let Some(urls) =
            next.database_url.filter(|urls| current.database_url.as_ref() != Some(urls))
        {
            let used = match self.rooms.try_urls(&urls.expose()).await {
                Ok(()) => self.rooms.use_urls(&urls.expose()),
                Err(error) => Err(error),
            };
            outcomes.push(("talk.database_url", used.map_err(|error| logging::causes(&error))));
            if outcomes.last().is_some_and(|(_key, outcome)| outcome.is_ok()) {
                current.database_url = Some(urls);
            }
        }
        outcomes
    }
}

fn credentials(config: &TalkConfig) -> Result<Credentials, ConfigError> {
    let secret = |secret: &Secret| SecretString::from(secret.expose());
    let password = config.password.as_ref().map(secret);
    if config.user.is_some() != password.is_some() {
        return Err(ConfigError::new(
            "talk.user",
            "it needs talk.password, and the other way round",
        ));
    }
    Ok(Credentials {
        secret: config.secret.as_ref().map(secret),
        account: config.user.clone().zip(password),
    })
}

/// Tries database, site and secret, and returns what each of them answers, by its key. Reads one room
/// through Talk: the one with this token, otherwise one whose timer is not due.
pub async fn check_talk(
    config: &Config,
    token: Option<&RoomToken>,
) -> Result<Vec<(&'static str, Result<String, String>)>, ConfigError> {
    let Some(talk) = Talk::open(&config.talk)? else {
        return Err(ConfigError::new("talk.url", "no Nextcloud is configured"));
    };
    let (now, sample) =
        tokio::join!(talk.rooms.now(), talk.rooms.sample(token, talk.client.has_secret()));
    let site = talk.client.check().await;
    let database = match &sample {
        Ok(Some((token, _type))) => {
            Ok(format!("{} can be read, for example room {token}", config.talk.table))
        }
        Ok(None) => match token {
            Some(token) => Err(format!("{} has no room {token} of this server", config.talk.table)),
            None => Ok(format!("{} can be read, and has no room to try", config.talk.table)),
        },
        Err(error) => Err(logging::causes(error)),
    };
    let clocks = |date: &String| {
        let (date, now) = (DateTime::parse_from_rfc2822(date).ok()?, now.as_ref().ok()?);
        let ahead = (date.to_utc() - now).num_seconds();
        (ahead.abs() >= CLOCK_DIFFERENCE).then(|| {
            format!(
                "; its clock differs from the database's by {ahead} s, rooms open by the later one"
            )
        })
    };
    let url = match &site {
        Ok(date) => {
            let clocks = date.as_ref().and_then(clocks).unwrap_or_default();
            Ok(format!("{} answers{clocks}", talk.client.url()))
        }
        Err(trouble) => Err(trouble.to_string()),
    };
    let mut answers = vec![("talk.database_url", database), ("talk.url", url)];
    if let (Ok(Some((token, _type))), Ok(_)) = (sample, site) {
        answers.push(("talk.secret", try_secret(&talk.client, &token).await));
    }
    talk.rooms.close().await;
    Ok(answers)
}

async fn try_secret(client: &TalkClient, token: &RoomToken) -> Result<String, String> {
    match (client.read_room(token).await, client.has_secret()) {
        (Answer::Read(_), true) => Ok(format!("Talk accepts it for room {token}")),
        (Answer::Read(_), false) => {
            Ok(format!("not configured: only public rooms can be opened, such as {token}"))
        }
        (Answer::Trouble(Trouble::Unauthorized), _) => {
            Err("Talk does not accept it. Use the one that `occ config:app:get spreed \
             sip_bridge_shared_secret` prints; only if that is empty, set one: `occ config:app:set \
             spreed sip_bridge_shared_secret --value=SECRET`"
                .to_owned())
        }
        (answer, _) => Err(format!("room {token}: {}", answer.problem())),
    }
}
