//! Runs every fuzzer for so many seconds each: `--seconds N`; or keeps what that has learned: `--keep`.

use resilience_fuzz::{Limit, TARGETS};
use std::io;
use std::process::ExitCode;

const USAGE: &str = "usage: resilience-fuzz --seconds N | --keep";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--keep"] => keep(),
        ["--seconds", seconds] => match seconds.parse() {
            Ok(seconds) => run(seconds),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("resilience-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// One after the other. What one has found does not keep the next from being run.
fn run(seconds: u64) -> io::Result<bool> {
    let mut clean = true;
    for target in TARGETS {
        println!("{}: {seconds} s", target.name);
        let report = target.run(Limit::Seconds(seconds))?;
        let verdict = if report.clean { "nothing found" } else { "FOUND SOMETHING" };
        println!("{}: {} executions, {verdict}", target.name, report.executions);
        if !report.clean {
            println!("{}", report.log);
        }
        clean &= report.clean;
    }
    Ok(clean)
}

fn keep() -> io::Result<bool> {
    for target in TARGETS {
        println!("{}: {} inputs that were found are kept", target.name, target.keep()?);
    }
    Ok(true)
}
