//! Declaring and comparing a topology.

use super::core::Core;
use super::exchange::Exchange;
use super::queue::Queue;
use crate::broker::BrokerError;
use crate::broker::topology::{self, Arguments, Mismatch, Topology};
use crate::domain::message::Value;

impl Core {
    /// Makes what is missing; stops at the first thing that exists with other settings, as a broker that closes the channel does.
    pub(super) fn declare(&mut self, topology: &Topology) -> Result<(), BrokerError> {
        for exchange in &topology.exchanges {
            self.declare_exchange(exchange)?;
        }
        for queue in &topology.queues {
            self.declare_queue(queue)?;
        }
        for binding in &topology.bindings {
            let queue = &binding.queue;
            if !self.queues.contains_key(queue) {
                return Err(missing("queue", queue));
            }
            let exchange = self
                .exchanges
                .get_mut(&binding.exchange)
                .ok_or_else(|| missing("exchange", &binding.exchange))?;
            exchange.bindings.insert((binding.routing_key.clone(), queue.clone()));
        }
        Ok(())
    }

    fn declare_exchange(&mut self, wanted: &topology::Exchange) -> Result<(), BrokerError> {
        match self.exchange_differs(wanted) {
            Some(Some(detail)) => Err(mismatch("exchange", &wanted.name, detail)),
            Some(None) => Ok(()),
            None => {
                let made = Exchange {
                    kind: wanted.kind,
                    arguments: wanted.arguments.clone(),
                    bindings: std::collections::BTreeSet::new(),
                };
                self.exchanges.insert(wanted.name.clone(), made);
                Ok(())
            }
        }
    }

    fn declare_queue(&mut self, wanted: &topology::Queue) -> Result<(), BrokerError> {
        match self.queue_differs(wanted) {
            Some(Some(detail)) => Err(mismatch("queue", &wanted.name, detail)),
            Some(None) => Ok(()),
            None => {
                let made = Queue::new(wanted.arguments.clone(), None);
                self.queues.insert(wanted.name.clone(), made);
                Ok(())
            }
        }
    }

    /// Every difference; changes nothing.
    pub(super) fn check(&self, topology: &Topology) -> Vec<Mismatch> {
        let mut found = Vec::new();
        let mut note = |kind, name: &str, differs: Option<Option<String>>| {
            let problem = match differs {
                None => "does not exist; declare the topology".to_owned(),
                Some(Some(detail)) => {
                    format!("{detail}; delete it once it is empty, and declare the topology")
                }
                Some(None) => return,
            };
            let name = name.to_owned();
            found.push(Mismatch { kind, name, problem });
        };
        for exchange in &topology.exchanges {
            note("exchange", &exchange.name, self.exchange_differs(exchange));
        }
        for queue in &topology.queues {
            note("queue", &queue.name, self.queue_differs(queue));
        }
        for binding in &topology.bindings {
            // A missing end has been told already.
            let ends = (self.exchanges.get(&binding.exchange), self.queues.get(&binding.queue));
            if let (Some(exchange), Some(_)) = ends {
                let bound = (binding.routing_key.clone(), binding.queue.clone());
                let name = format!("{} -> {} ({})", binding.exchange, binding.queue, binding.routing_key);
                note("binding", &name, exchange.bindings.contains(&bound).then_some(None));
            }
        }
        found
    }

    /// `None` where it does not exist, `Some(None)` where it is as wanted, else what differs.
    fn exchange_differs(&self, wanted: &topology::Exchange) -> Option<Option<String>> {
        let exchange = self.exchanges.get(&wanted.name)?;
        if exchange.kind != wanted.kind {
            let (received, current) = (wanted.kind.name(), exchange.kind.name());
            return Some(Some(format!(
                "inequivalent arg 'type': received '{received}' but current is '{current}'"
            )));
        }
        Some(arguments_differ(&wanted.arguments, &exchange.arguments))
    }

    fn queue_differs(&self, wanted: &topology::Queue) -> Option<Option<String>> {
        let queue = self.queues.get(&wanted.name)?;
        Some(arguments_differ(&wanted.arguments, &queue.arguments))
    }
}

fn arguments_differ(received: &Arguments, current: &Arguments) -> Option<String> {
    let name =
        received.keys().chain(current.keys()).find(|name| received.get(*name) != current.get(*name))?;
    let shown = |value: Option<&Value>| match value {
        None => "none".to_owned(),
        Some(Value::Text(text)) => format!("'{text}'"),
        Some(Value::Int(number)) => format!("'{number}'"),
        Some(Value::Bool(flag)) => format!("'{flag}'"),
        Some(other) => format!("'{other:?}'"),
    };
    let (received, current) = (shown(received.get(name)), shown(current.get(name)));
    Some(format!("inequivalent arg '{name}': received {received} but current is {current}"))
}

pub(super) fn missing(kind: &'static str, name: &str) -> BrokerError {
    let name = name.to_owned();
    BrokerError::Missing { kind, name }
}

fn mismatch(kind: &'static str, name: &str, detail: String) -> BrokerError {
    let name = name.to_owned();
    BrokerError::Mismatch { kind, name, detail }
}
