//! Every rate converter, every figure, one table: `cargo bench --bench converters`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::converters::{CANDIDATES, Candidate, Figures, NOT_LIVE, PAIRS, measure, noise};
use benches::{Counting, allocations_per_round};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Nanoseconds and allocations for 20 ms.
fn cost(candidate: Candidate, from: u32, to: u32) -> (u128, f64) {
    let (mut converter, frame) = ((candidate.make)(from, to), noise(from as usize / 50));
    let mut out = Vec::new();
    let mut work = || {
        out.clear();
        converter.push(black_box(&frame), &mut out);
        black_box(out.len());
    };
    let allocations = allocations_per_round(3000, &mut work);
    let run = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        for _ in 0..3000 {
            work();
        }
        begun.elapsed()
    };
    let least = (0..7).map(|_| run(&mut work)).min().unwrap_or(Duration::ZERO);
    (least.as_nanos() / 3000, allocations)
}

/// Ours against the goals of the live path, worst direction of all.
fn goals() {
    let ours: Vec<(Figures, (u128, f64))> =
        PAIRS.iter().map(|(from, to)| (measure(CANDIDATES[0], *from, *to), cost(CANDIDATES[0], *from, *to))).collect();
    let most = |of: fn(&Figures) -> f64| ours.iter().map(|it| of(&it.0)).fold(f64::NEG_INFINITY, f64::max);
    let least = |of: fn(&Figures) -> f64| ours.iter().map(|it| of(&it.0)).fold(f64::INFINITY, f64::min);
    let all = |of: fn(&Figures) -> bool| ours.iter().all(|it| of(&it.0));
    let tell = |name: &str, found: String, goal: &str, met: bool| {
        println!("{} {name:<46}{found:>10}   goal {goal}", if met { '✓' } else { '✗' });
    };
    let below = |name: &str, found: f64, unit: &str, goal: f64| {
        tell(name, format!("{found:.2} {unit}"), &format!("≤ {goal} {unit}"), found <= goal);
    };
    let above = |name: &str, found: f64, unit: &str, goal: f64| {
        tell(name, format!("{found:.1} {unit}"), &format!("≥ {goal} {unit}"), found >= goal);
    };
    let holds = |name: &str, met: bool| tell(name, if met { "yes" } else { "no" }.into(), "yes", met);
    below("latency", most(|it| it.latency_ms), "ms", 0.5);
    below("audio held back", most(|it| it.held_ms), "ms", 0.0);
    below("ripple, 300–3400 Hz", most(|it| it.ripple_db), "dB", 0.1);
    above("images and aliases", least(|it| it.rejection_db), "dB", 75.0);
    below("spread of the delay, 300–3400 Hz", most(|it| it.delay_spread_ms), "ms", 1.0);
    above("SINAD", least(|it| it.sinad_db), "dB", 85.0);
    below("ripple of a constant", most(|it| it.constant_ripple.into()), "steps", 2.0);
    holds("20 ms in give 20 ms out, from the first on", all(|it| it.exact));
    holds("the same bytes for any pieces", all(|it| it.any_chunking));
    holds("full scale saturates", all(|it| it.saturates));
    holds("silence stays silence", all(|it| it.silent));
    let slowest = ours.iter().map(|it| it.1.0).max().unwrap_or(0) as f64 / 1000.0;
    below("time per 20 ms", slowest, "µs", 3.0);
    below("allocations per 20 ms", ours.iter().map(|it| it.1.1).fold(0.0, f64::max), "", 0.0);
}

fn main() {
    println!(
        "{:<24}{:<10}{:>10}{:>8}{:>11}{:>11}{:>11}{:>10}{:>7}{:>10}{:>8}{:>8}{:>9}{:>8}",
        "converter",
        "kHz",
        "latency",
        "held",
        "ripple",
        "rejection",
        "spread",
        "SINAD",
        "exact",
        "chunking",
        "silent",
        "clips",
        "ns/20ms",
        "allocs"
    );
    for candidate in CANDIDATES.into_iter().chain([NOT_LIVE]) {
        for (from, to) in PAIRS {
            let it = measure(candidate, from, to);
            let (ns, allocations) = cost(candidate, from, to);
            let yes = |it: bool| if it { "yes" } else { "no" };
            println!(
                "{:<24}{:<10}{:>7.2} ms{:>5.1} ms{:>8.3} dB{:>8.1} dB{:>8.2} ms{:>7.1} dB{:>7}{:>10}{:>8}{:>8}{ns:>9}{allocations:>8.2}",
                candidate.name,
                format!("{}→{}", from / 1000, to / 1000),
                it.latency_ms,
                it.held_ms,
                it.ripple_db,
                it.rejection_db,
                it.delay_spread_ms,
                it.sinad_db,
                yes(it.exact),
                yes(it.any_chunking),
                yes(it.silent),
                yes(it.saturates),
            );
        }
    }
    println!("\nrejection: images going up, aliases going down. clips: a full-scale square saturates and never wraps.\n");
    goals();
}
