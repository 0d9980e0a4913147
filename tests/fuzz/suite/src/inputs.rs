//! The inputs that are kept in `tests/fuzz/corpus`.
//!
//! Those made by hand: documents in `configuration/`, everything else a line of hexadecimal digits in `<target>.hex`,
//! spaces and comments allowed. Those that fuzzing found: lines in `<target>.found.hex`. libFuzzer wants a file each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A longer input, in bytes, is not worth its place.
const SHORT: u64 = 400;
/// Documents that lie elsewhere.
const DOCUMENTS: [&str; 4] = [
    "envoy/policies.json",
    "tests/fuzz/breakers.json",
    "tests/fuzz/fallbacks.json",
    "tests/fuzz/retries-and-timeouts.json",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Where the inputs are.
pub(crate) fn directory() -> PathBuf {
    root().join("tests/fuzz/corpus")
}

/// Writes every kept input of a target into `to`.
pub(crate) fn unpack(target: &str, to: &Path) -> io::Result<()> {
    unpack_made(target, to)?;
    unpack_lines(&directory().join(format!("{target}.found.hex")), to)
}

/// Writes those that were made by hand.
pub(crate) fn unpack_made(target: &str, to: &Path) -> io::Result<()> {
    unpack_lines(&directory().join(format!("{target}.hex")), to)?;
    if target != "configuration" {
        return Ok(());
    }
    let mut documents: Vec<_> = DOCUMENTS.iter().map(|path| root().join(path)).collect();
    for entry in fs::read_dir(directory().join(target))? {
        documents.push(entry?.path());
    }
    for path in documents {
        fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn unpack_lines(file: &Path, to: &Path) -> io::Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (number, line) in fs::read_to_string(file)?.lines().enumerate() {
        let text = line.split('#').next().unwrap_or_default();
        if text.trim().is_empty() {
            continue;
        }
        let bytes = from_hex(text)
            .ok_or_else(|| io::Error::other(format!("{name}:{}: not hexadecimal", number + 1)))?;
        fs::write(to.join(format!("{name}-{:04}", number + 1)), bytes)?;
    }
    Ok(())
}

/// Copies the inputs in `from` that are short enough to be kept.
pub(crate) fn copy_short(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.metadata()?.len() <= SHORT {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Keeps what `from` holds beyond the inputs made by hand. Returns how many those are.
pub(crate) fn pack_found(target: &str, from: &Path) -> io::Result<usize> {
    let made = from.with_extension("made");
    super::empty(&made)?;
    unpack_made(target, &made)?;
    let mut lines = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !made.join(entry.file_name()).exists() {
            lines.push(to_hex(&fs::read(entry.path())?));
        }
    }
    // The shortest first, so that a change shows as little as it can.
    lines.sort_by_key(|line| (line.len(), line.clone()));
    lines.dedup();
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    fs::write(directory().join(format!("{target}.found.hex")), text)?;
    Ok(lines.len())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> =
        text.chars().filter(|letter| !letter.is_whitespace()).map(|letter| letter.to_digit(16)).collect();
    let pairs = digits?;
    pairs
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
