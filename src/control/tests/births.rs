//! What may be recorded of a primary's birth.

use crate::control::{Command, ControlState, Mode};
use crate::env::TimelineBirth;
use crate::ids::{Epoch, Lsn, SystemId, Timeline};

use super::fixtures::{assert_refused, do_it, elect, found, member};

fn born(epoch: u64, history: &[(u32, u64)]) -> Command {
    let birth = |(number, &(timeline, born)): (u64, &(u32, u64))| TimelineBirth {
        timeline: Timeline(timeline),
        born: Epoch(born),
        begins: Lsn(number * 100),
    };
    let history = (0..).zip(history).map(birth).collect();
    Command::Born { epoch: Epoch(epoch), system: SystemId(7), history }
}

/// A directory that another founding of a cluster has made has epochs of its own in its history.
#[test]
fn a_history_has_nothing_of_a_later_epoch() {
    let members: Vec<_> = [1, 2, 3].map(|node| (node, member(node))).into();
    let mut control = ControlState::default();
    do_it(&mut control, &found(&members, Mode::Async));
    elect(&mut control, 1);
    assert_refused(&mut control, &born(1, &[(1, 2)]), "was born in e2, not e1");
    assert_refused(
        &mut control,
        &born(1, &[(1, 1), (2, 5), (3, 1)]),
        "tl2 was born in e5, after e1",
    );
    do_it(&mut control, &born(1, &[(1, 0), (2, 1)]));
}
