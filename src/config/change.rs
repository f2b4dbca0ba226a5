//! Which changes of the configuration require a restart.
//!
//! `app::reload` applies what is listed here and logs the keys that this module names.

use std::collections::{BTreeMap, BTreeSet};

use super::Config;

/// The keys that a running program reloads.
const RELOADED: [&str; 16] = [
    "database.url",
    "database.url_file",
    "events.url",
    "events.url_file",
    "housekeeping.prune",
    "housekeeping.sessions",
    "housekeeping.summary",
    "log.level",
    "sip.shared_secret",
    "sip.shared_secret_file",
    "talk.database_url",
    "talk.database_url_file",
    "talk.password",
    "talk.password_file",
    "talk.secret",
    "talk.secret_file",
];

impl Config {
    /// The keys that a running program reloads and whose value in `next` is another one, without
    /// secrets.
    pub fn reloaded(&self, next: &Self) -> Vec<String> {
        let mut changed = changed_keys(&self.to_toml(), &next.to_toml());
        changed.retain(|key| RELOADED.contains(&key.as_str()) && !is_secret(key));
        changed
    }

    /// The keys whose value in `next` takes effect only after a restart.
    pub fn needs_restart(&self, next: &Self) -> Vec<String> {
        let mut changed = changed_keys(&self.to_toml(), &next.to_toml());
        changed.retain(|key| !RELOADED.contains(&key.as_str()));
        // What is hidden in the text.
        let secret = |config: &Self| {
            config.http.user_header_secret.as_ref().map(|secret| secret.expose().to_owned())
        };
        if secret(self) != secret(next) {
            changed.push("http.user_header_secret".to_owned());
        }
        if self.traces.endpoint != next.traces.endpoint {
            changed.push("traces.endpoint".to_owned());
        }
        changed.dedup();
        // Only whether there is a secret matters to lobbyd: it makes SIP configured.
        if self.sip.shared_secret.is_some() != next.sip.shared_secret.is_some() {
            changed.push("sip.shared_secret".to_owned());
        }
        changed
    }
}

fn is_secret(key: &str) -> bool {
    ["database.", "events.", "sip.", "talk."].iter().any(|section| key.starts_with(section))
}

/// The keys, with their sections, whose values differ.
fn changed_keys(ours: &str, theirs: &str) -> Vec<String> {
    let keys = |text: &str| -> BTreeMap<(String, String), toml::Value> {
        let sections: toml::Table = text.parse().expect("it was written as TOML");
        let keys_of = |(section, keys): (String, toml::Value)| {
            let keys = keys.as_table().cloned().unwrap_or_default();
            keys.into_iter().map(move |(key, value)| ((section.clone(), key), value))
        };
        sections.into_iter().flat_map(keys_of).collect()
    };
    let (ours, theirs) = (keys(ours), keys(theirs));
    let all: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    all.into_iter()
        .filter(|key| ours.get(key) != theirs.get(key))
        .map(|(section, key)| format!("{section}.{key}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn keys_that_require_a_restart_are_named() {
        let old = Config::defaults();
        let mut new = old.clone();
        new.log.level = "debug".to_owned();
        new.database.url = "postgres://lobbyd:new@db/lobbyd".to_owned().into();
        new.housekeeping.prune = "0 0 * * * *".to_owned();
        assert!(old.needs_restart(&new).is_empty());
        assert_eq!(old.reloaded(&new), ["housekeeping.prune", "log.level"]);
        let mut rotated = new.clone();
        rotated.http.user_header_secret = Some("new".to_owned().into());
        new.http.user_header_secret = Some("old".to_owned().into());
        assert_eq!(new.needs_restart(&rotated), ["http.user_header_secret"]);
        new.http.user_header_secret = None;
        new.timers.batch = NonZeroU32::MIN;
        new.sip.dialin_info = Some("call us".to_owned());
        new.sip.shared_secret = Some("secret".to_owned().into());
        let expected = ["sip.dialin_info", "timers.batch", "sip.shared_secret"];
        assert_eq!(old.needs_restart(&new), expected);
    }
}
