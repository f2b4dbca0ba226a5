//! The Debian package: built from the program of these tests, and unpacked into a directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use lobbyd::config::DEFAULTS;

use crate::support::{
    daemon::Daemon,
    database::Database,
    server::folder,
    tools::{debian, file, output, printed, tool},
};

/// The unpacked package: installed files in `root`, dpkg's control files in `control`.
struct Package {
    archive: PathBuf,
    root: PathBuf,
    control: PathBuf,
}

static PACKAGE: LazyLock<Package> = LazyLock::new(|| {
    // cargo-deb takes the program from the target directory of a repository. In this copy of the
    // repository everything except that directory is a link to the original.
    let repository = folder("repository-");
    for entry in fs::read_dir(file("")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "target" {
            std::os::unix::fs::symlink(entry.path(), repository.join(entry.file_name())).unwrap();
        }
    }
    let target = repository.join("target");
    fs::create_dir_all(target.join("release")).unwrap();
    // Strip it like the release profile, so that packing is fast.
    let program = target.join("release/lobbyd");
    printed(debian("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_lobbyd")));
    printed(Command::new(&program).arg("generate").arg(target.join("generated")));

    let archive = folder("package-").join("lobbyd.deb");
    let mut build = tool("cargo-deb-3.8.0/bin/cargo-deb");
    let cargo = Path::new(env!("CARGO")).parent().unwrap().display();
    build.env("PATH", format!("{cargo}:/usr/sbin:/usr/bin:/sbin:/bin")).current_dir(&repository);
    build.args(["--no-build", "--locked", "--offline", "--fast", "--output"]).arg(&archive);
    let output = output(&mut build);
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warnings.is_empty(), "{warnings}");
    let (root, control) = (folder("root-"), folder("control-"));
    printed(debian("dpkg-deb").arg("--extract").args([&archive, &root]));
    printed(debian("dpkg-deb").arg("--control").args([&archive, &control]));
    Package { archive, root, control }
});

impl Package {
    fn field(&self, name: &str) -> String {
        printed(debian("dpkg-deb").arg("--field").arg(&self.archive).arg(name)).trim().to_owned()
    }

    fn script(&self, name: &str) -> String {
        fs::read_to_string(self.control.join(name)).unwrap()
    }
}

/// The files in a directory with their modes, by relative path.
fn files(root: &Path) -> Vec<String> {
    let listed = printed(debian("find").arg(root).args(["-type", "f", "-printf", "%P %m\n"]));
    let mut files: Vec<String> = listed.lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn the_package_contains_the_expected_files_and_fields() {
    let package = &*PACKAGE;
    let mut expected: Vec<String> = [
        "etc/lobbyd/lobbyd.toml 644",
        "usr/bin/lobbyd 755",
        "usr/lib/systemd/system/lobbyd-api.service 644",
        "usr/lib/systemd/system/lobbyd-run.service 644",
        "usr/lib/systemd/system/lobbyd-talk.service 644",
        "usr/lib/systemd/system/lobbyd.service 644",
        "usr/share/bash-completion/completions/lobbyd 644",
        "usr/share/fish/vendor_completions.d/lobbyd.fish 644",
        "usr/share/man/man5/lobbyd.toml.5.gz 644",
        "usr/share/zsh/vendor-completions/_lobbyd 644",
        "usr/share/doc/lobbyd/changelog.Debian.gz 644",
        "usr/share/doc/lobbyd/changelog.gz 644",
        "usr/share/doc/lobbyd/copyright 644",
        "usr/share/doc/lobbyd/lobbyd.toml 644",
    ]
    .map(str::to_owned)
    .to_vec();
    // Everything that an operator needs, except what tests, packagers and the README use.
    for document in files(&file("deploy")) {
        let is_omitted = document.starts_with("debian/")
            || document.starts_with("images/")
            || document.contains("alerts-test")
            || document.contains(".service");
        if !is_omitted {
            expected.push(format!("usr/share/doc/lobbyd/{document}"));
        }
    }
    let (pages, others): (Vec<String>, Vec<String>) =
        files(&package.root).into_iter().partition(|file| file.starts_with("usr/share/man/man1/"));
    expected.sort();
    assert_eq!(others, expected);
    for page in ["lobbyd", "lobbyd-worker", "lobbyd-api", "lobbyd-user-add"] {
        assert!(pages.contains(&format!("usr/share/man/man1/{page}.1.gz 644")), "{pages:?}");
    }

    assert_eq!(package.field("Package"), "lobbyd");
    assert_eq!(package.field("Version"), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    assert_eq!(package.field("Description").lines().next(), Some(env!("CARGO_PKG_DESCRIPTION")));
    assert!(package.field("Depends").contains("libc6"), "{}", package.field("Depends"));
    assert_eq!(package.field("Recommends"), "ca-certificates, tzdata");
    let copyright =
        fs::read_to_string(package.root.join("usr/share/doc/lobbyd/copyright")).unwrap();
    for line in ["Copyright: 2026 The lobbyd authors", "License: MIT OR Apache-2.0"] {
        assert!(copyright.lines().any(|found| found == line), "{line} in {copyright}");
    }
    for line in fs::read_to_string(file("LICENSE-MIT")).unwrap().lines().skip(4) {
        assert!(copyright.contains(line), "{line}");
    }
    assert_eq!(package.script("conffiles"), "/etc/lobbyd/lobbyd.toml\n");
}

#[test]
fn the_scripts_start_the_daemon_but_not_the_api() {
    let package = &*PACKAGE;
    for script in ["postinst", "prerm", "postrm"] {
        printed(debian("sh").arg("-n").arg(package.control.join(script)));
        assert!(package.script(script).starts_with("#!/bin/sh\nset -e\n"), "{script}");
    }
    let (install, remove) = (package.script("postinst"), package.script("prerm"));
    let enabled: Vec<&str> = install
        .lines()
        .filter_map(|line| line.trim().strip_prefix("if deb-systemd-helper --quiet was-enabled "))
        .collect();
    let units =
        ["lobbyd.service", "lobbyd-api.service", "lobbyd-run.service", "lobbyd-talk.service"];
    let tested = units.map(|unit| format!("{unit}; then"));
    assert_eq!(enabled, tested);
    assert!(install.contains("if deb-systemd-helper debian-installed lobbyd-api.service; then"));
    assert!(!install.contains("debian-installed lobbyd.service"));
    assert!(install.contains("deb-systemd-invoke $_dh_action lobbyd.service "), "{install}");
    assert!(install.contains("deb-systemd-invoke try-restart lobbyd-api.service "), "{install}");
    for unit in units {
        assert!(remove.contains(&format!("deb-systemd-invoke stop {unit} ")), "{remove}");
    }
}

#[test]
fn the_man_pages_render_without_warnings() {
    let pages = ["man1", "man5"].map(|part| PACKAGE.root.join("usr/share/man").join(part));
    for page in pages.iter().flat_map(|pages| fs::read_dir(pages).unwrap()) {
        let page = page.unwrap().path();
        let mut man = debian("man");
        man.args(["--warnings", "--local-file"]).arg(&page).env("LC_ALL", "C.UTF-8");
        man.env("MANWIDTH", "80");
        let output = output(&mut man);
        let [shown, warnings] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success() && warnings.is_empty(), "{page:?}: {warnings}");
        assert!(shown.contains("SYNOPSIS"), "{shown}");
        assert!(shown.contains(concat!("lobbyd ", env!("CARGO_PKG_VERSION"))), "{shown}");
    }
}

/// Each key with its default, and what the program reads from elsewhere.
#[test]
fn the_man_pages_explain_configuration_and_environment() {
    let shown = |page: &str| {
        let mut man = debian("man");
        man.arg("--local-file").arg(PACKAGE.root.join("usr/share/man").join(page));
        printed(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "200"))
    };
    let configuration = shown("man5/lobbyd.toml.5.gz");
    let mut section = "";
    for line in DEFAULTS.lines() {
        if line.starts_with('[') {
            section = line;
            assert!(configuration.contains(line), "{line}");
        } else if let Some((key, value)) = line.split_once(" = ")
            && !line.starts_with('#')
        {
            let entry = format!("{key} ({value})");
            assert!(configuration.contains(&entry), "{section} {entry} in {configuration}");
        }
    }
    for example in ["url_file (unset; for example \"/run/secrets/database-url\")", "sqlite://"] {
        assert!(configuration.contains(example), "{example} in {configuration}");
    }
    let program = shown("man1/lobbyd.1.gz");
    for part in ["EXIT STATUS", "78", "SIGHUP", "LOBBYD__DATABASE__URL", "/etc/credstore"] {
        assert!(program.contains(part), "{part} in {program}");
    }
}

#[test]
fn links_in_the_packaged_documents_lead_to_packaged_files() {
    let documents = PACKAGE.root.join("usr/share/doc/lobbyd");
    let pages: Vec<String> =
        files(&documents).into_iter().filter(|file| file.ends_with(".md 644")).collect();
    assert!(pages.len() > 8, "{pages:?}");
    for page in pages {
        let page = documents.join(page.trim_end_matches(" 644"));
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            let leads =
                target.starts_with("https://") || page.parent().unwrap().join(target).exists();
            assert!(leads, "{target} in {}", page.display());
        }
    }
}

#[test]
fn lintian_finds_nothing() {
    let mut lintian = debian("/usr/bin/lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]);
    // The package is not uploaded to Debian.
    lintian.args(["--suppress-tags", "initial-upload-closes-no-bugs"]);
    let found = printed(lintian.arg(&PACKAGE.archive));
    assert_eq!(found, "");
}

/// Each release is a new entry.
#[test]
fn the_changelog_of_the_package_has_its_version() {
    let changelog = fs::read_to_string(file("deploy/debian/changelog")).unwrap();
    let entry = format!("lobbyd ({}) ", PACKAGE.field("Version"));
    assert!(changelog.starts_with(&entry), "{changelog}");
}

#[test]
fn bash_completes_the_commands() {
    let script = r#"
        source "$1"
        complete -p lobbyd
        COMP_WORDS=(lobbyd user a) COMP_CWORD=2
        _lobbyd lobbyd a user
        echo "${COMPREPLY[@]}"
    "#;
    let completions = PACKAGE.root.join("usr/share/bash-completion/completions/lobbyd");
    let shown = printed(debian("bash").args(["-ec", script, "bash"]).arg(completions));
    assert!(shown.contains(" -F _lobbyd "), "{shown}");
    assert_eq!(shown.lines().last(), Some("add"), "{shown}");
}

/// The command of a unit, with the program and the configuration of the unpacked package, and this
/// working directory.
fn command(unit: &str, state: &Path) -> Command {
    let root = &PACKAGE.root;
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system").join(unit)).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/")).unwrap();
    let (program, argument) = start.split_once(' ').unwrap();
    let mut command = Command::new(root.join(program));
    command.arg("--config").arg(root.join("etc/lobbyd/lobbyd.toml")).arg(argument);
    command.env_clear().current_dir(state);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installed_daemon_opens_a_room_with_the_installed_configuration() {
    let state = folder("state-");
    let mut daemon = Daemon::spawn(&mut command("lobbyd.service", &state));
    daemon.ready().await;
    let database = Database::in_file(&state.join("lobbyd.db"));
    let timer = database.now().await + 2;
    database.insert_rooms("webinar", 1, timer).await;
    database.lobby_becomes("webinar1", 0).await;
    // The row was open before this reading of the clock.
    assert!(database.now().await >= timer, "opened early");
    assert_eq!(daemon.stop().await.code(), Some(0), "{}", daemon.log());
}

#[test]
fn the_installed_api_refuses_to_start_without_a_broker() {
    let output = command("lobbyd-api.service", &folder("state-")).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("events.url"));
}

#[test]
fn the_installed_configuration_has_only_existing_keys_and_paths() {
    let root = &PACKAGE.root;
    let installed = fs::read_to_string(root.join("etc/lobbyd/lobbyd.toml")).unwrap();
    // Also with the commented examples enabled.
    let examples: Vec<&str> = installed
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(example) if example.contains(" = ") => example,
            _prose => line,
        })
        .collect();
    let everything = folder("config-").join("lobbyd.toml");
    for text in [installed.clone(), examples.join("\n")] {
        fs::write(&everything, text).unwrap();
        let mut check = Command::new(root.join("usr/bin/lobbyd"));
        printed(check.env_clear().arg("--config").arg(&everything).args(["config", "check"]));
    }
    for path in installed.split_whitespace().filter(|word| word.starts_with("/usr/")) {
        let path = path.trim_end_matches([',', ';', '.']);
        assert!(root.join(&path[1..]).exists(), "{path}");
    }
}
