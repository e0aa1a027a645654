//! A RabbitMQ that was set up as `deploy/rabbitmq` says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::rabbit::RabbitNode;

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");

/// Its dot must not be taken for any character.
pub(crate) const NAMESPACE: &str = "lane.a";
pub(crate) const USERS: [&str; 4] = ["worker", "publisher", "consumer", "operator"];

pub(crate) struct Broker {
    pub(crate) node: RabbitNode,
    passwords: TempDir,
}

impl Broker {
    /// A node with the topology, imported, and nothing else yet.
    pub(crate) async fn start() -> Self {
        let (node, passwords) = (RabbitNode::start().await, TempDir::new().unwrap());
        let broker = Self { node, passwords };
        for user in USERS {
            std::fs::write(broker.passwords.path().join(user), format!("{user}-pass w0rd\n")).unwrap();
        }
        let exported = broker.command("guest:guest", &["topology", "export"]);
        assert!(exported.status.success(), "{}", printed(&exported));
        let definitions = broker.passwords.path().join("definitions.json");
        std::fs::write(&definitions, &exported.stdout).unwrap();
        broker.node.ctl(&["import_definitions", definitions.to_str().unwrap()]);
        broker
    }

    /// The same with its users.
    pub(crate) async fn with_users() -> Self {
        let broker = Self::start().await;
        broker.users();
        broker
    }

    pub(crate) fn users(&self) {
        let folder = self.passwords.path().to_str().unwrap();
        self.script("users.sh", &[NAMESPACE, folder], &[]);
    }

    /// The folder of passwords.
    pub(crate) fn passwords(&self) -> &Path {
        self.passwords.path()
    }

    /// A script of `deploy/rabbitmq`.
    pub(crate) fn script(&self, name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> String {
        let output = self.try_script(name, arguments, settings);
        assert!(output.status.success(), "{name}: {}", printed(&output));
        printed(&output)
    }

    pub(crate) fn try_script(&self, name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let node = root.join("scripts/rabbitmq-node");
        Command::new(root.join("deploy/rabbitmq").join(name))
            .args(arguments)
            .env("RABBITMQCTL", format!("{} ctl {}", node.display(), self.node.folder().display()))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The address for one of the users, or for `guest:guest`.
    pub(crate) fn url(&self, user: &str) -> String {
        let login = match user {
            "guest:guest" => user.to_owned(),
            user => format!("{NAMESPACE}-{user}:{user}-pass%20w0rd"),
        };
        self.node.url_as(&login, "%2f")
    }

    /// A command of the program, as a user.
    pub(crate) fn command(&self, user: &str, arguments: &[&str]) -> Output {
        Command::new(BINARY)
            .args(arguments)
            .current_dir(self.passwords.path())
            .env("CAPTCHA_WORKER__BROKER__URL", self.url(user))
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", NAMESPACE)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a command of the program printed, which ended well.
    pub(crate) fn done(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.command(user, arguments);
        assert!(output.status.success(), "{user}: {arguments:?}: {}", printed(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command of the program said, which was refused.
    pub(crate) fn denied(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.command(user, arguments);
        let printed = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{user}: {arguments:?}: {printed}");
        assert!(!printed.contains("pass w0rd") && !printed.contains("pass%20w0rd"), "{printed}");
        printed
    }
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
