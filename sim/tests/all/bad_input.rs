//! Bad input ends the program `sim` with one clear sentence, its place, and exit code 2. Nothing is
//! run and nothing is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::house;

const HEAD: &str = "claim = \"c\"\nduration = \"60s\"\n";

fn sim(arguments: &[&str]) -> Output {
    let mut command = house::sim(arguments);
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.output().expect("the program was built with this test")
}

/// A file with this text, under a name of its own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("the folder for tests can be written to");
    path
}

/// Runs the program and expects one sentence on standard error that begins and goes on like this.
#[track_caller]
fn assert_refused(arguments: &[&str], beginning: &str, contains: &str) {
    let output = sim(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?} said {said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
    assert_eq!(said.lines().count(), 1, "{arguments:?} said {said}");
    assert!(said.starts_with(beginning), "{arguments:?} said {said}, not {beginning}");
    assert!(said.contains(contains), "{arguments:?} said {said}, without {contains}");
}

/// Runs a file with this text through `run`, and expects a refusal at this line and column.
#[track_caller]
fn assert_file_refused(name: &str, text: &str, place: &str, contains: &str) {
    let path = file(name, text);
    let path = path.to_str().expect("a path in UTF-8");
    assert_refused(&["run", path], &format!("{path}:{place}: "), contains);
}

#[test]
fn an_unknown_key_is_refused_with_the_keys_that_are_known() {
    let text = format!("{HEAD}colour = \"red\"\n");
    assert_file_refused("unknown-key.toml", &text, "3:1", "`colour` means nothing to a file");
}

#[test]
fn a_time_after_the_end_is_refused() {
    let text = format!("{HEAD}[[event]]\nat = \"61s\"\nfault = \"power-loss\"\ntarget = \"one\"\n");
    let path = file("late.toml", &text);
    let path = path.to_str().expect("a path in UTF-8");
    assert_refused(&["run", path], &format!("{path}:"), "the run ends at 60s");
}

#[test]
fn a_time_that_is_none_is_refused() {
    let text =
        format!("{HEAD}[[event]]\nat = \"soon\"\nfault = \"power-loss\"\ntarget = \"one\"\n");
    assert_file_refused("no-time.toml", &text, "4:6", "\"soon\" is no duration");
}

#[test]
fn a_target_that_does_not_exist_is_refused() {
    let text =
        format!("{HEAD}[[event]]\nat = \"1s\"\nfault = \"power-loss\"\ntarget = \"node:4\"\n");
    assert_file_refused("no-target.toml", &text, "6:10", "there is no member 4");
}

#[test]
fn a_target_that_can_be_nobody_is_refused() {
    for (name, cluster, event, why) in [
        (
            "no-sync",
            "",
            "fault = \"crash-loop\"\nprocess = \"postgres\"\nperiod = \"1s\"\nfor = \"9s\"\n\
             target = \"sync-standby\"",
            "there is no sync-standby in async mode",
        ),
        (
            "witness",
            "[cluster]\nnodes = 2\nwitnesses = 1\n",
            "fault = \"postgres-hang\"\ntarget = \"node:3\"",
            "3 is a witness, and has no Postgres",
        ),
        (
            "single",
            "[cluster]\nnodes = 1\n",
            "fault = \"loss\"\npercent = 10\ntarget = \"others\"",
            "in a cluster of one, others is nobody",
        ),
    ] {
        let text = format!("{HEAD}{cluster}[[event]]\nat = \"1s\"\n{event}\n");
        let path = file(&format!("{name}.toml"), &text);
        let path = path.to_str().expect("a path in UTF-8");
        assert_refused(&["run", path], &format!("{path}:"), why);
    }
}

#[test]
fn an_event_that_finds_nobody_fails_a_written_run_and_not_a_drawn_one() {
    let event = "[[event]]\nat = \"1s\"\nfault = \"order\"\norder = \"switchover\"\n\
                 to = \"old-primary\"\nanswer = \"done\"\n";
    let head = "claim = \"c\"\nduration = \"3s\"\n";
    let written = file("misses.toml", &format!("{head}{event}"));
    let drawn = file("misses-drawn.toml", &format!("{head}drawn = true\n{event}"));
    let code = |path: &PathBuf| {
        let output = sim(&["run", path.to_str().expect("a path in UTF-8")]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (failed, said) = code(&written);
    assert_eq!(failed, Some(1), "{said}");
    assert!(said.contains("expect at") && said.contains("nobody was there for: order"), "{said}");
    assert_eq!(code(&drawn).0, Some(0));
}

#[test]
fn an_even_number_of_voters_is_refused() {
    let text = format!("{HEAD}[cluster]\nnodes = 4\n");
    let path = file("even.toml", &text);
    let path = path.to_str().expect("a path in UTF-8");
    assert_refused(&["run", path], &format!("{path}:"), "even number");
}

#[test]
fn an_unknown_sabotage_is_refused_in_a_file_and_on_the_command_line() {
    let text = format!("{HEAD}[sabotage]\nname = \"gremlin\"\n");
    assert_file_refused("gremlin.toml", &text, "4:8", "\"gremlin\" is no saboteur; there are ");
    let output = sim(&["mutants", "--only", "gremlin"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no saboteur"));
}

#[test]
fn a_file_that_is_no_toml_is_refused() {
    assert_file_refused("torn.toml", "claim = \"c\nduration", "2:9", "");
}

#[test]
fn a_scenario_that_no_world_can_show_is_refused() {
    let text = format!("messages_only = \"why\"\nsockets_only = \"why\"\n{HEAD}");
    assert_file_refused("no-world.toml", &text, "1:1", "leave no world to run it in");
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    for name in ["../up", "/etc", "a/b", "..", ".", ""] {
        let text = format!("{HEAD}name = \"{name}\"\n");
        assert_file_refused("elsewhere.toml", &text, "3:8", "one word, and no path");
    }
}

#[test]
fn nothing_at_a_time_is_refused() {
    let profile = super::house::root().join("chaos/profiles/everything.toml");
    let profile = profile.to_str().expect("a path in UTF-8");
    let said = sim(&["sweep", profile, "--seeds", "1..2", "--jobs", "0"]);
    assert_eq!(said.status.code(), Some(2));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("'0' for '--jobs <JOBS>'"), "{said}");
}

#[test]
fn a_file_of_a_newer_format_is_refused() {
    assert_file_refused("newer.toml", &format!("version = 2\n{HEAD}"), "1:11", "format 2");
}

#[test]
fn a_missing_file_is_refused_by_every_verb() {
    for arguments in [
        &["run", "missing.toml"][..],
        &["run", "missing.toml", "--trace"],
        &["sweep", "missing.toml", "--seeds", "1..2"],
        &["replay", "missing.toml"],
        &["determinism", "--profile", "missing.toml"],
        &["mutants", "--profile", "missing.toml", "--only", "share-epoch"],
        &["shrink", "missing.toml"],
        &["timeline", "missing.toml", "-o", "missing.html"],
    ] {
        assert_refused(arguments, "missing.toml: cannot be read: ", "No such file");
    }
    assert_refused(&["list", "missing"], "sim: missing cannot be read: ", "");
}

#[test]
fn one_bad_file_among_good_ones_stops_everything_before_it_begins() {
    let good = file("good.toml", &format!("{HEAD}[workload]\nwriters = 1\n"));
    let good = good.to_str().expect("a path in UTF-8");
    assert_refused(&["run", good, "missing.toml"], "missing.toml: cannot be read", "");
}

#[test]
fn a_profile_is_no_plan() {
    let text = format!("{HEAD}[swarm]\nnodes = [3]\nmodes = [\"async\"]\nstart = \"4s..56s\"\n");
    let path = file("profile.toml", &text);
    let path = path.to_str().expect("a path in UTF-8");
    for arguments in [&["replay", path][..], &["shrink", path], &["timeline", path, "-o", "p.html"]]
    {
        assert_refused(arguments, &format!("{path}: is a profile"), "");
    }
}

#[test]
fn a_plan_of_a_newer_format_is_neither_shrunk_nor_drawn() {
    let path = file("newer-plan.toml", &format!("version = 2\n{HEAD}"));
    let path = path.to_str().expect("a path in UTF-8");
    for arguments in [&["shrink", path][..], &["timeline", path, "-o", "newer-plan.html"]] {
        assert_refused(arguments, &format!("{path}:1:11: "), "format 2");
    }
    assert!(!Path::new(env!("CARGO_TARGET_TMPDIR")).join("newer-plan.html").exists());
}

#[test]
fn a_clean_plan_is_not_shrunk() {
    let path = file("clean.toml", "claim = \"c\"\nduration = \"3s\"\n");
    let path = path.to_str().expect("a path in UTF-8");
    let arguments = ["shrink", path, "-o", "clean-shrunk.toml"];
    assert_refused(&arguments, &format!("{path}: is clean with this build"), "no failure");
    assert!(!Path::new(env!("CARGO_TARGET_TMPDIR")).join("clean-shrunk.toml").exists());
}

#[test]
fn a_place_that_cannot_be_written_to_is_told_before_the_search() {
    let text = "claim = \"c\"\nduration = \"5s\"\n[expect]\nfailovers = \"3\"\n";
    let path = file("fails.toml", text);
    let path = path.to_str().expect("a path in UTF-8");
    // A file is no folder.
    let place = format!("{path}/out");
    let told = format!("sim: {place} cannot be written: ");
    assert_refused(&["shrink", path, "--within", "9m", "-o", &place], &told, "");
    assert_refused(&["timeline", path, "-o", &place], &told, "");
}

#[test]
fn a_search_takes_a_time_and_a_page_needs_a_place() {
    for (arguments, said_of) in [
        (&["shrink", "x.toml", "--within", "soon"][..], "is no duration"),
        (&["mutants", "--within", "9s"], "--shrink"),
        (&["timeline", "x.toml"], "--out <FILE>"),
    ] {
        let output = sim(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} said {said}");
        assert!(said.contains(said_of), "{arguments:?} said {said}, without {said_of}");
    }
}

#[test]
fn a_sweep_of_which_no_seed_can_be_run_is_refused_with_the_reason() {
    let event = "[[event]]\nat = \"1s\"\nfault = \"order\"\norder = \"failover\"\n\
                 answer = \"any\"\n";
    let path = file("no-candidate.toml", &format!("{HEAD}{event}"));
    let path = path.to_str().expect("a path in UTF-8");
    let arguments = ["sweep", path, "--world", "sockets", "--seeds", "1..3", "--json"];
    let told = format!("{path}: has no seed among these that --world sockets can run: ");
    assert_refused(&arguments, &told, "takes no failover without its candidate");
}

#[test]
fn seeds_that_are_none_are_refused() {
    for seeds in ["5..1", "many", "1..", ""] {
        let output = sim(&["sweep", "x.toml", "--seeds", seeds]);
        assert_eq!(output.status.code(), Some(2), "{seeds}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("write 1..500"), "{seeds}");
    }
}
