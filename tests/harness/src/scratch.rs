//! Directories that vanish, and files that are replaced the way Envoy watches for.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of this test alone, removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("resilience-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of this name in it, which need not exist.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The lines of a file in it; none where it does not exist yet.
    #[must_use]
    pub fn lines(&self, name: &str) -> Vec<String> {
        let bytes = std::fs::read(self.file(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A discovery response in a file that Envoy watches.
///
/// Envoy sees only a move over the file, never a write to it, so that it cannot read half a file.
#[derive(Debug)]
pub struct DynamicFile {
    path: PathBuf,
    version: u64,
}

impl DynamicFile {
    /// Publishes `resources` (see [`crate::config::listener_resource`] and [`crate::config::extension_resource`]).
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn new(path: PathBuf, resources: &[Value]) -> Self {
        let mut file = Self { path, version: 0 };
        file.replace(resources);
        file
    }

    /// Where it is, for the bootstrap.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Publishes other resources in one step.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn replace(&mut self, resources: &[Value]) {
        self.version += 1;
        let response = json!({"version_info": self.version.to_string(), "resources": resources});
        let draft = self.path.with_extension("draft");
        std::fs::write(&draft, response.to_string()).unwrap();
        std::fs::rename(&draft, &self.path).unwrap();
    }
}
