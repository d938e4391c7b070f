//! What ElevenLabs tells about a conversation when it is over.
//!
//! Source: ElevenLabs, "Post-call webhooks": the header `ElevenLabs-Signature: t=…,v0=…` signs `t`, a dot and the body as received.

use aws_lc_rs::hmac;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bridge::CallId;
use desk::{Review, Reviewed};
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::App;
use crate::problem::{Problem, problem};

/// Largest body: transcripts of an hour. Sound, which may be told too, is larger and is not wanted.
pub(crate) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A signature is good for half an hour; clocks differ by a few minutes.
const AGE_MAX_S: i64 = 1800;
const SKEW_MAX_S: i64 = 300;
/// Longest summary that is kept, in characters.
const SUMMARY_MAX: usize = 10_000;
/// Longest id of theirs, and word of theirs.
const WORD_MAX: usize = 128;

/// Whether a body was signed with one of the secrets, not long ago.
fn is_signed(header: &str, body: &[u8], secrets: &[SecretString], now_s: i64) -> bool {
    let parts: Vec<&str> = header.split(',').map(str::trim).collect();
    let Some(at) = parts.iter().find_map(|it| it.strip_prefix("t=")) else { return false };
    let age = at.parse::<i64>().map(|at| now_s.saturating_sub(at));
    if !age.is_ok_and(|it| (-SKEW_MAX_S..=AGE_MAX_S).contains(&it)) {
        return false;
    }
    let signed = [at.as_bytes(), b".", body].concat();
    let right = |it: &str, secret: &SecretString| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        bytes_of(it).is_some_and(|it| hmac::verify(&key, &signed, &it).is_ok())
    };
    parts.iter().filter_map(|it| it.strip_prefix("v0=")).any(|it| secrets.iter().any(|secret| right(it, secret)))
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |it: &[u8]| u8::from_str_radix(std::str::from_utf8(it).ok().filter(|it| it.len() == 2)?, 16).ok();
    (hex.len() == 64).then(|| pairs.map(byte).collect()).flatten()
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    data: Option<Conversation>,
}

#[derive(Deserialize)]
struct Conversation {
    conversation_id: Option<String>,
    /// Our id of the call, given when the conversation began.
    user_id: Option<String>,
    analysis: Option<Analysis>,
}

#[derive(Deserialize)]
struct Analysis {
    call_successful: Option<String>,
    transcript_summary: Option<String>,
}

fn cut(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

/// A conversation is over and was judged. What is not about a call of ours is taken and forgotten: an answer other than 200 makes the
/// webhook fail, and in the end be switched off.
pub(crate) async fn post_call(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    let signature = headers.get("elevenlabs-signature").and_then(|it| it.to_str().ok()).unwrap_or_default();
    if app.post_call_secrets.is_empty() {
        tracing::warn!("a conversation's end is told, and nobody can believe it: set ELEVENLABS_WEBHOOK_SECRET");
        return problem(StatusCode::FORBIDDEN, "no secret is set for this webhook: ELEVENLABS_WEBHOOK_SECRET");
    }
    if !is_signed(signature, &body, &app.post_call_secrets, jiff::Timestamp::now().as_second()) {
        tracing::warn!("a conversation's end is told without valid signature");
        return problem(
            StatusCode::FORBIDDEN,
            "the request is not signed with the webhook's secret, or is older than half an hour",
        );
    }
    let Ok(told) = serde_json::from_slice::<Told>(&body) else {
        return problem(StatusCode::BAD_REQUEST, "expected a JSON object with `type` and `data`");
    };
    let received = || axum::Json(serde_json::json!({"status": "received"})).into_response();
    let data = told.data.filter(|_| told.kind == "post_call_transcription");
    let Some(Conversation { conversation_id: Some(conversation), user_id: Some(call), analysis }) = data else {
        tracing::debug!(kind = told.kind.chars().take(WORD_MAX).collect::<String>(), "not about a call of ours");
        return received();
    };
    let (successful, summary) = analysis.map(|it| (it.call_successful, it.transcript_summary)).unwrap_or_default();
    let review = Review {
        conversation: cut(conversation, WORD_MAX),
        successful: successful.map(|it| cut(it, WORD_MAX)),
        summary: summary.map(|it| cut(it, SUMMARY_MAX)),
    };
    match app.desk.reviewed(&CallId(cut(call, WORD_MAX).into()), review).await {
        Reviewed::Noted | Reviewed::Before | Reviewed::Unknown => received(),
        Reviewed::Later => {
            let detail = "it cannot be noted now: tell it again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(30).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_official_verifier() {
        let vectors = include_str!("../../../fixtures/elevenlabs/signature-vectors.json");
        let vectors: Vec<serde_json::Value> = serde_json::from_str(vectors).unwrap();
        for it in &vectors {
            let text = |name: &str| it[name].as_str().unwrap().to_owned();
            let (header, body, now) = (text("header"), text("body"), it["timestamp"].as_i64().unwrap());
            let secrets = [SecretString::from("another".to_owned()), SecretString::from(text("secret"))];
            let holds = |header: &str, body: &str, now: i64| is_signed(header, body.as_bytes(), &secrets, now);
            assert!(
                holds(&header, &body, now) && holds(&header, &body, now + AGE_MAX_S) && holds(&header, &body, now - SKEW_MAX_S)
            );
            assert!(!holds(&header, &body, now + AGE_MAX_S + 1) && !holds(&header, &body, now - SKEW_MAX_S - 1));
            assert!(!holds(&header, &format!("{body} "), now), "the bytes as received");
            assert!(holds(&format!("{header},v0={}", "0".repeat(64)), &body, now), "one of several is enough");
            assert!(!is_signed(&header, body.as_bytes(), &secrets[..1], now));
            for wrong in
                ["", "t=1", "v0=00", "t=x,v0=00", &header.replace("v0=", "v1="), &header.replace("t=", "t=0x"), &header[..79]]
            {
                assert!(!holds(wrong, &body, now), "{wrong}");
            }
        }
        assert_eq!(vectors.len(), 3);
    }
}
