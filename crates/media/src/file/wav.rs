//! WAV as written here: the header is true after every [`sync`](WavWriter::sync).
//!
//! Source: Multimedia Programming Interface and Data Specifications 1.0 (Microsoft and IBM, August 1991), chapter 3, and
//! the μ-law registration in RFC 2361, appendix A (format 7, with a `fact` chunk).

use std::io::{self, Seek, SeekFrom, Write};

use crate::g711::ulaw;

/// How samples are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 16-bit PCM, two bytes a sample.
    Pcm16,
    /// G.711 μ-law, one byte a sample.
    Ulaw,
}

impl Encoding {
    fn bytes(self) -> u32 {
        match self {
            Self::Pcm16 => 2,
            Self::Ulaw => 1,
        }
    }
}

/// Writes interleaved samples.
pub struct WavWriter<W: Write + Seek> {
    sink: W,
    encoding: Encoding,
    channels: u16,
    rate: u32,
    /// Bytes of audio written so far.
    data_bytes: u32,
    buffer: Vec<u8>,
}

impl<W: Write + Seek> WavWriter<W> {
    /// Begins a file at the sink's current end; `rate` in Hz.
    ///
    /// # Errors
    /// The sink's.
    pub fn new(sink: W, encoding: Encoding, channels: u16, rate: u32) -> io::Result<Self> {
        let mut writer = Self { sink, encoding, channels: channels.max(1), rate, data_bytes: 0, buffer: Vec::new() };
        writer.header()?;
        writer.sink.write_all(&writer.buffer)?;
        Ok(writer)
    }

    /// Appends interleaved samples. They reach the sink at once; the header knows of them after [`sync`](Self::sync).
    ///
    /// # Errors
    /// The sink's, and `FileTooLarge` past 4 GiB, where WAV ends: 37 hours of two channels at 8 kHz.
    pub fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        let added = u32::try_from(samples.len()).ok().and_then(|it| it.checked_mul(self.encoding.bytes()));
        let total = added.and_then(|it| self.data_bytes.checked_add(it)).filter(|it| *it < u32::MAX - 64);
        let total = total.ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "a WAV file ends at 4 GiB"))?;
        self.buffer.clear();
        match self.encoding {
            Encoding::Pcm16 => self.buffer.extend(samples.iter().flat_map(|it| it.to_le_bytes())),
            Encoding::Ulaw => self.buffer.extend(samples.iter().map(|it| ulaw::encode(*it))),
        }
        self.sink.write_all(&self.buffer)?;
        self.data_bytes = total;
        Ok(())
    }

    /// Brings the header up to date and flushes: what was written so far can be played, whatever happens next.
    ///
    /// # Errors
    /// The sink's.
    pub fn sync(&mut self) -> io::Result<()> {
        self.header()?;
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(&self.buffer)?;
        self.sink.seek(SeekFrom::End(0))?;
        self.sink.flush()
    }

    /// Completes the file and gives the sink back.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self) -> io::Result<W> {
        if self.data_bytes % 2 == 1 {
            // Chunks end on even addresses; the pad byte is not counted.
            self.sink.write_all(&[0])?;
        }
        self.sync()?;
        Ok(self.sink)
    }

    /// The header as it is now, in `self.buffer`.
    fn header(&mut self) -> io::Result<()> {
        let block = u32::from(self.channels) * self.encoding.bytes();
        let out = &mut self.buffer;
        out.clear();
        out.write_all(b"RIFF\0\0\0\0WAVEfmt ")?;
        match self.encoding {
            Encoding::Pcm16 => out.write_all(&[16, 0, 0, 0, 1, 0])?,
            Encoding::Ulaw => out.write_all(&[18, 0, 0, 0, 7, 0])?,
        }
        out.write_all(&self.channels.to_le_bytes())?;
        out.write_all(&self.rate.to_le_bytes())?;
        out.write_all(&(self.rate * block).to_le_bytes())?;
        out.write_all(&(block as u16).to_le_bytes())?;
        out.write_all(&(self.encoding.bytes() as u16 * 8).to_le_bytes())?;
        if self.encoding == Encoding::Ulaw {
            // No extension; then the number of sample frames, which formats other than PCM must state.
            out.write_all(b"\0\0fact\x04\0\0\0")?;
            out.write_all(&(self.data_bytes / block).to_le_bytes())?;
        }
        out.write_all(b"data")?;
        out.write_all(&self.data_bytes.to_le_bytes())?;
        let riff = out.len() as u32 - 8 + self.data_bytes + self.data_bytes % 2;
        out[4..8].copy_from_slice(&riff.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::file::{Container, Limits, Reader};

    fn read(bytes: Vec<u8>) -> (u32, u16, Vec<i16>) {
        let mut reader = Reader::open(Cursor::new(bytes), Limits::FILE).unwrap();
        assert_eq!(reader.spec().container, Container::Wav);
        let samples = reader.read_all().unwrap();
        (reader.spec().rate, reader.spec().channels, samples)
    }

    #[test]
    fn what_is_written_is_read() {
        let samples: Vec<i16> = (0..4001).map(|it| (it * 7 % 30_000 - 15_000) as i16).collect();
        let mut writer = WavWriter::new(Cursor::new(Vec::new()), Encoding::Pcm16, 1, 24_000).unwrap();
        samples.chunks(333).for_each(|it| writer.write(it).unwrap());
        assert_eq!(read(writer.finish().unwrap().into_inner()), (24_000, 1, samples.clone()));

        let quantised: Vec<i16> = samples.iter().map(|it| ulaw::decode(ulaw::encode(*it))).collect();
        let mut writer = WavWriter::new(Cursor::new(Vec::new()), Encoding::Ulaw, 1, 8000).unwrap();
        writer.write(&samples).unwrap();
        assert_eq!(read(writer.finish().unwrap().into_inner()), (8000, 1, quantised));
    }

    #[test]
    fn a_full_disk_is_said_at_once_and_what_was_synced_stays() {
        let mut room = [0; 100];
        let mut writer = WavWriter::new(Cursor::new(&mut room[..]), Encoding::Pcm16, 1, 8000).unwrap();
        writer.write(&[7; 20]).unwrap();
        writer.sync().unwrap();
        assert_eq!(writer.write(&[7; 20]).unwrap_err().kind(), io::ErrorKind::WriteZero);
        drop(writer);
        assert_eq!(read(room[..84].to_vec()), (8000, 1, vec![7; 20]));
    }

    #[test]
    fn a_killed_writer_leaves_what_it_had_synced() {
        let mut writer = WavWriter::new(Cursor::new(Vec::new()), Encoding::Pcm16, 2, 8000).unwrap();
        writer.write(&[1, 2, 3, 4]).unwrap();
        writer.sync().unwrap();
        writer.write(&[5, 6]).unwrap();
        let left = writer.sink.into_inner();
        assert_eq!(read(left.clone()), (8000, 2, vec![1, 2, 3, 4]));
        // Cut in the middle of what the header promises.
        assert_eq!(read(left[..left.len() - 6].to_vec()), (8000, 2, vec![1, 2]));
    }
}
