//! `offhook convert`: the live converters as a filter between two pipes, and audio files of any kind into any other.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use media::file::{Encoding, Limits, Meter, OPUS_RATES, OpusWriter, Peaks, Reader, WavWriter};
use media::g711::{alaw, ulaw};
use media::resample::AnyRate;
use media::{Format, Rate, Transcoder};

/// Samples without a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Raw {
    /// G.711 μ-law, 8 kHz, one byte a sample
    #[value(name = "ulaw8k")]
    Ulaw8k,
    /// G.711 A-law, 8 kHz, one byte a sample
    #[value(name = "alaw8k")]
    Alaw8k,
    /// Signed 16 bit, little endian
    #[value(name = "pcm16")]
    Pcm16,
}

/// Two ways to use it: with files, or, without, as a filter from stdin to stdout.
#[derive(Args, Debug)]
pub struct Convert {
    /// Audio file: WAV, MP3, M4A, AAC, Ogg Vorbis, Ogg Opus, or raw .ulaw, .alaw, .pcm
    input: Option<PathBuf>,
    /// What to make, by its ending: .wav, .opus, .ogg (Opus), or raw .ulaw, .alaw, .pcm
    #[arg(requires = "input")]
    output: Option<PathBuf>,
    /// Samples that come in (filter); with files, what a raw file holds if its ending does not say so
    #[arg(long)]
    from: Option<Raw>,
    /// Rate of pcm16 that comes in, in Hz [default: 24000]
    #[arg(long, value_name = "HZ")]
    from_rate: Option<u32>,
    /// Samples that go out; a .wav with ulaw8k holds μ-law
    #[arg(long)]
    to: Option<Raw>,
    /// Rate that goes out, in Hz [default: 24000 (filter), that of the input (files)]
    #[arg(long, value_name = "HZ")]
    rate: Option<u32>,
    /// Mix all channels into one
    #[arg(long)]
    mono: bool,
    /// Filter: audio per piece; every piece is written and flushed before the next is read
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chunk_ms: u32,
    /// Filter: convert the first piece N times, and print the nanoseconds that one takes on stderr: the least of seven runs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    bench: Option<u32>,
}

impl Convert {
    /// Does it.
    ///
    /// # Errors
    /// Says what was wrong with which file or option, and what was expected.
    pub fn run(self) -> Result<()> {
        match (&self.input, &self.output) {
            (Some(input), Some(output)) => self.files(input, output),
            (Some(_), None) => bail!("name the file to make, too: offhook convert INPUT OUTPUT"),
            (None, _) => {
                let (from, to) = (self.from.context("name --from, or two files")?, self.to.context("name --to, or two files")?);
                let from = (from, rate_of(from, self.from_rate, 24_000)?);
                let to = (to, rate_of(to, self.rate, 24_000)?);
                self.filter(&mut Filter::new(from, to)?, from)
            }
        }
    }

    /// Piece by piece, as a call does, in one state.
    fn filter(&self, filter: &mut Filter, from: (Raw, u32)) -> Result<()> {
        let samples = u64::from(from.1) * u64::from(self.chunk_ms) / 1000;
        ensure!(samples > 0, "{} ms hold no sample at {} Hz: choose a longer --chunk-ms", self.chunk_ms, from.1);
        let mut piece = vec![0; samples as usize * if from.0 == Raw::Pcm16 { 2 } else { 1 }];
        let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
        let mut converted = Vec::new();
        if let Some(rounds) = self.bench {
            let filled = fill(&mut input, &mut piece)?;
            ensure!(filled > 0, "there is nothing to convert on stdin");
            let round = |filter: &mut Filter, converted: &mut Vec<u8>| {
                converted.clear();
                filter.push(&piece[..filled], converted);
                std::hint::black_box(converted.len());
            };
            // Buffers grow, caches fill, the processor wakes up.
            (0..rounds.min(1000)).for_each(|_| round(filter, &mut converted));
            let times = (0..7).map(|_| {
                let begun = Instant::now();
                (0..rounds).for_each(|_| round(filter, &mut converted));
                begun.elapsed()
            });
            let least = times.min().unwrap_or(Duration::ZERO);
            eprintln!("{{\"ns_per_chunk\": {:.1}}}", least.as_nanos() as f64 / f64::from(rounds));
            return Ok(());
        }
        loop {
            let filled = fill(&mut input, &mut piece)?;
            if filled == 0 {
                converted.clear();
                filter.finish(&mut converted);
                write_out(&mut output, &converted)?;
                return Ok(());
            }
            converted.clear();
            filter.push(&piece[..filled], &mut converted);
            if !write_out(&mut output, &converted)? {
                return Ok(());
            }
        }
    }

    fn files(&self, input: &Path, output: &Path) -> Result<()> {
        let same = std::fs::canonicalize(output).is_ok_and(|it| std::fs::canonicalize(input).is_ok_and(|other| it == other));
        ensure!(!same, "{} would be overwritten while it is read: name another file to make", output.display());
        let mut source = Source::open(input, self.from, self.from_rate)?;
        // The old file stays until the new one is whole.
        let mut unfinished = output.as_os_str().to_owned();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        let told = self
            .make(input, &mut source, output, &unfinished)
            .and_then(|told| std::fs::rename(&unfinished, output).map(|()| told).with_context(|| output.display().to_string()));
        if told.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        eprintln!("{}", told?);
        Ok(())
    }

    /// Converts into `unfinished`, the later `output`; returns what to tell about it.
    fn make(&self, input: &Path, source: &mut Source, output: &Path, unfinished: &Path) -> Result<String> {
        let channels = if self.mono { 1 } else { source.channels() };
        let mut sink = Sink::create(output, unfinished, self.to, self.rate, source.rate(), channels)?;
        let channels = sink.channels();
        let bar = progress();
        let mut engines = (0..channels).map(|_| AnyRate::new(source.rate(), sink.rate())).collect::<Result<Vec<_>, _>>()?;
        let mut meter = Meter::new(channels, sink.rate());
        let mut peaks = Peaks::new(2 * DRAWN);
        let (mut block, mut ready, mut frames) = (Vec::new(), vec![Vec::new(); usize::from(channels)], 0_u64);
        loop {
            block.clear();
            let more = source.read(&mut block).with_context(|| input.display().to_string())?;
            for (channel, engine) in engines.iter_mut().enumerate() {
                let samples = one_channel(&block, source.channels(), channel, channels);
                engine.push(&samples, &mut ready[channel]);
            }
            if !more {
                for (engine, ready) in engines.drain(..).zip(&mut ready) {
                    engine.finish(ready);
                }
            }
            let together = interleaved(&mut ready);
            frames += (together.len() / usize::from(channels)) as u64;
            if let Some(meter) = &mut meter {
                meter.push(&together);
            }
            peaks.push(
                together
                    .chunks_exact(channels.into())
                    .map(|it| it.iter().copied().max_by_key(|it| it.unsigned_abs()).unwrap_or(0)),
            );
            sink.write(&together).with_context(|| output.display().to_string())?;
            bar.set_position((source.progress() * 1000.0) as u64);
            if !more {
                break;
            }
        }
        let (rate, kind) = (sink.rate(), sink.describe());
        sink.finish().with_context(|| output.display().to_string())?;
        bar.finish_and_clear();
        let seconds = frames as f64 / f64::from(rate);
        let loudness = meter.map(|it| it.loudness());
        let lufs =
            loudness.and_then(|it| it.integrated_lufs).map_or("no speech or too short".into(), |it| format!("{it:.1} LUFS"));
        let peak = loudness.and_then(|it| it.peak_dbfs).map_or("silent".into(), |it| format!("peak {it:.1} dBFS"));
        let picture = drawn(&peaks);
        Ok(format!("{picture}\n{} → {}: {kind}, {seconds:.2} s, {lufs}, {peak}", input.display(), output.display()))
    }
}

/// Columns of the picture of a waveform.
const DRAWN: usize = 72;

/// The waveform in one line.
fn drawn(peaks: &Peaks) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let peaks = peaks.peaks();
    let loudest = |it: &media::file::Peak| it.low.unsigned_abs().max(it.high.unsigned_abs());
    let columns = (0..DRAWN).map(|it| {
        let range = it * peaks.len() / DRAWN..((it + 1) * peaks.len()).div_ceil(DRAWN);
        let level = peaks[range].iter().map(loudest).max().unwrap_or(0);
        // By decibels, 6 a step: quiet speech would be a flat line otherwise.
        let below = 20.0 * (f32::from(level.max(1)) / 32_768.0).log10();
        BARS[(8.0 + below / 6.0).round().clamp(0.0, 8.0) as usize]
    });
    columns.collect()
}

fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {percent} %  {eta} left").expect("the template is right");
    ProgressBar::new(1000).with_style(style)
}

fn rate_of(raw: Raw, named: Option<u32>, otherwise: u32) -> Result<u32> {
    if raw == Raw::Pcm16 {
        return Ok(named.unwrap_or(otherwise));
    }
    ensure!(named.is_none_or(|it| it == 8000), "G.711 has 8000 Hz: leave the rate out");
    Ok(8000)
}

/// Fills `piece` unless the input ends before.
fn fill(input: &mut impl Read, piece: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match input.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error).context("stdin"),
        }
    }
    Ok(filled)
}

/// `false` when whoever read our output has seen enough.
fn write_out(output: &mut impl Write, bytes: &[u8]) -> Result<bool> {
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("stdout"),
    }
}

/// The live transcoder where there is one, else the converter for any rate.
enum Filter {
    Live(Transcoder),
    /// From and to, the engine, a byte left over.
    Any {
        from: Raw,
        to: Raw,
        engine: Option<Box<AnyRate>>,
        odd: Option<u8>,
    },
}

impl Filter {
    fn new(from: (Raw, u32), to: (Raw, u32)) -> Result<Self> {
        let live = |(raw, rate): (Raw, u32)| match raw {
            Raw::Ulaw8k => Some(Format::Ulaw8k),
            Raw::Alaw8k => Some(Format::Alaw8k),
            Raw::Pcm16 => [Rate::Hz8000, Rate::Hz16000, Rate::Hz24000].into_iter().find(|it| it.hz() == rate).map(Format::Pcm16),
        };
        if let (Some(from), Some(to)) = (live(from), live(to))
            && let Ok(transcoder) = Transcoder::new(from, to)
        {
            return Ok(Self::Live(transcoder));
        }
        Ok(Self::Any { from: from.0, to: to.0, engine: Some(Box::new(AnyRate::new(from.1, to.1)?)), odd: None })
    }

    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Live(transcoder) => transcoder.push(piece, out),
            Self::Any { from, to, engine: Some(engine), odd } => {
                let bytes: Vec<u8> = odd.take().into_iter().chain(piece.iter().copied()).collect();
                if *from == Raw::Pcm16 && bytes.len() % 2 == 1 {
                    *odd = bytes.last().copied();
                }
                let mut samples = Vec::new();
                engine.push(&decode(*from, &bytes), &mut samples);
                encode(*to, &samples, out);
            }
            Self::Any { engine: None, .. } => (),
        }
    }

    /// What a converter that is not live still holds. The live one holds nothing.
    fn finish(&mut self, out: &mut Vec<u8>) {
        if let Self::Any { to, engine, .. } = self
            && let Some(engine) = engine.take()
        {
            let mut samples = Vec::new();
            engine.finish(&mut samples);
            encode(*to, &samples, out);
        }
    }
}

fn decode(raw: Raw, bytes: &[u8]) -> Vec<i16> {
    match raw {
        Raw::Ulaw8k => bytes.iter().map(|it| ulaw::decode(*it)).collect(),
        Raw::Alaw8k => bytes.iter().map(|it| alaw::decode(*it)).collect(),
        Raw::Pcm16 => bytes.chunks_exact(2).map(|it| i16::from_le_bytes([it[0], it[1]])).collect(),
    }
}

fn encode(raw: Raw, samples: &[i16], out: &mut Vec<u8>) {
    match raw {
        Raw::Ulaw8k => out.extend(samples.iter().map(|it| ulaw::encode(*it))),
        Raw::Alaw8k => out.extend(samples.iter().map(|it| alaw::encode(*it))),
        Raw::Pcm16 => out.extend(samples.iter().flat_map(|it| it.to_le_bytes())),
    }
}

/// What the ending of a file says.
fn raw_by_name(file: &Path) -> Option<Raw> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "ulaw" | "ul" | "mulaw" => Some(Raw::Ulaw8k),
        "alaw" | "al" => Some(Raw::Alaw8k),
        "pcm" | "raw" | "s16le" => Some(Raw::Pcm16),
        _ => None,
    }
}

/// A file to read, in blocks of interleaved samples.
enum Source {
    Container(Box<Reader>),
    Raw { file: File, raw: Raw, rate: u32, bytes: u64, read: u64 },
}

impl Source {
    fn open(path: &Path, from: Option<Raw>, rate: Option<u32>) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        if let Some(raw) = raw_by_name(path).or(from) {
            let bytes = file.metadata()?.len();
            return Ok(Self::Raw { file, raw, rate: rate_of(raw, rate, 24_000)?, bytes, read: 0 });
        }
        let reader = Reader::open(file, Limits::FILE).with_context(|| path.display().to_string())?;
        Ok(Self::Container(Box::new(reader)))
    }

    fn rate(&self) -> u32 {
        match self {
            Self::Container(reader) => reader.spec().rate,
            Self::Raw { rate, .. } => *rate,
        }
    }

    fn channels(&self) -> u16 {
        match self {
            Self::Container(reader) => reader.spec().channels,
            Self::Raw { .. } => 1,
        }
    }

    fn progress(&self) -> f64 {
        match self {
            Self::Container(reader) => reader.progress(),
            Self::Raw { bytes, read, .. } => *read as f64 / (*bytes).max(1) as f64,
        }
    }

    /// Appends some samples; `false` at the end.
    fn read(&mut self, out: &mut Vec<i16>) -> Result<bool> {
        match self {
            Self::Container(reader) => Ok(reader.read(out)?),
            Self::Raw { file, raw, read, .. } => {
                let mut block = [0; 16_384];
                let filled = fill(file, &mut block)?;
                *read += filled as u64;
                out.extend(decode(*raw, &block[..filled]));
                Ok(filled > 0)
            }
        }
    }
}

/// A file to make.
enum Sink {
    Wav { writer: WavWriter<File>, encoding: Encoding, channels: u16, rate: u32 },
    Opus { writer: Box<OpusWriter<BufWriter<File>>>, channels: u16, rate: u32 },
    Raw { file: BufWriter<File>, raw: Raw, rate: u32 },
}

impl Sink {
    /// Makes the file `unfinished`, of the kind that the ending of `path` names.
    fn create(
        path: &Path,
        unfinished: &Path,
        to: Option<Raw>,
        rate: Option<u32>,
        source_rate: u32,
        channels: u16,
    ) -> Result<Self> {
        let ending = path.extension().and_then(|it| it.to_str()).unwrap_or_default().to_ascii_lowercase();
        let raw = raw_by_name(path);
        ensure!(
            raw.is_some() || matches!(ending.as_str(), "wav" | "opus" | "ogg"),
            "{}: this ending is not one that can be made: expected .wav, .opus, .ogg, .ulaw, .alaw or .pcm",
            path.display()
        );
        let rate = match (raw.or(to), rate) {
            (Some(Raw::Ulaw8k | Raw::Alaw8k), rate) => rate_of(Raw::Ulaw8k, rate, 8000)?,
            (_, Some(rate)) => rate,
            // Opus knows five rates: the next higher one loses nothing.
            (_, None) if ending != "wav" && raw.is_none() => {
                OPUS_RATES.into_iter().find(|it| *it >= source_rate).unwrap_or(48_000)
            }
            (_, None) => source_rate,
        };
        // An impossible rate is said before a file is made.
        AnyRate::new(source_rate, rate)?;
        let create = || File::create(unfinished).with_context(|| format!("{} cannot be made", unfinished.display()));
        Ok(match (raw, ending.as_str()) {
            (Some(raw), _) => Self::Raw { file: BufWriter::new(create()?), raw, rate },
            (None, "wav") => {
                let encoding = match to {
                    None | Some(Raw::Pcm16) => Encoding::Pcm16,
                    Some(Raw::Ulaw8k) => Encoding::Ulaw,
                    Some(Raw::Alaw8k) => bail!("A-law is only written raw: name a file that ends in .alaw"),
                };
                Self::Wav { writer: WavWriter::new(create()?, encoding, channels, rate)?, encoding, channels, rate }
            }
            (None, _) => {
                let channels = channels.min(2);
                ensure!(OPUS_RATES.contains(&rate), "Opus has no {rate} Hz: expected one of {OPUS_RATES:?}");
                let bits = (rate * 3).min(64_000) * u32::from(channels);
                Self::Opus { writer: Box::new(OpusWriter::new(BufWriter::new(create()?), channels, rate, bits)?), channels, rate }
            }
        })
    }

    fn rate(&self) -> u32 {
        match self {
            Self::Wav { rate, .. } | Self::Opus { rate, .. } | Self::Raw { rate, .. } => *rate,
        }
    }

    fn channels(&self) -> u16 {
        match self {
            Self::Wav { channels, .. } | Self::Opus { channels, .. } => *channels,
            Self::Raw { .. } => 1,
        }
    }

    fn describe(&self) -> String {
        let what = match self {
            Self::Wav { encoding: Encoding::Pcm16, .. } => "WAV, PCM",
            Self::Wav { encoding: Encoding::Ulaw, .. } => "WAV, μ-law",
            Self::Opus { .. } => "Ogg Opus",
            Self::Raw { raw: Raw::Ulaw8k, .. } => "raw μ-law",
            Self::Raw { raw: Raw::Alaw8k, .. } => "raw A-law",
            Self::Raw { raw: Raw::Pcm16, .. } => "raw PCM",
        };
        let channels = self.channels();
        format!("{what}, {} Hz, {channels} channel{}", self.rate(), if channels == 1 { "" } else { "s" })
    }

    fn write(&mut self, samples: &[i16]) -> Result<()> {
        match self {
            Self::Wav { writer, .. } => writer.write(samples)?,
            Self::Opus { writer, .. } => writer.write(samples)?,
            Self::Raw { file, raw, .. } => {
                let mut bytes = Vec::new();
                encode(*raw, samples, &mut bytes);
                file.write_all(&bytes)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Wav { writer, .. } => drop(writer.finish()?),
            Self::Opus { writer, .. } => writer.finish()?.flush()?,
            Self::Raw { mut file, .. } => file.flush()?,
        }
        Ok(())
    }
}

/// Channel `wanted` of `wanted_of`: itself, or the mean of all when there are fewer than in the file.
fn one_channel(block: &[i16], channels: u16, wanted: usize, wanted_of: u16) -> Vec<i16> {
    let frames = block.chunks_exact(channels.into());
    if wanted_of == channels {
        return frames.map(|it| it[wanted]).collect();
    }
    frames.map(|it| (it.iter().map(|it| i32::from(*it)).sum::<i32>() / i32::from(channels)) as i16).collect()
}

/// Takes what all channels have.
fn interleaved(channels: &mut [Vec<i16>]) -> Vec<i16> {
    let ready = channels.iter().map(Vec::len).min().unwrap_or(0);
    let together = (0..ready).flat_map(|n| channels.iter().map(move |it| it[n])).collect();
    channels.iter_mut().for_each(|it| drop(it.drain(..ready)));
    together
}
