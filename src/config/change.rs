//! What of a changed configuration takes a restart.

use std::collections::{BTreeMap, BTreeSet};

use super::Config;

/// What is taken over while the program runs.
const RELOADED: [&str; 11] = [
    "database.url",
    "database.url_file",
    "events.url",
    "events.url_file",
    "housekeeping.gauges",
    "housekeeping.prune",
    "housekeeping.sessions",
    "housekeeping.summary",
    "log.level",
    "sip.shared_secret",
    "sip.shared_secret_file",
];

impl Config {
    /// The keys whose change to what `next` says takes a restart.
    pub fn needs_restart(&self, next: &Self) -> Vec<String> {
        let mut changed = changed_keys(&self.to_toml(), &next.to_toml());
        changed.retain(|key| !RELOADED.contains(&key.as_str()));
        if self.sip.shared_secret.is_some() != next.sip.shared_secret.is_some() {
            changed.push("sip.shared_secret".to_owned());
        }
        changed
    }
}

/// The keys, with their sections, that two configurations do not have in common.
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
    fn what_cannot_be_taken_over_is_named() {
        let old = Config::defaults();
        let mut new = old.clone();
        new.log.level = "debug".to_owned();
        new.database.url = "postgres://lobbyd:new@db/lobbyd".to_owned().into();
        new.housekeeping.prune = "0 0 * * * *".to_owned();
        assert!(old.needs_restart(&new).is_empty());
        new.timers.batch = NonZeroU32::MIN;
        new.sip.dialin_info = Some("call us".to_owned());
        new.sip.shared_secret = Some("secret".to_owned().into());
        let expected = ["sip.dialin_info", "timers.batch", "sip.shared_secret"];
        assert_eq!(old.needs_restart(&new), expected);
    }
}
