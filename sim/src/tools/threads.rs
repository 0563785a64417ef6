//! A thread for every run, and several runs at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;

use crate::report::{RunOptions, RunReport, Runner, Violation};
use crate::scenario::Plan;

/// Enough for the deepest future that a run polls.
const STACK_BYTES: usize = 16 << 20;

/// How the name of a run's thread begins.
const NAME: &str = "seed-";

/// Makes a run on a thread of its own. A panic in it is a violation like any other.
pub fn alone(runner: Runner, plan: &Plan, options: &RunOptions) -> RunReport {
    let (own_plan, own_options) = (plan.clone(), *options);
    let thread = thread::Builder::new()
        .name(format!("{NAME}{}", plan.seed))
        .stack_size(STACK_BYTES)
        .spawn(move || catch_unwind(AssertUnwindSafe(|| runner(&own_plan, &own_options))))
        .expect("the operating system grants a thread");
    match thread.join().expect("a run's panic is caught within its thread") {
        Ok(report) => report,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_else(|| "a panic without words".into());
            let violation = Violation {
                invariant: "panic".into(),
                at: std::time::Duration::ZERO,
                what: text.replace('\n', " "),
            };
            RunReport {
                seed: plan.seed,
                plan_hash: plan.hash(),
                violations: vec![violation],
                ..RunReport::default()
            }
        }
    }
}

/// Whether this thread is that of a run.
pub(super) fn is_a_run() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with(NAME))
}

/// Does `work` for every item, `jobs` at a time, and hands each result to `take` as it comes.
/// `take` says whether to go on.
pub fn spread<I, R>(
    jobs: usize,
    items: impl Iterator<Item = I> + Send,
    work: impl Fn(I) -> R + Sync,
    mut take: impl FnMut(R) -> bool,
) where
    I: Send,
    R: Send,
{
    let items = Mutex::new(items);
    let (sender, receiver) = mpsc::sync_channel(jobs.max(1));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, items, work) = (sender.clone(), &items, &work);
            scope.spawn(move || {
                loop {
                    let next = items.lock().expect("no worker panics").next();
                    let Some(item) = next else { return };
                    // A closed channel means that enough was seen.
                    if sender.send(work(item)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        while let Ok(result) = receiver.recv() {
            if !take(result) {
                break;
            }
        }
        drop(receiver);
    });
}
