//! placeholder
fn main() {
    let from: u64 = std::env::args().nth(1).map_or(0, |a| a.parse().unwrap());
    let n: u64 = std::env::args().nth(2).map_or(1000, |a| a.parse().unwrap());
    let t = std::time::Instant::now();
    let (mut steps, mut tr, mut bad) = (0, 0, 0);
    for s in from..from + n {
        match resilience_simulator::play(s, None) {
            Ok(x) => {
                steps += x.steps;
                tr += x.transitions;
            }
            Err(f) => {
                bad += 1;
                if bad == 1 {
                    println!("{f}");
                } else {
                    println!("{}: {}", f.seed, f.what.lines().next().unwrap());
                }
                if bad > 20 {
                    break;
                }
            }
        }
    }
    println!("{n} seeds, {bad} bad, {steps} steps {tr} transitions in {:?}", t.elapsed());
}
