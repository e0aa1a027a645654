//! RabbitMQ for tests: a node shared by all test processes of one run, and nodes of a test's own to
//! stop, kill and restart.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use captcha_worker::broker::Session;
use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::linger::Linger;
use captcha_worker::tls::TlsFiles;

/// A node starts within seconds, or within a minute on a crowded machine.
const START_WITHIN: Duration = Duration::from_secs(120);

/// The URL of a node, as `scripts/with-rabbitmq` gives it to all tests of a run.
const SHARED: &str = "CAPTCHA_WORKER_TEST_AMQP";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rabbitmq-node")
}

/// A broker that other tests may use at the same time. Tests keep apart by namespace: see
/// [`fresh_namespace`].
pub struct SharedRabbit {
    url: String,
    // Where the run has no shared node, this test has its own.
    _own: Option<RabbitNode>,
}

impl SharedRabbit {
    pub async fn get() -> Self {
        if let Ok(url) = std::env::var(SHARED) {
            return Self { url, _own: None };
        }
        let own = RabbitNode::start().await;
        Self { url: own.url(), _own: Some(own) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn session(&self) -> Session {
        connect(&self.url).await
    }
}

/// A namespace that no other test has.
pub fn fresh_namespace() -> String {
    format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// Options with time-outs that suit tests.
pub fn options(url: &str) -> AmqpOptions {
    AmqpOptions {
        url: url.to_owned().into(),
        tls: TlsFiles::default(),
        connect_timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(20),
        confirm_timeout: Duration::from_secs(30),
        heartbeat_secs: 10,
        connection_name: "test".to_owned(),
        publish_depth: 1_024,
        linger: Linger::none(),
    }
}

pub async fn connect(url: &str) -> Session {
    let connector = Connector::new(options(url)).expect("a test's URL is well formed");
    connector.connect().await.expect("the test's broker answers")
}

/// A node of the test's own: private ports, data, cookie and epmd. Stopped, and its data deleted,
/// when dropped.
pub struct RabbitNode {
    folder: PathBuf,
    port: u16,
    peer: Option<PathBuf>,
    needs: Needs,
    group: Option<Child>,
}

/// What a node has beyond the others.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// A folder with `ca.pem`, `cert.pem` and `key.pem`: a listener for TLS, that asks for a client
    /// certificate.
    pub tls: Option<PathBuf>,
    /// More lines of configuration.
    pub conf: String,
    /// Plugins, separated by commas.
    pub plugins: String,
}

impl RabbitNode {
    pub async fn start() -> Self {
        let starting = tokio::task::spawn_blocking(Self::start_here);
        starting.await.expect("the node starts")
    }

    pub async fn start_with(needs: Needs) -> Self {
        let starting = tokio::task::spawn_blocking(|| Self::start_so(needs));
        starting.await.expect("the node starts")
    }

    fn start_here() -> Self {
        Self::start_so(Needs::default())
    }

    fn start_so(needs: Needs) -> Self {
        let mut node = Self::prepared(None);
        node.needs = needs;
        node.run();
        node
    }

    /// A node that has not started yet: a stranger, or one that can join another.
    pub(super) fn prepared(peer: Option<&Self>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("captcha-worker-rabbitmq.")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        Self {
            folder,
            port: 0,
            peer: peer.map(|peer| peer.folder.clone()),
            needs: Needs::default(),
            group: None,
        }
    }

    /// Erlang's name of it.
    pub fn name(&self) -> String {
        self.read("NODENAME=").expect("it has started")
    }

    pub fn url(&self) -> String {
        self.url_as("guest:guest", "%2f")
    }

    /// The node's URL with another log-in (`user:password`) or virtual host (percent-encoded).
    pub fn url_as(&self, login: &str, vhost: &str) -> String {
        format!("amqp://{login}@127.0.0.1:{}/{vhost}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.read("TLS_PORT=").and_then(|port| port.parse().ok()).expect("it has one")
    }

    /// The node's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub async fn session(&self) -> Session {
        connect(&self.url()).await
    }

    /// `rabbitmqctl` against this node; returns what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(script())
            .arg("ctl")
            .arg(&self.folder)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("rabbitmqctl runs");
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has the broker end consumers that hold a message for as long as `timeout`; `look` is how
    /// often it checks. In force for channels that are opened from then on, until it stops.
    pub fn shorten_consumer_timeout(&self, timeout: Duration, look: Duration) {
        let set =
            |name: &str, span: Duration| format!("application:set_env(rabbit, {name}, {})", span.as_millis());
        let both = format!("{}, {}.", set("consumer_timeout", timeout), set("channel_tick_interval", look));
        self.ctl(&["eval", &both]);
    }

    /// Stops the broker in order, inside its running Erlang node.
    pub fn stop_app(&self) {
        self.ctl(&["stop_app"]);
    }

    /// Starts it again. Returns when it took clients first, which is before all of it is there.
    pub fn start_app(&self) -> Instant {
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| self.ctl(&["start_app"]));
            let deadline = Instant::now() + START_WITHIN;
            while answers(self.port).is_err() {
                assert!(Instant::now() < deadline, "no answer; the node's logs: {}", self.folder.display());
                std::thread::sleep(Duration::from_millis(10));
            }
            let answered = Instant::now();
            starting.join().expect("rabbitmqctl runs");
            answered
        })
    }

    /// Writes the registry of quorum queues to disk. The broker (3.10) does so by and by only: a
    /// queue declared just before a crash is found again without its log, and never elects a
    /// leader. Messages are not concerned; their log is synced before they are confirmed.
    pub fn sync_registry(&self) {
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]);
    }

    /// A crash: nothing is written, nobody is informed.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.reap();
    }

    /// The node goes silent: its sockets stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Starts the killed node again, with its data and on its ports.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    pub(super) fn run(&mut self) {
        self.group = Some(self.launch("start"));
        self.await_answer();
    }

    /// A verb of the script that goes on, in a process group of its own.
    pub(super) fn launch(&self, verb: &str) -> Child {
        let log =
            File::create(self.folder.join(format!("{verb}.log"))).expect("the node's folder is writable");
        let errors = log.try_clone().expect("a file handle can be cloned");
        let conf = self.folder.join("more.conf");
        std::fs::write(&conf, &self.needs.conf).expect("the node's folder is writable");
        Command::new(script())
            .arg(verb)
            .arg(&self.folder)
            .envs(self.peer.as_ref().map(|peer| ("RABBITMQ_NODE_PEER", peer)))
            .envs(self.needs.tls.as_ref().map(|folder| ("RABBITMQ_NODE_TLS", folder)))
            .env("RABBITMQ_NODE_CONF", conf)
            .env("RABBITMQ_NODE_PLUGINS", &self.needs.plugins)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .expect("bash runs scripts/rabbitmq-node")
    }

    /// Waits by connecting: a node that takes clients answers the protocol's header. Its port may
    /// be open before that.
    fn await_answer(&mut self) {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            if let Some(port) = self.read_port() {
                self.port = port;
                if answers(port).is_ok() {
                    return;
                }
            }
            let died = match &mut self.group {
                Some(child) => child.try_wait().ok().flatten(),
                None => None,
            };
            if died.is_some() || Instant::now() > deadline {
                panic!("RabbitMQ did not start ({died:?}); its logs: {}", self.folder.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the node's folder shows its ports.
    pub(super) fn await_folder(&self) {
        let deadline = Instant::now() + START_WITHIN;
        while self.read("PORT=").is_none() {
            assert!(Instant::now() < deadline, "no ports in {}", self.folder.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn read_port(&self) -> Option<u16> {
        self.read("PORT=")?.parse().ok()
    }

    fn read(&self, key: &str) -> Option<String> {
        let written = std::fs::read_to_string(self.folder.join("node.env")).ok()?;
        written.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned)
    }

    fn signal(&self, signal: &str) {
        if let Some(group) = &self.group {
            // The negative id names the process group that this test started, and nothing else.
            let _ = Command::new("kill")
                .args([&format!("-{signal}"), "--", &format!("-{}", group.id())])
                .stderr(Stdio::null())
                .status();
        }
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.group.take() {
            let _ = child.wait();
        }
    }
}

fn answers(port: u16) -> std::io::Result<()> {
    let max_wait = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), max_wait)?;
    stream.set_read_timeout(Some(max_wait))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    stream.read_exact(&mut [0])
}

impl Drop for RabbitNode {
    fn drop(&mut self) {
        self.kill();
        let failed = std::thread::panicking();
        if failed {
            eprintln!("the broker's logs are in {}", self.folder.display());
        }
        let end = if failed { "release" } else { "clean" };
        let _ = Command::new(script()).arg(end).arg(&self.folder).status();
    }
}
