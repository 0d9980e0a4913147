//! A real Envoy process.

use crate::admin::{self, Metrics, Reply};
use crate::scratch::Scratch;
use crate::{PATIENCE, eventually, process};
use hyper::Method;
use serde_json::Value;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Compiling a module for every worker on a loaded machine takes a while; an Envoy that needs more is stuck.
const START_UP: Duration = Duration::from_secs(60);

const LOG: &str = "envoy.log";
const ADMIN: &str = "admin-address";

/// How an Envoy is to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    config: Value,
    overlay: Option<String>,
    concurrency: u32,
    log_level: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// Number of worker threads; 4 unless told.
    #[must_use]
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// YAML merged over the configuration by Envoy itself, such as the text of `envoy/stats-config.yaml`.
    #[must_use]
    pub fn overlay_yaml(mut self, yaml: impl Into<String>) -> Self {
        self.overlay = Some(yaml.into());
        self
    }

    /// `info` unless told. `debug` is worth it only for looking into a failure.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// One more command line argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// With Envoy's log if it does not come up.
    pub async fn start(self) -> Envoy {
        match self.try_start().await {
            Ok(envoy) => envoy,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// Starts it, for a configuration that is expected to be refused.
    ///
    /// # Errors
    /// What Envoy said before it ended.
    ///
    /// # Panics
    /// If it neither ends nor serves in time.
    pub async fn try_start(self) -> Result<Envoy, StartFailure> {
        let scratch = Scratch::new();
        let mut command = self.command(&scratch);
        command.arg("--admin-address-path").arg(scratch.file(ADMIN));
        let mut child = process::spawn(command).expect("ENVOY_PATH names a program");
        let started = Instant::now();
        // From here on the value owns the process, so that a panic below ends it.
        let mut envoy = Envoy { child: None, scratch, admin: SocketAddr::from(([127, 0, 0, 1], 0)) };
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return Err(StartFailure { status, log: envoy.log() });
            }
            if let Ok(text) = std::fs::read_to_string(envoy.scratch.file(ADMIN))
                && let Ok(address) = text.trim().parse()
            {
                envoy.admin = address;
                if let Ok(reply) = admin::try_call(address, Method::GET, "/ready").await
                    && reply.status == 200
                {
                    envoy.child = Some(child);
                    return Ok(envoy);
                }
            }
            if started.elapsed() > START_UP {
                envoy.child = Some(child);
                panic!("Envoy is not ready after {START_UP:?}:\n{}", envoy.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs `envoy --mode validate` on the configuration.
    ///
    /// # Panics
    /// If Envoy cannot be run.
    #[must_use]
    pub fn validate(&self) -> Validation {
        let scratch = Scratch::new();
        let mut command = self.command(&scratch);
        command.args(["--mode", "validate"]);
        let status = process::spawn(command).and_then(|mut child| child.wait()).expect("Envoy runs");
        Validation { code: status.code(), output: scratch.lines(LOG).join("\n") }
    }

    fn command(&self, scratch: &Scratch) -> Command {
        let config = scratch.file("envoy.json");
        std::fs::write(&config, self.config.to_string()).unwrap();
        let log = std::fs::File::create(scratch.file(LOG)).unwrap();
        let mut command = Command::new(envoy_path());
        command.arg("-c").arg(config);
        if let Some(overlay) = &self.overlay {
            command.arg("--config-yaml").arg(overlay);
        }
        command.args(["--concurrency", &self.concurrency.to_string(), "--log-level", &self.log_level]);
        // Many Envoys run side by side: without hot restart there is no base id for them to collide on, and nothing
        // of theirs is left in shared memory when they are killed.
        command.args(["--disable-hot-restart", "--log-format", "[%l][%n] %v"]);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }
}

fn envoy_path() -> PathBuf {
    let path = std::env::var_os("ENVOY_PATH")
        .expect("ENVOY_PATH is not set: it names the Envoy binary that the tests run against");
    let path = PathBuf::from(path);
    assert!(path.is_file(), "ENVOY_PATH={} is not a file", path.display());
    path
}

/// Why an Envoy did not start.
#[derive(Debug)]
pub struct StartFailure {
    /// How the process ended.
    pub status: ExitStatus,
    /// All it said.
    pub log: String,
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy did not start ({}):\n{}", self.status, self.log)
    }
}

/// The answer of `envoy --mode validate`.
#[derive(Debug)]
pub struct Validation {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All it said.
    pub output: String,
}

/// A running Envoy; dropping it kills the process.
#[derive(Debug)]
pub struct Envoy {
    child: Option<Child>,
    scratch: Scratch,
    admin: SocketAddr,
}

impl Envoy {
    /// An Envoy with this bootstrap (see [`crate::config::bootstrap`]).
    #[must_use]
    pub fn builder(config: Value) -> Builder {
        Builder {
            config,
            overlay: None,
            concurrency: 4,
            log_level: "info".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The version of the Envoy under test, such as `(1, 40)`, for facts that differ between versions.
    ///
    /// # Panics
    /// If Envoy cannot be run or does not say.
    #[must_use]
    pub fn version() -> (u32, u32) {
        let output = Command::new(envoy_path()).arg("--version").output().expect("Envoy runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "<path>  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
        let number = text.rsplit(' ').find_map(|word| word.split('/').nth(1));
        let mut parts = number.unwrap_or_else(|| panic!("no version in {text:?}")).split('.');
        let mut part = || parts.next().and_then(|part| part.parse().ok()).expect("a version has numbers");
        (part(), part())
    }

    /// The address a listener is bound to, once it is.
    ///
    /// # Panics
    /// If there is no such listener.
    pub async fn addr(&self, listener: &str) -> SocketAddr {
        eventually(&format!("listener {listener}"), PATIENCE, async || {
            let reply = self.get("/listeners?format=json").await;
            let listeners: Value = serde_json::from_str(&reply.body).ok()?;
            let listener =
                listeners["listener_statuses"].as_array()?.iter().find(|entry| entry["name"] == listener)?;
            let address = &listener["local_address"]["socket_address"];
            format!("{}:{}", address["address"].as_str()?, address["port_value"]).parse().ok()
        })
        .await
    }

    /// The admin's address.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The CPU time that all its threads have used so far, by the kernel's account.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        process::cpu_of(self.pid())
    }

    /// The memory that it has resident, in KiB.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn resident_kilobytes(&self) -> u64 {
        process::resident_kilobytes_of(self.pid())
    }

    /// The process's number.
    ///
    /// # Panics
    /// Never: it runs until it is dropped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs until it is dropped").id()
    }

    /// GET of an admin path.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn get(&self, path: &str) -> Reply {
        admin::call(self.admin, Method::GET, path).await
    }

    /// POST of an admin path, such as `/runtime_modify?key=value`.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn post(&self, path: &str) -> Reply {
        admin::call(self.admin, Method::POST, path).await
    }

    /// A counter or gauge by its full name; `None` where it does not exist.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        admin::stat(&self.get(&admin::stat_query(name)).await.body, name)
    }

    /// Waits until a stat exists and satisfies `check`, and returns it.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn wait_stat(&self, name: &str, check: impl Fn(u64) -> bool) -> u64 {
        eventually(&format!("stat {name}"), PATIENCE, async || {
            self.stat(name).await.filter(|value| check(*value))
        })
        .await
    }

    /// All of `/stats/prometheus`.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn prometheus(&self) -> Metrics {
        Metrics::parse(&self.get("/stats/prometheus").await.body)
    }

    /// Everything it logged so far.
    #[must_use]
    pub fn log_lines(&self) -> Vec<String> {
        self.scratch.lines(LOG)
    }

    /// Waits for a log line that contains `text`, and returns it.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn wait_log(&self, text: &str) -> String {
        eventually(&format!("log line with {text:?}"), PATIENCE, async || {
            self.log_lines().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// Stops the whole process (SIGSTOP) until [`Self::resume`].
    ///
    /// # Panics
    /// If it is gone.
    pub fn pause(&self) {
        process::signal(self.child.as_ref().expect("runs"), libc::SIGSTOP);
    }

    /// Lets a stopped process go on.
    ///
    /// # Panics
    /// If it is gone.
    pub fn resume(&self) {
        process::signal(self.child.as_ref().expect("runs"), libc::SIGCONT);
    }

    /// Whether the process still runs; false after a crash.
    ///
    /// # Panics
    /// If its state cannot be read.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().expect("runs").try_wait().expect("a child can be waited for").is_none()
    }

    fn log(&self) -> String {
        self.log_lines().join("\n")
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let lines = self.log_lines();
                let tail = lines.len().saturating_sub(40);
                eprintln!("--- end of Envoy's log ---\n{}", lines[tail..].join("\n"));
            }
        }
    }
}
