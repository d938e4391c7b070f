//! The two-channel recording: the caller left, what the caller heard right.
//!
//! The right channel is a mirror of Twilio's playout buffer, clocked by the caller's own frames: what is played is
//! pushed, `clear` empties it, and every caller frame takes its share. So the recording follows the played timeline
//! without a clock of its own, and cannot drift. Written once a second by a blocking thread; the header is brought up to
//! date each time, so that a killed process leaves a playable file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use media::file::{Encoding, OpusWriter, WavWriter};
use media::g711::ulaw;
use media::{Frame, SILENCE};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::limits;

/// A complete recording.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) path: PathBuf,
    pub(crate) length: Duration,
    pub(crate) sha256: [u8; 32],
}

pub(crate) struct Recorder {
    /// At Twilio, not yet played.
    playing: VecDeque<u8>,
    /// Interleaved caller and assistant samples.
    block: Vec<i16>,
    blocks: mpsc::Sender<Vec<i16>>,
    file: JoinHandle<Option<(Duration, [u8; 32])>>,
    path: PathBuf,
    blocks_dropped: u64,
    /// Silence is written instead of what is said.
    paused: bool,
}

impl Recorder {
    pub(crate) fn start(path: &Path) -> Self {
        let (blocks, waiting) = mpsc::channel(limits::RECORDING_BLOCKS);
        let file = tokio::spawn(write(path.to_owned(), waiting));
        Self {
            playing: VecDeque::new(),
            block: Vec::with_capacity(2 * limits::RECORDING_BLOCK_FRAMES * media::FRAME_BYTES),
            blocks,
            file,
            path: path.to_owned(),
            blocks_dropped: 0,
            paused: false,
        }
    }

    pub(crate) fn play(&mut self, frame: &Frame) {
        self.playing.extend(frame.ulaw());
    }

    pub(crate) fn clear(&mut self) {
        self.playing.clear();
    }

    /// Leaves silence of the same length until told otherwise: a card number is not recorded, and all times stay right.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(crate) fn caller(&mut self, frame: &Frame) {
        for code in frame.ulaw() {
            let heard = self.playing.pop_front().unwrap_or(SILENCE);
            let pair = [ulaw::decode(*code), ulaw::decode(heard)];
            self.block.extend(if self.paused { [0, 0] } else { pair });
        }
        if self.block.len() >= 2 * limits::RECORDING_BLOCK_FRAMES * media::FRAME_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let capacity = self.block.capacity();
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(capacity));
        if self.blocks.try_send(block).is_err() {
            self.blocks_dropped += 1;
        }
    }

    /// Writes the rest; `None` when there is no file.
    pub(crate) async fn finish(mut self) -> Option<Recording> {
        if !self.block.is_empty() {
            self.hand_over();
        }
        if self.blocks_dropped > 0 {
            tracing::warn!(blocks = self.blocks_dropped, "the disk did not keep up: the recording lacks some seconds");
        }
        drop(self.blocks);
        let (length, sha256) = self.file.await.ok().flatten()?;
        Some(Recording { path: self.path, length, sha256 })
    }
}

/// The file of a recording; its name says which.
enum Writer {
    Wav(WavWriter<File>),
    /// Several times smaller; a crash costs half a second more.
    Opus(Box<OpusWriter<File>>),
}

/// Two voices, understandable at any time.
const OPUS_BITS_PER_SECOND: u32 = 32_000;

impl Writer {
    fn create(path: &Path) -> io::Result<Self> {
        path.parent().map(std::fs::create_dir_all).transpose()?;
        let file = File::create(path)?;
        Ok(match path.extension() {
            Some(extension) if extension == "opus" => Self::Opus(Box::new(OpusWriter::new(file, 2, 8000, OPUS_BITS_PER_SECOND)?)),
            _ => Self::Wav(WavWriter::new(file, Encoding::Pcm16, 2, 8000)?),
        })
    }

    fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        match self {
            Self::Wav(file) => file.write(samples).and_then(|()| file.sync()),
            Self::Opus(file) => file.write(samples),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Wav(file) => file.finish().map(drop),
            Self::Opus(file) => file.finish().map(drop),
        }
    }
}

async fn write(path: PathBuf, mut blocks: mpsc::Receiver<Vec<i16>>) -> Option<(Duration, [u8; 32])> {
    let failed = |error: io::Error| tracing::error!(%error, "the recording cannot be written");
    let mut writer: Option<Writer> = None;
    let mut frames = 0_u64;
    while let Some(block) = blocks.recv().await {
        let (path, open) = (path.clone(), writer.take());
        frames += block.len() as u64 / 2;
        let written = spawn_blocking(move || -> io::Result<Writer> {
            let mut writer = match open {
                Some(writer) => writer,
                None => Writer::create(&path)?,
            };
            writer.write(&block)?;
            Ok(writer)
        })
        .await;
        match written {
            Ok(Ok(open)) => writer = Some(open),
            Ok(Err(error)) => {
                failed(error);
                return None;
            }
            Err(_) => return None,
        }
    }
    let writer = writer?;
    // The header changed until the end: the sum is taken of the file as it is.
    let finish = move || -> io::Result<[u8; 32]> {
        writer.finish()?;
        let mut sum = Sha256::new();
        let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
        while let block @ [_, ..] = file.fill_buf()? {
            sum.update(block);
            let length = block.len();
            file.consume(length);
        }
        Ok(sum.finalize().into())
    };
    match spawn_blocking(finish).await {
        Ok(Ok(sum)) => Some((Duration::from_micros(frames * 125), sum)),
        Ok(Err(error)) => {
            failed(error);
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use media::file::{Limits, Reader};

    use super::*;

    #[tokio::test]
    async fn a_disk_that_takes_nothing_costs_the_recording_and_nothing_else() {
        // C-21.
        // A device that is always full, behind a name that can be opened.
        let folder = std::env::temp_dir().join(format!("offhook-recorder-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.join("call.wav")).unwrap();
        let mut recorder = Recorder::start(&folder.join("call.wav"));
        for _ in 0..200 {
            recorder.caller(&Frame::SILENCE);
            tokio::task::yield_now().await;
        }
        assert!(recorder.finish().await.is_none());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_pause_leaves_silence_of_its_own_length_in_either_kind_of_file() {
        for kind in ["wav", "opus"] {
            let folder = std::env::temp_dir().join(format!("offhook-recorder-{}", uuid::Uuid::new_v4()));
            let path = folder.join(format!("call.{kind}"));
            let mut recorder = Recorder::start(&path);
            let tone: Vec<u8> = (0..160).map(|n| ulaw::encode(((n as f32 * 0.4).sin() * 9000.0) as i16)).collect();
            for second in 0..3 {
                recorder.pause(second == 1);
                for _ in 0..50 {
                    recorder.caller(&Frame::from_ulaw(&tone));
                    tokio::task::yield_now().await;
                }
                // The disk is another thread's.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let Recording { path, length, .. } = recorder.finish().await.unwrap();
            assert_eq!(length, Duration::from_secs(3), "{kind}");
            let mut reader = Reader::open(File::open(path).unwrap(), Limits::FILE).unwrap();
            assert_eq!(reader.spec().channels, 2);
            let rate = reader.spec().rate as usize;
            let samples = reader.read_all().unwrap();
            let loudest = |from: f64, to: f64| {
                let (from, to) = ((from * rate as f64) as usize * 2, (to * rate as f64) as usize * 2);
                samples[from..to.min(samples.len())].iter().map(|it| it.unsigned_abs()).max().unwrap()
            };
            assert!(loudest(0.2, 0.8) > 5000 && loudest(2.2, 2.8) > 5000, "{kind}");
            assert!(loudest(1.2, 1.8) < 200, "{kind}: {}", loudest(1.2, 1.8));
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[tokio::test]
    async fn the_right_channel_is_what_was_played_when_it_was_played() {
        let folder = std::env::temp_dir().join(format!("offhook-recorder-{}", uuid::Uuid::new_v4()));
        let path = folder.join("a/call.wav");
        let mut recorder = Recorder::start(&path);
        let voice = Frame::from_ulaw(&[0x20; 160]);
        recorder.caller(&Frame::SILENCE);
        recorder.play(&voice);
        recorder.play(&voice);
        recorder.play(&voice);
        recorder.caller(&Frame::SILENCE);
        recorder.clear();
        for _ in 0..60 {
            recorder.caller(&voice);
        }
        let Recording { path: written, length, sha256 } = recorder.finish().await.unwrap();
        assert_eq!(length, Duration::from_millis(62 * 20));
        assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(std::fs::read(&written).unwrap())));
        let samples = Reader::open(File::open(written).unwrap(), Limits::FILE).unwrap().read_all().unwrap();
        let frame = |index: usize, channel: usize| samples[index * 320 + channel];
        let loud = ulaw::decode(0x20);
        assert_eq!([frame(0, 0), frame(0, 1)], [0, 0]);
        assert_eq!([frame(1, 0), frame(1, 1)], [0, loud]);
        assert_eq!([frame(2, 0), frame(2, 1)], [loud, 0]);
        assert_eq!(samples.len(), 62 * 320);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
