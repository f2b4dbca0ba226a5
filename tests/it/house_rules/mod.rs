//! The conventions that the compiler and clippy do not check, checked by reading the source.
//! CONTRIBUTING.md explains them.

mod imports;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below the path, which may be a file itself.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).collect()
}

/// The Rust files of src with their text, by their path within it.
fn sources() -> Vec<(String, String)> {
    let root = repository().join("src");
    let files = files(&root).into_iter();
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

#[test]
fn each_library_is_used_in_one_place() {
    for (library, places) in [
        ("sqlx::", ["store/"].as_slice()),
        ("lapin::", &["bus/amqp/"]),
        ("axum::", &["http/"]),
        ("utoipa", &["http/api/"]),
        ("quick_xml", &["http/api/ocs/xml.rs"]),
        ("reqwest", &["nextcloud/"]),
        ("opentelemetry", &["traces/otlp.rs"]),
        ("argon2", &["auth/passwords.rs"]),
        ("comfy_table", &["cli/output.rs"]),
        ("indicatif", &["cli/"]),
        ("jiff::", &["cli/"]),
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
        for (name, text) in sources() {
            if places.iter().any(|place| name.starts_with(place)) {
                continue;
            }
            for (index, line) in text.lines().enumerate() {
                let is_used = line.contains(library) && !line.trim_start().starts_with("//");
                assert!(!is_used, "{name}:{}: {library} outside of {places:?}", index + 1);
            }
        }
    }
}

#[test]
fn no_file_exceeds_400_lines_without_its_tests() {
    for (name, text) in sources() {
        let lines = text.split("#[cfg(test)]\nmod ").next().unwrap().lines().count();
        assert!(lines <= 400, "{name} has {lines} lines");
    }
}
