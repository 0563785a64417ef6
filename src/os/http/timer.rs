//! The timers of a task runtime, in the form in which the HTTP library asks for them.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::Sleep;
use openraft_rt::AsyncRuntime;

/// The timers.
pub(super) struct Timer<Rt>(PhantomData<fn() -> Rt>);

/// A timer that runs. The library wants to share it, which nobody's own timer has to allow.
struct Sleeping(Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl<Rt> Default for Timer<Rt> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Rt> fmt::Debug for Timer<Rt> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

impl<Rt: AsyncRuntime> hyper::rt::Timer for Timer<Rt> {
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Sleep>> {
        // Made where it is first waited for, and not before.
        let sleeping = async move { Rt::sleep(span).await };
        Box::pin(Sleeping(Mutex::new(Box::pin(sleeping))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }
}

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let sleeping = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        sleeping.as_mut().poll(context)
    }
}

impl Sleep for Sleeping {}
