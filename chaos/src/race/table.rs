//! The table of a race, made of its results alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::ValueEnum;

use super::{Fault, Figures, Heat, RUNS, Replication, Runner, Start, Void, name};

const RUNNERS: [Runner; 3] = [Runner::PgReplica, Runner::PatroniFastest, Runner::Patroni];

/// All results of one cell.
type Cells<'a> = BTreeMap<(Replication, Fault, Runner), Vec<&'a Figures>>;

/// The tables, in Markdown, of the results that are in this folder.
#[must_use]
pub fn write(heats: &[Heat], voids: &[Void], folder: &Path) -> String {
    let mut cells = Cells::new();
    let mut commits = BTreeMap::<&str, usize>::new();
    for heat in heats {
        let Start { replication, fault, runner, .. } = heat.start;
        cells.entry((replication, fault, runner)).or_default().push(&heat.figures);
        *commits.entry(&heat.commit).or_default() += 1;
    }
    let all = heats.len();
    let commits = commits.iter().map(|(commit, count)| format!("{commit} ({count} of {all})"));
    let mut text = format!(
        "# The race: results\n\n\
         Made of `results.jsonl` by `target/release/chaos bench --table -o {}`; \
         run with the builds of {}.\n\n",
        folder.display(),
        commits.collect::<Vec<_>>().join(" and ")
    );
    for (replication, title) in [
        (Replication::Async, "Asynchronous"),
        (
            Replication::Quorum,
            "Synchronous: one of two standbys (`quorum-sync`; Patroni's `quorum`)",
        ),
    ] {
        if cells.keys().any(|(how, fault, _)| *how == replication && *fault != Fault::Idle) {
            let _ = write!(text, "## {title}\n\n");
            faults(&mut text, &cells, replication);
        }
    }
    if cells.keys().any(|(_, fault, _)| *fault == Fault::Idle) {
        text += "## Idle\n\n";
        idle(&mut text, &cells);
    }
    void(&mut text, voids);
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn faults(text: &mut String, cells: &Cells<'_>, replication: Replication) {
    *text += "| fault | | pg_replica | Patroni, fastest | Patroni, default | fastest ÷ ours |\n\
              |---|---|---|---|---|---|\n";
    let struck = Fault::value_variants().iter().filter(|fault| **fault != Fault::Idle);
    for fault in struck.copied() {
        let of = |runner| cells.get(&(replication, fault, runner)).map_or(&[][..], Vec::as_slice);
        let [ours, fastest, usual] = RUNNERS.map(of);
        if ours.is_empty() && fastest.is_empty() && usual.is_empty() {
            continue;
        }
        let row = |show: &dyn Fn(&[&Figures]) -> String| [ours, fastest, usual].map(show);
        let cut = |yes: bool| if yes { "≥ " } else { "" };
        let [a, b, c] = row(&|all| {
            let ended = all.iter().any(|one| one.outage_cut_short);
            cut(ended).to_owned() + &seconds(all, |one| one.outage)
        });
        let ratio = match (middle(ours, |one| one.outage), middle(fastest, |one| one.outage)) {
            (Some(ours), Some(theirs)) if ours > 0.0 => format!("{:.1}", theirs / ours),
            _ => "–".to_owned(),
        };
        let _ = writeln!(text, "| {} | outage | {a} | {b} | {c} | {ratio} |", words(fault));
        let [a, b, c] = row(&|all| {
            let ended = all.iter().any(|one| one.overlap_cut_short);
            cut(ended).to_owned() + &seconds(all, |one| one.overlap)
        });
        let _ = writeln!(text, "| | two acknowledge | {a} | {b} | {c} | |");
        let [a, b, c] = row(&|all| rows(all));
        let _ = writeln!(text, "| | rows lost | {a} | {b} | {c} | |");
        if [ours, fastest, usual].iter().any(|all| all.iter().any(|one| !one.whole)) {
            let [a, b, c] = row(&|all| {
                let whole = all.iter().filter(|one| one.whole).count();
                format!("{whole} of {}", all.len())
            });
            let _ = writeln!(text, "| | whole again | {a} | {b} | {c} | |");
        }
        if [ours, fastest, usual].iter().any(|all| !all.is_empty() && all.len() < RUNS as usize) {
            let [a, b, c] = row(&|all| all.len().to_string());
            let _ = writeln!(text, "| | heats so far | {a} | {b} | {c} | |");
        }
    }
    text.push('\n');
}

fn idle(text: &mut String, cells: &Cells<'_>) {
    *text += "| | pg_replica | Patroni, fastest | Patroni, default |\n|---|---|---|---|\n";
    let of = |runner| {
        let both = [Replication::Async, Replication::Quorum];
        let all = both.into_iter().filter_map(|how| cells.get(&(how, Fault::Idle, runner)));
        all.flatten().copied().collect::<Vec<_>>()
    };
    let all = RUNNERS.map(of);
    let mut row = |title: &str, show: &dyn Fn(&Figures) -> Option<f64>, unit: &str| {
        let shown = all.each_ref().map(|figures| {
            let one = |figures: &Figures| show(figures).unwrap_or_default();
            let median = middle(figures, one);
            median.map_or("–".to_owned(), |median| format!("{median:.1} {unit}"))
        });
        let _ = writeln!(text, "| {title} | {} |", shown.join(" | "));
    };
    row("manager and guard, memory", &|one| Some(one.manager_mb), "MB");
    row("manager and guard, of one core", &|one| one.manager_cpu, "%");
    row("etcd, memory", &|one| Some(one.needed_mb), "MB");
    row("etcd, of one core", &|one| one.needed_cpu, "%");
}

/// The heats that count for nothing: who had them, and why.
fn void(text: &mut String, voids: &[Void]) {
    if voids.is_empty() {
        return;
    }
    *text += "\n## Void, and run again\n\n| | | fault | why |\n|---|---|---|---|\n";
    for Void { start: Start { runner, replication, fault, .. }, why, .. } in voids {
        let [runner, replication] = [name(runner), name(replication)];
        let why = why.replace('|', "/").replace('\n', " ");
        let _ = writeln!(text, "| {runner} | {replication} | {} | {why} |", words(*fault));
    }
}

fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::HostLost => "host lost",
        Fault::PostgresKilled => "Postgres killed",
        Fault::ManagerKilled => "manager killed",
        Fault::ManagerFrozen => "manager frozen",
        Fault::PostgresFrozen => "Postgres frozen",
        Fault::HostFrozen => "host frozen and thawed",
        Fault::Isolated => "isolated",
        Fault::IsolatedWithClients => "isolated with half of the clients",
        Fault::OneWay => "not heard by the other members, hears them",
        Fault::Switchover => "planned switchover",
        Fault::Idle => "nothing",
    }
}

fn sorted(all: &[&Figures], what: impl Fn(&Figures) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = all.iter().map(|one| what(one)).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(all: &[&Figures], what: impl Fn(&Figures) -> f64) -> Option<f64> {
    let values = sorted(all, what);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Median and longest.
fn seconds(all: &[&Figures], what: impl Fn(&Figures) -> f64 + Copy) -> String {
    match (middle(all, what), sorted(all, what).last()) {
        (Some(_), Some(most)) if *most == 0.0 => "0".to_owned(),
        (Some(median), Some(most)) => format!("{median:.2} s ({most:.2})"),
        _ => "–".to_owned(),
    }
}

/// Acknowledged rows that are lost, in all runs.
fn rows(all: &[&Figures]) -> String {
    if all.is_empty() {
        return "–".to_owned();
    }
    let lost: u64 = all.iter().map(|one| one.lost).sum();
    let told: u64 = all.iter().map(|one| one.acknowledged).sum();
    format!("{lost} of {told}")
}

#[cfg(test)]
mod tests {
    use super::super::HARNESS;
    use super::*;

    #[test]
    fn a_cell_has_the_median_and_the_worst() {
        let figures = [1.0, 3.0, 2.0, 10.0].map(|outage| Figures {
            outage,
            acknowledged: 100,
            lost: 1,
            ..Figures::default()
        });
        let all: Vec<&Figures> = figures.iter().collect();
        assert_eq!(seconds(&all, |one| one.outage), "2.50 s (10.00)");
        assert_eq!(seconds(&all, |one| one.overlap), "0");
        assert_eq!(rows(&all), "4 of 400");
        assert_eq!(seconds(&[], |one| one.outage), "–");
    }

    #[test]
    fn a_table_has_a_row_for_what_was_run_and_none_for_what_was_not() {
        let (replication, fault) = (Replication::Async, Fault::HostLost);
        let heat = |runner, outage| Heat {
            start: Start { runner, replication, fault, run: 1 },
            harness: HARNESS,
            commit: "7accb67".into(),
            figures: Figures {
                outage,
                outage_cut_short: outage > 20.0,
                acknowledged: 10,
                ..Figures::default()
            },
        };
        let heats = [heat(Runner::PgReplica, 2.0), heat(Runner::PatroniFastest, 21.0)];
        let void = Void {
            start: heats[0].start,
            harness: HARNESS,
            commit: "7accb67".into(),
            why: "nobody | acknowledges".into(),
        };
        let table = write(&heats, &[void], Path::new("there"));
        assert!(table.contains("--table -o there`; run with the builds of 7accb67 (2 of 2)."));
        assert!(
            table.contains("| host lost | outage | 2.00 s (2.00) | ≥ 21.00 s (21.00) | – | 10.5 |"),
            "{table}"
        );
        assert!(table.contains("| | whole again | 0 of 1 | 0 of 1 | 0 of 0 | |"), "{table}");
        assert!(table.contains("| | heats so far | 1 | 1 | 0 | |"), "{table}");
        assert!(table.contains("| pg-replica | async | host lost | nobody / acknowledges |"));
        assert!(!table.contains("one-way") && !table.contains("Postgres killed"));
        assert!(!table.contains("## Synchronous") && !table.contains("## Idle"));
    }
}
