//! The inner walls of the house, which no compiler enforces: who may name what, how long things may
//! get, and that the documents and the code speak of the same things.
//!
//! It reads the tree as text. It knows nothing of what the code does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pg_replica::sabotage::Saboteur;
use sim::scenario::saboteur_name;

const LINES_MAX: usize = 700;
const COLUMNS_MAX: usize = 100;

/// A source file: its path from the root, its text, and its code without comments and strings.
struct Source {
    path: String,
    text: String,
    code: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder` with this ending, in order; none where the folder does not exist.
fn files(folder: &str, ending: &str) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    let mut paths: Vec<String> = found
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .map(|path| path.strip_prefix(root()).expect("below the root").display().to_string())
        .collect();
    paths.sort();
    paths
}

fn sources(folder: &str) -> Vec<Source> {
    files(folder, "rs")
        .into_iter()
        .map(|path| {
            let text = read(&path);
            let code = code_of(&text);
            Source { path, text, code }
        })
        .collect()
}

fn all_sources() -> Vec<Source> {
    ["src", "sim/src", "chaos/src", "tests", "sim/tests"]
        .iter()
        .flat_map(|folder| sources(folder))
        .collect()
}

/// The text without line comments and without what stands in string literals.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(raw) = code.ends_with('#').then(|| rest.find("\"#")).flatten() {
            rest = &rest[raw + 2..];
        } else if rest.starts_with('"') {
            rest = &rest[string_length(rest)..];
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest = &rest[rest[1..].find('\'').map_or(1, |end| end + 2)..];
        } else {
            code.push_str(&rest[..1]);
            rest = &rest[1..];
        }
    }
    code.push_str(rest);
    code
}

/// How long the literal at the beginning of `text` is, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if !escaped && letter == '"' {
            return at + 1;
        }
        escaped = letter == '\\' && !escaped;
    }
    text.len()
}

fn words(code: &str) -> BTreeSet<&str> {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect()
}

/// Whether the code names `crate_name::module`, alone or in a group of imports.
fn names(code: &str, crate_name: &str, module: &str) -> bool {
    let dense: String = code.chars().filter(|letter| !letter.is_whitespace()).collect();
    let path = format!("{crate_name}::{module}");
    let alone = dense.match_indices(&path).any(|(at, _)| {
        let next = dense[at + path.len()..].chars().next();
        next.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_')
    });
    let group = format!("{crate_name}::{{");
    let grouped = dense.match_indices(&group).any(|(at, _)| {
        let inside = &dense[at + group.len()..];
        let end = inside.find(';').unwrap_or(inside.len());
        words(&inside[..end]).contains(module)
    });
    alone || grouped
}

#[track_caller]
fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn the_core_and_the_control_state_name_no_runtime_no_clock_and_no_operating_system() {
    let mut offences = Vec::new();
    for source in ["src/ha", "src/control"].iter().flat_map(|folder| sources(folder)) {
        let words = words(&source.code);
        for word in ["tokio", "async", "await", "Instant", "SystemTime", "openraft", "madsim"] {
            if words.contains(word) {
                offences.push(format!("{} names `{word}`", source.path));
            }
        }
        for module in ["net", "fs", "process", "thread", "env"] {
            if names(&source.code, "std", module) {
                offences.push(format!("{} names `std::{module}`", source.path));
            }
        }
    }
    assert_none("the pure rooms know nothing of the world", &offences);
}

#[test]
fn only_the_consensus_adapter_names_the_consensus_library() {
    let allowed = ["src/runtime/", "src/env/mod.rs", "src/os/"];
    let offences: Vec<String> = sources("src")
        .into_iter()
        .filter(|source| !allowed.iter().any(|room| source.path.starts_with(room)))
        .filter(|source| words(&source.code).contains("openraft"))
        .map(|source| format!("{} names `openraft`", source.path))
        .collect();
    assert_none("the consensus library stays in the runtime", &offences);
}

#[test]
fn only_the_rooms_of_the_real_machine_touch_the_operating_system() {
    // The simulator's command line reads scenarios and writes plans; its worlds do not. A node put
    // together and the demonstration exist on a real machine only, as does the world of processes.
    let allowed = [
        "src/os/",
        "src/service/",
        "src/demo/",
        "src/cli/",
        "src/bin/",
        "sim/src/bin/",
        "sim/src/tools/",
    ];
    let readers = ["sim/src/scenario/read.rs", "src/config/files.rs"];
    let mut offences = Vec::new();
    for source in ["src", "sim/src"].iter().flat_map(|folder| sources(folder)) {
        let path = source.path.as_str();
        if allowed.iter().any(|room| path.starts_with(room)) || readers.contains(&path) {
            continue;
        }
        for (crate_name, modules) in
            [("tokio", ["net", "time", "process", "fs"]), ("std", ["net", "env", "process", "fs"])]
        {
            for module in modules {
                if names(&source.code, crate_name, module) {
                    offences.push(format!("{path} names `{crate_name}::{module}`"));
                }
            }
        }
    }
    assert_none("sockets, files, processes and timers belong to the real machine", &offences);
}

#[test]
fn what_judges_the_world_of_processes_touches_no_machine() {
    let pure = ["chaos/src/world/account.rs", "chaos/src/world/tale.rs", "chaos/src/impossible.rs"];
    let mut offences = Vec::new();
    for path in pure.iter().chain(["chaos/src/slack.rs"].iter()) {
        let code = code_of(&read(path));
        for crate_name in ["tokio", "std"] {
            for module in ["net", "time::Instant", "process", "fs", "env", "thread"] {
                if names(&code, crate_name, module) {
                    offences.push(format!("{path} names `{crate_name}::{module}`"));
                }
            }
        }
    }
    assert_none("the judgement rests on what was seen, and looks at nothing itself", &offences);
}

#[test]
fn no_file_is_longer_than_a_person_reads_and_no_line_wider_than_a_screen() {
    let mut offences = Vec::new();
    for source in all_sources() {
        let count = source.text.lines().count();
        if count > LINES_MAX {
            offences.push(format!("{} has {count} lines", source.path));
        }
        for (number, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                offences.push(format!("{}:{} has {columns} columns", source.path, number + 1));
            }
        }
    }
    assert_none("700 lines and 100 columns", &offences);
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let bare: Vec<String> = ["src", "sim/src", "chaos/src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert_none("a source file opens with `//!`", &bare);
}

#[test]
fn the_vocabulary_of_the_house_is_kept() {
    /// What iproute2 calls it when a port is put into a switch.
    const WORD_OF_A_TOOL: &str = "port, \"master\", ";
    let mut offences = Vec::new();
    for source in all_sources().iter().filter(|source| source.path != "tests/tidy.rs") {
        for (number, line) in source.text.lines().enumerate() {
            let own = line.to_lowercase().replace(WORD_OF_A_TOOL, "");
            if words(&own).contains("master") {
                offences.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    assert_none("it is the primary, or the leader of the consensus", &offences);
}

#[test]
fn every_scenario_opens_with_its_claim() {
    let mut offences = Vec::new();
    for path in files("scenarios", "toml").into_iter().chain(files("chaos/profiles", "toml")) {
        let text = read(&path);
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if !first.is_some_and(|line| line.starts_with("claim = \"")) {
            offences.push(path);
        }
    }
    assert_none("the first key of a scenario is its claim", &offences);
}

#[test]
fn every_way_to_break_the_product_is_documented() {
    let safety = read("docs/safety.md");
    let missing: Vec<String> = Saboteur::ALL
        .iter()
        .map(|saboteur| saboteur_name(*saboteur))
        .filter(|name| !safety.contains(&format!("`{name}`")))
        .collect();
    assert_none("docs/safety.md lists every saboteur", &missing);
}

#[test]
fn every_invariant_has_its_file_and_its_place_in_the_documents() {
    let safety = read("docs/safety.md");
    let checks = files("sim/src/invariants", "rs");
    let mut offences = Vec::new();
    for number in 1..=10 {
        let prefix = format!("sim/src/invariants/i{number:02}_");
        let Some(check) = checks.iter().find(|path| path.starts_with(&prefix)) else {
            offences.push(format!("I{number} has no file"));
            continue;
        };
        let name = check.rsplit('/').next().expect("a path has a last part");
        if !safety.contains(name) || !safety.contains(&format!("**I{number} ")) {
            offences.push(format!("docs/safety.md does not state I{number} or name {name}"));
        }
        if !read(check).starts_with(&format!("//! **I{number} ")) {
            offences.push(format!("{check} does not open with its invariant"));
        }
    }
    assert_none("an invariant's number leads to its check", &offences);
}

#[test]
fn every_path_that_the_documents_name_exists() {
    let mut offences = Vec::new();
    for document in
        files("docs", "md").into_iter().chain(["README.md", "ARCHITECTURE.md"].map(String::from))
    {
        let Ok(text) = fs::read_to_string(root().join(&document)) else { continue };
        for quoted in text.split('`').skip(1).step_by(2) {
            let starts = ["src/", "sim/", "scenarios/", "chaos/", "docs/", "tests/", "ci/"];
            let is_path = starts.iter().any(|start| quoted.starts_with(start))
                && !quoted.contains(['*', '<', ' ', '{', '…']);
            if is_path && !root().join(quoted).exists() {
                offences.push(format!("{document} names `{quoted}`"));
            }
        }
    }
    assert_none("a document names what exists", &offences);
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut offences = Vec::new();
    let documents = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(String::from);
    for document in files("docs", "md").into_iter().chain(documents) {
        let text = read(&document);
        let folder = root().join(&document).parent().expect("a file has a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !folder.join(link).exists() {
                offences.push(format!("{document} links to {link}"));
            }
        }
    }
    assert_none("a link leads somewhere", &offences);
}

/// The cells of the rows of the table whose head begins so.
fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().into()).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn every_cell_of_the_guarantee_has_a_scenario() {
    let safety = read("docs/safety.md");
    let promises = table(&safety, "| fault | quorum-sync |");
    let scenarios = table(&safety, "| fault | scenarios:");
    assert!(!promises.is_empty(), "docs/safety.md has no table of the guarantee");
    let faults = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(faults(&promises), faults(&scenarios), "the tables have the same rows");
    let mut offences = Vec::new();
    for (promised, run) in promises.iter().zip(&scenarios) {
        for (column, (promise, cell)) in promised.iter().zip(run).enumerate().skip(1) {
            let links = cell.matches("](../scenarios/").count();
            if links == 0 && promise != "—" {
                offences.push(format!("{}, column {column}", promised[0]));
            }
        }
    }
    assert_none("what is promised is run", &offences);
}

#[test]
fn the_documents_that_a_stranger_needs_exist() {
    let needed = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "docs/README.md"];
    let missing: Vec<String> =
        needed.iter().filter(|path| !root().join(path).exists()).map(ToString::to_string).collect();
    assert_none("the house has a front door", &missing);
    let readme = read("README.md");
    for command in ["cargo run -p sim -- run ", "cargo test --features sim", "ci/check"] {
        assert!(readme.contains(command), "README.md does not tell `{command}`");
    }
}

#[test]
fn this_test_sees_through_comments_strings_and_groups() {
    let code = code_of("use std::{fs, io}; // tokio\nlet a = \"tokio \\\" async\"; let b = '\"';");
    assert!(names(&code, "std", "fs") && !names(&code, "std", "net"));
    assert!(!words(&code).contains("tokio") && !words(&code).contains("async"));
    assert!(words(&code).contains("b"));
    assert!(names("use std :: net::TcpStream;", "std", "net"));
    assert!(!names("use std::network;", "std", "net"));
}
