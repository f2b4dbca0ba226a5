//! Configuration files.

use std::fs;

use lobbyd::{
    app::{App, Role},
    config::{Config, ConfigError, Layers},
};

use crate::{Run, mutation::corpus, support::server::folder};

const ROLES: [Role; 4] = [Role::Worker, Role::Api, Role::Both, Role::Talk];

/// In bytes: a hundred times the longest of the corpus.
const LONGEST: usize = 80_000;

/// The embedded defaults are parsed each time.
const FIXED_MEMORY: usize = 16 * 1024 * 1024;

#[test]
fn no_configuration_breaks_the_start() {
    let mut run = Run::new("configuration", || corpus("configuration"), LONGEST);
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    let path = folder("fuzz-").join("lobbyd.toml");
    // How often each role was built, and refused.
    let mut counts = [(0, 0); ROLES.len()];
    while let Some((name, text)) = run.next() {
        fs::write(&path, &text).unwrap();
        let layers = Layers { file: Some(path.clone()), credstore: None };
        let built = run.measure(&text, FIXED_MEMORY, || {
            let loaded = Config::load(&layers)?;
            // What is printed by `config check`.
            drop(loaded.config.to_toml());
            Ok(ROLES.map(|role| App::build(loaded.config.clone(), role).map(drop)))
        });
        // What the pools have begun ends.
        runtime.block_on(tokio::task::yield_now());
        let built: [Result<(), ConfigError>; ROLES.len()] =
            built.unwrap_or_else(|error: ConfigError| {
                assert_eq!(name, None, "{error}");
                ROLES.map(|_role| Err(error.clone()))
            });
        for ((role, result), (accepted, refused)) in ROLES.iter().zip(built).zip(&mut counts) {
            match result {
                Ok(()) => *accepted += 1,
                Err(error) => {
                    *refused += 1;
                    assert!(!error.to_string().is_empty());
                    // A file of the corpus suits both roles in one process, and the role that it names.
                    let own = format!("{role:?}.toml").to_lowercase();
                    let suits = |name: &String| *role == Role::Both || *name == own;
                    assert!(!name.as_ref().is_some_and(suits), "{name:?}, {role:?}: {error}");
                }
            }
        }
    }
    println!("fuzz: configuration: accepted and refused for {ROLES:?}: {counts:?}");
    assert!(counts.iter().all(|(accepted, refused)| *accepted > 0 && *refused > 0), "{counts:?}");
}
