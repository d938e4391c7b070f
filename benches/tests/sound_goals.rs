//! The goals of the live converters that need no clock. `cargo bench --bench converters` prints the figures.

use benches::converters::{CANDIDATES, NOT_LIVE, PAIRS, measure};
use media::resample::delay_ms;

#[test]
fn live_conversion_reaches_its_goals() {
    for (from, to) in PAIRS {
        let it = measure(CANDIDATES[0], from, to);
        println!("{from} → {to}: {it:#?}");
        assert!(it.latency_ms <= 0.5 && it.held_ms == 0.0, "{from} → {to}: {it:?}");
        assert!(it.ripple_db <= 0.1 && it.delay_spread_ms <= 1.0, "{from} → {to}: {it:?}");
        assert!(it.rejection_db >= 75.0 && it.sinad_db >= 85.0, "{from} → {to}: {it:?}");
        assert!(it.exact && it.any_chunking && it.saturates && it.silent, "{from} → {to}: {it:?}");
        assert!(it.constant_ripple <= 2, "{from} → {to}: {it:?}");
        // What a transcoder prints of itself is what is measured.
        let stated = f64::from(delay_ms((from.max(to) / 8000) as usize));
        assert!((it.latency_ms - stated).abs() < 0.01, "{from} → {to}: {} ms is stated, {it:?}", stated);
    }
}

#[test]
fn conversion_that_is_not_live_is_clean() {
    for (from, to) in PAIRS {
        let it = measure(NOT_LIVE, from, to);
        assert!(it.ripple_db <= 0.1 && it.rejection_db >= 85.0 && it.sinad_db >= 85.0, "{from} → {to}: {it:?}");
        assert!(it.any_chunking && it.silent, "{from} → {to}: {it:?}");
    }
}

#[test]
fn the_measurement_tells_good_from_bad() {
    // Held audio, a missing filter and per-piece state must show.
    let slow = measure(CANDIDATES[3], 8000, 24_000);
    assert!(slow.latency_ms > 5.0, "{slow:?}");
}
