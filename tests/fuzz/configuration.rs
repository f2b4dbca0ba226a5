//! Configuration files.

use std::fs;

use lobbyd::{
    app::{App, Role},
    config::{Config, Layers},
};

use crate::{Run, support::server::folder};

/// The embedded defaults are parsed each time.
const FIXED_MEMORY: usize = 16 * 1024 * 1024;

#[test]
fn no_configuration_breaks_the_start() {
    let mut run = Run::new("configuration");
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    let path = folder("fuzz-").join("lobbyd.toml");
    let (mut accepted, mut refused) = (0, 0);
    while let Some(text) = run.next() {
        fs::write(&path, &text).unwrap();
        let layers = Layers { file: Some(path.clone()), credstore: None };
        let built = run.measure(&text, FIXED_MEMORY, || {
            let loaded = Config::load(&layers)?;
            // What is printed by `config check`.
            drop(loaded.config.to_toml());
            App::build(loaded.config, Role::Worker).map(drop)
        });
        match built {
            Ok(()) => accepted += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(accepted > 0 && refused > 0);
}
