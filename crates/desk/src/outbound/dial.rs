//! Has a call dialled by Twilio: once, whatever dies meanwhile, and no faster than the account may.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::{Failure, Handler, Intent, NewJob, Scope, StoreError, VoiceSessionChange, VoiceSessionRow, Work};
use twilio::CallStatus;
use twilio::rest::{Amd, CallFilter, Document, NewCall, Rest, RestError};

use super::{Caller, Machines, Policy};

/// The kind of job.
const KIND: &str = "dial";
/// Calls being dialled at a time, in one process: they wait for their turn and for Twilio.
const AT_A_TIME: usize = 8;
/// An order that could not be dialled within this time is not dialled any more: nobody expects the call.
const PATIENCE_MS: i64 = 600_000;
/// Our clock and Twilio's are no further apart.
const CLOCKS_MS: i64 = 60_000;
/// How long machines are told from people.
const DETECTION_SECONDS: u32 = 20;
/// Twilio ends the call after this, should we not: beyond the longest call of ours.
const REST_OF_CALL: Duration = Duration::from_secs(120);

#[derive(Deserialize, Serialize)]
struct Body {
    session: String,
}

/// Queues a session to be dialled; once, as long as it is not done.
pub(super) async fn enqueue(scope: &Scope<'_>, session: &str) -> Result<(), StoreError> {
    let body = serde_json::to_string(&Body { session: session.to_owned() }).map_err(|it| StoreError::Row(it.to_string()))?;
    let job = NewJob { once: Some(session), priority: 10, ..NewJob::new(KIND, &body) };
    scope.enqueue(&job).await.map(drop)
}

/// Does the jobs.
pub(crate) struct Dial {
    pub(crate) caller: Arc<Caller>,
    pub(crate) rest: Rest,
    /// The pause between two calls of the account.
    pub(crate) apart: Duration,
}

impl Handler for Dial {
    fn kind(&self) -> &str {
        KIND
    }

    fn at_a_time(&self) -> usize {
        AT_A_TIME
    }

    fn run(&self, work: Work) -> BoxFuture<'static, Result<(), Failure>> {
        let it = Self { caller: self.caller.clone(), rest: self.rest.clone(), apart: self.apart };
        async move { it.dial(&work).await }.boxed()
    }
}

impl Dial {
    async fn dial(&self, work: &Work) -> Result<(), Failure> {
        let Body { session } = work.body()?;
        let scope = work.scope();
        let Some(row) = scope.session(&session).await? else { return Ok(()) };
        if row.call_sid.is_some() || row.ended_at_ms.is_some() {
            return Ok(());
        }
        let now = Timestamp::now();
        let key = format!("dial:{session}");
        let numbers = self.caller.configuration.numbers();
        let policy = numbers.outbound(&work.job().tenant).ok_or_else(|| Failure::Later("nothing is configured".into()))?;
        let unwanted = scope.is_not_to_be_called(&row.phone).await?;
        let pace = format!("dial:{}", self.rest.account_sid());
        tokio::time::sleep(self.caller.store.pace(&pace, self.apart).await?).await;
        // From here to the request nothing is waited for: who dies before has not dialled.
        match work.intend(&key).await? {
            Intent::Done(call_sid) => return self.dialled(&scope, &session, &call_sid, CallStatus::Queued).await,
            Intent::Unclear => return self.look_for(work, &row, &key).await,
            Intent::Fresh => (),
        }
        // Everything that may have changed while it waited.
        let refused = if now.as_millisecond() - row.created_at_ms > PATIENCE_MS {
            Some("it could not be dialled in time: nobody expects the call any more".to_owned())
        } else if unwanted {
            Some(super::NotCalled::DoNotCall.to_string())
        } else {
            policy.check(&row.phone, row.consent, now).err().map(|it| it.to_string())
        };
        if let Some(problem) = refused {
            work.abandoned(&key).await?;
            return self.failed(&scope, &session, &problem).await;
        }
        if !self.caller.desk.bridge().directory().is_open() {
            // Whoever answers must find somebody to speak with.
            work.abandoned(&key).await?;
            return Err(Failure::Later("every place on this server is taken".into()));
        }
        match self.rest.create_call(&self.call(&row, policy)).await {
            Ok(call) => {
                work.intended(&key, &call.sid).await?;
                self.dialled(&scope, &session, &call.sid, CallStatus::parse(&call.status)).await?;
                if scope.session(&session).await?.is_some_and(|it| it.ended_at_ms.is_some() && it.answered_at_ms.is_none()) {
                    // It was given up at this very moment.
                    let _ = self.rest.hang_up(&call.sid).await;
                }
                Ok(())
            }
            Err(error) if error.is_passing() => {
                work.abandoned(&key).await?;
                Err(Failure::Later(error.to_string()))
            }
            Err(error @ (RestError::Refused(_) | RestError::Request { .. })) if !is_fault(&error) => {
                work.abandoned(&key).await?;
                self.failed(&scope, &session, &error.to_string()).await
            }
            // It may have been carried out: the intent stays, and the next attempt looks for the call.
            Err(error) => Err(Failure::Later(format!("it is not clear whether the call was made: {error}"))),
        }
    }

    fn call(&self, row: &VoiceSessionRow, policy: &Policy) -> NewCall {
        let url = |what: &str| self.caller.desk.public_url().http(&format!("/api/twilio/{what}/{}", row.id));
        let from = row.from_number.clone().unwrap_or_default();
        let seconds = |it: Duration| u32::try_from(it.as_secs()).unwrap_or(u32::MAX);
        let detects = policy.machines != Machines::Ignore;
        NewCall {
            fallback_url: Some(self.caller.desk.public_url().http("/twilio/fallback")),
            status_callback: Some(url("status")),
            timeout: Some(seconds(policy.ring)),
            time_limit: Some(seconds(self.caller.duration_max + REST_OF_CALL)),
            amd: detects.then(|| Amd { message_end: true, callback: Some(url("amd")), timeout: Some(DETECTION_SECONDS) }),
            ..NewCall::new(row.phone.clone(), from, Document::Url(url("connect")))
        }
    }

    /// An earlier attempt died, or got no answer, in the middle: the call is looked for at Twilio, and never made again.
    async fn look_for(&self, work: &Work, row: &VoiceSessionRow, key: &str) -> Result<(), Failure> {
        let scope = work.scope();
        let filter = CallFilter { to: Some(row.phone.clone()), from: row.from_number.clone(), ..CallFilter::default() };
        let found = self.rest.calls(&filter).await.map_err(|error| Failure::Later(error.to_string()))?;
        for call in found.items {
            // One that waits to be dialled has not begun; clocks differ.
            let begun = call.start_time.as_deref().and_then(|it| jiff::fmt::rfc2822::parse(it).ok());
            if begun.is_some_and(|it| it.timestamp().as_millisecond() < row.created_at_ms - CLOCKS_MS) {
                continue;
            }
            // Another order to the same number has its own call.
            if !scope.is_call_of_a_session(&call.sid).await? {
                work.intended(key, &call.sid).await?;
                return self.dialled(&scope, &row.id, &call.sid, CallStatus::parse(&call.status)).await;
            }
        }
        work.intended(key, "").await?;
        self.failed(&scope, &row.id, "the connection to Twilio broke in the middle of the request, and Twilio knows no such call")
            .await
    }

    async fn dialled(&self, scope: &Scope<'_>, session: &str, call_sid: &str, status: CallStatus) -> Result<(), Failure> {
        if call_sid.is_empty() {
            return Ok(());
        }
        let change = VoiceSessionChange {
            call_sid: Some(call_sid),
            status: Some((status.name(), status.rank())),
            ended: status.is_terminal(),
            ..Default::default()
        };
        scope.change_session(session, &change).await?;
        Ok(())
    }

    async fn failed(&self, scope: &Scope<'_>, session: &str, problem: &str) -> Result<(), Failure> {
        tracing::warn!(session, problem, "a call is not made");
        let status = Some((CallStatus::Failed.name(), CallStatus::Failed.rank()));
        let change = VoiceSessionChange { status, problem: Some(problem), ended: true, ..Default::default() };
        scope.change_session(session, &change).await?;
        // Nothing was spent.
        scope.settle_session(session, 0).await?;
        Ok(())
    }
}

/// Twilio's own fault, which may come before or after the call was made.
fn is_fault(error: &RestError) -> bool {
    matches!(error, RestError::Refused(it) if it.status >= 500)
}
