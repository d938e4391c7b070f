//! Ogg Opus: a sixth of the size of WAV at the rate chosen here, and what browsers play.
//!
//! Source: RFC 7845 (Ogg encapsulation), RFC 6716 (codec).

use std::io::{self, Read, Write};

use opus_pure::{
    Application, MAX_PACKET_BYTES, MAX_PACKET_SAMPLES, OggOpusReader, OggOpusWriter, OggPacket, OpusDecoder, OpusEncoder,
    OpusHead, Trim,
};

/// Sample rates that Opus takes, in Hz.
pub const OPUS_RATES: [u32; 5] = [8000, 12_000, 16_000, 24_000, 48_000];
/// 48 kHz ticks in which Ogg counts.
const TICKS_PER_SECOND: u32 = 48_000;
/// Bytes of audio in a page: about half a second, which is what a crash can cost.
const PAGE_BYTES: usize = 1500;

/// Writes interleaved samples as 20 ms packets.
///
/// Costs some 50 µs per packet and channel: for a background thread, not for the path of a call.
pub struct OpusWriter<W: Write> {
    encoder: OpusEncoder,
    container: OggOpusWriter<W>,
    /// Interleaved samples of a packet not yet complete.
    waiting: Vec<i16>,
    packet: Vec<u8>,
    /// Samples per channel, and 48 kHz ticks per sample.
    frame: usize,
    ticks: u64,
    pre_skip: u64,
    /// Samples taken, all channels.
    taken: u64,
}

fn io_error(error: opus_pure::Error) -> io::Error {
    io::Error::other(error)
}

impl<W: Write> OpusWriter<W> {
    /// Begins a stream; `rate` is one of [`OPUS_RATES`], `channels` 1 or 2, `bits_per_second` for all channels together
    /// (24 000 a channel keeps telephone speech as it is).
    ///
    /// # Errors
    /// `InvalidInput` for other rates and channels; the sink's.
    pub fn new(sink: W, channels: u16, rate: u32, bits_per_second: u32) -> io::Result<Self> {
        let invalid = |error: opus_pure::Error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let application = if rate <= 16_000 { Application::Voip } else { Application::Audio };
        let mut encoder = OpusEncoder::new(rate as i32, usize::from(channels), application).map_err(invalid)?;
        encoder.bitrate_bps = bits_per_second as i32;
        let head = OpusHead::for_encoder(&encoder, rate);
        let pre_skip = u64::from(head.pre_skip);
        let mut container = OggOpusWriter::new(sink, head).map_err(io_error)?;
        container.set_page_target(PAGE_BYTES);
        Ok(Self {
            encoder,
            container,
            waiting: Vec::new(),
            packet: vec![0; MAX_PACKET_BYTES],
            frame: rate as usize / 50,
            ticks: u64::from(TICKS_PER_SECOND / rate),
            pre_skip,
            taken: 0,
        })
    }

    fn channels(&self) -> usize {
        self.encoder.channels()
    }

    /// Appends interleaved samples; what does not fill a packet waits.
    ///
    /// # Errors
    /// The sink's.
    pub fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        self.taken += samples.len() as u64;
        self.waiting.extend_from_slice(samples);
        let whole = self.frame * self.channels();
        let mut begin = 0;
        // The last packet stays until it is known not to be the last: it says where the audio ends.
        while self.waiting.len() - begin > whole {
            let bytes =
                self.encoder.encode_s16(&self.waiting[begin..begin + whole], self.frame, &mut self.packet).map_err(io_error)?;
            self.container.write_packet(&self.packet[..bytes]).map_err(io_error)?;
            begin += whole;
        }
        self.waiting.drain(..begin);
        Ok(())
    }

    /// Completes the stream, to the sample, and gives the sink back.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self) -> io::Result<W> {
        let whole = self.frame * self.channels();
        let end = self.pre_skip + self.taken / self.channels() as u64 * self.ticks;
        // The encoder is behind by the pre-skip: silence drives out what is still in it.
        while self.container.granule().unsigned_abs() < end {
            self.waiting.resize(self.waiting.len().max(whole), 0);
            let bytes = self.encoder.encode_s16(&self.waiting[..whole], self.frame, &mut self.packet).map_err(io_error)?;
            self.waiting.drain(..whole);
            let left = end - self.container.granule().unsigned_abs();
            let ticks = (self.frame as u64 * self.ticks).min(left);
            self.container.write_packet_with_duration(&self.packet[..bytes], ticks as u32).map_err(io_error)?;
        }
        self.container.finish().map_err(io_error)
    }
}

/// Reads packet by packet, at the rate the stream was made at where Opus has it, else at 48 kHz.
pub(super) struct OpusReader<R: Read> {
    container: OggOpusReader<R>,
    decoder: OpusDecoder,
    trim: Trim,
    packet: OggPacket,
    block: Vec<i16>,
    pub(super) rate: u32,
    pub(super) channels: u16,
}

impl<R: Read> OpusReader<R> {
    pub(super) fn new(source: R) -> opus_pure::Result<Self> {
        let container = OggOpusReader::new(source)?;
        let head = container.head();
        let rate = if OPUS_RATES.contains(&head.input_sample_rate) { head.input_sample_rate } else { TICKS_PER_SECOND };
        let channels = u16::from(head.channel_count);
        let decoder = head.decoder(rate as i32)?;
        let trim = Trim::new(head, rate as i32, usize::from(channels))?;
        let block = vec![0; MAX_PACKET_SAMPLES * usize::from(channels)];
        Ok(Self { decoder, trim, packet: OggPacket::new(Vec::new(), 0, false), block, rate, channels, container })
    }

    /// Appends the next packet's samples; `false` at the end. Damaged packets give an error and can be passed over.
    pub(super) fn read(&mut self, out: &mut Vec<i16>) -> opus_pure::Result<bool> {
        if !self.container.read_packet_into(&mut self.packet)? {
            return Ok(false);
        }
        let frames = self.decoder.decode_s16(&self.packet.data, MAX_PACKET_SAMPLES, &mut self.block)?;
        out.extend_from_slice(self.trim.keep(&self.packet, &self.block[..frames * usize::from(self.channels)]));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::file::{Container, Limits, Reader};

    /// Speech, over and over; in two channels it is twice as slow.
    fn voice(samples: usize) -> Vec<i16> {
        let speech = include_bytes!("../../../../fixtures/speech/en/assistant-greeting.ulaw");
        speech.iter().cycle().take(samples).map(|it| crate::g711::ulaw::decode(*it)).collect()
    }

    fn written(samples: &[i16], channels: u16, rate: u32) -> Vec<u8> {
        let mut writer = OpusWriter::new(Vec::new(), channels, rate, 3 * rate * u32::from(channels)).unwrap();
        samples.chunks(777).for_each(|it| writer.write(it).unwrap());
        writer.finish().unwrap()
    }

    fn read(bytes: Vec<u8>) -> (u32, u16, Vec<i16>) {
        let mut reader = Reader::open(Cursor::new(bytes), Limits::FILE).unwrap();
        assert_eq!(reader.spec().container, Container::OggOpus);
        let samples = reader.read_all().unwrap();
        (reader.spec().rate, reader.spec().channels, samples)
    }

    #[test]
    fn what_comes_back_is_as_long_and_sounds_the_same() {
        for (samples, channels, rate) in [(0, 1, 8000), (1, 1, 8000), (8000, 1, 8000), (12_345, 1, 24_000), (16_000, 2, 8000)] {
            let original = voice(samples);
            let (got_rate, got_channels, heard) = read(written(&original, channels, rate));
            assert_eq!((got_rate, got_channels, heard.len()), (rate, channels, samples));
            let product = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let alike = product(&original, &heard) / (product(&original, &original) * product(&heard, &heard)).sqrt();
            assert!(samples < 8000 || alike > 0.97, "{samples} samples, {channels} channels, {rate} Hz: {alike:.3}");
        }
    }

    #[test]
    fn a_killed_writer_leaves_all_but_the_last_page() {
        let mut writer = OpusWriter::new(Vec::new(), 1, 8000, 24_000).unwrap();
        writer.write(&voice(80_000)).unwrap();
        let left = writer.container.get_ref().unwrap().clone();
        let (_, _, heard) = read(left);
        assert!((72_000..=80_000).contains(&heard.len()), "{} of 80000 samples", heard.len());
    }

    #[test]
    fn other_rates_are_refused() {
        let error = OpusWriter::new(Vec::new(), 1, 44_100, 24_000).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
