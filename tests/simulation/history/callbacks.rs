//! The API's callbacks on their way to the fleet, and what can happen to them there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use captcha_worker::domain::callback::CallbackToken;
use captcha_worker::simulator::{Callback, Simulator};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::api::FaultyTransport;
use super::chronicle::Chronicle;

/// Replicas by their transports, which know whether their process lives.
type Replicas = Mutex<Vec<Weak<FaultyTransport>>>;

/// Brings each callback to any replica: or to two, late, with a wrong token, or not at all.
#[derive(Clone)]
pub(crate) struct CallbackNetwork {
    replicas: Arc<Replicas>,
    rng: Arc<Mutex<StdRng>>,
    chronicle: Chronicle,
}

impl CallbackNetwork {
    pub(crate) fn of(simulator: &Simulator, seed: u64, chronicle: Chronicle) -> Self {
        let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ 0x0CA1_1BAC)));
        let network = Self { replicas: Arc::default(), rng, chronicle };
        let own = network.clone();
        simulator.on_callback(Box::new(move |callback| {
            let network = own.clone();
            Box::pin(async move { network.bring(callback).await })
        }));
        network
    }

    pub(crate) fn add(&self, replica: &Arc<FaultyTransport>) {
        self.replicas.lock().push(Arc::downgrade(replica));
    }

    /// Whether somebody could be reached.
    async fn bring(&self, callback: Callback) -> bool {
        let token = callback.url.rsplit('/').next().and_then(CallbackToken::parse);
        let (late, times, token) = {
            let mut rng = self.rng.lock();
            let late = rng.random_bool(0.2).then(|| Duration::from_millis(rng.random_range(1..10_000)));
            let wrong = rng.random_bool(0.1).then(|| CallbackToken::new(rng.random()));
            let times = *[0, 0, 1, 1, 1, 1, 1, 1, 2, 5].choose(&mut rng).expect("not empty");
            (late.unwrap_or_default(), times, wrong.or(token))
        };
        sleep(late).await;
        for _ in 0..times {
            let living = || self.replicas.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
            let replicas: Vec<_> = living().into_iter().filter(|one| one.lives()).collect();
            let Some(replica) = replicas.choose(&mut self.rng.lock()).cloned() else { return false };
            self.chronicle.record(|| format!("{} is called back", replica.replica));
            if let Some(view) = replica.view.get() {
                view.callbacks().receive(token);
            }
        }
        // Now and then nobody answers, and createTask is refused for it.
        !self.rng.lock().random_bool(0.02)
    }
}
