//! Places for connections, and who has to go when there are none left.
//!
//! Whoever connects is a stranger until it has shown what it wants. Strangers who say nothing may
//! take every place there is, but they cannot keep them: whoever comes next takes the place of the
//! one who has been a stranger for longest. Members and load balancers say at once what they want.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All of them. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    most: usize,
    present: Mutex<Present>,
}

/// Who is there.
#[derive(Default)]
struct Present {
    /// How many have come so far: no two have the same number.
    came: u64,
    /// By when they came; strangers with the way to tell them to leave.
    by_number: BTreeMap<u64, Option<oneshot::Sender<()>>>,
}

/// One of them, until it is dropped.
pub(super) struct Place {
    places: Places,
    number: u64,
    told: Option<oneshot::Receiver<()>>,
}

impl Places {
    /// So many.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, present: Mutex::default() }))
    }

    /// A place for somebody who has just come. `None` where others than strangers have them all.
    pub(super) fn take(&self) -> Option<Place> {
        let mut present = self.present();
        if present.by_number.len() >= self.0.most {
            let oldest = present.by_number.iter().find(|(_, stranger)| stranger.is_some());
            let oldest = *oldest?.0;
            if let Some(stranger) = present.by_number.remove(&oldest).flatten() {
                // Who has left meanwhile need not be told.
                let _ = stranger.send(());
            }
        }
        let number = present.came;
        present.came += 1;
        let (tell, told) = oneshot::channel();
        present.by_number.insert(number, Some(tell));
        drop(present);
        Some(Place { places: self.clone(), number, told: Some(told) })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.0.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It is no stranger any more.
    pub(super) fn is_known(&self) {
        if let Some(stranger) = self.places.present().by_number.get_mut(&self.number) {
            *stranger = None;
        }
    }

    /// Waits until it has to make room, which somebody who is known never has to.
    pub(super) fn has_to_leave(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let told = self.told.take();
        async move {
            let has_to = match told {
                Some(told) => told.await.is_ok(),
                None => false,
            };
            if !has_to {
                pending::<()>().await;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.present().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_stranger_makes_room_and_nobody_who_is_known() {
        let places = Places::new(3);
        let mut first = places.take().unwrap();
        let mut second = places.take().unwrap();
        let mut third = places.take().unwrap();
        let leaves = [&mut first, &mut second, &mut third].map(Place::has_to_leave);
        let [one, two, three] = leaves.map(|leave| leave.boxed().shared());
        first.is_known();
        let fourth = places.take().unwrap();
        let told = || [&one, &two, &three].map(|leave| leave.clone().now_or_never().is_some());
        assert_eq!(told(), [false, true, false]);
        // Its place is somebody else's now, and is not given away twice.
        drop(second);
        third.is_known();
        fourth.is_known();
        assert!(places.take().is_none());
        drop(third);
        assert!(places.take().is_some());
        assert_eq!(told(), [false, true, false]);
    }

    #[test]
    fn who_had_to_leave_takes_nobody_elses_place_along() {
        let places = Places::new(2);
        let first = places.take().unwrap();
        first.is_known();
        let second = places.take().unwrap();
        let third = places.take().unwrap();
        third.is_known();
        drop(second);
        assert!(places.take().is_none());
    }
}
