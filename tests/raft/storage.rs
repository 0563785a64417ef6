//! The consensus store: what survives, what is refused, and what a broken disk does.

use std::io;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, VoteOf};
use openraft::{EntryPayload, StorageError};
use openraft_rt::{AsyncRuntime, WatchReceiver};
use openraft_rt_tokio::TokioRuntime;
use redb::{ReadableDatabase, TableDefinition};

use pg_replica::control::ControlState;
use pg_replica::ids::{Incarnation, NodeId};
use pg_replica::runtime::raft::{Machine, OpenError, Resumed, Store, StoreOwner, TypeConfig};
use pg_replica::sabotage::{Sabotage, Saboteur};

use super::disk::{Change, MemoryDisk, MemoryFile};

type C = TypeConfig<TokioRuntime>;
type MemoryStore = Store<MemoryDisk>;
type MemoryMachine = Machine<MemoryDisk>;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

struct Builder;

impl StoreBuilder<C, MemoryStore, MemoryMachine> for Builder {
    async fn build(&self) -> Result<((), MemoryStore, MemoryMachine), StorageError<C>> {
        let (store, resumed) = open(&MemoryDisk::default()).await;
        let (machine, _) = Machine::new(store.clone(), resumed, Sabotage::NONE);
        Ok(((), store, machine))
    }
}

fn owner(fresh: u64) -> StoreOwner {
    StoreOwner { node: NodeId(1), cluster: "blue".into(), fresh: Incarnation(fresh) }
}

async fn try_open(
    disk: &MemoryDisk,
    owner: StoreOwner,
) -> Result<(MemoryStore, Resumed), OpenError> {
    Store::open(disk, owner, Sabotage::NONE).await
}

async fn open(disk: &MemoryDisk) -> (MemoryStore, Resumed) {
    try_open(disk, owner(1)).await.expect("the store is sound and ours")
}

async fn open_sabotaged(disk: &MemoryDisk, kind: Saboteur) -> (MemoryStore, Resumed) {
    Store::open(disk, owner(1), Sabotage::of(kind)).await.unwrap()
}

/// What the disk holds after a power loss.
fn after_power_loss(disk: &MemoryDisk) -> MemoryDisk {
    MemoryDisk::holding(disk.0.synced())
}

fn vote(term: u64, node: u64) -> VoteOf<C> {
    VoteOf::<C>::new(term, node)
}

fn log_id(index: u64) -> LogIdOf<C> {
    LogIdOf::<C>::new_term_index(1, index)
}

fn founding(index: u64) -> EntryOf<C> {
    let command = super::founding();
    EntryOf::<C> { log_id: log_id(index), payload: EntryPayload::Normal(command) }
}

async fn save_vote(store: &mut MemoryStore, vote: VoteOf<C>) -> io::Result<()> {
    RaftLogStorage::<C>::save_vote(store, &vote).await
}

async fn read_vote(store: &mut MemoryStore) -> Option<VoteOf<C>> {
    RaftLogReader::<C>::read_vote(store).await.unwrap()
}

async fn append(store: &mut MemoryStore, entries: Vec<EntryOf<C>>) -> io::Result<()> {
    RaftLogStorage::<C>::append(store, entries, IOFlushed::noop()).await
}

async fn last_log_id(store: &mut MemoryStore) -> Option<LogIdOf<C>> {
    RaftLogStorage::<C>::get_log_state(store).await.unwrap().last_log_id
}

async fn apply(machine: &mut MemoryMachine, entries: Vec<EntryOf<C>>) -> io::Result<()> {
    let items = entries.into_iter().map(|entry| Ok((entry, None)));
    RaftStateMachine::<C>::apply(machine, futures_util::stream::iter(items)).await
}

fn control(store: MemoryStore, resumed: Resumed) -> Arc<ControlState> {
    let (_, published) = Machine::new(store, resumed, Sabotage::NONE);
    published.borrow_watched().clone()
}

/// A store with a vote, a log and an applied state, as a power loss leaves it.
async fn used_store() -> Vec<u8> {
    let disk = MemoryDisk::default();
    let (mut store, resumed) = open(&disk).await;
    let (mut machine, _) = Machine::new(store.clone(), resumed, Sabotage::NONE);
    save_vote(&mut store, vote(1, 1)).await.unwrap();
    append(&mut store, vec![founding(0), founding(1)]).await.unwrap();
    apply(&mut machine, vec![founding(0), founding(1)]).await.unwrap();
    disk.0.synced()
}

#[test]
fn the_librarys_own_suite_passes() {
    TokioRuntime::run(async {
        Suite::<C, MemoryStore, MemoryMachine, Builder, ()>::test_all(Builder).await.unwrap();
    });
}

#[test]
fn vote_and_log_survive_a_power_loss() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        let (mut store, _) = open(&disk).await;
        save_vote(&mut store, vote(7, 2)).await.unwrap();
        append(&mut store, vec![founding(0)]).await.unwrap();
        let (mut store, _) = open(&after_power_loss(&disk)).await;
        assert_eq!(read_vote(&mut store).await, Some(vote(7, 2)));
        assert_eq!(last_log_id(&mut store).await, Some(log_id(0)));
    });
}

#[test]
fn an_applied_state_survives_a_power_loss() {
    TokioRuntime::run(async {
        let (store, resumed) = open(&MemoryDisk::holding(used_store().await)).await;
        let (mut machine, published) = Machine::new(store, resumed, Sabotage::NONE);
        assert_eq!(published.borrow_watched().cluster, "blue");
        let (applied, _) = RaftStateMachine::<C>::applied_state(&mut machine).await.unwrap();
        assert_eq!(applied, Some(log_id(1)));
    });
}

#[test]
fn the_identity_is_drawn_once() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        let (store, _) = try_open(&disk, owner(11)).await.unwrap();
        assert_eq!(store.incarnation(), Incarnation(11));
        let (store, _) = try_open(&after_power_loss(&disk), owner(12)).await.unwrap();
        assert_eq!(store.incarnation(), Incarnation(11));
    });
}

#[test]
fn the_store_of_another_cluster_or_member_is_refused_and_left_alone() {
    TokioRuntime::run(async {
        let bytes = used_store().await;
        let disk = MemoryDisk::holding(bytes.clone());
        let other = StoreOwner { cluster: "green".into(), ..owner(1) };
        let refusal = try_open(&disk, other).await.unwrap_err();
        assert!(matches!(refusal, OpenError::OtherCluster { .. }));
        assert!(refusal.to_string().contains("\"blue\""), "{refusal}");
        let other = StoreOwner { node: NodeId(2), ..owner(1) };
        let refusal = try_open(&disk, other).await.unwrap_err();
        assert!(matches!(refusal, OpenError::OtherNode { .. }));
        assert!(disk.0.bytes() == bytes, "a refused file was written to");
    });
}

#[test]
fn newer_layouts_and_newer_control_states_are_refused_and_left_alone() {
    TokioRuntime::run(async {
        for key in ["identity", "control"] {
            let file = MemoryFile::holding(used_store().await);
            rewrite(&file, key, "\"format\":1", "\"format\":9");
            let bytes = file.bytes();
            let refusal = try_open(&MemoryDisk(file.clone()), owner(1)).await.unwrap_err();
            assert!(matches!(refusal, OpenError::Newer(_)), "{key}: {refusal}");
            assert!(file.bytes() == bytes, "a refused file was written to");
        }
    });
}

fn rewrite(file: &MemoryFile, key: &str, old: &str, new: &str) {
    let database = redb::Builder::new().create_with_backend(file.clone()).unwrap();
    let reading = database.begin_read().unwrap();
    let bytes = reading.open_table(META).unwrap().get(key).unwrap().unwrap().value().to_vec();
    drop(reading);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(old), "{text}");
    let text = text.replacen(old, new, 1);
    let writing = database.begin_write().unwrap();
    writing.open_table(META).unwrap().insert(key, text.as_bytes()).unwrap();
    writing.commit().unwrap();
}

#[test]
fn a_newer_snapshot_is_refused() {
    TokioRuntime::run(async {
        let (store, resumed) = open(&MemoryDisk::default()).await;
        let (mut machine, _) = Machine::new(store, resumed, Sabotage::NONE);
        let meta = SnapshotMetaOf::<C> {
            last_log_id: Some(log_id(5)),
            last_membership: Default::default(),
        };
        let data = br#"{"format":9,"state":{}}"#.to_vec();
        let refusal = RaftStateMachine::<C>::install_snapshot(&mut machine, &meta, data).await;
        assert!(refusal.unwrap_err().to_string().contains("format 9"));
    });
}

#[test]
fn garbage_is_refused_with_a_sentence_and_left_alone() {
    TokioRuntime::run(async {
        let garbage: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 + 13) as u8).collect();
        let disk = MemoryDisk::holding(garbage.clone());
        let refusal = try_open(&disk, owner(1)).await.unwrap_err();
        assert!(refusal.to_string().starts_with("raft.redb is damaged ("), "{refusal}");
        assert!(disk.0.bytes() == garbage, "a refused file was written to");
    });
}

#[test]
fn damage_never_panics_and_is_never_overwritten() {
    TokioRuntime::run(async {
        let sound = used_store().await;
        let mut damaged = Vec::new();
        for step in 1..120 {
            // Closer together in the header and the first pages, where everything is.
            let mut flipped = sound.clone();
            flipped[(step * step * 7) % sound.len()] ^= 0x5a;
            damaged.push(flipped);
            damaged.push(sound[..sound.len() * step / 120].to_vec());
        }
        let mut refused = 0;
        for bytes in damaged {
            let disk = MemoryDisk::holding(bytes.clone());
            match try_open(&disk, owner(1)).await {
                Ok(_) => {}
                Err(OpenError::Damaged { .. }) => {
                    refused += 1;
                    assert!(disk.0.bytes() == bytes, "a damaged file was written to");
                }
                Err(other) => panic!("unexpected refusal: {other}"),
            }
        }
        assert!(refused > 100, "only {refused} damaged files were refused");
    });
}

#[test]
fn power_lost_at_any_write_of_the_creation_leaves_a_usable_disk() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        drop(open(&disk).await);
        let mut bytes = Vec::new();
        for change in disk.0.changes() {
            if let Change::Write(offset, data) = &change {
                for cut in [1, 4, 9, 64, data.len() / 2] {
                    let part = data[..cut.min(data.len())].to_vec();
                    let mut torn = bytes.clone();
                    Change::Write(*offset, part).apply(&mut torn);
                    open(&MemoryDisk::holding(torn)).await;
                }
            }
            change.apply(&mut bytes);
            open(&MemoryDisk::holding(bytes.clone())).await;
        }
    });
}

/// What a power loss after `upto` changes may leave: everything before the last sync, and of the
/// rest any part, torn anywhere.
fn remains(changes: &[Change], upto: usize, draw: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let happened = &changes[..upto];
    let safe = happened.iter().rposition(|change| *change == Change::Sync).unwrap_or(0);
    let mut bytes = Vec::new();
    for (at, change) in happened.iter().enumerate() {
        match change {
            Change::Write(offset, data) if at > safe => {
                let part = match draw(3) {
                    0 => continue,
                    1 => data[..draw(data.len())].to_vec(),
                    _ => data.clone(),
                };
                Change::Write(*offset, part).apply(&mut bytes);
            }
            Change::Length(_) if at > safe && draw(2) == 0 => {}
            Change::Write(..) | Change::Length(_) | Change::Sync => change.apply(&mut bytes),
        }
    }
    bytes
}

#[test]
fn power_lost_at_any_moment_loses_nothing_that_was_acknowledged() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        let (mut store, _) = open(&disk).await;
        let mut acknowledged = vec![(disk.0.changes().len(), 0)];
        for term in 1..=60 {
            save_vote(&mut store, vote(term, 1)).await.unwrap();
            append(&mut store, vec![founding(term)]).await.unwrap();
            acknowledged.push((disk.0.changes().len(), term));
        }
        let changes = disk.0.changes();
        let mut state = 1_usize;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below.max(1)
        };
        for _ in 0..400 {
            let upto = acknowledged[0].0 + draw(changes.len() - acknowledged[0].0 + 1);
            let left = MemoryDisk::holding(remains(&changes, upto, &mut draw));
            let (mut store, _) = open(&left).await;
            let known = acknowledged.iter().rfind(|(at, _)| *at <= upto).unwrap().1;
            let kept = read_vote(&mut store).await.map_or(0, |vote| vote.leader_id.term);
            let last = last_log_id(&mut store).await.map_or(0, |id| id.index);
            assert!(kept == known || kept == known + 1, "vote {kept} where {known} was promised");
            assert!(last == known || last == known + 1, "log {last} where {known} was promised");
        }
    });
}

#[test]
fn the_same_work_writes_the_same_bytes_in_the_same_order() {
    async fn work() -> Vec<Change> {
        let disk = MemoryDisk::default();
        for round in 0..4 {
            let (mut store, resumed) = open(&disk).await;
            let (mut machine, _) = Machine::new(store.clone(), resumed, Sabotage::NONE);
            save_vote(&mut store, vote(round, 1)).await.unwrap();
            for index in round * 100..(round + 1) * 100 {
                append(&mut store, vec![founding(index)]).await.unwrap();
                apply(&mut machine, vec![founding(index)]).await.unwrap();
            }
            RaftLogStorage::<C>::purge(&mut store, log_id(round * 100 + 50)).await.unwrap();
        }
        disk.0.changes()
    }
    TokioRuntime::run(async {
        let first = work().await;
        assert!(first == work().await, "the store is not deterministic");
    });
}

#[test]
fn closing_the_store_writes_nothing() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        let opened = open(&disk).await;
        let bytes = disk.0.bytes();
        drop(opened);
        assert!(disk.0.bytes() == bytes, "closing the store wrote to its file");
    });
}

#[test]
fn a_broken_disk_is_an_error_and_no_panic() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        let (mut store, _) = open(&disk).await;
        save_vote(&mut store, vote(1, 1)).await.unwrap();
        disk.0.break_down();
        save_vote(&mut store, vote(2, 1)).await.unwrap_err();
        append(&mut store, vec![founding(0)]).await.unwrap_err();
        // What did not become durable is not believed either.
        assert_eq!(read_vote(&mut store).await, Some(vote(1, 1)));
    });
}

#[test]
fn each_sabotage_loses_what_it_is_meant_to_lose() {
    TokioRuntime::run(async {
        let disk = MemoryDisk::default();
        let (mut store, _) = open_sabotaged(&disk, Saboteur::ForgetVote).await;
        save_vote(&mut store, vote(3, 1)).await.unwrap();
        let (mut store, _) = open(&after_power_loss(&disk)).await;
        assert_eq!(read_vote(&mut store).await, None);

        let disk = MemoryDisk::default();
        let (mut store, _) = open_sabotaged(&disk, Saboteur::AckLogBeforeSync).await;
        append(&mut store, vec![founding(0)]).await.unwrap();
        let (mut store, _) = open(&after_power_loss(&disk)).await;
        assert_eq!(last_log_id(&mut store).await, None);

        let disk = MemoryDisk::default();
        let sabotage = Sabotage::of(Saboteur::ForgetAppliedState);
        let (store, resumed) = open(&disk).await;
        let (mut machine, published) = Machine::new(store, resumed, sabotage);
        apply(&mut machine, vec![founding(0)]).await.unwrap();
        assert_eq!(published.borrow_watched().cluster, "blue");
        let (store, resumed) = open(&after_power_loss(&disk)).await;
        assert_eq!(control(store, resumed).cluster, "");
    });
}
