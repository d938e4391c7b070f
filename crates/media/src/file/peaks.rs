//! What a picture of a waveform is drawn from.

/// Lowest and highest sample of a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Lowest sample.
    pub low: i16,
    /// Highest sample.
    pub high: i16,
}

impl Peak {
    fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// Collects at most a fixed number of [`Peak`]s of a stream of unknown length: when they are full, neighbours are joined and
/// each stands for twice the time. Memory does not grow with the stream.
#[derive(Clone, Debug)]
pub struct Peaks {
    max: usize,
    per_peak: usize,
    peaks: Vec<Peak>,
    open: Option<(Peak, usize)>,
}

impl Peaks {
    /// Between `max / 2` and `max` peaks once the stream is longer than that; `max` is made even and at least 2.
    pub fn new(max: usize) -> Self {
        Self { max: max.next_multiple_of(2).max(2), per_peak: 1, peaks: Vec::new(), open: None }
    }

    /// Adds samples of one channel.
    pub fn push(&mut self, samples: impl IntoIterator<Item = i16>) {
        for sample in samples {
            let one = Peak { low: sample, high: sample };
            let (peak, count) = self.open.map_or((one, 1), |(peak, count)| (peak.join(one), count + 1));
            if count < self.per_peak {
                self.open = Some((peak, count));
                continue;
            }
            self.open = None;
            self.peaks.push(peak);
            if self.peaks.len() == self.max {
                self.peaks = self.peaks.chunks(2).map(|it| it[0].join(it[1])).collect();
                self.per_peak *= 2;
            }
        }
    }

    /// Samples that one peak stands for.
    pub fn samples_per_peak(&self) -> usize {
        self.per_peak
    }

    /// The peaks so far, oldest first; the last may stand for less time than the others.
    pub fn peaks(&self) -> Vec<Peak> {
        self.peaks.iter().copied().chain(self.open.map(|it| it.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_memory_is_bounded() {
        let signal: Vec<i16> = (0..100_000_i32).map(|n| if n == 70_001 { -20_000 } else { (n % 100) as i16 }).collect();
        let mut peaks = Peaks::new(200);
        signal.chunks(999).for_each(|it| peaks.push(it.iter().copied()));
        let drawn = peaks.peaks();
        assert!((100..=200).contains(&drawn.len()), "{}", drawn.len());
        let deepest = drawn.iter().position(|it| it.low == -20_000).unwrap();
        assert_eq!(deepest, 70_001 / peaks.samples_per_peak());
        assert!(drawn.iter().all(|it| it.high == 99));
    }

    #[test]
    fn short_signals_are_kept_as_they_are() {
        let mut peaks = Peaks::new(10);
        peaks.push([5, -3]);
        assert_eq!(peaks.peaks(), [Peak { low: 5, high: 5 }, Peak { low: -3, high: -3 }]);
        assert!(Peaks::new(0).peaks().is_empty());
    }
}
