//! Files are read strictly, and every error says where.

use std::time::Duration;

use sim::scenario::{Document, Fault, Plan, Profile, read, unpromised};

fn plan(text: &str) -> Plan {
    match read("x.toml", text) {
        Ok(Document::Plan(plan)) => *plan,
        Ok(Document::Profile(_)) => panic!("a plan was expected"),
        Err(bad) => panic!("{bad}"),
    }
}

fn error(text: &str) -> String {
    match read("x.toml", text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(bad) => bad.to_string(),
    }
}

fn everything() -> Profile {
    let text = include_str!("../../../chaos/profiles/everything.toml");
    match read("everything.toml", text) {
        Ok(Document::Profile(profile)) => *profile,
        Ok(Document::Plan(_)) => panic!("a profile was expected"),
        Err(bad) => panic!("{bad}"),
    }
}

const HEAD: &str = "claim = \"c\"\nduration = \"60s\"\n";

#[test]
fn the_example_of_the_documentation_is_read() {
    let plan = plan(
        "claim = \"A primary cut off together with its clients acknowledges nothing.\"\n\
         duration = \"60s\"\n\
         [cluster]\nnodes = 3\nmode = \"async\"\n[workload]\nwriters = 4\n\
         [[event]]\nat = \"10s\"\nfault = \"partition\"\n\
         sides = [\"primary + clients:2\", \"others\"]\nfor = \"30s\"\n\
         [expect]\nwritable_within = \"5s\"\nlost_acknowledged = 0\n",
    );
    assert_eq!(plan.name, "x");
    assert_eq!(plan.events.len(), 1);
    assert_eq!(plan.events[0].lasts, Some(Duration::from_secs(30)));
    assert!(matches!(plan.events[0].fault, Fault::Partition { .. }));
}

#[test]
fn what_is_wrong_is_said_in_one_sentence_with_its_place() {
    let cases: &[(String, &str)] = &[
        (format!("{HEAD}colour = 1\n"), "x.toml:3:1: `colour` means nothing"),
        ("claim = \"\"\nduration = \"5s\"".into(), "x.toml:1:9: a scenario without a claim"),
        ("duration = \"5s\"".into(), "needs `claim`"),
        (format!("{HEAD}[cluster]\nnodes = 4\n"), "even number"),
        (format!("{HEAD}[cluster]\nmode = \"sync\"\n"), "x.toml:4:8: \"sync\" is no mode"),
        (format!("{HEAD}[cluster]\nlease = \"100ms\"\n"), "heartbeats must fit"),
        (
            format!("{HEAD}[[event]]\nat = \"61s\"\nfault = \"power-loss\"\ntarget = \"one\"\n"),
            "the run ends at 60s",
        ),
        (
            format!("{HEAD}[[event]]\nat = \"1s\"\nfault = \"power-loss\"\ntarget = \"node:4\"\n"),
            "x.toml:6:10: there is no member 4; there are 1, 2, 3",
        ),
        (
            format!("{HEAD}[[event]]\nat = \"1s\"\nfault = \"power-loss\"\n"),
            "the fault `power-loss` needs `target`",
        ),
        (
            format!(
                "{HEAD}[[event]]\nat = \"1s\"\nfault = \"pause\"\nprocess = \"host\"\n\
                 target = \"one\"\nfor = \"0s\"\n"
            ),
            "x.toml:8:7: a fault that lasts no time is none",
        ),
        (
            format!(
                "{HEAD}[[event]]\nat = \"1s\"\nfault = \"partition\"\nshape = \"halves\"\n\
                 target = \"one\"\n"
            ),
            "x.toml:7:1: `target` means nothing to the fault `partition`",
        ),
        (
            format!("{HEAD}[[event]]\nat = \"1s\"\nfault = \"meteor\"\n"),
            "x.toml:5:9: \"meteor\" is no fault",
        ),
        (
            format!("{HEAD}[[event]]\nat = 1\nfault = \"order\"\norder = \"pause\"\n"),
            "`at` is a text",
        ),
        (
            format!(
                "{HEAD}[[event]]\nat = \"1s\"\nfault = \"crash\"\nprocess = \"postgres\"\n\
                 target = \"sync-standby\"\n"
            ),
            "there is no sync-standby in async mode",
        ),
        (
            format!(
                "{HEAD}[cluster]\ncommit_fence = false\n[[event]]\nat = \"1s\"\nfault = \"pause\"\n\
                 process = \"host\"\ntarget = \"primary\"\nfor = \"20s\"\n"
            ),
            "say `overlap = \"reported\"`",
        ),
        (format!("{HEAD}[expect]\nprimary = \"node:9\"\n"), "member 9, which never exists"),
        (format!("{HEAD}[expect]\nviolation = \"I3\"\n"), "only where a rule is broken"),
        (format!("{HEAD}[sabotage]\nname = \"gremlin\"\n"), "is no saboteur"),
        ("claim = \"c\nduration".into(), "x.toml:2:9: key with no value"),
        (format!("version = 2\n{HEAD}"), "x.toml:1:11: the file has format 2"),
    ];
    for (text, expected) in cases {
        let message = error(text);
        assert!(message.contains(expected), "{text}\n=> {message}\nwithout: {expected}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_drawn_plan_survives_being_written_and_read() {
    let profile = everything();
    for seed in 0..300 {
        let drawn = profile.plan(seed);
        assert_eq!(drawn, profile.plan(seed), "seed {seed} stands for one plan");
        let read = plan(&drawn.to_toml());
        assert_eq!(read, drawn, "seed {seed}:\n{}", drawn.to_toml());
        assert_eq!(read.hash(), drawn.hash());
    }
}

#[test]
fn a_drawn_plan_is_always_within_the_promise_and_each_mix_differs() {
    let profile = everything();
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..500 {
        let drawn = profile.plan(seed);
        assert_eq!(unpromised(&drawn), None, "seed {seed}");
        hashes.insert(drawn.hash());
    }
    assert!(hashes.len() > 495, "only {} different plans of 500", hashes.len());
}

#[test]
fn a_range_of_clock_rates_across_zero_draws_a_fault_every_time() {
    let text = "claim = \"c\"\nduration = \"10s\"\n[swarm]\nnodes = [3]\nmodes = [\"async\"]\n\
                start = \"1s..9s\"\n[[swarm.fault]]\nfault = \"clock-rate\"\ntarget = \"all\"\n\
                ppm = \"-1..1\"\n";
    let profile = sim::scenario::read("rates.toml", text).expect("a profile");
    for seed in 0..50 {
        assert_eq!(profile.plan(seed).events.len(), 1, "{seed}");
    }
}
