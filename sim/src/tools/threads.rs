//! A thread for every run, and several runs at a time.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;

use crate::report::{RunOptions, RunReport, Runner, Violation};
use crate::scenario::Plan;
use crate::since::Since;

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
            let at = Since::default();
            let what = words_of(&*panic);
            let violation = Violation { invariant: "panic".into(), at, what };
            RunReport {
                seed: plan.seed,
                plan_hash: plan.hash(),
                violations: vec![violation],
                ..RunReport::default()
            }
        }
    }
}

/// What a panic says, in one line.
#[must_use]
pub fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").replace('\n', " ")
}

/// Whether this thread is that of a run.
pub(super) fn is_a_run() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with(NAME))
}

/// Results that come in any order and are wanted in that of their numbers, which begin at zero.
#[derive(Debug)]
pub(super) struct InOrder<R> {
    next: usize,
    waiting: BTreeMap<usize, R>,
}

impl<R> InOrder<R> {
    pub(super) fn new() -> Self {
        Self { next: 0, waiting: BTreeMap::new() }
    }

    /// Takes one in.
    pub(super) fn add(&mut self, number: usize, result: R) {
        self.waiting.insert(number, result);
    }

    /// The next in turn, if it has come.
    pub(super) fn next(&mut self) -> Option<R> {
        let next = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(next)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_held_back_until_all_before_them_have_come() {
        let mut results = InOrder::new();
        let mut taken = Vec::new();
        for number in [2, 0, 3, 1] {
            results.add(number, number);
            taken.push(std::iter::from_fn(|| results.next()).collect::<Vec<usize>>());
        }
        assert_eq!(taken, [vec![], vec![0], vec![], vec![1, 2, 3]]);
    }
}
