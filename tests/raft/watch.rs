//! The house's watch channel, against the consensus library's contract for one.

use std::sync::{Arc, Mutex};

use openraft_rt::testing::Suite;
use openraft_rt::{AsyncRuntime, Watch, WatchReceiver, WatchSender};

use pg_replica::runtime::raft::OrderedWatch;

use super::runtime::OrderedRuntime;

#[test]
fn the_librarys_own_suite_passes() {
    Suite::<OrderedRuntime>::test_all();
}

#[test]
fn waiters_wake_in_the_order_in_which_they_came() {
    // One thread: what is woken first runs first.
    OrderedRuntime::new(1).block_on(async {
        let (sender, receiver) = OrderedWatch::channel(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiters: Vec<_> = (0..50)
            .map(|number| {
                let (mut receiver, order) = (receiver.clone(), order.clone());
                let mut waiting = Box::pin(async move {
                    receiver.changed().await.unwrap();
                    order.lock().unwrap().push(number);
                });
                // The first poll joins the queue.
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(waiting.as_mut().poll(&mut context).is_pending());
                waiting
            })
            .collect();
        sender.send(1).unwrap();
        for waiter in waiters {
            waiter.await;
        }
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    });
}

#[test]
fn the_last_value_is_seen_even_after_the_sender_is_gone() {
    OrderedRuntime::new(1).block_on(async {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        sender.send(1).unwrap();
        drop(sender);
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow_watched(), 1);
        receiver.changed().await.unwrap_err();
    });
}
