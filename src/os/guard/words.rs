//! What is said to the guard, and what it answers: one line of text each.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::env::Armed;
use crate::ids::{Epoch, Moment};

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Hold this deadline.
    Arm(Armed),
    /// Forget that of this epoch.
    Disarm(Epoch),
    /// What do you hold?
    Ask,
    /// The manager ends, and Postgres has ended: so may the guard.
    Retire,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is in force.
    Heard,
    /// The deadline that is held.
    Armed(Armed),
    /// None is.
    Idle,
}

/// A line that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` means nothing between a manager and a guard")]
pub(super) struct Unknown(String);

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arm(armed) => write!(f, "arm {}", Written(armed)),
            Self::Disarm(epoch) => write!(f, "disarm {}", epoch.0),
            Self::Ask => f.write_str("ask"),
            Self::Retire => f.write_str("retire"),
        }
    }
}

impl FromStr for Order {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let words: Vec<&str> = line.split(' ').collect();
        let order = match words[..] {
            ["arm", epoch, deadline, until] => armed(epoch, deadline, until).map(Self::Arm),
            ["disarm", epoch] => epoch.parse().ok().map(|epoch| Self::Disarm(Epoch(epoch))),
            ["ask"] => Some(Self::Ask),
            ["retire"] => Some(Self::Retire),
            _ => None,
        };
        order.ok_or_else(|| Unknown(line.to_owned()))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heard => f.write_str("heard"),
            Self::Armed(armed) => write!(f, "armed {}", Written(armed)),
            Self::Idle => f.write_str("idle"),
        }
    }
}

impl FromStr for Answer {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["heard"] => Some(Self::Heard),
            ["armed", epoch, deadline, until] => armed(epoch, deadline, until).map(Self::Armed),
            ["idle"] => Some(Self::Idle),
            _ => None,
        };
        answer.ok_or_else(|| Unknown(line.to_owned()))
    }
}

struct Written<'a>(&'a Armed);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_boot = |moment: Moment| {
            let span = moment.since_origin();
            format!("{}.{:09}", span.as_secs(), span.subsec_nanos())
        };
        let Armed { epoch, deadline, until } = *self.0;
        write!(f, "{} {} {}", epoch.0, since_boot(deadline), since_boot(until))
    }
}

fn armed(epoch: &str, deadline: &str, until: &str) -> Option<Armed> {
    let epoch = Epoch(epoch.parse().ok()?);
    Some(Armed { epoch, deadline: moment(deadline)?, until: moment(until)? })
}

fn moment(text: &str) -> Option<Moment> {
    let (seconds, nanos) = text.split_once('.')?;
    let nanos: u32 = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Moment::from_origin(Duration::new(seconds.parse().ok()?, nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let deadline = Moment::from_origin(Duration::new(12, 34));
        let until = deadline + Duration::from_millis(50);
        let armed = Armed { epoch: Epoch(5), deadline, until };
        for order in [Order::Arm(armed), Order::Disarm(Epoch(7)), Order::Ask] {
            assert_eq!(order.to_string().parse::<Order>().unwrap(), order);
        }
        for answer in [Answer::Heard, Answer::Armed(armed), Answer::Idle] {
            assert_eq!(answer.to_string().parse::<Answer>().unwrap(), answer);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for line in ["", "arm", "arm 1", "arm 1 2", "arm 1 2.9999999999", "arm x 1.0", "disarm -1"]
        {
            assert!(line.parse::<Order>().is_err(), "{line}");
        }
    }
}
