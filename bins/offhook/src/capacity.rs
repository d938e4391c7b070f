//! How many calls a machine carries, by what was measured.

use std::num::NonZero;

/// Calls that one core carries, converted to 24 kHz, recorded, with TLS to the provider, every frame in time. `cargo xtask bench`
/// found 620 in a slow hour of the machine and 900 in a fast one (docs/benchmarks); this is a fifth less than the former.
pub const CALLS_PER_CORE: usize = 500;
/// So much of it is used: calls begin, end and use tools beside their frames, and machines differ. On a slower one, on which a
/// frame costs the bare relay twice as much, 350 to 390 were found (docs/benchmarks/epyc).
pub const SHARE_PERCENT: usize = 65;

/// Processors that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Calls that a server takes when nobody says how many.
pub fn calls_max(cores: usize) -> usize {
    cores * CALLS_PER_CORE * SHARE_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C-34: "how many calls per core" has an answer, and admission uses it.
    #[test]
    fn no_more_is_promised_than_was_measured() {
        let found = |table: &str| {
            let table: serde_json::Value = serde_json::from_str(table).unwrap();
            table["runs"]["capacity-24k-recorded-tls"]["capacity"].as_u64().unwrap() as usize
        };
        let fast = found(include_str!("../../../docs/benchmarks/load.json"));
        assert!((1..=fast).contains(&CALLS_PER_CORE), "measured: {fast}");
        let slow = found(include_str!("../../../docs/benchmarks/epyc/load.json"));
        assert!((1..=slow).contains(&calls_max(1)), "what is taken unasked, a slower machine carries as well; measured: {slow}");
        assert_eq!(calls_max(2), CALLS_PER_CORE * 13 / 10);
    }
}
