//! The rules of the house, kept by reading the source.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The lines of code that mention `word`, as file and line.
fn mentions(word: &str, allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if !line.trim_start().starts_with("//") && line.contains(word) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn each_library_is_known_in_one_place() {
    for (library, home) in [
        ("sqlx::", ["store/"].as_slice()),
        ("lapin::", &["bus/amqp/"]),
        ("axum::", &["http/"]),
        ("utoipa", &["http/api/"]),
        ("quick_xml", &["http/api/ocs/xml.rs"]),
        ("opentelemetry", &["traces/otlp.rs"]),
        ("argon2", &["auth/passwords.rs"]),
        ("tokio_cron_scheduler", &["tasks/housekeeping.rs", "logging.rs"]),
        ("sd_notify", &["systemd.rs"]),
        (
            "anyhow",
            &[
                "main.rs",
                "cli/",
                "app/",
                "supervisor.rs",
                "logging.rs",
                "metrics.rs",
                "http/",
                "tasks/housekeeping.rs",
            ],
        ),
    ] {
        let strangers = mentions(library, home);
        assert!(strangers.is_empty(), "{library} outside of {home:?}: {strangers:#?}");
    }
}

#[test]
fn nobody_imports_against_the_order() {
    for (module, forbidden) in [
        ("domain/", ["store", "bus", "tasks", "http", "app", "config", "logging"].as_slice()),
        ("store/", &["bus", "tasks", "http", "app", "config"]),
        ("bus/", &["store", "tasks", "http", "app", "config"]),
        ("tasks/", &["http", "app", "config"]),
        ("traces/", &["store", "bus", "rooms", "tasks", "http", "app", "config"]),
        ("auth/", &["rooms", "bus", "tasks", "http", "app", "config"]),
        ("rooms/", &["bus", "tasks", "http", "app", "config"]),
        ("http/", &["store", "bus", "tasks", "app", "config"]),
    ] {
        for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with(module)) {
            for other in forbidden {
                let imports =
                    [format!("crate::{other}"), format!("    {other}::"), format!("    {other},")];
                let found = text.lines().any(|line| {
                    !line.trim_start().starts_with("//")
                        && imports.iter().any(|import| line.contains(import))
                });
                assert!(!found, "{name} imports {other}");
            }
        }
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    for (name, text) in sources() {
        let lines = text.split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(lines <= 500, "{name} has {lines} lines");
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} begins without a word about itself");
    }
}

#[test]
fn sql_is_never_put_together_from_values() {
    // The one exception is a setting of a session, made of a number.
    assert_eq!(mentions("AssertSqlSafe(", &[]).len(), 1);
}
