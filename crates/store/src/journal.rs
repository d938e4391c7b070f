//! The journal in a running process: one task writes in groups, one delivers to SQL.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::segment::{self, Position, Tail};
use crate::{Entry, Store, StoreError};

/// Facts waiting for the disk: 60 s of 100 calls with 10 facts a second, far beyond what calls make.
const WAITING_MAX: usize = 65_536;
/// Facts written and synced together.
const GROUP_MAX: usize = 1024;
/// Facts delivered in one transaction.
const DELIVERY_MAX: usize = 512;
/// Longest wait at start for how far an earlier process delivered.
const POSITION_MAX: Duration = Duration::from_secs(2);
/// Longest wait at start for what an earlier process left undelivered; telephones ring meanwhile.
const BOOT_DELIVERY_MAX: Duration = Duration::from_secs(10);
/// First and longest pause after a failed delivery or write.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A fact that may not be on disk.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal's queue is full: the disk has not kept up for {WAITING_MAX} facts")]
    Full,
    #[error("the journal is closed")]
    Closed,
}

struct Write {
    /// `None` asks only when all before it is on disk.
    entry: Option<Entry>,
    done: Option<oneshot::Sender<()>>,
}

/// Takes facts; cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    id: Arc<str>,
    queue: mpsc::Sender<Write>,
    written: watch::Receiver<Position>,
    delivered: watch::Receiver<Position>,
    lost: Arc<AtomicU64>,
    rejected: Arc<AtomicU64>,
}

impl Journal {
    /// Opens the journal in `folder`, first delivering what an earlier process left behind, then starts the two tasks.
    ///
    /// # Errors
    /// When the folder cannot be read or written. A database that is away is no error: delivery goes on trying.
    pub async fn open(folder: PathBuf, store: Store) -> io::Result<(Self, JournalTasks)> {
        let id = {
            let folder = folder.clone();
            spawn_blocking(move || segment::identity(&folder)).await??
        };
        let name = id.clone();
        // Without it delivery begins with the oldest segment: what SQL has already changes nothing.
        let position = tokio::time::timeout(POSITION_MAX, store.position(&id)).await.ok().and_then(Result::ok);
        let database_is_there = position.is_some();
        let delivered = position.unwrap_or_default();
        let tail = {
            let folder = folder.clone();
            spawn_blocking(move || Tail::open(&folder, delivered)).await??
        };
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let (written_tx, written) = watch::channel(tail.position);
        let (delivered_tx, delivered) = watch::channel(delivered);
        let writer = tokio::spawn(write(tail, waiting, written_tx));
        let rejected = Arc::new(AtomicU64::new(0));
        let delivery = Delivery { folder, id, store, rejected: rejected.clone() };
        let deliverer = tokio::spawn(delivery.run(written.clone(), delivered_tx));
        let journal = Self { id: name.into(), queue, written, delivered, lost: Arc::default(), rejected };
        if database_is_there {
            // What an earlier process acknowledged is in SQL before the first question is asked.
            let _ = tokio::time::timeout(BOOT_DELIVERY_MAX, journal.flush()).await;
        }
        Ok((journal, JournalTasks { writer, deliverer }))
    }

    /// Appends a fact without waiting for anything. A fact that finds the queue full is counted as lost.
    pub fn append(&self, entry: Entry) {
        if self.queue.try_send(Write { entry: Some(entry), done: None }).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(lost, "a fact was lost: the journal's queue is full or closed");
        }
    }

    /// Appends a fact and waits until it is on disk.
    ///
    /// # Errors
    /// [`JournalError`] when the fact may not be on disk.
    pub async fn commit(&self, entry: Entry) -> Result<(), JournalError> {
        let (done, on_disk) = oneshot::channel();
        self.queue.try_send(Write { entry: Some(entry), done: Some(done) }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => JournalError::Full,
            mpsc::error::TrySendError::Closed(_) => JournalError::Closed,
        })?;
        on_disk.await.map_err(|_| JournalError::Closed)
    }

    /// Waits until everything appended so far is in SQL. Whoever calls this bounds it: a disk or a database that is away is
    /// waited for.
    pub async fn flush(&self) {
        let (done, on_disk) = oneshot::channel();
        if self.queue.send(Write { entry: None, done: Some(done) }).await.is_ok() {
            let _ = on_disk.await;
        }
        let target = *self.written.borrow();
        let _ = self.delivered.clone().wait_for(|it| *it >= target).await;
    }

    /// Its own name, by which its facts and its recordings are known.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Facts that never reached the disk.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Facts that the database will never take: they lie in `rejected.jsonl` beside the journal.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Bytes on disk that SQL does not have yet; of other segments only their number counts.
    pub fn undelivered(&self) -> u64 {
        let (written, delivered) = (*self.written.borrow(), *self.delivered.borrow());
        if written.segment == delivered.segment { written.bytes.saturating_sub(delivered.bytes) } else { written.bytes.max(1) }
    }
}

/// The journal's two tasks. They end when every [`Journal`] handle is gone and everything is delivered.
#[derive(Debug)]
pub struct JournalTasks {
    writer: JoinHandle<()>,
    deliverer: JoinHandle<()>,
}

impl JournalTasks {
    /// Waits until the last fact is on disk and in SQL. All handles must be dropped first; bound the wait, because a
    /// database that is away is waited for (what is on disk is delivered by the next process).
    pub async fn finished(self) {
        let _ = self.writer.await;
        let _ = self.deliverer.await;
    }
}

/// Groups what waits, writes it, syncs once, acknowledges.
async fn write(mut tail: Tail, mut waiting: mpsc::Receiver<Write>, written: watch::Sender<Position>) {
    let (mut group, mut records) = (Vec::new(), Vec::new());
    while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
        records.clear();
        for entry in group.iter().filter_map(|it| it.entry.as_ref()) {
            segment::encode(entry, &mut records);
        }
        let mut pause = RETRY.0;
        loop {
            let (result, returned, buffer) = match spawn_blocking(move || {
                let result = tail.append(&records);
                (result, tail, records)
            })
            .await
            {
                Ok(it) => it,
                Err(panicked) => return tracing::error!(%panicked, "the journal's writer died"),
            };
            (tail, records) = (returned, buffer);
            match result {
                Ok(position) => {
                    written.send_replace(position);
                    break;
                }
                // Disk full or gone. Calls go on; facts wait in the bounded queue and are acknowledged when it works again.
                Err(error) => tracing::error!(%error, "the journal cannot be written, trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        for it in group.drain(..) {
            if let Some(done) = it.done {
                let _ = done.send(());
            }
        }
    }
}

/// Carries records to SQL.
struct Delivery {
    folder: PathBuf,
    /// Of the journal: each has its own position.
    id: String,
    store: Store,
    rejected: Arc<AtomicU64>,
}

impl Delivery {
    /// In order, for as long as there is a writer or anything undelivered.
    async fn run(self, mut written: watch::Receiver<Position>, delivered: watch::Sender<Position>) {
        let mut pause = RETRY.0;
        // After a refusal facts are delivered one by one until the one is found that cannot be.
        let mut alone = 0;
        loop {
            let from = *delivered.borrow();
            if from >= *written.borrow_and_update() {
                if written.changed().await.is_err() && from >= *written.borrow() {
                    return;
                }
                continue;
            }
            match self.step(from, if alone > 0 { 1 } else { DELIVERY_MAX }).await {
                Ok(to) => {
                    pause = RETRY.0;
                    alone -= alone.min(1);
                    // Nothing readable although more was written: the rest was an unreadable record at the end.
                    let to = if to == from { *written.borrow() } else { to };
                    delivered.send_replace(to);
                    if to.segment > from.segment {
                        let folder = self.folder.clone();
                        let _ = spawn_blocking(move || segment::prune(&folder, to)).await;
                    }
                }
                Err(Undelivered::Refused(error)) => {
                    tracing::error!(%error, "the database refuses a fact: facts are delivered one by one");
                    alone = DELIVERY_MAX;
                }
                Err(Undelivered::Later(error)) => {
                    tracing::warn!(error, "the database did not take the journal's facts, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Delivers the next facts; returns the place behind them.
    async fn step(&self, from: Position, limit: usize) -> Result<Position, Undelivered> {
        let later = |error: &dyn std::fmt::Display| Undelivered::Later(error.to_string());
        let folder = self.folder.clone();
        let read = spawn_blocking(move || segment::read(&folder, from, limit)).await.map_err(|error| later(&error))?;
        let (entries, to) = read.map_err(|error| later(&error))?;
        let Err(error) = self.store.apply(&self.id, &entries, to).await else { return Ok(to) };
        if error.is_passing() || matches!(error, StoreError::Schema { .. } | StoreError::Migrate(_)) {
            return Err(later(&error));
        }
        let [refused] = &entries[..] else { return Err(Undelivered::Refused(error)) };
        // Whatever it is, the calls behind it must not wait for it for ever.
        tracing::error!(%error, fact = ?refused, "a fact is put aside: the database will never take it");
        let (folder, entry) = (self.folder.clone(), refused.clone());
        let kept = spawn_blocking(move || segment::set_aside(&folder, &entry)).await.map_err(|error| later(&error))?;
        kept.map_err(|error| later(&error))?;
        self.rejected.fetch_add(1, Ordering::Relaxed);
        self.store.apply(&self.id, &[], to).await.map_err(|error| later(&error))?;
        Ok(to)
    }
}

/// Why facts are not in SQL yet.
enum Undelivered {
    /// It may work later.
    Later(String),
    /// One of several will never work.
    Refused(StoreError),
}
