//! Hints between processes: something changed, look again. Nothing depends on them: whoever waits for one looks from time to
//! time anyway, so that a hint makes things faster and a lost hint makes nothing wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Store;
use crate::db::Pools;

/// The channel in PostgreSQL; its messages are names of topics.
const CHANNEL: &str = "offhook";
/// Between two messages to other processes. They go out by themselves, never in a transaction that writes: PostgreSQL lets only
/// one transaction with a message commit at a time.
const PAUSE: Duration = Duration::from_millis(50);
/// Before a lost connection is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Facts reached the database.
    Facts,
    /// Orders to calls, or what became of them.
    Orders,
    /// Work to do.
    Jobs,
    /// What is configured.
    Configuration,
}

const TOPICS: [(Topic, &str); 4] =
    [(Topic::Facts, "facts"), (Topic::Orders, "orders"), (Topic::Jobs, "jobs"), (Topic::Configuration, "configuration")];

/// Who waits for what in this process, and what other processes are to be told.
#[derive(Debug, Default)]
pub(crate) struct Board {
    changes: [watch::Sender<()>; TOPICS.len()],
    /// A bit for each topic.
    untold: AtomicU8,
    tell: Notify,
}

impl Board {
    fn post(&self, topic: Topic) {
        self.changes[topic as usize].send_replace(());
    }
}

/// Waits for hints about a topic.
#[derive(Debug)]
pub struct Hints(watch::Receiver<()>);

impl Hints {
    /// Returns with the next hint, or when so much time has passed: look in either case.
    pub async fn wait(&mut self, at_most: Duration) {
        // The sender lives as long as the store.
        if let Ok(Err(_)) = timeout(at_most, self.0.changed()).await {
            sleep(at_most).await;
        }
    }
}

impl Store {
    /// Tells everybody who waits, here and, where [`carry_hints`](Self::carry_hints) runs, in other processes.
    pub fn hint(&self, topic: Topic) {
        self.board.post(topic);
        self.board.untold.fetch_or(1 << topic as u8, Ordering::Relaxed);
        self.board.tell.notify_one();
    }

    /// Hints from now on.
    pub fn hints(&self, topic: Topic) -> Hints {
        Hints(self.board.changes[topic as usize].subscribe())
    }

    /// Carries hints to other processes on the same PostgreSQL, and from them, until it is stopped. With SQLite there are no
    /// others.
    pub async fn carry_hints(&self, stop: &CancellationToken) {
        let Pools::Pg(pool) = self.pools() else { return };
        stop.run_until_cancelled(async { tokio::join!(hear(pool, &self.board), tell(pool, &self.board)) }).await;
    }
}

async fn hear(pool: &PgPool, board: &Arc<Board>) {
    loop {
        if let Err(error) = listen(pool, board).await {
            tracing::debug!(%error, "no hints from other processes: what they do is noticed a little later");
        }
        sleep(RETRY).await;
    }
}

async fn listen(pool: &PgPool, board: &Board) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        let heard = listener.recv().await?;
        let topic = TOPICS.iter().find(|it| it.1 == heard.payload());
        // A topic of a newer version means nothing here.
        if let Some((topic, _)) = topic {
            board.post(*topic);
        }
    }
}

async fn tell(pool: &PgPool, board: &Board) {
    loop {
        board.tell.notified().await;
        let untold = board.untold.swap(0, Ordering::Relaxed);
        for (topic, name) in TOPICS {
            if untold & 1 << topic as u8 != 0
                && let Err(error) = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(name).execute(pool).await
            {
                tracing::debug!(%error, "a hint was not told");
            }
        }
        sleep(PAUSE).await;
    }
}
