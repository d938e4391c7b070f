//! Reading files of unknown origin, within limits.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};

use super::opus::OpusReader;
use crate::resample::RATES;

/// Most channels of a file.
const CHANNELS_MAX: usize = 8;
/// Damaged packets in a row that end the reading: what follows is no audio.
const DAMAGED_MAX: u32 = 50;
/// Bytes searched for an Opus header: it is the first packet of the first page.
const OPUS_PAGE_START: usize = 64;

/// How much of a file is believed. A file past a limit is an error as soon as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest file, in bytes.
    pub bytes: u64,
    /// Longest audio.
    pub duration: Duration,
    /// Most memory for a file that is read as a whole, in bytes of samples: a small file can decode to a thousand times its
    /// size.
    pub memory: usize,
}

impl Limits {
    /// For what strangers send: 25 MiB, 15 minutes, 200 MiB decoded (15 minutes of stereo at 48 kHz are 165).
    pub const UPLOAD: Self = Self { bytes: 25 << 20, duration: Duration::from_secs(15 * 60), memory: 200 << 20 };
    /// For an operator's own files: 4 GiB, 24 hours, 4 GiB decoded.
    pub const FILE: Self = Self { bytes: 4 << 30, duration: Duration::from_secs(24 * 3600), memory: 4 << 30 };
}

/// The kind of a file, told from its content, never from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Their names are what they are.
pub enum Container {
    Wav,
    Mp3,
    /// AAC in MP4.
    M4a,
    /// AAC without container.
    Aac,
    OggVorbis,
    OggOpus,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wav => "WAV",
            Self::Mp3 => "MP3",
            Self::M4a => "M4A",
            Self::Aac => "AAC",
            Self::OggVorbis => "Ogg Vorbis",
            Self::OggOpus => "Ogg Opus",
        })
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What kind of file it is.
    pub container: Container,
    /// Samples per second and channel.
    pub rate: u32,
    /// Interleaved channels, 1 to 8.
    pub channels: u16,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum ReadError {
    #[error("this is no audio file that can be read: expected WAV, MP3, M4A (AAC), Ogg Vorbis or Ogg Opus ({0})")]
    Unknown(String),
    #[error("the file has no audio track that can be decoded: {0}")]
    NoAudio(String),
    #[error("the file has {0} channels: expected 1 to {CHANNELS_MAX}")]
    Channels(usize),
    #[error(transparent)]
    Rate(#[from] crate::resample::UnsupportedRate),
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the audio is longer than {} s", .0.as_secs())]
    TooLong(Duration),
    #[error("decoded, the file is larger than {0} bytes")]
    TooMuch(usize),
    #[error("reading it took too long")]
    Stopped,
    #[error("the file is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Decodes a file packet by packet.
///
/// Every [`read`](Self::read) does one packet's work at most, so that a caller with a clock can stop between two of them.
/// Damaged packets are passed over, and a file that ends too early ends there: what can be heard is given.
pub struct Reader {
    engine: Engine,
    spec: Spec,
    limits: Limits,
    /// Samples per channel given.
    given: u64,
    damaged: u32,
    position: Arc<AtomicU64>,
    bytes: u64,
}

enum Engine {
    Opus(Box<OpusReader<Bounded>>),
    Symphonia(Box<Symphonia>),
}

struct Symphonia {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    block: Vec<i16>,
}

/// Source with a position that others can see.
struct Bounded {
    source: Box<dyn Source>,
    position: Arc<AtomicU64>,
    bytes: u64,
    seekable: bool,
}

trait Source: Read + Seek + Send + Sync {}
impl<T: Read + Seek + Send + Sync> Source for T {}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = self.source.seek(to)?;
        self.position.store(position, Ordering::Relaxed);
        Ok(position)
    }
}

impl MediaSource for Bounded {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        self.seekable.then_some(self.bytes)
    }
}

impl Reader {
    /// Looks at the beginning of the file.
    ///
    /// # Errors
    /// [`ReadError`]; nothing of the audio was decoded yet.
    pub fn open(mut source: impl Read + Seek + Send + Sync + 'static, limits: Limits) -> Result<Self, ReadError> {
        let bytes = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        if bytes > limits.bytes {
            return Err(ReadError::TooLarge(limits.bytes));
        }
        let mut start = Vec::with_capacity(OPUS_PAGE_START);
        Read::by_ref(&mut source).take(OPUS_PAGE_START as u64).read_to_end(&mut start)?;
        source.seek(SeekFrom::Start(0))?;
        let position = Arc::new(AtomicU64::new(0));
        let is_ogg = start.starts_with(b"OggS");
        // In an Ogg file that can be sought the last page is looked for first, and a cut file has none.
        let source = Bounded { source: Box::new(source), position: position.clone(), bytes, seekable: !is_ogg };
        let is_opus = is_ogg && start.windows(8).any(|it| it == b"OpusHead");
        let (engine, spec) = if is_opus { open_opus(source)? } else { open_symphonia(source)? };
        if !RATES.contains(&spec.rate) {
            return Err(crate::resample::UnsupportedRate(spec.rate).into());
        }
        if !(1..=CHANNELS_MAX).contains(&usize::from(spec.channels)) {
            return Err(ReadError::Channels(spec.channels.into()));
        }
        Ok(Self { engine, spec, limits, given: 0, damaged: 0, position, bytes })
    }

    /// What the file holds.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// How much of the file was read, 0 to 1.
    pub fn progress(&self) -> f64 {
        (self.position.load(Ordering::Relaxed) as f64 / self.bytes.max(1) as f64).min(1.0)
    }

    /// The rest of the file: interleaved samples, all in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`ReadError::TooMuch`].
    pub fn read_all(&mut self) -> Result<Vec<i16>, ReadError> {
        self.read_all_while(|_| true)
    }

    /// Same, as long as `go_on` says so; it is asked after every packet, with the share of the file that was read. This is
    /// where a caller with a clock sets a time limit.
    ///
    /// # Errors
    /// As [`read_all`](Self::read_all), and [`ReadError::Stopped`].
    pub fn read_all_while(&mut self, mut go_on: impl FnMut(f64) -> bool) -> Result<Vec<i16>, ReadError> {
        let mut samples = Vec::new();
        while self.read(&mut samples)? {
            if samples.len() * size_of::<i16>() > self.limits.memory {
                return Err(ReadError::TooMuch(self.limits.memory));
            }
            if !go_on(self.progress()) {
                return Err(ReadError::Stopped);
            }
        }
        Ok(samples)
    }

    /// Appends the interleaved samples of the next packet; `false` at the end.
    ///
    /// # Errors
    /// [`ReadError::TooLong`] past the limit, [`ReadError::Damaged`] when nothing but damage follows.
    pub fn read(&mut self, out: &mut Vec<i16>) -> Result<bool, ReadError> {
        let before = out.len();
        let (more, problem) = match &mut self.engine {
            Engine::Opus(reader) => match reader.read(out) {
                Ok(more) => (more, None),
                // A file that was cut, by a crash or a bad copy, ends with a page that is not whole.
                Err(opus_pure::Error::Io(_) | opus_pure::Error::InvalidStream(_)) => (false, None),
                Err(error) => (true, Some(error.to_string())),
            },
            Engine::Symphonia(reader) => match reader.read(out, self.spec)? {
                Packet::Audio => (true, None),
                Packet::End => (false, None),
                Packet::Damaged(problem) => (true, Some(problem)),
            },
        };
        self.damaged = if problem.is_some() { self.damaged + 1 } else { 0 };
        if let Some(problem) = problem
            && self.damaged > DAMAGED_MAX
        {
            return Err(ReadError::Damaged(problem));
        }
        self.given += ((out.len() - before) / usize::from(self.spec.channels)) as u64;
        if self.given as f64 / f64::from(self.spec.rate) > self.limits.duration.as_secs_f64() {
            return Err(ReadError::TooLong(self.limits.duration));
        }
        Ok(more)
    }
}

fn open_opus(source: Bounded) -> Result<(Engine, Spec), ReadError> {
    let reader = OpusReader::new(source).map_err(|error| ReadError::Damaged(error.to_string()))?;
    let spec = Spec { container: Container::OggOpus, rate: reader.rate, channels: reader.channels };
    Ok((Engine::Opus(Box::new(reader)), spec))
}

fn open_symphonia(source: Bounded) -> Result<(Engine, Spec), ReadError> {
    let stream = MediaSourceStream::new(Box::new(source), Default::default());
    let probe = symphonia::default::get_probe();
    let format = probe.probe(&Hint::new(), stream, Default::default(), Default::default());
    let mut format = format.map_err(|error| ReadError::Unknown(error.to_string()))?;
    let container = match format.format_info().short_name {
        "wave" => Container::Wav,
        "mp1" | "mp2" | "mp3" => Container::Mp3,
        "isomp4" => Container::M4a,
        "aac" => Container::Aac,
        "ogg" => Container::OggVorbis,
        other => return Err(ReadError::Unknown(format!("it is {other}"))),
    };
    let no_audio = |problem: &str| ReadError::NoAudio(problem.to_owned());
    let track = format.default_track(TrackType::Audio).ok_or_else(|| no_audio("there is none"))?;
    let id = track.id;
    let parameters = track.codec_params.as_ref().and_then(|it| it.audio()).ok_or_else(|| no_audio("it is not described"))?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &Default::default())
        .map_err(|error| no_audio(&error.to_string()))?;
    // MP4 may leave rate and channels to the first packet.
    let mut block = Vec::new();
    let mut found = None;
    for _ in 0..DAMAGED_MAX {
        match next_packet(&mut *format, &mut *decoder, id, &mut block)? {
            (Packet::Audio, Some(spec)) => {
                found = Some(spec);
                break;
            }
            (Packet::Audio | Packet::Damaged(_), _) => (),
            (Packet::End, _) => break,
        }
    }
    let declared = parameters_of(&mut *format, id);
    let (rate, channels) = found.or(declared).ok_or_else(|| no_audio("it is empty"))?;
    let spec = Spec { container, rate, channels: u16::try_from(channels).unwrap_or(u16::MAX) };
    Ok((Engine::Symphonia(Box::new(Symphonia { format, decoder, track: id, block })), spec))
}

/// Rate and channels as the container declares them.
fn parameters_of(format: &mut dyn FormatReader, id: u32) -> Option<(u32, usize)> {
    let track = format.tracks().iter().find(|it| it.id == id)?;
    let parameters = track.codec_params.as_ref()?.audio()?;
    Some((parameters.sample_rate?, parameters.channels.as_ref()?.count()))
}

enum Packet {
    Audio,
    Damaged(String),
    End,
}

/// Decodes one packet into `block`, with its rate and channels.
fn next_packet(
    format: &mut dyn FormatReader,
    decoder: &mut dyn AudioDecoder,
    track: u32,
    block: &mut Vec<i16>,
) -> Result<(Packet, Option<(u32, usize)>), ReadError> {
    block.clear();
    let packet = match format.next_packet() {
        Ok(Some(packet)) => packet,
        Ok(None) | Err(Error::ResetRequired) => return Ok((Packet::End, None)),
        Err(Error::IoError(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((Packet::End, None)),
        Err(Error::IoError(error)) => return Err(error.into()),
        Err(error) => return Ok((Packet::Damaged(error.to_string()), None)),
    };
    if packet.track_id != track {
        return Ok((Packet::Audio, None));
    }
    match decoder.decode(&packet) {
        Ok(audio) => {
            audio.copy_to_vec_interleaved(block);
            let spec = (audio.spec().rate(), audio.spec().channels().count());
            Ok((Packet::Audio, Some(spec)))
        }
        Err(error) => Ok((Packet::Damaged(error.to_string()), None)),
    }
}

impl Symphonia {
    fn read(&mut self, out: &mut Vec<i16>, spec: Spec) -> Result<Packet, ReadError> {
        // What `open` decoded to learn the format.
        if !self.block.is_empty() {
            out.append(&mut self.block);
            return Ok(Packet::Audio);
        }
        let (packet, found) = next_packet(&mut *self.format, &mut *self.decoder, self.track, &mut self.block)?;
        if found.is_some_and(|it| it != (spec.rate, usize::from(spec.channels))) {
            return Ok(Packet::Damaged("rate or channels change in the middle".to_owned()));
        }
        out.append(&mut self.block);
        Ok(packet)
    }
}
