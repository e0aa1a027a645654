//! The settings in force, typed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::values::{BrokerUrl, LogFilter};
use crate::domain::api_code::Overrides;
use crate::domain::guard;
use crate::domain::lane::{Lane, LaneRules};
use crate::domain::lifecycle::Ambiguous;
use crate::domain::policy::Policy;
use crate::domain::poll_schedule::PollSchedules;
use crate::domain::solve_time::Reach;
use crate::tls::TlsFiles;

/// All of them. What each means stands in `config/default.toml`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[broker]`
    pub broker: BrokerSettings,
    /// `[solver]`
    pub solver: SolverSettings,
    /// `[worker]`
    pub worker: WorkerSettings,
    /// `[retry]`
    pub retry: RetrySettings,
    /// `[polling]`
    pub polling: PollSchedules,
    /// `[codes]`
    pub codes: Overrides,
    /// `[policy]`
    pub policy: Policy,
    /// `[caps]`: most open tasks of a type in one replica.
    pub caps: BTreeMap<String, usize>,
    /// `[lanes]`: the lanes beside the default one, and the default one where it has settings.
    pub lanes: BTreeMap<Lane, LaneRules>,
    /// `[limits]`
    pub limits: LimitSettings,
    /// `[guard]`
    pub guard: GuardSettings,
    /// `[callback]`; `None`: the API is asked for no callbacks.
    pub callback: Option<CallbackSettings>,
    /// `[ops]`
    pub ops: OpsSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[traces]`
    pub traces: TraceSettings,
}

/// `[broker]`
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// From `url`, or from the file `url_file`.
    pub url: BrokerUrl,
    /// From `tls_ca_file`, `tls_cert_file` and `tls_key_file`, each of which could be used when it
    /// was read; none with `amqp://`.
    pub tls: TlsFiles,
    /// Prefix of every name: 1 to 64 of `a-z 0-9 _ . -`.
    pub namespace: String,
    /// The whole handshake.
    pub connect_timeout: Duration,
    /// Any other call.
    pub call_timeout: Duration,
    /// A publisher confirm.
    pub confirm_timeout: Duration,
    /// Whole seconds, 5 to 60.
    pub heartbeat: Duration,
    /// Prefix of queues that copies of outcomes may go to; empty: direct reply-to only.
    pub reply_to_prefix: String,
    /// Whether workers declare the topology.
    pub declare_topology: bool,
}

/// `[solver]`
#[derive(Debug, Clone)]
pub struct SolverSettings {
    /// Without user, password, query and fragment; https unless loopback or allowed.
    pub base_url: Url,
    /// From `api_key`, or from the file `api_key_file`; never empty.
    pub api_key: Option<SecretString>,
    /// An HTTP proxy before the API, with its password.
    pub proxy: Option<SecretString>,
    /// The only authorities that may have issued the API's certificate; `None`: the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// TCP and TLS.
    pub connect_timeout: Duration,
    /// A whole call.
    pub request_timeout: Duration,
    /// Calls at one time.
    pub max_connections: usize,
    /// How long a connection may have been idle and still be used.
    pub idle_timeout: Duration,
    /// Calls of the whole fleet; `None`: no limit.
    pub max_calls_per_second: Option<NonZeroU32>,
    /// Whether http to another machine is allowed.
    pub allow_plain_http: bool,
    /// What happens to a submission without a readable answer.
    pub ambiguous_submit: Ambiguous,
}

/// `[worker]`
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Empty: host name and process id.
    pub name: String,
    /// Paid tasks and submissions held at once.
    pub max_in_flight: usize,
    /// Submissions at once.
    pub submit_concurrency: usize,
    /// How long leaving may take.
    pub drain_timeout: Duration,
    /// How long a publish, an ack or a due poll may wait so that others go with it.
    pub linger: Duration,
}

/// `[retry]`
#[derive(Debug, Clone)]
pub struct RetrySettings {
    /// In the retry queues for want of a free slot.
    pub capacity_timeout: Duration,
    /// In the retry queues while the API fails.
    pub transient_timeout: Duration,
    /// In the retry queues while createTask answers a code that is not known.
    pub unknown_timeout: Duration,
    /// Paid resubmissions of a job.
    pub max_resubmissions: u32,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// Jobs of one publisher that the whole fleet takes within a minute; `None`: no limit.
    pub per_publisher_per_minute: Option<NonZeroU32>,
}

/// `[guard]`
#[derive(Debug, Clone)]
pub struct GuardSettings {
    /// What decides about the account.
    pub rules: guard::GuardRules,
    /// Whether all replicas call from one address.
    pub shared_egress: bool,
    /// Users of the broker, beside the workers', who may pause and resume.
    pub operators: Vec<String>,
    /// When a job's deadline is out of reach.
    pub deadlines: Reach,
}

/// `[callback]`
#[derive(Debug, Clone)]
pub struct CallbackSettings {
    /// Where the API reaches this replica or its fleet; may hold `{replica}`. Without user,
    /// password, query and fragment.
    pub public_url: String,
    /// Where callbacks are listened for.
    pub listen: SocketAddr,
}

/// `[ops]`
#[derive(Debug, Clone)]
pub struct OpsSettings {
    /// Where health is served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Nobody has said where; that address may be taken.
    pub is_default: bool,
    /// From the file `admin_token_file`: who knows it can act on the console. `None`: nobody can.
    pub admin_token: Option<SecretString>,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// What is logged.
    pub level: LogFilter,
    /// How.
    pub format: LogFormat,
    /// Whether lines name the part that writes them.
    pub target: bool,
}

/// `[traces]`
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// Where spans go; `None`: nowhere. Always so in a build without the feature `otel`.
    pub endpoint: Option<Url>,
    /// `http/protobuf` or `grpc`; `None`: as OpenTelemetry's own variables say.
    pub protocol: Option<&'static str>,
    /// 0 to 1.
    pub sample_ratio: f64,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}
