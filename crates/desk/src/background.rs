//! What a server does beside its calls: says that it lives, carries out orders that came to other servers, keeps recordings,
//! tells tenants' programs what happened, forgets what is over.

use std::sync::Arc;
use std::time::Duration;

use bridge::{Bridge, CallId, LiveControl, Performed};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::Deserialize;
use store::{Failure, Handler, Heartbeat, NewObject, ObjectError, Objects, Sealer, Store, StoreError, Topic, Work, Workers};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use twilio::rest::Rest;

use crate::configuration::Configuration;
use crate::courier;
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::orders::PERFORMED;
use crate::outbound::{Caller, Dial};
use crate::reconcile::reconcile;

/// How often a server says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often it looks for orders; sooner when it is hinted that there are some.
const ORDERS: Duration = Duration::from_secs(1);
/// How often calls of other servers are looked at while somebody listens; sooner when it is hinted that something happened.
const FEED: Duration = Duration::from_millis(250);
/// The pause after a database that does not answer.
const FEED_RETRY: Duration = Duration::from_secs(1);
/// How often it is asked who answers which number; sooner when it is hinted that it changed.
const CONFIGURATION: Duration = Duration::from_secs(5);
/// How often the disk is looked at.
const DISK: Duration = Duration::from_secs(5);
/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// A server that has said nothing for so long is dead.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(10);
/// Jobs and delivered events are forgotten after this long.
const FORGET_AFTER_MS: i64 = 30 * 86_400_000;
/// A clone that nobody has worked on for so long was its process's last.
const CLONE_STALE_MS: i64 = 600_000;
/// Recordings kept at a time: reading, encrypting and uploading is work for a core.
const KEEPERS: usize = 2;

/// What the background needs.
pub struct Background {
    pub store: Store,
    pub bridge: Arc<Bridge>,
    /// Name and media address of this server.
    pub node: String,
    pub address: String,
    /// Has the journal of this server, whose recordings lie on this machine.
    pub ledger: Arc<Ledger>,
    /// Where files are kept; `None` leaves recordings where they were made.
    pub objects: Option<Objects>,
    /// Days after which recordings are deleted; `None` keeps them.
    pub recording_days: Option<u32>,
    pub sealer: Arc<Sealer>,
    pub disk: Arc<Disk>,
    pub configuration: Arc<Configuration>,
    /// Twilio's REST API, if there is an account.
    pub rest: Option<Rest>,
    /// Makes calls, one after the other so far apart.
    pub caller: Arc<Caller>,
    pub calls_apart: Duration,
}

impl Background {
    /// Runs until it is stopped, then says farewell.
    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let mut handlers: Vec<Arc<dyn Handler>> = Vec::new();
        if let Some(objects) = this.objects.clone() {
            let kind = store::recording_kept_by(this.ledger.journal().id());
            handlers.push(Arc::new(KeepRecording { kind, objects, days: this.recording_days }));
        }
        if let Some(rest) = this.rest.clone() {
            handlers.push(Arc::new(Dial { caller: this.caller.clone(), rest, apart: this.calls_apart }));
        }
        let workers = Workers::new(this.store.clone(), &this.node, handlers).run(stop.clone());
        let courier = courier::run(this.store.clone(), this.sealer.clone(), stop.clone());
        let beating = this.clone().every(HEARTBEAT, None, stop.clone(), |it| it.beat().boxed());
        let obeying = this.clone().every(ORDERS, Some(Topic::Orders), stop.clone(), |it| it.obey().boxed());
        let looking = this.clone().every(DISK, None, stop.clone(), |it| it.look().boxed());
        let configuring = this
            .clone()
            .every(CONFIGURATION, Some(Topic::Configuration), stop.clone(), |it| it.configuration.refresh(&it.store).boxed());
        let sweeping = this.clone().every(SWEEP, None, stop.clone(), |it| it.sweep().boxed());
        let following = this.clone().follow(stop.clone());
        let hints = this.store.carry_hints(&stop);
        futures::join!(workers, courier, beating, obeying, looking, configuring, sweeping, following, hints);
        if let Err(error) = this.store.farewell(&this.node).await {
            tracing::debug!(%error, "no farewell: the others will notice");
        }
    }

    async fn every(
        self: Arc<Self>,
        pause: Duration,
        topic: Option<Topic>,
        stop: CancellationToken,
        work: impl for<'a> Fn(&'a Self) -> BoxFuture<'a, Result<(), StoreError>>,
    ) {
        let mut clock = interval(pause);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        let mut hints = topic.map(|it| self.store.hints(it));
        loop {
            let hinted = async {
                match &mut hints {
                    Some(it) => it.wait(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = clock.tick() => (),
                () = hinted => (),
                () = stop.cancelled() => return,
            }
            // Said once: the journal says every time what matters.
            match work(&self).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::warn!(%error, "the database does not answer the background work");
                    failing = true;
                }
                Err(_) => (),
            }
        }
    }

    async fn beat(&self) -> Result<(), StoreError> {
        let directory = self.bridge.directory();
        let live: Vec<String> = directory.live_calls().iter().map(ToString::to_string).collect();
        let heartbeat = Heartbeat {
            node: &self.node,
            address: &self.address,
            version: env!("CARGO_PKG_VERSION"),
            draining: directory.is_draining(),
            live: &live,
        };
        self.store.heartbeat(&heartbeat).await
    }

    async fn look(&self) -> Result<(), StoreError> {
        let disk = self.disk.clone();
        match tokio::task::spawn_blocking(move || disk.look()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::error!(%error, "the data folder cannot be looked at"),
            Err(error) => tracing::error!(%error, "looking at the disk failed"),
        }
        Ok(())
    }

    /// Tells whoever listens here what happens on calls of other servers, as long as anybody does.
    async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let following = async {
            loop {
                self.ledger.listened_to().await;
                if let Err(error) = self.pass_on().await {
                    tracing::warn!(%error, "what happens on calls of other servers cannot be followed");
                    sleep(FEED_RETRY).await;
                }
            }
        };
        stop.run_until_cancelled(following).await;
    }

    async fn pass_on(&self) -> Result<(), StoreError> {
        let mut hints = self.store.hints(Topic::Facts);
        let mut feed = self.store.feed(self.ledger.journal().id()).await?;
        while self.ledger.has_listeners() {
            let facts = feed.next().await?;
            if facts.is_empty() {
                hints.wait(FEED).await;
            }
            for entry in facts {
                self.ledger.pass_on(entry);
            }
        }
        Ok(())
    }

    /// Carries out what others were told about our calls.
    async fn obey(&self) -> Result<(), StoreError> {
        for it in self.store.commands(&self.node).await? {
            let outcome = match serde_json::from_str::<LiveControl>(&it.body) {
                Ok(control) => {
                    let call = CallId(it.call.as_str().into());
                    match self.bridge.directory().control(&call, &it.id, control).await {
                        Ok(Performed::Now | Performed::Before) => PERFORMED.to_owned(),
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => format!("the order is not understood: {error}"),
            };
            self.store.acknowledge(&it.id, &outcome).await?;
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        // One server is enough.
        if !self.store.take_lease("sweep", &self.node, SWEEP.saturating_sub(Duration::from_secs(5))).await? {
            return Ok(());
        }
        let before = Timestamp::now().as_millisecond() - FORGET_AFTER_MS;
        self.store.forget_jobs(before).await?;
        self.store.forget_deliveries(before).await?;
        self.store.forget_commands().await?;
        self.store.forget_sign_ins().await?;
        let stale = self.store.fail_stale_clones(CLONE_STALE_MS).await?;
        if stale > 0 {
            tracing::warn!(stale, "clones were under way when their process died: they have failed");
        }
        if let Some(rest) = &self.rest {
            let over = reconcile(&self.store, &self.ledger, rest, Timestamp::now().as_millisecond()).await?;
            if over > 0 {
                tracing::warn!(over, "the end of calls was never told: Twilio was asked");
            }
            self.caller.reconcile().await?;
        }
        let freed = self.store.free_caps(DEAD_AFTER).await?;
        if freed > 0 {
            tracing::warn!(freed, "what dead servers held of caps was given back");
        }
        if let Some(objects) = &self.objects {
            match objects.sweep().await {
                Ok(0) => (),
                Ok(swept) => tracing::info!(swept, "files whose time was over are deleted"),
                Err(error) => tracing::error!(%error, "files whose time is over cannot be deleted"),
            }
        }
        Ok(())
    }
}

/// Puts a finished recording where files are kept, and takes it away from the disk of calls.
struct KeepRecording {
    kind: String,
    objects: Objects,
    days: Option<u32>,
}

#[derive(Deserialize)]
struct Finished {
    call: String,
    epoch: u32,
    location: String,
}

impl Handler for KeepRecording {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn at_a_time(&self) -> usize {
        KEEPERS
    }

    fn run(&self, mut work: Work) -> BoxFuture<'static, Result<(), Failure>> {
        let (objects, days) = (self.objects.clone(), self.days);
        async move {
            let it: Finished = work.body()?;
            let path = std::path::PathBuf::from(&it.location);
            let media_type = if path.extension().is_some_and(|it| it == "opus") { "audio/ogg" } else { "audio/wav" };
            let tenant = work.job().tenant.clone();
            // Whose voice it is: on calls that we make, of whom we have called.
            let call = work.scope().call(&it.call).await?;
            let number = call.and_then(|it| if it.direction.starts_with("outbound") { it.to_number } else { it.from_number });
            let expires_at_ms = days.map(|it| Timestamp::now().as_millisecond() + i64::from(it) * 86_400_000);
            let file = path.clone();
            let id: String = work
                .step("kept", || async {
                    let new = NewObject {
                        kind: "recording",
                        media_type,
                        number: number.as_deref(),
                        call: Some(&it.call),
                        expires_at_ms,
                    };
                    let kept = objects.put(&tenant, &file, &new).await;
                    kept.map(|it| it.id).map_err(|error| Failure::Later(error.to_string()))
                })
                .await?;
            if !work.scope().recording_kept(&it.call, it.epoch, &id).await? {
                // The caller was erased meanwhile: nothing of theirs is kept.
                match objects.delete(&tenant, &id).await {
                    Ok(()) | Err(ObjectError::Unknown) => (),
                    Err(error) => return Err(Failure::Later(error.to_string())),
                }
            }
            match tokio::fs::remove_file(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::Later(error.to_string())),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ringing;
    use store::{Entry, Fact, Position};

    #[tokio::test]
    async fn a_recording_of_somebody_who_was_erased_meanwhile_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        let sealer = Arc::new(Sealer::new(["ab".repeat(32).as_str()]).unwrap());
        let place = folder.path().join("objects");
        let objects = Objects::open(place.to_str().unwrap(), [], store.clone(), sealer).unwrap();
        let number = "+40711111111";
        let mut files = Vec::new();
        for (call, tenant) in [("erased", "t"), ("kept", "other")] {
            let file = folder.path().join(format!("{call}.wav"));
            std::fs::write(&file, call).unwrap();
            let location = file.display().to_string();
            let recorded = Fact::Recorded { stream: 0, location, channels: 2, length_ms: 1, sha256: Some("00".into()) };
            let entry = |seq, fact| Entry { tenant: tenant.into(), call: call.into(), epoch: 0, seq, at_ms: 1, fact };
            store
                .apply(
                    "j",
                    &[entry(0, ringing(&format!("CA{call}"), "AC1", Some(number))), entry(1, recorded)],
                    Position::default(),
                )
                .await
                .unwrap();
            files.push(file);
        }
        assert_eq!(objects.erase("t", number).await.unwrap(), (1, 0), "its recording is still on the disk of calls");
        let kind = store::recording_kept_by("j");
        let keeper = Arc::new(KeepRecording { kind, objects: objects.clone(), days: None });
        let stop = CancellationToken::new();
        let running = tokio::spawn(Workers::new(store.clone(), "n", vec![keeper]).run(stop.clone()));
        while store.all_jobs(Some("done"), 10).await.unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        running.await.unwrap();
        assert!(store.tenant("t").objects(10).await.unwrap().is_empty());
        assert_eq!(store.tenant("other").objects(10).await.unwrap().len(), 1);
        assert!(store.tenant("other").recordings("kept").await.unwrap()[0].location.starts_with("object:"));
        assert!(files.iter().all(|it| !it.exists()), "neither lies on the disk of calls");
    }
}
