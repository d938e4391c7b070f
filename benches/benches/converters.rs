//! Every rate converter, every figure, one table: `cargo bench --bench converters`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::converters::{CANDIDATES, Candidate, NOT_LIVE, PAIRS, measure, noise};
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
    println!(
        "\nrejection: images going up, aliases going down. Goals: latency ≤ 0.5 ms, ripple ≤ 0.1 dB, rejection ≥ 75 dB, spread ≤ 1.0 ms, SINAD ≥ 85 dB, ≤ 3000 ns."
    );
}
