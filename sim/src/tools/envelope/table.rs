//! The figures as tables, for people.

use std::fmt::Write as _;
use std::time::Duration;

use crate::scenario::write_duration;

use super::{Case, DRIFTS_PPM, FREEZES, Fencing, Measured, Worst, cases, freeze, millis, percent};

/// The whole document.
pub(super) fn markdown(measured: &Measured, lease: Duration, phases: u32) -> String {
    let mut text = String::from("# Measured: clocks and freezes against the lease\n\n");
    let runs = phases as usize * DRIFTS_PPM.len() * FREEZES.len() * cases().count();
    let mut line = |what: &str| {
        text.push_str(what);
        text.push('\n');
    };
    line("Written by `cargo run -p sim -- envelope -o docs/envelope`; what it means is in");
    line("[README.md](README.md).");
    line("");
    line(&format!(
        "{runs} runs, {phases} phases of each pair; the lease is {}.",
        write_duration(lease)
    ));
    line("");
    line(
        "| mode | frozen | slow clock, no freeze: clean up to | overlaps from \
         | freeze, true clock: clean up to | overlaps from |",
    );
    line("|---|---|---|---|---|---|");
    for case in cases() {
        line(&limits(measured, lease, case));
    }
    for case in cases() {
        grid(&mut text, measured, lease, case);
    }
    text
}

/// How far one thing alone may go.
fn limits(measured: &Measured, lease: Duration, case: Case) -> String {
    let drifts = (0..DRIFTS_PPM.len()).map(|drift| worst(measured, case, (drift, 0)));
    let freezes = (0..FREEZES.len()).map(|length| worst(measured, case, (0, length)));
    let (mode, frozen) = case;
    let (clean_drift, first_drift) = limit(mode, drifts, |index| percent(DRIFTS_PPM[index]));
    let (clean_freeze, first_freeze) =
        limit(mode, freezes, |index| write_duration(freeze(lease, index)));
    format!(
        "| {} | {} | {clean_drift} | {first_drift} | {clean_freeze} | {first_freeze} |",
        mode.name(),
        frozen.name()
    )
}

/// The last one before the first that is not clean, and that one with what was seen.
fn limit(
    mode: Fencing,
    worst: impl Iterator<Item = Worst>,
    name: impl Fn(usize) -> String,
) -> (String, String) {
    let mut last = "nothing".to_owned();
    for (index, worst) in worst.enumerate() {
        if !worst.is_clean(mode) {
            return (last, format!("{}: {}", name(index), seen(worst)));
        }
        last = name(index);
    }
    (last, "not seen".to_owned())
}

fn grid(text: &mut String, measured: &Measured, lease: Duration, case: Case) {
    let (mode, frozen) = case;
    let mut put = |what: std::fmt::Arguments<'_>| {
        text.write_fmt(what).expect("writing to a string cannot fail");
    };
    put(format_args!("\n## {}: {} frozen\n\n", mode.name(), frozen.name()));
    if (0..DRIFTS_PPM.len()).all(|drift| {
        (0..FREEZES.len()).all(|length| worst(measured, case, (drift, length)) == Worst::default())
    }) {
        put(format_args!("No overlap in any cell.\n"));
        return;
    }
    put(format_args!("| frozen for |"));
    for drift in DRIFTS_PPM {
        put(format_args!(" {} slow |", percent(drift)));
    }
    put(format_args!("\n|---|{}\n", "---|".repeat(DRIFTS_PPM.len())));
    for length in 0..FREEZES.len() {
        put(format_args!("| {} |", write_duration(freeze(lease, length))));
        for drift in 0..DRIFTS_PPM.len() {
            put(format_args!(" {} |", seen(worst(measured, case, (drift, length)))));
        }
        put(format_args!("\n"));
    }
}

fn worst(measured: &Measured, case: Case, cell: (usize, usize)) -> Worst {
    measured.get(&case).and_then(|cells| cells.get(&cell)).copied().unwrap_or_default()
}

/// What was seen, in a few letters.
fn seen(worst: Worst) -> String {
    match worst.late {
        0 if worst == Worst::default() => "·".to_owned(),
        0 => format!("{} ms", millis(worst.overlap)),
        late => format!("{} ms, {late} late", millis(worst.overlap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lies_before_the_first_that_is_not_clean() {
        let late = Worst { late: 3, overlap: Duration::from_millis(40) };
        let none = Worst::default();
        let name = |index: usize| format!("#{index}");
        let of = |worst: &[Worst]| limit(Fencing::GuardOnly, worst.iter().copied(), name);
        assert_eq!(of(&[none, none, late, none]), ("#1".into(), "#2: 40 ms, 3 late".into()));
        assert_eq!(of(&[none, none]), ("#1".into(), "not seen".into()));
        assert_eq!(of(&[late]).0, "nothing");
        let slow_words = Worst { late: 3, overlap: Duration::ZERO };
        assert_eq!(of(&[slow_words]).0, "nothing");
        let of = |worst: &[Worst]| limit(Fencing::QuorumSync, worst.iter().copied(), name);
        assert_eq!(of(&[slow_words]).0, "#0");
        assert_eq!(of(&[late]).0, "nothing");
    }
}
