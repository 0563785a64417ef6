//! What a simulated disk promises, and what it deliberately does not.

use std::time::Duration;

use madsim::runtime::Runtime;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf};
use openraft_rt_tokio::TokioRuntime;
use pg_replica::env::Disk;
use pg_replica::ids::{Incarnation, NodeId};
use pg_replica::runtime::raft::{OpenError, Store, StoreOwner, TypeConfig};
use pg_replica::sabotage::Sabotage;
use redb::{ReadableDatabase, StorageBackend};
use sim::clock::{sleep, true_now};
use sim::disk::SimDisk;
use sim::streams::Stream;

const FILE: &str = "store";

fn simulate<T>(seed: u64, test: impl AsyncFnOnce(SimDisk) -> T) -> T {
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(test(SimDisk::new(Stream::of(seed, 1))))
}

/// Writes `data` at `offset` and syncs it.
async fn save(disk: &SimDisk, offset: u64, data: &[u8]) -> std::io::Result<()> {
    let (file, data) = (disk.open(FILE).unwrap(), data.to_vec());
    disk.run(move || {
        file.write(offset, &data)?;
        file.sync_data()
    })
    .await
}

#[test]
fn what_was_synced_survives_and_takes_its_time() {
    simulate(1, async |disk| {
        let before = true_now();
        save(&disk, 0, b"kept").await.unwrap();
        assert!(true_now() - before >= Duration::from_millis(1));
        disk.power_loss();
        assert_eq!(disk.contents(FILE).unwrap(), b"kept");
    });
}

#[test]
fn what_was_not_synced_is_kept_lost_or_torn() {
    let mut lengths = Vec::new();
    for seed in 0..60 {
        simulate(seed, async |disk| {
            save(&disk, 0, b"kept").await.unwrap();
            let file = disk.open(FILE).unwrap();
            disk.run(move || file.write(4, b"unsynced").unwrap()).await;
            assert_eq!(disk.contents(FILE).unwrap(), b"keptunsynced");
            disk.power_loss();
            let left = disk.contents(FILE).unwrap();
            assert!(b"keptunsynced".starts_with(&left) && left.len() >= 4);
            lengths.push(left.len());
        });
    }
    assert!(lengths.contains(&4), "lost whole");
    assert!(lengths.contains(&12), "kept whole");
    assert!(lengths.iter().any(|length| (5..12).contains(length)), "torn");
}

#[test]
fn a_write_behind_a_sync_never_survives_what_the_sync_covers() {
    let mut interrupted = 0;
    for seed in 0..200 {
        simulate(seed, async |disk| {
            let file = disk.open(FILE).unwrap();
            let saving = disk.clone();
            let work = madsim::task::spawn(async move {
                let work = move || {
                    file.set_len(2).unwrap();
                    file.sync_data().unwrap();
                    file.write(0, b"a").unwrap();
                    file.sync_data().unwrap();
                    file.write(1, b"b").unwrap();
                    file.sync_data().unwrap();
                };
                saving.run(work).await;
            });
            sleep(Duration::from_millis(1)).await;
            assert!(!work.is_finished());
            disk.power_loss();
            let left = disk.contents(FILE).unwrap();
            interrupted += u32::from(left == b"a\0");
            assert_ne!(left, b"\0b");
        });
    }
    assert!(interrupted > 10, "the middle is met");
}

#[test]
fn the_page_cache_survives_the_process_and_its_handles_do_not() {
    simulate(1, async |disk| {
        let file = disk.open(FILE).unwrap();
        file.write(0, b"seen").unwrap();
        disk.process_crash();
        assert!(file.write(0, b"late").is_err());
        assert_eq!(disk.contents(FILE).unwrap(), b"seen");
        assert_eq!(disk.durable_contents(FILE).unwrap(), b"");
        disk.wipe();
        assert_eq!(disk.contents(FILE), None);
        assert!(file.len().is_err());
    });
}

#[test]
fn a_stalled_disk_makes_its_callers_wait_and_a_slow_one_makes_them_late() {
    simulate(1, async |disk| {
        disk.set_stalled(true);
        let saving = disk.clone();
        let saved = madsim::task::spawn(async move { save(&saving, 0, b"late").await });
        sleep(Duration::from_secs(5)).await;
        assert!(!saved.is_finished());
        assert_eq!(disk.durable_contents(FILE).unwrap(), b"");
        disk.set_stalled(false);
        saved.await.unwrap().unwrap();
        assert_eq!(disk.durable_contents(FILE).unwrap(), b"late");
        disk.set_slow(100.0);
        let before = true_now();
        save(&disk, 0, b"slow").await.unwrap();
        assert!(true_now() - before >= Duration::from_millis(100));
    });
}

#[test]
fn a_full_or_failing_disk_says_so_and_a_failed_sync_promises_nothing_later() {
    let mut outcomes = Vec::new();
    for seed in 0..30 {
        simulate(seed, async |disk| {
            save(&disk, 0, b"old").await.unwrap();
            disk.set_full(true);
            assert_eq!(save(&disk, 1, b"xyz").await.unwrap_err().raw_os_error(), Some(28));
            save(&disk, 0, b"OLD").await.unwrap();
            disk.set_full(false);
            disk.set_failing(true, false);
            assert_eq!(save(&disk, 0, b"new").await.unwrap_err().raw_os_error(), Some(5));
            disk.set_failing(false, true);
            assert_eq!(save(&disk, 0, b"new").await.unwrap_err().raw_os_error(), Some(5));
            disk.heal();
            save(&disk, 3, b"!").await.unwrap();
            assert_eq!(disk.contents(FILE).unwrap(), b"new!");
            disk.power_loss();
            outcomes.push(disk.contents(FILE).unwrap());
        });
    }
    outcomes.sort();
    outcomes.dedup();
    assert_eq!(outcomes, [b"OLD!".to_vec(), b"new!".to_vec()]);
}

#[test]
fn the_embedded_store_keeps_every_commit_that_returned_across_power_losses() {
    const TABLE: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("numbers");
    for seed in 0..20 {
        simulate(seed, async |disk| {
            let mut committed = 0;
            for round in 0..5_u64 {
                let opening = disk.clone();
                let file = disk.open(FILE).unwrap();
                let database = opening
                    .run(move || redb::Builder::new().create_with_backend(file).unwrap())
                    .await;
                let database = std::sync::Arc::new(database);
                let reading = database.begin_read().unwrap();
                let found = reading
                    .open_table(TABLE)
                    .ok()
                    .map_or(0, |table| table.get(0).unwrap().map_or(0, |value| value.value()));
                let possible = committed..=committed + 1;
                assert!(possible.contains(&found), "seed {seed} round {round}: {found}");
                drop(reading);
                for number in found + 1..found + 10 {
                    let database = database.clone();
                    let commit = disk.run(move || {
                        let transaction = database.begin_write().unwrap();
                        transaction.open_table(TABLE).unwrap().insert(0, number).unwrap();
                        transaction.commit().unwrap();
                    });
                    commit.await;
                    committed = number;
                }
                // One more commit is under way when the power goes.
                let last = database.clone();
                let losing = disk.clone();
                drop(madsim::task::spawn(async move {
                    let commit = move || {
                        let transaction = last.begin_write().unwrap();
                        transaction.open_table(TABLE).unwrap().insert(0, committed + 1).unwrap();
                        transaction.commit().unwrap();
                    };
                    losing.run(commit).await;
                }));
                sleep(Duration::from_micros(500)).await;
                disk.power_loss();
                drop(database);
            }
        });
    }
}

/// A failed sync leaves the page cache ahead of the disk for good: a store that read the cache and
/// built upon it would lose its footing with the next power loss.
#[test]
fn a_store_does_not_build_on_what_a_failed_sync_left_in_the_page_cache() {
    type C = TypeConfig<TokioRuntime>;
    async fn open(disk: &SimDisk) -> Result<Store<SimDisk>, OpenError> {
        let (node, fresh) = (NodeId(1), Incarnation(1));
        let owner = StoreOwner { node, cluster: "blue".into(), fresh };
        Ok(Store::open(disk, owner, Sabotage::NONE).await?.0)
    }
    /// Appends the next `count` entries and returns how many the log has then.
    async fn append(store: &mut Store<SimDisk>, count: u64) -> std::io::Result<u64> {
        let state = RaftLogStorage::<C>::get_log_state(store).await?;
        let next = state.last_log_id.map_or(0, |last| last.index + 1);
        let entry = |index| EntryOf::<C> {
            log_id: LogIdOf::<C>::new_term_index(1, index),
            payload: EntryPayload::Blank,
        };
        let entries: Vec<_> = (next..next + count).map(entry).collect();
        RaftLogStorage::<C>::append(store, entries, IOFlushed::noop()).await?;
        Ok(next + count)
    }
    for seed in 0..40 {
        simulate(seed, async |disk| {
            let mut store = open(&disk).await.unwrap();
            append(&mut store, 300).await.unwrap();
            for _ in 0..3 {
                disk.set_failing(false, true);
                append(&mut store, 200).await.unwrap_err();
                drop(store);
                disk.process_crash();
                // While the disk fails, nothing is opened and nothing is made worse.
                open(&disk).await.unwrap_err();
                disk.heal();
                store = open(&disk).await.unwrap();
            }
            let written = append(&mut store, 100).await.unwrap();
            drop(store);
            disk.power_loss();
            let mut store =
                open(&disk).await.unwrap_or_else(|cause| panic!("seed {seed}: {cause}"));
            let found = RaftLogReader::<C>::try_get_log_entries(&mut store, ..).await.unwrap();
            assert_eq!(found.len() as u64, written, "seed {seed}");
        });
    }
}
