//! The two calls.

use reqwest::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::Result;

pub(crate) struct Api {
    client: Client,
    base: String,
    key: String,
    // As many calls at once as there may be connections, so that none is opened for one call.
    connections: Semaphore,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    error_id: i64,
    error_code: Option<String>,
    #[serde(borrow)]
    task_id: Option<&'a RawValue>,
    status: Option<&'a str>,
    #[serde(borrow)]
    solution: Option<&'a RawValue>,
}

impl Api {
    pub(crate) fn new(base: String, key: String, connections: usize) -> Result<Self> {
        let client = Client::builder().pool_max_idle_per_host(connections).no_proxy().build()?;
        Ok(Self { client, base, key, connections: Semaphore::new(connections) })
    }

    /// Submits a task; its id as JSON.
    pub(crate) async fn create(&self, task: &RawValue) -> Result<String> {
        let body =
            self.post("createTask", format!(r#"{{"clientKey":"{}","task":{task}}}"#, self.key)).await?;
        let task_id = read(&body)?.task_id.ok_or("no task id")?;
        Ok(task_id.get().to_owned())
    }

    /// Asks for the result; its solution as JSON, once it is there.
    pub(crate) async fn result(&self, task_id: &str) -> Result<Option<String>> {
        let body = self
            .post("getTaskResult", format!(r#"{{"clientKey":"{}","taskId":{task_id}}}"#, self.key))
            .await?;
        let reply = read(&body)?;
        if reply.status != Some("ready") {
            return Ok(None);
        }
        Ok(Some(reply.solution.ok_or("no solution")?.get().to_owned()))
    }

    async fn post(&self, call: &str, body: String) -> Result<Vec<u8>> {
        let _connection = self.connections.acquire().await?;
        let request = self
            .client
            .post(format!("{}/{call}", self.base))
            .header("content-type", "application/json")
            .body(body);
        Ok(request.send().await?.error_for_status()?.bytes().await?.into())
    }
}

fn read(body: &[u8]) -> Result<Reply<'_>> {
    let reply: Reply = serde_json::from_slice(body)?;
    match reply.error_code {
        Some(code) if reply.error_id != 0 => Err(code.into()),
        _ => Ok(reply),
    }
}
