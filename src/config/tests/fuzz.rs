//! Thousands of damaged files: whatever stands in them, what comes out is a configuration or one
//! sentence.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::keys::{self, KEYS};
use super::*;

const FILES_TRIED: usize = 12_000;
const OVERRIDES_TRIED: usize = 4_000;

/// What a careless hand may put anywhere.
const SNIPPETS: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'''",
    "\"\"\"",
    "=",
    ".",
    ",",
    "#",
    "\n",
    "\0",
    "\u{feff}",
    "é",
    "🐘",
    "0x",
    "-",
    "1e999",
    "nan",
    "9223372036854775808",
    "1979-05-27",
    "true",
    "\\u0000",
    "members",
    "[members.2]",
    "[postgres.parameters]",
    "node",
    "a.b.c.d = 1\n",
    "= =",
    "\r",
    "\"\\",
];

fn damaged(chance: &mut ChaCha8Rng, text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..chance.random_range(1..6) {
        let at = chance.random_range(0..=bytes.len());
        let end = (at + chance.random_range(0..40)).min(bytes.len());
        match chance.random_range(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let copied = bytes[at..end].to_vec();
                let to = chance.random_range(0..=bytes.len());
                bytes.splice(to..to, copied);
            }
            2 if at < bytes.len() => bytes[at] ^= 1 << chance.random_range(0..8),
            3 if at < bytes.len() => bytes[at] = chance.random_range(b' '..=b'~'),
            4 => bytes.truncate(at),
            _ => {
                let snippet = SNIPPETS[chance.random_range(0..SNIPPETS.len())];
                bytes.splice(at..at, snippet.bytes());
            }
        }
    }
    // A file that is no UTF-8 is refused before it gets here.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[track_caller]
fn is_one_sentence(bad: &BadConfig, text: &str) {
    let said = bad.to_string();
    let short = said.chars().count() < 700 && !said.contains(['\n', '\r', '\0']);
    assert!(short && !bad.what.is_empty(), "{said:?} for {text:?}");
    if let Place::Line { line, column, .. } = &bad.place {
        assert!(*line <= text.matches('\n').count() + 1 && *line > 0 && *column > 0, "{said}");
    }
}

#[test]
fn a_damaged_file_is_understood_or_refused_in_one_sentence() {
    let mut chance = ChaCha8Rng::seed_from_u64(3);
    let outline = Outline { cluster: "main".into(), node: 1, hosts: Vec::new() };
    let whole = template(&outline);
    let mut refused = 0;
    for round in 0..FILES_TRIED {
        let text = damaged(&mut chance, if round % 4 == 0 { &whole } else { GOOD });
        match read_text(&text) {
            Ok(config) => drop((config.node_config(), config.warnings(), config.guard_plan())),
            Err(bad) => {
                refused += 1;
                is_one_sentence(&bad, &text);
            }
        }
    }
    // Otherwise the damage would be too small to show anything.
    assert!(refused > FILES_TRIED / 2, "{refused}");
}

#[test]
fn a_file_of_noise_or_of_deep_nests_is_refused_in_one_sentence() {
    let mut chance = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..2_000 {
        let length = chance.random_range(0..200);
        let text: String =
            (0..length).map(|_| SNIPPETS[chance.random_range(0..SNIPPETS.len())]).collect();
        if let Err(bad) = read_text(&text) {
            is_one_sentence(&bad, &text);
        }
    }
    let deep = |open: &str, times| format!("a = {}", open.repeat(times));
    let dotted = format!("{}b = 1", "a.".repeat(100_000));
    for text in [deep("[", 100_000), deep("{a=", 100_000), dotted, "[a]\n".repeat(50_000)] {
        is_one_sentence(&read_text(&text).unwrap_err(), &text);
    }
}

#[test]
fn an_override_of_anything_by_anything_is_taken_or_refused_in_one_sentence() {
    let mut chance = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..OVERRIDES_TRIED {
        let key = &KEYS[chance.random_range(0..KEYS.len())];
        let path = key.path.replace("NAME", "work_mem").replace('N', "2");
        let value = SNIPPETS[chance.random_range(0..SNIPPETS.len())].repeat(2);
        let value = if chance.random_bool(0.5) { value } else { damaged(&mut chance, key.shown()) };
        let outcome = if chance.random_bool(0.5) {
            read_with(&[(&keys::variable(&path), &value)], &[])
        } else {
            read_with(&[], &[&format!("{}={value}", damaged(&mut chance, &path))])
        };
        if let Err(bad) = outcome {
            is_one_sentence(&bad, GOOD);
        }
    }
}
