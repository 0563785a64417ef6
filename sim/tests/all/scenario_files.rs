//! Every file in the repository is a valid scenario or profile, and says what it proves.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use sim::scenario::{Document, read_file};

use super::house::root;

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(folder))
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn documents(folder: &str) -> Vec<Document> {
    let read = |path: &PathBuf| read_file(&path.to_string_lossy());
    let results: Vec<_> = files(folder).iter().map(read).collect();
    let wrong: Vec<String> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .map(ToString::to_string)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    results.into_iter().flatten().collect()
}

#[test]
fn every_scenario_is_read_and_claims_something_of_its_own() {
    let documents = documents("scenarios");
    assert!(documents.len() >= 55, "only {} scenarios", documents.len());
    let claims: BTreeSet<&str> =
        documents.iter().map(|document| document.base().claim.as_str()).collect();
    assert_eq!(claims.len(), documents.len(), "two scenarios claim the same");
    for document in &documents {
        let base = document.base();
        assert!(matches!(document, Document::Plan(_)), "{} is a profile", base.name);
        assert!(!base.events.is_empty(), "nothing happens in {}", base.name);
    }
}

#[test]
fn every_stage_of_a_mutant_is_named_after_it() {
    let documents = documents("scenarios/mutants");
    for (path, document) in files("scenarios/mutants").iter().zip(&documents) {
        let name = path.file_stem().expect("a file has a name").to_string_lossy();
        let saboteur = sim::scenario::saboteur_named(&name).expect("the name of a saboteur");
        assert_eq!(document.base().sabotage, Some(saboteur), "{name} breaks another rule");
        assert!(document.base().expect.violation.is_some(), "{name} names no check");
    }
}

#[test]
fn every_profile_is_read_and_draws_the_same_plan_for_the_same_seed() {
    for document in documents("chaos/profiles") {
        let base = document.base();
        assert!(matches!(document, Document::Profile(_)), "{} is no profile", base.name);
        for seed in 1..50 {
            assert_eq!(document.plan(seed), document.plan(seed), "{} {seed}", base.name);
        }
    }
}
