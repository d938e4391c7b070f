//! How a measured quantity is spread.

use serde::{Deserialize, Serialize};

/// Every value of something that was measured, in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spread(Vec<u32>);

impl Spread {
    pub fn add(&mut self, microseconds: u64) {
        self.0.push(u32::try_from(microseconds).unwrap_or(u32::MAX));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is told of it.
    pub fn summary(mut self) -> Summary {
        self.0.sort_unstable();
        let at = |share: f64| {
            let place = (share * self.0.len() as f64).ceil() as usize;
            self.0.get(place.clamp(1, self.0.len().max(1)) - 1).map_or(0.0, |it| f64::from(*it) / 1000.0)
        };
        Summary { count: self.0.len(), p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }
}

/// A spread in milliseconds. Percentiles are values that occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut spread = Spread::default();
        (1..=1000).rev().for_each(|it| spread.add(it * 1000));
        let it = spread.summary();
        assert_eq!((it.count, it.p50_ms, it.p99_ms, it.p999_ms, it.max_ms), (1000, 500.0, 990.0, 999.0, 1000.0));
        assert_eq!(Spread::default().summary(), Summary::default());
    }
}
