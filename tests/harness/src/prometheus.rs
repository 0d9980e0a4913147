//! A real Prometheus process, asked over its HTTP interface.

use crate::client::{Protocol, Request, send_once};
use crate::scratch::Scratch;
use crate::{PATIENCE, eventually, process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

const LOG: &str = "prometheus.log";

/// A running Prometheus with data of its own; dropping it kills the process.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    scratch: Scratch,
    address: SocketAddr,
}

/// One series of an answer: its labels, and its values in the order of time. Values that are no numbers are left out.
#[derive(Debug, Clone)]
pub struct Series {
    /// Labels, the name among them as `__name__`.
    pub labels: BTreeMap<String, String>,
    /// Values.
    pub values: Vec<f64>,
}

impl Prometheus {
    /// Starts `prometheus` (as PATH finds it) with this configuration, whose rule files have absolute paths, on a port
    /// that is free.
    ///
    /// # Panics
    /// With its log if it does not come up.
    pub async fn start(configuration: &str) -> Self {
        let scratch = Scratch::new();
        let file = scratch.file("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let log = std::fs::File::create(scratch.file(LOG)).unwrap();
        let mut command = Command::new("prometheus");
        command.arg("--config.file").arg(file).arg("--storage.tsdb.path").arg(scratch.file("data"));
        command.arg("--web.listen-address=127.0.0.1:0");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            process::spawn(command).expect("prometheus is a program (`tools/setup prometheus` brings it)");
        // From here on the value owns the process, so that a panic below ends it.
        let mut prometheus = Self { child, scratch, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        for _ in 0..PATIENCE.as_millis() / 20 {
            if let Some(status) = prometheus.child.try_wait().expect("a child can be waited for") {
                panic!("Prometheus ended ({status}):\n{}", prometheus.log());
            }
            if let Some(address) = prometheus.listening() {
                prometheus.address = address;
                if prometheus.get("/-/ready").await.is_ok() {
                    return prometheus;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("Prometheus is not ready after {PATIENCE:?}:\n{}", prometheus.log());
    }

    /// Everything it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.scratch.lines(LOG).join("\n")
    }

    /// What an expression has been at every whole second from `since` on, in seconds of Unix time.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub async fn range(&self, expression: &str, since: u64, until: u64) -> Result<Vec<Series>, String> {
        let query = escaped(expression);
        let path = format!("/api/v1/query_range?query={query}&start={since}&end={until}&step=1");
        let data = self.data(&path).await?;
        let all = data["result"].as_array().ok_or("no result")?;
        Ok(all
            .iter()
            .map(|one| Series { labels: labels(&one["metric"]), values: values(&one["values"]) })
            .collect())
    }

    /// All values of a label that the series which a selector finds have.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub async fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>, String> {
        let matching =
            if selector.is_empty() { String::new() } else { format!("?match[]={}", escaped(selector)) };
        strings(&self.data(&format!("/api/v1/label/{label}/values{matching}")).await?)
    }

    /// The names of all labels.
    ///
    /// # Errors
    /// What Prometheus says.
    pub async fn labels(&self) -> Result<Vec<String>, String> {
        strings(&self.data("/api/v1/labels").await?)
    }

    /// All rules, as the interface tells them, once each has been evaluated.
    ///
    /// # Panics
    /// If one is not evaluated in time.
    pub async fn rules(&self) -> Vec<Value> {
        eventually("all rules to be evaluated", PATIENCE, async || {
            let data = self.data("/api/v1/rules").await.ok()?;
            let groups = data["groups"].as_array()?.iter();
            let rules: Vec<_> =
                groups.filter_map(|group| group["rules"].as_array()).flatten().cloned().collect();
            (!rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")).then_some(rules)
        })
        .await
    }

    async fn data(&self, path: &str) -> Result<Value, String> {
        let mut answer: Value =
            serde_json::from_str(&self.get(path).await?).map_err(|error| error.to_string())?;
        Ok(answer["data"].take())
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let answer = send_once(self.address, Protocol::Http1, Request::get(path)).await?;
        if answer.status == 200 {
            Ok(answer.text())
        } else {
            Err(format!("{}: {}", answer.status, answer.text()))
        }
    }

    /// Where it listens, as it logs it.
    fn listening(&self) -> Option<SocketAddr> {
        let lines = self.scratch.lines(LOG);
        let line = lines.iter().find(|line| line.contains("\"Listening on\""))?;
        line.rsplit_once("address=")?.1.split(' ').next()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn strings(data: &Value) -> Result<Vec<String>, String> {
    let all = data.as_array().ok_or("no list")?;
    Ok(all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
}

fn labels(metric: &Value) -> BTreeMap<String, String> {
    let all = metric.as_object().into_iter().flatten();
    all.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// `[[time, "number"], ...]`
fn values(pairs: &Value) -> Vec<f64> {
    let numbers = pairs.as_array().into_iter().flatten().filter_map(|pair| pair[1].as_str()?.parse().ok());
    numbers.filter(|number: &f64| !number.is_nan()).collect()
}
