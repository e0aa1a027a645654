//! What ops servers report at `/status`: the state of single replicas, and the fleet while the
//! broker is out of reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, Response, redirect};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::cli::CommandError;
use crate::cli::connect::USER_AGENT;
use crate::domain::sanitize::shown;
use crate::overview::Overview;

const TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Obstacles of one replica that are shown.
const MAX_REASONS: usize = 8;

/// What one ops server reports.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct OpsStatus {
    /// Host and port.
    pub(super) address: String,
    /// Why it reports nothing, or nothing of the fleet.
    pub(super) error: Option<String>,
    /// The state of its replica.
    #[serde(flatten)]
    pub(super) replica: Option<ReplicaStatus>,
    /// The fleet, as that replica sees it.
    #[serde(skip)]
    pub(super) fleet: Option<Overview>,
}

/// The state of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReplicaStatus {
    #[serde(default)]
    pub(super) name: String,
    pub(super) ready: bool,
    pub(super) reasons: Vec<String>,
    pub(super) polls_overdue: usize,
    pub(super) buffers: BufferFigures,
}

/// What waits inside of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct BufferFigures {
    pub(super) deliveries: usize,
    pub(super) submissions: usize,
    pub(super) publishes: usize,
}

#[derive(Deserialize)]
struct Status {
    #[serde(flatten)]
    replica: ReplicaStatus,
    /// Earlier versions report none. This version may not understand a later one's.
    #[serde(default)]
    fleet: serde_json::Value,
}

/// Reads an argument.
pub(super) fn address(text: &str) -> Result<Url, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).map_err(|error| error.to_string())?;
    let is_plain =
        url.scheme() == "http" && url.has_host() && url.username().is_empty() && url.password().is_none();
    if is_plain { Ok(url) } else { Err("http://HOST:PORT, without a user".to_owned()) }
}

/// Where a server of this machine is reached that listens there.
pub(super) fn of_listener(listen: SocketAddr) -> Option<Url> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Url::parse(&format!("http://{}", SocketAddr::new(ip, listen.port()))).ok()
}

/// The servers, and a client for them.
pub(super) struct OpsServers {
    client: Client,
    urls: Vec<Url>,
    /// As a replica of the fleet reports it.
    namespace: String,
}

impl OpsServers {
    pub(super) fn new(urls: Vec<Url>, namespace: &str) -> Result<Self, CommandError> {
        // Already installed by another part is as good: it is the same provider.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .build()
            .map_err(CommandError::failed)?;
        Ok(Self { client, urls, namespace: shown(namespace, 64) })
    }

    /// Asks all of them at once.
    pub(super) async fn ask(&self) -> Vec<OpsStatus> {
        join_all(self.urls.iter().map(|url| self.ask_one(url))).await
    }

    async fn ask_one(&self, url: &Url) -> OpsStatus {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let address = shown(&format!("{}{port}", url.host_str().unwrap_or_default()), 60);
        match self.status(url).await {
            Ok(Status { replica, fleet }) => {
                let (fleet, error) = match self.of_this_fleet(fleet) {
                    Ok(fleet) => (Some(fleet), None),
                    Err(error) => (None, Some(error)),
                };
                OpsStatus { address, error, replica: Some(replica.fit_to_be_shown()), fleet }
            }
            Err(error) => OpsStatus { address, error: Some(error), ..OpsStatus::default() },
        }
    }

    /// Reads the fleet that it reports. Another fleet is an error.
    fn of_this_fleet(&self, reported: serde_json::Value) -> Result<Overview, String> {
        let other_version =
            |_| "its /status is of another version: what it reports of the fleet is not understood";
        let fleet = fit(serde_json::from_value(reported).map_err(other_version)?);
        if fleet.namespace == self.namespace {
            Ok(fleet)
        } else {
            Err(format!("it belongs to another fleet: '{}'", fleet.namespace))
        }
    }

    async fn status(&self, url: &Url) -> Result<Status, String> {
        let mut url = url.clone();
        url.set_path("/status");
        let response = self.client.get(url).send().await.map_err(|error| why(&error))?;
        if !response.status().is_success() {
            return Err(format!("HTTP {}", response.status().as_u16()));
        }
        serde_json::from_slice(&body(response).await?).map_err(|_| "not a worker's /status".to_owned())
    }
}

fn why(error: &reqwest::Error) -> String {
    let text = match () {
        () if error.is_timeout() => "no answer in time",
        () if error.is_connect() => "nobody listens there",
        () => "the answer was cut",
    };
    text.to_owned()
}

async fn body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| why(&error))? {
        if body.len() + piece.len() > MAX_BODY {
            return Err("the answer is too long".to_owned());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

impl ReplicaStatus {
    fn fit_to_be_shown(mut self) -> Self {
        self.name = shown(&self.name, 40);
        self.reasons.truncate(MAX_REASONS);
        for reason in &mut self.reasons {
            *reason = shown(reason, 400);
        }
        self
    }
}

/// Any program may listen there, so nothing that it reports may steer the terminal.
fn fit(fleet: Overview) -> Overview {
    fn walk(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => *text = shown(text, 400),
            serde_json::Value::Array(items) => {
                items.truncate(200);
                items.iter_mut().for_each(walk);
            }
            serde_json::Value::Object(fields) => {
                // Some of them are maps, and their keys are the replica's too. No field's own name
                // is as long as that.
                *fields = std::mem::take(fields)
                    .into_iter()
                    .take(200)
                    .map(|(key, mut value)| {
                        walk(&mut value);
                        (shown(&key, 40), value)
                    })
                    .collect();
            }
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }
    let Ok(mut value) = serde_json::to_value(&fleet) else { return fleet };
    walk(&mut value);
    serde_json::from_value(value).unwrap_or(fleet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_plain_http_and_may_leave_the_scheme_out() {
        assert_eq!(address("10.0.0.7:9464").unwrap().as_str(), "http://10.0.0.7:9464/");
        for wrong in ["https://a", "http://user:pl4nted@a", "ftp://a", "http://"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert_eq!(of_listener(([0, 0, 0, 0], 9464).into()).unwrap().as_str(), "http://127.0.0.1:9464/");
    }

    #[test]
    fn a_fleet_is_taken_from_a_server_of_its_namespace_and_version_alone_and_no_key_of_its_maps_steers_the_terminal()
     {
        let servers = OpsServers::new(Vec::new(), "captcha").unwrap();
        let mut fleet = Overview::of(crate::overview::FleetFacts {
            at: crate::domain::time::Timestamp::from_millis(0),
            namespace: "captcha",
            state: None,
            leader: None,
            leader_id: None,
            expected: 1,
            replicas: &[],
            shut: &[],
            queues: None,
            tracker: &crate::overview::RateTracker::default(),
        });
        let dead = (0..500).map(|n| (format!("\u{1b}[2J{n}{}", "x".repeat(100)), 1)).collect();
        let depths = crate::fleet::Depths {
            at: fleet.at,
            ready: std::collections::BTreeMap::new(),
            missing: std::collections::BTreeSet::new(),
        };
        fleet.backlog = Some(crate::overview::Backlog { dead, ..crate::overview::Backlog::of(&depths) });
        let json = |fleet: &Overview| serde_json::to_value(fleet).unwrap();
        let taken = servers.of_this_fleet(json(&fleet)).unwrap();
        let dead = taken.backlog.unwrap().dead;
        assert!(
            dead.len() <= 200 && dead.keys().all(|key| !key.contains('\u{1b}') && key.chars().count() <= 40)
        );

        fleet.namespace = "another".to_owned();
        assert!(servers.of_this_fleet(json(&fleet)).unwrap_err().contains("another fleet: 'another'"));
        for other in [serde_json::Value::Null, serde_json::json!({"namespace": "captcha"})] {
            assert!(servers.of_this_fleet(other).unwrap_err().contains("of another version"));
        }
    }
}
