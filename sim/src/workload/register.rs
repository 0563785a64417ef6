//! What the clients were told, without a look at any server: is it what one machine would have
//! told them?
//!
//! All writers share one register. A write puts its row in, and is told which row was there: a
//! swap. Because no row is ever written twice, what the clients were told is a chain of finds, and
//! whether an order of all swaps exists that agrees with it, and with the time at which each was
//! asked for and answered, can be decided without a search. That is linearizability, of exactly
//! this history.
//!
//! Where the chain breaks (a client was told nothing, and its row is found) a new stretch begins.
//! In an order that agrees with what was told each stretch is in one piece. So what is left to find
//! is an order of stretches in which nothing comes before what had ended when it began.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::scenario::{Fault, Order, Overlap, Plan, unpromised};
use crate::witness::Row;
use pg_replica::control::Mode;

use super::history::{Ended, History, Operation};

/// What clients may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// One order of all swaps, as of one machine that never fails. In `quorum-sync`.
    Linearizable,
    /// One history at a time: a failover may give up what was told last, and a later one bring it
    /// back, but never has the history changed hands more often than primacy. In `async`.
    OneAtATime,
    /// Rows that were found were written. Where more servers than one may acknowledge for a while.
    NothingInvented,
}

impl Truth {
    /// What the clients of this plan may rely on.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let gives_up = plan.events.iter().any(|event| {
            let Fault::Order { order, .. } = &event.fault else { return false };
            matches!(
                order,
                Order::SetMode(Mode::Async) | Order::Failover { accept_data_loss: true, .. }
            )
        });
        if plan.cluster.mode == Mode::QuorumSync && !gives_up {
            Self::Linearizable
        } else if unpromised(plan).is_some() || plan.expect.overlap != Overlap::None {
            Self::NothingInvented
        } else {
            Self::OneAtATime
        }
    }
}

/// Something that clients were told and that is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untruth {
    /// When the client was told with whom it became one.
    pub at: Duration,
    /// One sentence.
    pub what: String,
}

/// A swap whose client was told what it found.
#[derive(Clone, Copy, Debug)]
struct Swap {
    row: Row,
    found: Option<Row>,
    invoked: Duration,
    ended: Duration,
}

/// Swaps of which each found the one before: from when on the first of them was told, and until
/// when the last was asked for.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: Row,
    from_the_beginning: bool,
    told_from: Duration,
    asked_until: Duration,
}

/// What was told, by row.
struct Told<'a> {
    history: &'a History,
    swaps: BTreeMap<Row, Swap>,
    /// Who found what, in the order of their rows.
    finders: BTreeMap<Option<Row>, Vec<Row>>,
}

/// Every way in which what the clients were told is not what they may rely on.
/// `before` is what the register held when the first of them came, `primacies` when each primacy
/// acknowledged first: one that never did has no part in what was told.
#[must_use]
pub fn untruths(
    history: &History,
    before: Option<Row>,
    truth: Truth,
    primacies: &[Duration],
) -> Vec<Untruth> {
    let told = Told::new(history, before);
    let mut untrue = told.inventions();
    untrue.extend(before.into_iter().flat_map(|before| told.found_nothing(before)));
    if untrue.is_empty() {
        untrue.extend(told.found_in_advance());
    }
    if !untrue.is_empty() {
        return untrue;
    }
    match truth {
        Truth::Linearizable => {
            untrue.extend(told.found_twice());
            if untrue.is_empty() {
                untrue.extend(told.without_an_order());
            }
        }
        Truth::OneAtATime => {
            untrue.extend(told.branches_that_took_turns(primacies));
            untrue.extend(told.roots_that_took_turns(primacies));
        }
        Truth::NothingInvented => {}
    }
    untrue
}

/// What a count of the rows says of what clients were told: none of what was refused is there, and
/// all that was promised before the count.
#[must_use]
pub fn miscounted(
    history: &History,
    truth: Truth,
    rows: &[Row],
    counted: Duration,
) -> Vec<Untruth> {
    let rows: BTreeSet<Row> = rows.iter().copied().collect();
    let wrong = history.operations().iter().filter_map(|operation| {
        let (row, is_there) = (name(operation.row), rows.contains(&operation.row));
        let promised = truth == Truth::Linearizable && operation.ended_at <= counted;
        let what = match operation.ended {
            Ended::Refused if is_there => {
                format!("{row} is there, and its client was told that nothing was written")
            }
            Ended::Acknowledged if promised && !is_there => format!(
                "{row} is not there in the end, and its client was told at {} that it is",
                seconds(operation.ended_at)
            ),
            Ended::Acknowledged | Ended::Refused | Ended::Unknown => return None,
        };
        Some(Untruth { at: counted, what })
    });
    wrong.take(1).collect()
}

impl<'a> Told<'a> {
    fn new(history: &'a History, before: Option<Row>) -> Self {
        let swap = |operation: &Operation| {
            let found = operation.found.filter(|found| Some(*found) != before);
            let Operation { row, invoked, ended_at: ended, .. } = *operation;
            (row, Swap { row, found, invoked, ended })
        };
        let acknowledged = history.operations().iter().filter(|o| o.ended == Ended::Acknowledged);
        let swaps: BTreeMap<Row, Swap> = acknowledged.map(swap).collect();
        let mut finders: BTreeMap<Option<Row>, Vec<Row>> = BTreeMap::new();
        for swap in swaps.values() {
            finders.entry(swap.found).or_default().push(swap.row);
        }
        Self { history, swaps, finders }
    }

    /// Rows that were found and that nobody had written.
    fn inventions(&self) -> Vec<Untruth> {
        let refused = self.history.refused();
        let mut untrue = Vec::new();
        for swap in self.swaps.values() {
            let Some(found) = swap.found else { continue };
            let why = match self.history.begun(found) {
                None => ", which nobody wrote".to_owned(),
                Some(begun) if begun > swap.ended => {
                    format!(" before it was asked for, at {}", seconds(begun))
                }
                Some(_) if refused.contains(&found) => {
                    ", whose client was told that nothing was written".to_owned()
                }
                Some(_) => continue,
            };
            let what = format!("{} found {}{why}", name(swap.row), name(found));
            untrue.push(Untruth { at: swap.ended, what });
        }
        untrue
    }

    /// Rows that found nothing, though there was something before anybody came.
    fn found_nothing(&self, before: Row) -> Vec<Untruth> {
        let acknowledged =
            self.history.operations().iter().filter(|o| o.ended == Ended::Acknowledged);
        let empty = acknowledged.filter(|operation| operation.found.is_none());
        let sentence = |operation: &Operation| {
            let (finder, before) = (name(operation.row), name(before));
            let what = format!("{finder} found nothing, where {before} was before anybody came");
            Untruth { at: operation.ended_at, what }
        };
        empty.map(sentence).collect()
    }

    /// Rows that found, directly or not, what was asked for after they had been told.
    fn found_in_advance(&self) -> Vec<Untruth> {
        let mut untrue = Vec::new();
        let mut left: BTreeMap<Row, Duration> =
            self.swaps.values().map(|swap| (swap.row, swap.ended)).collect();
        for (head, begun) in self.heads() {
            let mut open = vec![(head, begun)];
            while let Some((row, asked)) = open.pop() {
                let swap = &self.swaps[&row];
                left.remove(&row);
                if swap.ended < asked {
                    let what = format!(
                        "{} was told at {}, and what it found goes back to what was asked \
                         for at {}",
                        name(row),
                        seconds(swap.ended),
                        seconds(asked)
                    );
                    untrue.push(Untruth { at: swap.ended, what });
                }
                let asked = asked.max(swap.invoked);
                open.extend(self.finders_of(row).iter().map(|finder| (*finder, asked)));
            }
        }
        // Whatever cannot be reached from a beginning has none.
        let last = left.into_values().max();
        let circle = "some rows found each other in a circle";
        untrue.extend(last.map(|at| Untruth { at, what: circle.to_owned() }));
        untrue
    }

    fn found_twice(&self) -> Vec<Untruth> {
        let twice = self.finders.iter().filter(|(_, finders)| finders.len() > 1);
        let sentence = |(found, finders): (&Option<Row>, &Vec<Row>)| {
            let found = found.map_or_else(|| "the beginning".to_owned(), name);
            let mut swaps: Vec<&Swap> = finders.iter().map(|finder| &self.swaps[finder]).collect();
            swaps.sort_by_key(|swap| swap.ended);
            let (one, other) = (swaps[0], swaps[1]);
            let what = format!(
                "both {} (told at {}) and {} (told at {}) found {found}",
                name(one.row),
                seconds(one.ended),
                name(other.row),
                seconds(other.ended)
            );
            Untruth { at: other.ended, what }
        };
        twice.map(sentence).collect()
    }

    /// Stretches that no order can hold.
    fn without_an_order(&self) -> Vec<Untruth> {
        let mut left = self.stretches();
        left.sort_by_key(|stretch| (!stretch.from_the_beginning, stretch.asked_until));
        while !left.is_empty() {
            // The next one is one before which no other has to come.
            let must_be_first = left.iter().any(|stretch| stretch.from_the_beginning);
            let next = left.iter().enumerate().position(|(index, stretch)| {
                let mut others = left.iter().enumerate().filter(|(other, _)| *other != index);
                (stretch.from_the_beginning || !must_be_first)
                    && others.all(|(_, other)| other.told_from >= stretch.asked_until)
            });
            let Some(next) = next else {
                let names: Vec<String> = left.iter().take(2).map(|s| name(s.first)).collect();
                let known = left.iter().take(2).map(|s| s.asked_until.max(s.told_from)).max();
                let what = format!(
                    "no order of all writes agrees with what their clients were told: the rows \
                     that begin with {} would have to be apart in it",
                    names.join(" and with ")
                );
                return vec![Untruth { at: known.unwrap_or_default(), what }];
            };
            left.remove(next);
        }
        Vec::new()
    }

    /// What one primary acknowledges is one history, and of two rows that found the same, a history
    /// holds one. So whoever acknowledges the other one, or goes on with it, is another primary.
    fn branches_that_took_turns(&self, primacies: &[Duration]) -> Vec<Untruth> {
        let mut untrue = Vec::new();
        for (found, finders) in self.finders.iter().filter(|(_, finders)| finders.len() > 1) {
            let found = found.map_or_else(|| "the beginning".to_owned(), name);
            let mut told: Vec<Duration> =
                finders.iter().map(|finder| self.swaps[finder].ended).collect();
            told.sort_unstable();
            if let Some(Surplus { at, taken, served }) = surplus(&told, primacies) {
                let what = format!(
                    "{taken} rows found {found} and were told by {}, when {served} primacies had \
                     acknowledged anything",
                    seconds(at)
                );
                untrue.push(Untruth { at, what });
                continue;
            }
            for (index, one) in finders.iter().enumerate() {
                for other in &finders[index + 1..] {
                    let orders = [self.turns(*one, *other), self.turns(*other, *one)];
                    let first = orders.iter().filter_map(|turns| surplus(turns, primacies));
                    untrue.extend(first.min_by_key(|surplus| surplus.at).map(|surplus| {
                        surplus.of(&format!(
                            "{} and {} both found {found}, and the histories that go on with them",
                            name(*one),
                            name(*other)
                        ))
                    }));
                }
            }
        }
        untrue
    }

    /// Two branches that begin with what nobody was told of may have parted before that, and then
    /// they are two histories like any others. Or one hangs on the other, its stem: then there is
    /// one history that holds both, and in the primacy in which the branch began there may have
    /// been writes to the stem first. Only there can a turn be followed by one of the same primacy:
    /// a history that holds the branch never goes on with the stem, and before the branch began it
    /// had no turns. So where the stem comes first in turn there may be one turn more than
    /// primacies, and where the branch does there may not. Which of the two is the stem nobody was
    /// told, but that the one from the beginning hangs on nothing; so what counts is what is too
    /// much in either order.
    fn roots_that_took_turns(&self, primacies: &[Duration]) -> Vec<Untruth> {
        let roots: Vec<Swap> = self.heads().iter().map(|(head, _)| self.swaps[head]).collect();
        let mut untrue = Vec::new();
        for (index, one) in roots.iter().enumerate() {
            // Those that found the same are compared with each other as what they are.
            for other in roots[index + 1..].iter().filter(|other| other.found != one.found) {
                let first = |stem: Row, branch: Row| surplus(&self.turns(branch, stem), primacies);
                let surplus = match (one.found, other.found) {
                    (None, _) => first(one.row, other.row),
                    (_, None) => first(other.row, one.row),
                    (Some(_), Some(_)) => first(one.row, other.row)
                        .zip(first(other.row, one.row))
                        .map(|(a, b)| if a.at < b.at { b } else { a }),
                };
                untrue.extend(surplus.map(|surplus| {
                    surplus.of(&format!(
                        "the histories that begin, as far as anybody was told, with {} and with {}",
                        name(one.row),
                        name(other.row)
                    ))
                }));
            }
        }
        untrue
    }

    /// How often two branches were written to in turns, at least, the one that begins with `one`
    /// first: each turn holds a swap that was asked for after one of the turn before was told.
    /// Returns when that was.
    fn turns(&self, one: Row, other: Row) -> Vec<Duration> {
        let sides = [self.branch(one), self.branch(other)];
        let mut turns: Vec<Duration> = Vec::new();
        for side in sides.iter().cycle() {
            let told = turns.last();
            let later = side.iter().filter(|swap| told.is_none_or(|told| swap.invoked > *told));
            let Some(next) = later.map(|swap| swap.ended).min() else { break };
            turns.push(next);
        }
        turns
    }

    /// The swaps that found what nobody was told of, and when that was asked for.
    fn heads(&self) -> Vec<(Row, Duration)> {
        let broken = self.swaps.values().filter(|swap| match swap.found {
            None => true,
            Some(found) => !self.swaps.contains_key(&found),
        });
        let begun = |found: Option<Row>| found.and_then(|found| self.history.begun(found));
        broken.map(|swap| (swap.row, begun(swap.found).unwrap_or_default())).collect()
    }

    fn stretches(&self) -> Vec<Stretch> {
        self.heads().into_iter().map(|(head, begun)| self.stretch(head, begun)).collect()
    }

    fn stretch(&self, first: Row, begun: Duration) -> Stretch {
        let swaps = self.branch(first);
        Stretch {
            first,
            from_the_beginning: swaps[0].found.is_none(),
            told_from: swaps.iter().map(|swap| swap.ended).min().unwrap_or_default(),
            asked_until: swaps.iter().map(|swap| swap.invoked).fold(begun, Duration::max),
        }
    }

    /// `first`, and all that found it, directly or not.
    fn branch(&self, first: Row) -> Vec<Swap> {
        let mut swaps = Vec::new();
        let mut open = vec![first];
        while let Some(row) = open.pop() {
            swaps.push(self.swaps[&row]);
            open.extend(self.finders_of(row));
        }
        swaps
    }

    fn finders_of(&self, row: Row) -> &[Row] {
        self.finders.get(&Some(row)).map_or(&[], Vec::as_slice)
    }
}

/// More turns than primacies.
struct Surplus {
    /// When that was told.
    at: Duration,
    /// How many turns had been taken by then.
    taken: usize,
    /// How many primacies had acknowledged by then.
    served: usize,
}

impl Surplus {
    fn of(&self, which: &str) -> Untruth {
        let Self { at, taken, served } = *self;
        let what = format!(
            "{which} took {taken} turns by {}, when {served} primacies had acknowledged anything",
            seconds(at)
        );
        Untruth { at, what }
    }
}

/// The first turn that nobody can have taken: each is another primacy's, which acknowledged it.
fn surplus(turns: &[Duration], primacies: &[Duration]) -> Option<Surplus> {
    (1..).zip(turns).find_map(|(taken, at)| {
        let served = primacies.iter().filter(|first| *first <= at).count();
        (served < taken).then_some(Surplus { at: *at, taken, served })
    })
}

fn name(row: Row) -> String {
    format!("row {} of client {}", row.number, row.client)
}

fn seconds(at: Duration) -> String {
    format!("{:.3}s", at.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_replica::ids::NodeId;

    fn row(number: u64) -> Row {
        Row { client: 1, number }
    }

    /// Swaps: row, what it found (0 is nothing), when it was asked for, when it was told.
    fn history(swaps: &[(u64, u64, u64, u64)], unknown: &[(u64, u64)]) -> History {
        let mut history = History::default();
        let ms = Duration::from_millis;
        for &(number, at) in unknown {
            history.begin(row(number), ms(at));
        }
        for &(number, found, invoked, ended) in swaps {
            history.begin(row(number), ms(invoked));
            let operation = Operation {
                row: row(number),
                server: NodeId(1),
                invoked: ms(invoked),
                ended_at: ms(ended),
                ended: Ended::Acknowledged,
                found: (found > 0).then(|| row(found)),
            };
            history.record(operation, ms(0));
        }
        history
    }

    /// What is said where so many primacies had acknowledged before anybody came.
    fn sentences(history: &History, before: Option<Row>, truth: Truth, primacies: usize) -> String {
        let untrue = untruths(history, before, truth, &vec![Duration::ZERO; primacies]);
        untrue.into_iter().map(|untrue| untrue.what).collect::<Vec<String>>().join("; ")
    }

    fn check(truth: Truth, swaps: &[(u64, u64, u64, u64)], unknown: &[(u64, u64)]) -> String {
        sentences(&history(swaps, unknown), None, truth, 2)
    }

    #[test]
    fn a_chain_in_the_order_of_time_is_linearizable() {
        let swaps = [(1, 0, 10, 20), (2, 1, 12, 22), (3, 2, 30, 40)];
        assert_eq!(check(Truth::Linearizable, &swaps, &[]), "");
    }

    #[test]
    fn what_overlaps_may_have_been_in_either_order() {
        assert_eq!(check(Truth::Linearizable, &[(2, 0, 10, 30), (1, 2, 5, 20)], &[]), "");
    }

    #[test]
    fn a_row_that_was_told_and_then_forgotten_is_seen() {
        let swaps = [(1, 0, 10, 20), (2, 1, 30, 40), (3, 1, 50, 60)];
        let said = check(Truth::Linearizable, &swaps, &[]);
        assert!(said.contains("both row 2") && said.contains("found row 1"), "{said}");
        // What a failover of an asynchronous primary may do: nobody asked for 2 after 3 was told.
        assert_eq!(check(Truth::OneAtATime, &swaps, &[]), "");
    }

    #[test]
    fn two_histories_that_go_on_in_turns_are_seen_in_any_mode() {
        // 2 and 4 are one history, 3 and 5 the other, and each was told before the next was asked.
        let back = [(1, 0, 10, 20), (2, 1, 30, 40), (3, 1, 50, 60), (4, 2, 70, 80)];
        let said = check(Truth::OneAtATime, &back, &[]);
        assert!(said.contains("took 3 turns by 0.080s, when 2 primacies"), "{said}");
        assert_eq!(check(Truth::NothingInvented, &back, &[]), "");
        // Primacy was given three times: to whoever had 2, had it not, and had it again.
        let often = |swaps| sentences(&history(swaps, &[]), None, Truth::OneAtATime, 3);
        assert_eq!(often(&back), "");
        let again = [back.as_slice(), &[(5, 3, 90, 95)]].concat();
        assert!(often(&again).contains("took 4 turns"), "{}", often(&again));
    }

    #[test]
    fn a_primacy_that_serves_later_excuses_nothing() {
        let ms = Duration::from_millis;
        let said = |swaps: &[(u64, u64, u64, u64)], given: &[u64]| {
            let given: Vec<Duration> = given.iter().map(|at| ms(*at)).collect();
            let untrue = untruths(&history(swaps, &[]), None, Truth::OneAtATime, &given);
            untrue.into_iter().map(|untrue| untrue.what).collect::<Vec<String>>().join("; ")
        };
        // The one primary loses row 2, and a failover comes long after that.
        let forgotten = [(1, 0, 10, 20), (2, 1, 30, 40), (3, 1, 50, 60)];
        assert_eq!(said(&forgotten, &[0, 50]), "");
        let late = said(&forgotten, &[0, 61]);
        assert!(late.contains("2 rows found row 1") && late.contains("when 1 primacies"), "{late}");
        // The old primary answers once more after the new one, and two more failovers come later.
        let back = [(1, 0, 10, 20), (2, 1, 30, 40), (3, 1, 50, 60), (4, 2, 70, 80)];
        assert_eq!(said(&back, &[0, 45, 65]), "");
        let late = said(&back, &[0, 45, 90, 95]);
        assert!(
            late.contains("took 3 turns by 0.080s") && late.contains("when 2 primacies"),
            "{late}"
        );
    }

    #[test]
    fn one_primary_tells_two_clients_of_the_same_row_never() {
        // They overlap, so nobody can say which came first.
        let twice = [(1, 0, 10, 20), (2, 1, 30, 60), (3, 1, 30, 60)];
        let said = sentences(&history(&twice, &[]), None, Truth::OneAtATime, 1);
        assert!(said.contains("2 rows found row 1 of client 1"), "{said}");
        assert_eq!(check(Truth::OneAtATime, &twice, &[]), "");
        let thrice = [twice.as_slice(), &[(4, 1, 35, 62)]].concat();
        let said = check(Truth::OneAtATime, &thrice, &[]);
        assert!(said.contains("3 rows found row 1 of client 1"), "{said}");
    }

    #[test]
    fn the_count_holds_what_was_told_and_not_what_was_refused() {
        let mut history = history(&[(1, 0, 10, 20), (2, 1, 30, 40)], &[(9, 5)]);
        let refused = Operation { row: row(9), ended: Ended::Refused, ..history.operations()[0] };
        history.record(refused, Duration::ZERO);
        let said = |truth, rows: &[u64], counted: u64| {
            let rows: Vec<Row> = rows.iter().map(|number| row(*number)).collect();
            let counted = Duration::from_millis(counted);
            let wrong = miscounted(&history, truth, &rows, counted);
            wrong.into_iter().map(|untrue| untrue.what).collect::<String>()
        };
        assert_eq!(said(Truth::Linearizable, &[1, 2], 100), "");
        assert!(said(Truth::Linearizable, &[1], 100).contains("row 2 of client 1 is not there"));
        assert_eq!(said(Truth::Linearizable, &[1], 35), "", "nobody had been told of 2");
        assert_eq!(said(Truth::OneAtATime, &[1], 100), "", "a failover may lose it");
        assert!(said(Truth::OneAtATime, &[1, 2, 9], 100).contains("row 9 of client 1 is there"));
    }

    /// Row 9 was the first after the fork, and its client was told nothing.
    const FIRST_AFTER_THE_FORK: &[(u64, u64)] = &[(9, 45)];

    #[test]
    fn two_histories_are_seen_where_nobody_was_told_how_one_of_them_began() {
        let old = [(1, 0, 10, 20), (2, 1, 30, 40), (4, 2, 70, 80), (6, 4, 110, 120)];
        let new = [(3, 9, 50, 60), (5, 3, 90, 95), (7, 5, 130, 140)];
        let both = [old.as_slice(), &new].concat();
        let said = check(Truth::OneAtATime, &both, FIRST_AFTER_THE_FORK);
        assert!(said.contains("row 1 of") && said.contains("took 3 turns by 0.0"), "{said}");
        assert_eq!(check(Truth::NothingInvented, &both, FIRST_AFTER_THE_FORK), "");
        // Nobody was told of the other beginning either: row 2 found what row 8 may have written.
        let unknown = [FIRST_AFTER_THE_FORK, &[(8, 5)]].concat();
        let old = [(2, 8, 30, 40), (4, 2, 70, 80), (6, 4, 110, 120)];
        let said = check(Truth::OneAtATime, &[old, new].concat(), &unknown);
        assert!(said.contains("row 2 of") && said.contains("took 3 turns by 0.0"), "{said}");
    }

    #[test]
    fn a_stem_may_have_the_first_turn_in_the_primacy_that_left_it() {
        // One primary writes 1, 2, 9 and 3. The next has not heard of 9, and goes on with 2.
        let stem = [(1, 0, 10, 20), (2, 1, 30, 40), (3, 9, 50, 60), (4, 2, 70, 80)];
        assert_eq!(check(Truth::OneAtATime, &stem, FIRST_AFTER_THE_FORK), "");
        let one_alone = |swaps: &[(u64, u64, u64, u64)]| {
            sentences(&history(swaps, &[(9, 45), (8, 5)]), None, Truth::OneAtATime, 1)
        };
        assert_eq!(one_alone(&stem[..3]), "");
        assert!(one_alone(&stem).contains("took 2 turns"), "{}", one_alone(&stem));
        // The same where nobody was told what was there first.
        let mut stem = stem;
        stem[0].1 = 8;
        assert_eq!(check(Truth::OneAtATime, &stem, &[(9, 45), (8, 5)]), "");
        assert_eq!(one_alone(&stem[..3]), "");
        // A third turn after the first: whoever had 9 would have to be primary once more.
        let again = [stem.as_slice(), &[(5, 3, 90, 95)]].concat();
        let said = check(Truth::OneAtATime, &again, &[(9, 45), (8, 5)]);
        assert!(said.contains("took 3 turns by 0.095s, when 2 primacies"), "{said}");
    }

    #[test]
    fn what_nobody_wrote_and_what_was_refused_is_found_by_nobody() {
        let said = check(Truth::NothingInvented, &[(1, 9, 10, 20)], &[]);
        assert!(said.contains("which nobody wrote"), "{said}");
        let mut with_refusal = history(&[(1, 9, 10, 20)], &[(9, 5)]);
        let refused =
            Operation { row: row(9), ended: Ended::Refused, ..with_refusal.operations()[0] };
        with_refusal.record(refused, Duration::ZERO);
        let said = sentences(&with_refusal, None, Truth::NothingInvented, 1);
        assert!(said.contains("told that nothing was written"), "{said}");
    }

    #[test]
    fn nothing_is_found_before_it_is_asked_for() {
        let said = check(Truth::NothingInvented, &[(1, 0, 30, 40), (2, 1, 10, 20)], &[]);
        assert!(said.contains("before it was asked for"), "{said}");
        let far = [(1, 0, 30, 70), (2, 1, 10, 60), (3, 2, 10, 20)];
        let said = check(Truth::NothingInvented, &far, &[]);
        assert!(said.contains("what it found goes back"), "{said}");
        let circle = [(1, 2, 10, 20), (2, 1, 10, 20)];
        assert!(check(Truth::NothingInvented, &circle, &[]).contains("circle"));
    }

    #[test]
    fn a_write_that_nobody_was_told_of_may_have_been_anywhere() {
        // Rows 8 and 9 were asked for, and their clients were told nothing.
        let swaps = [(1, 0, 10, 20), (2, 9, 30, 40), (3, 8, 50, 60)];
        assert_eq!(check(Truth::Linearizable, &swaps, &[(8, 5), (9, 5)]), "");
    }

    #[test]
    fn stretches_that_would_have_to_be_in_one_another_are_seen() {
        // 1 then 4 are one stretch, and 2 came after 1 was told and before 4 was asked for.
        let swaps = [(1, 0, 10, 20), (4, 1, 70, 80), (2, 9, 30, 40)];
        let said = check(Truth::Linearizable, &swaps, &[(9, 5)]);
        assert!(said.contains("would have to be apart"), "{said}");
    }

    #[test]
    fn an_untruth_is_of_the_time_at_which_the_last_of_its_clients_was_told() {
        let at = |truth, swaps: &[(u64, u64, u64, u64)], primacies| {
            let given = vec![Duration::ZERO; primacies];
            let untrue = untruths(&history(swaps, &[(9, 5)]), None, truth, &given);
            untrue[0].at.as_millis()
        };
        let twice = [(1, 0, 10, 20), (2, 1, 30, 40), (3, 1, 50, 60), (4, 2, 70, 80)];
        assert_eq!(at(Truth::Linearizable, &twice, 1), 60);
        assert_eq!(at(Truth::OneAtATime, &twice, 1), 60);
        assert_eq!(at(Truth::OneAtATime, &twice, 2), 80);
        let apart = [(1, 0, 10, 20), (4, 1, 70, 80), (2, 9, 30, 40)];
        assert_eq!(at(Truth::Linearizable, &apart, 1), 70);
        assert_eq!(at(Truth::NothingInvented, &[(1, 8, 10, 20)], 1), 20);
        assert_eq!(at(Truth::NothingInvented, &[(1, 2, 10, 20), (2, 1, 15, 25)], 1), 25);
    }

    #[test]
    fn what_was_there_before_is_the_beginning() {
        let history = history(&[(1, 7, 10, 20)], &[]);
        assert_ne!(sentences(&history, None, Truth::Linearizable, 1), "");
        assert_eq!(sentences(&history, Some(row(7)), Truth::Linearizable, 1), "");
    }

    #[test]
    fn nobody_finds_nothing_where_something_was() {
        let history = history(&[(1, 0, 10, 20), (2, 1, 30, 40)], &[]);
        assert_eq!(sentences(&history, None, Truth::Linearizable, 1), "");
        for truth in [Truth::Linearizable, Truth::OneAtATime, Truth::NothingInvented] {
            let said = sentences(&history, Some(row(7)), truth, 1);
            assert_eq!(
                said,
                "row 1 of client 1 found nothing, where row 7 of client 1 was before \
                              anybody came"
            );
        }
    }
}
