//! Every queue length and timeout of a call, each with its sum and reason.

use std::time::Duration;

/// Caller frames kept while no assistant listens: 3 s. Older words would be answered out of time.
pub const PREROLL_FRAMES: usize = 150;
/// Entries waiting for the caller's socket: 1 s of 50 frames a second, and a mark for every ten. The playback lead keeps it
/// near 10; only a peer that does not read fills it.
pub const CALLER_RING: usize = 50 + 5;
/// Frames waiting for the provider's socket: the preroll, which comes at once when the session is ready, and 1 s.
pub const ASSISTANT_RING: usize = PREROLL_FRAMES + 50;
/// Control messages waiting for a socket: a replayed history (40 items) plus a turn's worth, doubled. Never dropped:
/// a full ring means that the peer has stalled.
pub const CONTROL_RING: usize = 128;
/// Lines of an earlier epoch replayed into a new session.
pub const HISTORY_MAX: usize = 40;
/// Longest time for one write. A half-dead socket otherwise blocks for ever.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// `start` must come this soon after the upgrade.
pub const START_TIMEOUT: Duration = Duration::from_secs(5);
/// A token that no socket has shown by then is void; Twilio connects within a second or two.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Ends are remembered for `next`, which Twilio asks at once and retries for seconds.
pub const END_LIFE: Duration = Duration::from_secs(600);
/// Longest time for connecting to a provider, TLS and upgrade included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest time for sending what waits, and for the peer's close, when a call is over.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the close to a caller's socket that broke its protocol may travel: it is not waited for an answer.
pub const DISMISSAL: Duration = Duration::from_millis(200);
/// Largest message from Twilio: a frame has 400 bytes, `start` has a few parameters of 500.
pub const CALLER_MESSAGE_BYTES: usize = 64 * 1024;
/// Largest message from a provider: 60 s of PCM at 24 kHz in base64 are 3.8 MB.
pub const ASSISTANT_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Messages a second from Twilio, sustained: four times the real rate.
pub const CALLER_MESSAGES_PER_SECOND: u32 = 200;
/// Messages from Twilio in one burst, after a stall of the network.
pub const CALLER_MESSAGES_BURST: u32 = 1000;
/// Times in a row that something may happen on a call before the others have their turn: a read of 8 kB each.
pub const HAPPENINGS_IN_A_ROW: u32 = 16;
/// Broken messages from Twilio before the call is ended.
pub const CALLER_FAULTS_MAX: u32 = 10;
/// Broken messages from a provider before its session is given up.
pub const ASSISTANT_FAULTS_MAX: u32 = 3;
/// A session that was opened while it rang and that nobody claims is closed after this long.
pub const PREPARED_LIFE: Duration = Duration::from_secs(30);
/// Silence of a provider's socket after which it is pinged, and the longest wait for the answer.
pub const PING_EVERY: Duration = Duration::from_secs(10);
/// See [`PING_EVERY`].
pub const PONG_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer to a provider's REST request.
pub const REST_ANSWER_BYTES: usize = 64 * 1024;
/// Stereo recording written to disk at a time, in caller frames of 20 ms: one second.
pub const RECORDING_BLOCK_FRAMES: usize = 50;
/// Blocks waiting for the disk: 8 s. More are dropped and the recording is marked by its missing length.
pub const RECORDING_BLOCKS: usize = 8;
