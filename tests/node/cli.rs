//! What the program `node` says, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use super::folder::Folder;
use super::said;

fn node(words: &[&str]) -> Output {
    super::node(words.iter().copied()).output().expect("the program was built with this test")
}

/// Makes the password of the members, and has the configuration name it.
fn put_secret(folder: &Folder, file: &str) {
    let text = fs::read_to_string(file).expect("it was written");
    let text = text.replace("/etc/pg_replica/tls/secret", &folder.secret());
    fs::write(file, text).expect("it can be written");
}

#[test]
fn its_version_is_the_packages() {
    let output = node(&["version"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(said.starts_with(concat!("pg_replica ", env!("CARGO_PKG_VERSION"), "\n")), "{said}");
}

#[test]
fn its_help_names_what_exists() {
    let output = node(&["--help"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    let command =
        said.lines().find_map(|line| line.trim().strip_prefix("cargo run -p sim -- run "));
    let scenario = command.and_then(|rest| rest.split(' ').next()).expect("a command to copy");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(root.join(scenario).exists(), "{scenario} does not exist");
    for verb in ["run", "demo", "init", "check", "certs", "status", "switchover", "explain"] {
        assert!(said.contains(&format!("\n  {verb} ")), "{verb} is not in the help");
    }
}

#[test]
fn an_unknown_verb_is_refused() {
    assert_eq!(node(&["serve"]).status.code(), Some(2));
}

#[test]
fn a_first_configuration_is_written_once_and_passes_the_check() {
    let folder = Folder::new("init");
    let file = folder.path("node.toml");
    let written = node(&["init", "--cluster", "shop", "--node", "2", "--output", &file]);
    assert!(written.status.success(), "{}", said(&written));
    let text = fs::read_to_string(&file).expect("it was written");
    let again = node(&["init", "--output", &file]);
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("exists and is left as it is"), "{}", said(&again));
    assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
    put_secret(&folder, &file);
    let checked = node(&["check", "--config", &file]);
    assert!(checked.status.success(), "{}", said(&checked));
    for part in ["is in order", "shop, founded by n1", "n2, which keeps data", "127.0.0.1:7402"] {
        assert!(said(&checked).contains(part), "no {part} in: {}", said(&checked));
    }
}

#[test]
fn what_makes_no_sense_is_not_written() {
    let folder = Folder::new("nonsense");
    let file = folder.path("node.toml");
    let nonsense: [&[&str]; 4] = [
        &["--cluster", "My Shop"],
        &["--hosts", "db1,db2"],
        &["--node", "0"],
        &["--node", "4", "--hosts", "db1,db2,db3"],
    ];
    for words in nonsense {
        let output = node(&[&["init", "--output", &file], words].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(!PathBuf::from(&file).exists());
    }
}

#[test]
fn a_wrong_configuration_ends_the_check_with_its_line() {
    let folder = Folder::new("check");
    let file = folder.path("node.toml");
    assert!(node(&["init", "--output", &file]).status.success());
    let text = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, text.replace("node = 1", "node = \"one\"")).expect("it can be written");
    let line = text.lines().position(|line| line == "node = 1").expect("its line") + 1;
    let output = node(&["check", "--config", &file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).starts_with(&format!("{file}:{line}:1: `node`")), "{}", said(&output));
    let output = node(&["check", "--config", "/nowhere/node.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("node init"), "{}", said(&output));
}

#[test]
fn variables_and_flags_stand_above_the_file() {
    let folder = Folder::new("above");
    let file = folder.path("node.toml");
    assert!(node(&["init", "--output", &file]).status.success());
    put_secret(&folder, &file);
    let output = super::node(["check", "--set", "settings.lease_ms=4000"])
        .env("PG_REPLICA_CONFIG", &file)
        .env("PG_REPLICA_POSTGRES_DATA_DIR", "/elsewhere")
        .output()
        .expect("the program was built with this test");
    for part in [
        "/elsewhere at 127.0.0.1:5433",
        "a lease of 4000 ms",
        "postgres.data_dir, by the variable PG_REPLICA_POSTGRES_DATA_DIR",
        "settings.lease_ms, by --set settings.lease_ms",
    ] {
        assert!(said(&output).contains(part), "no {part} in: {}", said(&output));
    }
}

#[test]
fn certificates_for_several_machines_pass_the_check_of_each() {
    let folder = Folder::new("certs");
    let (file, certs) = (folder.path("node.toml"), folder.path("tls"));
    let hosts = ["--hosts", "10.0.0.1,10.0.0.2,10.0.0.3"];
    assert!(node(&[&["init", "--output", &file], &hosts[..]].concat()).status.success());
    let text = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, text.replace("/etc/pg_replica/tls", &certs)).expect("it can be written");
    let before = node(&["check", "--config", &file]);
    assert!(said(&before).contains("node certs --cluster main"), "{}", said(&before));
    let make = ["certs", "--cluster", "main", "--out", &certs, "--nodes"];
    let made = node(&[&make[..], &["1,2", "--hosts", "1=db1.example.org,10.0.0.9"]].concat());
    assert!(made.status.success(), "{}", said(&made));
    let after = node(&["check", "--config", &file]);
    assert!(after.status.success(), "{}", said(&after));
    let later = node(&[&make[..], &["1,3"]].concat());
    assert!(said(&later).contains("kept  ") && said(&later).contains("made  "), "{}", said(&later));
    let mode = fs::metadata(folder.path("tls/n3.key")).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let wrong = node(&[&make[..], &["1", "--hosts", "7=db7"]].concat());
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_guard_of_its_own_listens_and_ends_when_its_node_is_gone() {
    let folder = Folder::new("guard");
    let socket = folder.path("guard.sock");
    let data = folder.path("data");
    // Nobody ever speaks to it: with `--with-manager` that is the end after a moment.
    let output = node(&["guard", "--socket", &socket, "--data", &data, "--with-manager"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = node(&["guard", "--socket", "/nowhere/guard.sock", "--data", &data]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("guard: "), "{}", said(&output));
}
