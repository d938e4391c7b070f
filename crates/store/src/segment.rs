//! Journal files: `00000001.journal`, `00000002.journal`, … in one directory.
//!
//! A record is `[length: u32 LE][crc32 of the payload: u32 LE][payload: JSON]`. Files are only ever appended to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::Entry;

/// Bytes before the payload.
const HEADER: usize = 8;
/// Longest payload believed; a larger length is a torn or foreign record.
const PAYLOAD_MAX: usize = 1 << 20;
/// A segment that has grown past this is closed and the next one begun.
const SEGMENT_BYTES: u64 = 16 << 20;

/// A place in the journal, between records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub segment: u64,
    pub bytes: u64,
}

/// The end of the journal, open for appending.
#[derive(Debug)]
pub(crate) struct Tail {
    folder: PathBuf,
    file: File,
    pub(crate) position: Position,
    /// A write failed and may have left part of a record behind.
    torn: bool,
}

/// A new file is only there after a power loss if its folder was synced too.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes `entry` a record at the end of `buffer`.
pub(crate) fn encode(entry: &Entry, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER]);
    serde_json::to_writer(&mut *buffer, entry).expect("entries are strings, numbers and booleans, and a Vec takes all of them");
    let (length, crc) = ((buffer.len() - start - HEADER) as u32, crc32fast::hash(&buffer[start + HEADER..]));
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// The payload at the start of `bytes`, and what follows it; `None` for a torn or damaged record.
fn decode(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let length = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(header[4..].try_into().ok()?);
    let (payload, rest) = rest.split_at_checked(length).filter(|_| length <= PAYLOAD_MAX)?;
    (crc32fast::hash(payload) == crc).then_some((payload, rest))
}

fn path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:08}.journal"))
}

/// The numbers of all segments, ascending.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> =
        fs::read_dir(folder)?.filter_map(|it| it.ok()?.file_name().to_str()?.strip_suffix(".journal")?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// The journal's own name, made when it is first opened: its position in SQL goes by it.
pub(crate) fn identity(folder: &Path) -> io::Result<String> {
    fs::create_dir_all(folder)?;
    let path = folder.join("id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    let id = uuid::Uuid::now_v7().to_string();
    let mut file = File::create(&path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(id)
}

/// Keeps a fact that the database will never take, for people to look at.
pub(crate) fn set_aside(folder: &Path, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).open(folder.join("rejected.jsonl"))?;
    file.write_all(&line)?;
    file.sync_all()
}

impl Tail {
    /// Opens the last segment, cuts off a torn tail, and is ready to append. `delivered` is how far SQL got: if files
    /// before it are gone, numbering goes on after it.
    pub(crate) fn open(folder: &Path, delivered: Position) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let segment = segments(folder)?.last().copied().unwrap_or(0).max(delivered.segment).max(1);
        let path = path(folder, segment);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        while let Some((_, after)) = decode(rest) {
            rest = after;
        }
        let whole = (bytes.len() - rest.len()) as u64;
        if !rest.is_empty() {
            tracing::warn!(file = %path.display(), torn_bytes = rest.len(), "the journal ended in the middle of a record, which is cut off");
            file.set_len(whole)?;
            file.sync_data()?;
        }
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), file, position: Position { segment, bytes: whole }, torn: false })
    }

    /// Appends whole records and waits until they are on disk.
    pub(crate) fn append(&mut self, records: &[u8]) -> io::Result<Position> {
        if self.torn {
            // A half-written batch must not be followed by good records.
            self.file.set_len(self.position.bytes)?;
            self.torn = false;
        }
        self.torn = true;
        self.file.write_all(records)?;
        self.file.sync_data()?;
        self.torn = false;
        self.position.bytes += records.len() as u64;
        if self.position.bytes >= SEGMENT_BYTES {
            self.position = Position { segment: self.position.segment + 1, bytes: 0 };
            self.file = OpenOptions::new().append(true).create(true).open(path(&self.folder, self.position.segment))?;
            sync_folder(&self.folder)?;
        }
        Ok(self.position)
    }
}

/// Reads up to `limit` entries from `from` on; returns them and the place after the last one.
pub(crate) fn read(folder: &Path, from: Position, limit: usize) -> io::Result<(Vec<Entry>, Position)> {
    let (mut entries, mut at) = (Vec::new(), from);
    for segment in segments(folder)?.into_iter().filter(|it| *it >= from.segment) {
        if segment > at.segment {
            at = Position { segment, bytes: 0 };
        }
        let mut file = File::open(path(folder, segment))?;
        file.seek(SeekFrom::Start(at.bytes))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        while let Some((payload, after)) = decode(rest) {
            if entries.len() == limit {
                return Ok((entries, at));
            }
            match serde_json::from_slice(payload) {
                Ok(entry) => entries.push(entry),
                // A record of a newer version: the file is whole, this program cannot read it.
                Err(error) => tracing::error!(segment, bytes = at.bytes, %error, "a journal record is passed over"),
            }
            at.bytes += (rest.len() - after.len()) as u64;
            rest = after;
        }
    }
    Ok((entries, at))
}

/// Reads the next facts of a journal, also while its process runs; begin with the default position. The same position
/// again means that there is nothing more.
///
/// # Errors
/// When the folder or a segment cannot be read.
pub fn read_journal(folder: &Path, from: Position) -> io::Result<(Vec<Entry>, Position)> {
    read(folder, from, 1024)
}

/// Deletes segments that lie wholly before `delivered`.
pub(crate) fn prune(folder: &Path, delivered: Position) -> io::Result<()> {
    for segment in segments(folder)?.into_iter().filter(|it| *it < delivered.segment) {
        fs::remove_file(path(folder, segment))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fact, Speaker};
    use proptest::prelude::*;

    fn entry(seq: u64) -> Entry {
        let fact =
            Fact::Said { speaker: Speaker::Caller, text: format!("line {seq} șă"), start_ms: seq, end_ms: seq + 1, cut: false };
        Entry { tenant: "t".into(), call: "c".into(), epoch: 0, seq, at_ms: 1, fact }
    }

    fn written(count: u64) -> (tempfile::TempDir, Vec<u64>) {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::open(folder.path(), Position::default()).unwrap();
        let mut ends = vec![0];
        for seq in 0..count {
            let mut record = Vec::new();
            encode(&entry(seq), &mut record);
            ends.push(tail.append(&record).unwrap().bytes);
        }
        (folder, ends)
    }

    #[test]
    fn what_was_appended_is_read_in_order_and_in_parts() {
        let (folder, _) = written(10);
        let (first, at) = read(folder.path(), Position::default(), 4).unwrap();
        let (second, end) = read(folder.path(), at, 100).unwrap();
        assert_eq!(first.iter().chain(&second).map(|it| it.seq).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(read(folder.path(), end, 100).unwrap().0, []);
    }

    #[test]
    fn what_a_failed_write_left_is_cut_off_before_the_next() {
        let (folder, ends) = written(3);
        let mut tail = Tail::open(folder.path(), Position::default()).unwrap();
        tail.file.write_all(b"half a rec").unwrap();
        tail.torn = true;
        let mut record = Vec::new();
        encode(&entry(99), &mut record);
        assert_eq!(tail.append(&record).unwrap().bytes, ends[3] + record.len() as u64);
        let seqs: Vec<u64> = read(folder.path(), Position::default(), 100).unwrap().0.iter().map(|it| it.seq).collect();
        assert_eq!(seqs, [0, 1, 2, 99]);
    }

    #[test]
    fn delivered_segments_are_deleted_and_numbering_goes_on() {
        let (folder, _) = written(2);
        let later = Position { segment: 5, bytes: 0 };
        prune(folder.path(), later).unwrap();
        assert_eq!(segments(folder.path()).unwrap(), [0_u64; 0]);
        assert_eq!(Tail::open(folder.path(), later).unwrap().position, later);
    }

    proptest! {
        /// A crash can end the file anywhere; damage can sit anywhere. What is before it survives, and appending goes on.
        #[test]
        fn a_torn_tail_is_cut_at_a_record(cut in 0usize..900, damage in any::<Option<u8>>()) {
            let (folder, ends) = written(8);
            let file = path(folder.path(), 1);
            let mut bytes = fs::read(&file).unwrap();
            let cut = cut % bytes.len();
            if let Some(damage) = damage {
                prop_assume!(bytes[cut] != damage);
                bytes[cut] = damage;
            } else {
                bytes.truncate(cut);
            }
            fs::write(&file, &bytes).unwrap();
            let whole = ends.iter().filter(|it| **it <= cut as u64).count() as u64 - 1;
            let mut tail = Tail::open(folder.path(), Position::default()).unwrap();
            prop_assert_eq!(tail.position.bytes, ends[whole as usize]);
            let mut record = Vec::new();
            encode(&entry(99), &mut record);
            tail.append(&record).unwrap();
            let seqs: Vec<u64> = read(folder.path(), Position::default(), 100).unwrap().0.iter().map(|it| it.seq).collect();
            prop_assert_eq!(seqs, (0..whole).chain([99]).collect::<Vec<u64>>());
        }
    }
}
