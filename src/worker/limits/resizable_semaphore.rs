//! Places whose number changes while they are in use.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use tokio::sync::Semaphore;

/// A semaphore that grows and shrinks; who waits is served in order.
#[derive(Debug)]
pub(crate) struct ResizableSemaphore {
    free: Semaphore,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    wanted: usize,
    /// Places in use that are to go when they are given back.
    surplus: usize,
}

/// One place, given back when dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub(crate) struct CallPermit(Arc<ResizableSemaphore>);

impl ResizableSemaphore {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let size = Size { wanted: size, surplus: 0 };
        Arc::new(Self { free: Semaphore::new(size.wanted), size: Mutex::new(size) })
    }

    fn lock(&self) -> MutexGuard<'_, Size> {
        // Two numbers, right at every moment.
        self.size.lock()
    }

    /// Waits for a place. Never in vain: the semaphore is never closed.
    pub(crate) async fn place(self: &Arc<Self>) -> CallPermit {
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        CallPermit(Arc::clone(self))
    }

    /// Places in use.
    pub(crate) fn in_use(&self) -> usize {
        let size = self.lock();
        (size.wanted + size.surplus).saturating_sub(self.free.available_permits())
    }

    /// Another number of places. Those in use beyond it stay until they are given back.
    pub(crate) fn resize(&self, wanted: usize) {
        let mut size = self.lock();
        if wanted > size.wanted {
            let more = wanted - size.wanted;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            let fewer = size.wanted - wanted;
            size.surplus += fewer - self.free.forget_permits(fewer);
        }
        size.wanted = wanted;
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut size = self.0.lock();
        if size.surplus > 0 {
            size.surplus -= 1;
        } else {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn take(places: &Arc<ResizableSemaphore>) -> Option<CallPermit> {
        places.place().now_or_never()
    }

    #[tokio::test]
    async fn places_beyond_a_smaller_size_go_when_they_are_given_back() {
        let places = ResizableSemaphore::new(4);
        let mut held: Vec<_> = (0..4).filter_map(|_| take(&places)).collect();
        assert!(held.len() == 4 && take(&places).is_none());
        places.resize(2);
        held.truncate(2);
        assert!(take(&places).is_none(), "two were surplus");
        held.pop();
        held.extend(take(&places));
        assert_eq!(held.len(), 2);
        places.resize(3);
        assert!(take(&places).is_some());
    }

    #[tokio::test]
    async fn a_size_that_grows_again_takes_the_surplus_back_first() {
        let places = ResizableSemaphore::new(3);
        let held: Vec<_> = (0..3).filter_map(|_| take(&places)).collect();
        places.resize(1);
        places.resize(3);
        assert!(take(&places).is_none());
        drop(held);
        assert_eq!((0..9).map_while(|_| take(&places)).collect::<Vec<_>>().len(), 3);
    }
}
