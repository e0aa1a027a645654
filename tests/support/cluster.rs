//! Several RabbitMQ nodes of a test's own as one cluster, on one machine.

use std::collections::BTreeMap;
use std::process::Child;

use super::rabbit::RabbitNode;

/// The nodes, and the epmd by which they find one another: it must not die with one of them.
pub struct Cluster {
    pub nodes: Vec<RabbitNode>,
    epmd: Child,
}

impl Cluster {
    pub async fn start(size: usize) -> Self {
        let starting = tokio::task::spawn_blocking(move || Self::start_here(size));
        starting.await.expect("the cluster starts")
    }

    fn start_here(size: usize) -> Self {
        let mut first = RabbitNode::prepared(None);
        let epmd = first.launch("epmd");
        first.await_folder();
        first.run();
        let mut cluster = Self { nodes: vec![first], epmd };
        while cluster.nodes.len() < size {
            let mut next = RabbitNode::prepared(cluster.nodes.first());
            next.run();
            next.stop_app();
            next.ctl(&["join_cluster", &cluster.nodes[0].name()]);
            next.start_app();
            cluster.nodes.push(next);
        }
        cluster
    }

    /// The place of each quorum queue's leader, as a living node sees it.
    pub fn leaders(&self, asked: usize) -> BTreeMap<String, usize> {
        let listed = self.nodes[asked].ctl(&["list_queues", "--silent", "name", "leader"]);
        let names: Vec<String> = self.nodes.iter().map(RabbitNode::name).collect();
        let place = |line: &str| {
            let (queue, leader) = line.split_once('\t')?;
            Some((queue.to_owned(), names.iter().position(|name| name == leader.trim())?))
        };
        listed.lines().filter_map(place).collect()
    }

    /// Spreads the leaders over the nodes.
    pub fn spread_leaders(&self) {
        self.nodes[0].ctl(&["eval", "rabbit_amqqueue:rebalance(quorum, <<\".*\">>, <<\".*\">>)."]);
    }

    /// Whether every quorum queue has all of its members.
    pub fn is_whole(&self, asked: usize) -> bool {
        let listed = self.nodes[asked].ctl(&["list_queues", "--silent", "type", "online"]);
        let mut quorum = listed.lines().filter(|line| line.contains("quorum"));
        quorum.all(|line| line.matches('@').count() == self.nodes.len())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        self.epmd.kill().ok();
        self.epmd.wait().ok();
    }
}
