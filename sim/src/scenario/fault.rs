//! Everything that can happen to a cluster: one closed list.
//!
//! It says what happens, never when or how: the plan has the times, the world has the means.

use std::fmt;
use std::time::Duration;

use pg_replica::control::{Mode, NOBODY_TO_LEAD, OrderOutcome, TOO_FEW_FOR_QUORUM};
use pg_replica::ids::NodeId;

use super::target::{Side, Target};
use super::text::write_duration;

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some places cannot reach others.
    Partition {
        /// Who is cut from whom.
        shape: Shape,
        /// What the cut stops.
        ports: Ports,
    },
    /// Links misbehave without being cut.
    Link {
        /// Which.
        links: Links,
        /// How.
        flaw: LinkFlaw,
    },
    /// A process ends without a word. Comes back after the event's `for`, where it has one; a
    /// Postgres comes back when its manager starts it.
    Crash {
        /// Which process.
        process: Process,
        /// Whose.
        target: Target,
    },
    /// A process ends again and again, and comes back each time half a period later.
    CrashLoop {
        /// Which process.
        process: Process,
        /// Whose.
        target: Target,
        /// How often.
        period: Duration,
    },
    /// A process stops running and later goes on as if nothing had been.
    Pause {
        /// Which process.
        process: Process,
        /// Whose.
        target: Target,
        /// The monotonic clock stands still as well, as under a hypervisor's pause.
        with_clock: bool,
    },
    /// The machine loses its power: what was not synced is gone, the last write may be torn.
    PowerLoss {
        /// Whose machine.
        target: Target,
    },
    /// The machine is gone for ever. After the event's `for`, an empty one with a new number is
    /// admitted by the operator and the old number is removed.
    ReplaceMachine {
        /// Whose machine.
        target: Target,
        /// The new machine's number. The old number again is a member that lost its disk.
        node: NodeId,
    },
    /// The monotonic clock runs fast or slow.
    ClockRate {
        /// Whose.
        target: Target,
        /// Parts per million; negative is slow.
        ppm: i64,
    },
    /// The wall clock is set.
    ClockJump {
        /// Whose.
        target: Target,
        /// By how much, in milliseconds.
        by_ms: i64,
    },
    /// The disk of the member's own store misbehaves.
    Disk {
        /// Whose.
        target: Target,
        /// How.
        flaw: DiskFlaw,
    },
    /// Postgres misbehaves.
    Postgres {
        /// Whose.
        target: Target,
        /// How.
        flaw: PostgresFlaw,
    },
    /// The connections of a machine's manager misbehave. Known in the sockets world alone.
    Sockets {
        /// Whose.
        target: Target,
        /// How.
        flaw: SocketFlaw,
    },
    /// An operator asks for something.
    Order {
        /// What.
        order: Order,
        /// How it has to end.
        answer: Answer,
        /// How many times the same order is sent.
        times: u32,
        /// Its name, where two orders are to have the same one.
        name: Option<u32>,
    },
}

/// Who is cut from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The members fall into two halves, drawn; the clients too.
    Halves,
    /// A minority, drawn, with its share of the clients, is cut from the rest.
    Minority,
    /// These, each alone or as named together, with so many clients, are cut from everybody else.
    Isolate {
        /// Who.
        target: Target,
        /// How many clients stay with them.
        clients: u32,
    },
    /// Every member sees a majority, and no two see the same one.
    MajoritiesRing,
    /// What `from` sends does not reach `to`; the way back works.
    OneWay {
        /// The sender.
        from: Target,
        /// The receiver.
        to: Target,
    },
    /// Cut from every other member, while every client still gets through.
    PeersOnly {
        /// Who.
        target: Target,
    },
    /// As written.
    Sides(Vec<Side>),
}

/// What a cut stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Everything.
    All,
    /// What managers say to each other.
    Node,
    /// Streaming and clients.
    Postgres,
}

/// Which links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Every link.
    All,
    /// From and to these.
    Of(Target),
    /// One direction.
    OneWay {
        /// The sender.
        from: Target,
        /// The receiver.
        to: Target,
    },
}

/// How a link misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFlaw {
    /// Messages vanish.
    Loss {
        /// How many of a hundred.
        percent: u32,
    },
    /// Messages are late.
    Delay {
        /// At most by so much; each by a time of its own.
        delay: Duration,
    },
    /// Messages arrive twice.
    Duplicate {
        /// How many of a hundred.
        percent: u32,
    },
    /// Messages overtake each other.
    Reorder {
        /// How many of a hundred are held back.
        percent: u32,
    },
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// `pg_replica` itself.
    Manager,
    /// The database server.
    Postgres,
    /// The guard.
    Guard,
    /// Every process of the machine.
    Host,
}

/// How a disk misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskFlaw {
    /// Every write and sync takes so long.
    Slow {
        /// How long.
        latency: Duration,
    },
    /// Writes and syncs wait until it heals.
    Stall,
    /// Writes fail for want of space.
    Full,
    /// The device reports errors.
    Errors {
        /// On writes.
        writes: bool,
        /// On syncs.
        syncs: bool,
    },
}

/// How Postgres misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PostgresFlaw {
    /// The process exists and answers nobody.
    Hang,
    /// A planned stop takes very long.
    SlowStop,
    /// A planned stop never ends.
    StopHangs,
    /// A stop fails at once, and nothing is stopped.
    StopFails,
    /// A start takes very long.
    SlowStart,
    /// A start after a crash takes longer still: there is much to recover.
    SlowRecovery,
    /// Every look at the server fails; it serves as before.
    LookFails,
    /// No database can be created.
    InitialiseFails,
    /// The walsenders send nothing while the connections stay.
    WalsenderStuck,
    /// A primary whose commits wait for nobody is told whom to wait for, and goes on as before:
    /// what would tell its sessions is busy.
    CheckpointerStuck,
    /// A standby's replay waits, as for a long query, while it goes on to receive and to confirm.
    ReplayStuck,
    /// A rewind fails.
    RewindFails,
    /// A clone fails half-way.
    CloneFails,
    /// The log that a standby would need is gone, once.
    WalRecycled,
    /// No space is left for the log: the server panics, and cannot start.
    DiskFull,
    /// The data directory of a member that has none holds somebody else's database.
    ForeignData,
}

/// How the connections of a machine's manager misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketFlaw {
    /// Something on the way forgets those that there are, once: nothing that is sent on them
    /// arrives, and nobody is told. New ones are well.
    HalfOpen,
    /// Now and then a connection breaks in the middle of what is being sent.
    CutFrames,
    /// The machine reads what it is sent in small bites, with rests between them.
    SlowReaders,
    /// Strangers hold as many connections to it as they get, and say nothing.
    Flood,
    /// Strangers connect to it and send nonsense.
    Garbage,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hand over without loss.
    Switchover {
        /// To whom.
        to: Option<Target>,
    },
    /// Take primacy away.
    Failover {
        /// To whom.
        to: Option<Target>,
        /// Whatever it lacks.
        accept_data_loss: bool,
    },
    /// No automatic failover.
    Pause,
    /// Automatic failover again.
    Resume,
    /// Admit a new machine.
    Add {
        /// Its number.
        node: NodeId,
        /// It keeps no data.
        witness: bool,
    },
    /// Remove a member.
    Remove {
        /// Whom.
        target: Target,
    },
    /// Change the mode.
    SetMode(Mode),
    /// Change the lease.
    SetLease(Duration),
    /// Change the bound on loss.
    SetMaxLag(u64),
    /// Set a parameter of every Postgres.
    SetParameter(String, String),
    /// Change a member's tags.
    Tag {
        /// Whose.
        target: Target,
        /// Its priority.
        priority: u32,
        /// Whether automatic failover passes it over.
        no_failover: bool,
    },
}

impl Fault {
    /// Everybody whom it names.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        match self {
            Self::Partition { shape, .. } => shape.targets(),
            Self::Link { links: Links::All, .. } => Vec::new(),
            Self::Link { links: Links::Of(target), .. } => vec![*target],
            Self::Link { links: Links::OneWay { from, to }, .. } => vec![*from, *to],
            Self::Crash { target, .. }
            | Self::CrashLoop { target, .. }
            | Self::Pause { target, .. }
            | Self::PowerLoss { target }
            | Self::ReplaceMachine { target, .. }
            | Self::ClockRate { target, .. }
            | Self::ClockJump { target, .. }
            | Self::Disk { target, .. }
            | Self::Sockets { target, .. }
            | Self::Postgres { target, .. } => vec![*target],
            Self::Order { order, .. } => order.target().into_iter().collect(),
        }
    }

    /// Whether it is nothing to a member without a Postgres.
    #[must_use]
    pub fn is_about_postgres(&self) -> bool {
        match self {
            Self::Crash { process, .. }
            | Self::CrashLoop { process, .. }
            | Self::Pause { process, .. } => *process == Process::Postgres,
            Self::Postgres { .. } => true,
            Self::Partition { .. }
            | Self::Link { .. }
            | Self::PowerLoss { .. }
            | Self::ReplaceMachine { .. }
            | Self::ClockRate { .. }
            | Self::ClockJump { .. }
            | Self::Disk { .. }
            | Self::Sockets { .. }
            | Self::Order { .. } => false,
        }
    }
}

impl Shape {
    fn targets(&self) -> Vec<Target> {
        match self {
            Self::Halves | Self::MajoritiesRing => Vec::new(),
            Self::Minority => vec![Target::Minority],
            Self::Isolate { target, .. } | Self::PeersOnly { target } => vec![*target],
            Self::OneWay { from, to } => vec![*from, *to],
            Self::Sides(sides) => sides.iter().flat_map(|side| side.members.clone()).collect(),
        }
    }
}

impl Order {
    /// What to ask for where a machine that was replaced may not be removed for want of others that
    /// may be primary: the new one may be, as it could.
    #[must_use]
    pub fn instead_of_removal(new: NodeId, end: &OrderOutcome) -> Option<Self> {
        let OrderOutcome::Refused(why) = end else { return None };
        let for_want_of_others =
            [TOO_FEW_FOR_QUORUM, NOBODY_TO_LEAD].iter().any(|known| why.contains(known));
        let target = Target::Node(new);
        for_want_of_others.then_some(Self::Tag { target, priority: 1, no_failover: false })
    }

    /// The member that it names.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Switchover { to } | Self::Failover { to, .. } => *to,
            Self::Remove { target } | Self::Tag { target, .. } => Some(*target),
            Self::Pause
            | Self::Resume
            | Self::Add { .. }
            | Self::SetMode(_)
            | Self::SetLease(_)
            | Self::SetMaxLag(_)
            | Self::SetParameter(..) => None,
        }
    }
}

/// How an order has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Carried out, once.
    Done,
    /// Refused, with a reason.
    Refused,
    /// Either, or reported as unknown.
    Any,
}

/// Two-way tables between a closed enum and its names in files.
macro_rules! names {
    ($type:ty, $what:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// The name in files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(format!(
                        concat!("{:?} is no ", $what, "; there are {}"),
                        text,
                        [$($name),+].join(", ")
                    )),
                }
            }
        }
    };
}

names!(Ports, "port": All = "all", Node = "node", Postgres = "postgres");
names!(
    Process, "process":
    Manager = "manager", Postgres = "postgres", Guard = "guard", Host = "host"
);
names!(Answer, "answer": Done = "done", Refused = "refused", Any = "any");
names!(
    PostgresFlaw, "flaw": Hang = "postgres-hang", SlowStop = "postgres-slow-stop",
    StopHangs = "postgres-stop-hangs", SlowStart = "postgres-slow-start",
    StopFails = "postgres-stop-fails", SlowRecovery = "postgres-slow-recovery",
    LookFails = "postgres-look-fails", InitialiseFails = "initialise-fails",
    WalsenderStuck = "walsender-stuck", CheckpointerStuck = "checkpointer-stuck",
    ReplayStuck = "replay-stuck",
    RewindFails = "rewind-fails", CloneFails = "clone-fails",
    WalRecycled = "wal-recycled", DiskFull = "postgres-disk-full",
    ForeignData = "foreign-data",
);

names!(
    SocketFlaw, "flaw": HalfOpen = "half-open", CutFrames = "cut-frames",
    SlowReaders = "slow-readers", Flood = "connection-flood", Garbage = "garbage",
);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition { shape, ports: Ports::All } => write!(f, "partition {shape}"),
            Self::Partition { shape, ports } => {
                write!(f, "partition of {} {shape}", ports.name())
            }
            Self::Link { links, flaw } => write!(f, "{flaw} on {links}"),
            Self::Crash { process, target } => write!(f, "crash {} of {target}", process.name()),
            Self::CrashLoop { process, target, period } => {
                write!(f, "crash {} of {target} every {}", process.name(), write_duration(*period))
            }
            Self::Pause { process, target, with_clock } => {
                let clock = if *with_clock { " with its clock" } else { "" };
                write!(f, "freeze {} of {target}{clock}", process.name())
            }
            Self::PowerLoss { target } => write!(f, "power loss of {target}"),
            Self::ReplaceMachine { target, node } => {
                write!(f, "replace the machine of {target} by {node}")
            }
            Self::ClockRate { target, ppm } => write!(f, "clock of {target} off by {ppm} ppm"),
            Self::ClockJump { target, by_ms } => write!(f, "wall clock of {target} {by_ms:+} ms"),
            Self::Disk { target, flaw } => write!(f, "disk of {target}: {flaw:?}"),
            Self::Postgres { target, flaw } => write!(f, "{} at {target}", flaw.name()),
            Self::Sockets { target, flaw } => write!(f, "{} at {target}", flaw.name()),
            Self::Order { order, .. } => write!(f, "order {order:?}"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halves => f.write_str("into halves"),
            Self::Minority => f.write_str("of a minority"),
            Self::Isolate { target, clients } => write!(f, "around {target} + {clients} clients"),
            Self::MajoritiesRing => f.write_str("into a ring of majorities"),
            Self::OneWay { from, to } => write!(f, "from {from} to {to}, one way"),
            Self::PeersOnly { target } => write!(f, "of {target} from its peers only"),
            Self::Sides(sides) => {
                let sides: Vec<String> = sides.iter().map(ToString::to_string).collect();
                write!(f, "{}", sides.join(" | "))
            }
        }
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("every link"),
            Self::Of(target) => write!(f, "the links of {target}"),
            Self::OneWay { from, to } => write!(f, "the way from {from} to {to}"),
        }
    }
}

impl fmt::Display for LinkFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss { percent } => write!(f, "{percent}% loss"),
            Self::Delay { delay } => write!(f, "delay up to {}", write_duration(*delay)),
            Self::Duplicate { percent } => write!(f, "{percent}% duplicates"),
            Self::Reorder { percent } => write!(f, "{percent}% out of order"),
        }
    }
}
