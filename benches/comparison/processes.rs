//! A candidate at work: its processes, from their start to their end.

use std::fs;
use std::time::Duration;

use crate::candidate::{self, Candidate, Ground};
use crate::lateness::Lateness;
use crate::load::Load;
use crate::machine::{self, Usage};
use crate::process::Process;

/// Ours drains within its own time-out, which is shorter.
const LEAVE_WITHIN: Duration = Duration::from_secs(90);

/// The processes. Dropped, they are killed with all that they have started.
pub(crate) struct Processes {
    candidate: Candidate,
    ground: Ground,
    processes: Vec<Process>,
    ops: Vec<u16>,
}

impl Processes {
    pub(crate) fn start(candidate: Candidate, ground: &Ground, load: &Load) -> Self {
        let ops: Vec<u16> = (0..load.replicas).map(|_| free_port()).collect();
        let start =
            |(place, port): (usize, &u16)| Process::start(&mut candidate.command(ground, load, place, *port));
        let processes = ops.iter().enumerate().map(start).collect();
        Self { candidate, ground: ground.clone(), processes, ops }
    }

    /// What they and their descendants have used so far.
    pub(crate) fn usage(&self) -> Usage {
        machine::usage(&self.ids())
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(Process::id).collect()
    }

    /// Whether one has ended by itself.
    pub(crate) fn has_fallen(&mut self) -> bool {
        self.processes.iter_mut().any(|process| process.ended().is_some())
    }

    /// Has them end in order, and gathers how late their polls were, where they report it.
    pub(crate) async fn leave(mut self, client: &reqwest::Client) -> Result<Option<Lateness>, String> {
        let shown = self.shown(client).await;
        for process in &self.processes {
            process.ask_to_leave().await;
        }
        for process in &mut self.processes {
            match process.end(LEAVE_WITHIN).await {
                Some(status) if status.success() => {}
                Some(status) => return Err(format!("did not end in order: {status}")),
                None => return Err("does not end".to_owned()),
            }
        }
        Ok(match self.candidate {
            Candidate::Ours => Lateness::of_ours(&shown),
            _ => Lateness::of_peer(&self.output()),
        })
    }

    async fn shown(&self, client: &reqwest::Client) -> Vec<String> {
        let mut pages = Vec::new();
        if self.candidate == Candidate::Ours {
            for port in &self.ops {
                let page = client.get(format!("http://127.0.0.1:{port}/metrics")).send().await;
                let page = page.expect("ours answers").text().await;
                pages.push(page.expect("its metrics are text"));
            }
        }
        pages
    }

    fn output(&self) -> String {
        let path = self.ground.folder.join(format!("{}.log", candidate::output(0)));
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Nobody is left after an end in order. What is killed itself cannot end its own children
        // any more.
        let left = machine::family(&self.ids());
        if !left.is_empty() {
            std::process::Command::new("kill")
                .arg("-KILL")
                .args(left.iter().map(u32::to_string))
                .status()
                .ok();
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
