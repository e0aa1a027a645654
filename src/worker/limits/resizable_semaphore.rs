//! Permits whose number changes while they are in use.

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
    /// Permits in use that are to go when they are given back.
    surplus: usize,
}

/// One permit, given back when dropped.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
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

    /// Waits for a permit. Never in vain: the semaphore is never closed.
    pub(crate) async fn acquire(self: &Arc<Self>) -> CallPermit {
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        CallPermit(Arc::clone(self))
    }

    /// Permits in use.
    pub(crate) fn in_use(&self) -> usize {
        let size = self.lock();
        (size.wanted + size.surplus).saturating_sub(self.free.available_permits())
    }

    /// Another number of permits. Those in use beyond it stay until they are given back.
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

    fn take(permits: &Arc<ResizableSemaphore>) -> Option<CallPermit> {
        permits.acquire().now_or_never()
    }

    #[tokio::test]
    async fn permits_beyond_a_smaller_size_go_when_they_are_given_back() {
        let permits = ResizableSemaphore::new(4);
        let mut held: Vec<_> = (0..4).filter_map(|_| take(&permits)).collect();
        assert!(held.len() == 4 && take(&permits).is_none());
        permits.resize(2);
        held.truncate(2);
        assert!(take(&permits).is_none(), "two were surplus");
        held.pop();
        held.extend(take(&permits));
        assert_eq!(held.len(), 2);
        permits.resize(3);
        assert!(take(&permits).is_some());
    }

    #[tokio::test]
    async fn a_size_that_grows_again_takes_the_surplus_back_first() {
        let permits = ResizableSemaphore::new(3);
        let held: Vec<_> = (0..3).filter_map(|_| take(&permits)).collect();
        permits.resize(1);
        permits.resize(3);
        assert!(take(&permits).is_none());
        drop(held);
        assert_eq!((0..9).map_while(|_| take(&permits)).collect::<Vec<_>>().len(), 3);
    }
}
