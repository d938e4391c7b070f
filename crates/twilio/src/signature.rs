//! `X-Twilio-Signature`.
//!
//! Source: Twilio, "Validating requests", and the official Python and Node helpers. The signature covers the URL as
//! Twilio requested it and, for form posts, every parameter, sorted by name; it has no timestamp.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

/// What was posted, as far as the signature covers it.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// `GET`, WebSocket upgrade, or an empty post: the URL alone is signed.
    None,
    /// Decoded form parameters, in any order, repeated names and empty values included.
    Form(&'a [(String, String)]),
    /// Anything else: the URL then carries `bodySHA256` of these bytes.
    Other(&'a [u8]),
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// With the account's auth token; 28 characters.
    HmacSha1,
    /// With a shared key that the account manages; 44 characters.
    HmacSha256,
}

/// Why a request is not believed. The text is for the log; the sender gets 403 and nothing else.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// The header is missing.
    #[error("X-Twilio-Signature is missing")]
    Missing,
    /// The request announces a way of signing that is not configured here.
    #[error("X-Twilio-Webhooks-Signature-Settings asks for a shared key, which is not configured")]
    UnknownAlgorithm,
    /// A body without its checksum in the URL, or with another one.
    #[error("the body does not match bodySHA256 in the URL")]
    BodyChanged,
    /// No configured token gives this signature for this URL and these parameters.
    #[error(
        "X-Twilio-Signature does not match {url}: is PUBLIC_URL the address that Twilio calls, and the auth token the primary one?"
    )]
    Mismatch {
        /// The URL as we believe it was requested, without its query.
        url: String,
    },
}

/// Checks requests against the account's auth tokens.
#[derive(Debug)]
pub struct Validator {
    tokens: Vec<SecretString>,
}

impl Validator {
    /// Takes the primary token and, during rotation, the secondary one. Without any token everything is refused.
    pub fn new(tokens: Vec<SecretString>) -> Self {
        Self { tokens }
    }

    /// Checks one request.
    ///
    /// `url` is the public address: configured base plus path and query exactly as they came. `signature` and `settings`
    /// are the headers `X-Twilio-Signature` and `X-Twilio-Webhooks-Signature-Settings`.
    ///
    /// # Errors
    /// [`Refused`]: answer 403 and do nothing.
    pub fn check(&self, url: &str, body: Body<'_>, signature: Option<&str>, settings: Option<&str>) -> Result<(), Refused> {
        let signature = signature.filter(|it| !it.is_empty()).ok_or(Refused::Missing)?;
        if settings.is_some_and(|it| !it.is_empty()) {
            return Err(Refused::UnknownAlgorithm);
        }
        if let Body::Other(bytes) = body {
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let claimed =
                url.split_once('?').and_then(|(_, query)| query.split('&').find_map(|it| it.strip_prefix("bodySHA256=")));
            if !claimed.is_some_and(|it| it.as_bytes().ct_eq(digest.as_bytes()).into()) {
                return Err(Refused::BodyChanged);
            }
        }
        let matches = |token: &SecretString, url: &String| -> bool {
            sign(Algorithm::HmacSha1, token.expose_secret(), url, body).as_bytes().ct_eq(signature.as_bytes()).into()
        };
        let candidates = candidates(url);
        if self.tokens.iter().any(|token| !token.expose_secret().is_empty() && candidates.iter().any(|url| matches(token, url))) {
            Ok(())
        } else {
            Err(Refused::Mismatch { url: url.split('?').next().unwrap_or_default().to_owned() })
        }
    }
}

/// The signature of a request: base64 of the HMAC over the URL and the sorted parameters.
pub fn sign(algorithm: Algorithm, key: &str, url: &str, body: Body<'_>) -> String {
    let mut message = url.to_owned();
    if let Body::Form(parameters) = body {
        let mut sorted: Vec<&(String, String)> = parameters.iter().collect();
        // By name, then value, in byte order; a value repeated under one name counts once.
        sorted.sort();
        sorted.dedup();
        for (name, value) in sorted {
            message.push_str(name);
            message.push_str(value);
        }
    }
    match algorithm {
        Algorithm::HmacSha1 => {
            let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
            mac.update(message.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        }
        Algorithm::HmacSha256 => {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
            mac.update(message.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        }
    }
}

/// The spellings of one URL that Twilio is known to sign.
///
/// Userinfo is always dropped. HTTPS voice callbacks drop the port where SMS callbacks keep it; a standard port may be
/// explicit. The WebSocket upgrade is signed as `wss://`, sometimes with a slash at the end; the `https://` spelling
/// is accepted too, because it is just as impossible to forge.
fn candidates(url: &str) -> Vec<String> {
    let Ok(parsed) = Url::parse(url) else { return vec![url.to_owned()] };
    // Path and query stay exactly as they came: re-encoding would change what was signed.
    let (scheme, after) = url.split_once("://").unwrap_or(("", url));
    let path_at = after.find(['/', '?']).unwrap_or(after.len());
    let (authority, path) = after.split_at(path_at);
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let host = parsed.port().map_or(authority, |_| authority.rsplit_once(':').map_or(authority, |(host, _)| host));
    let host = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(host);
    let mut found = Vec::new();
    let schemes: &[&str] = match scheme {
        "wss" => &["wss", "https"],
        "ws" => &["ws", "http"],
        other => &[other],
    };
    for scheme in schemes {
        let standard = if matches!(*scheme, "https" | "wss") { 443 } else { 80 };
        let with_port = format!("{host}:{}", parsed.port().unwrap_or(standard));
        for authority in [authority, host, &with_port] {
            found.push(format!("{scheme}://{authority}{path}"));
            if matches!(schemes[0], "wss" | "ws") && !path.ends_with('/') && !path.contains('?') {
                found.push(format!("{scheme}://{authority}{path}/"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "0ffh00k0ffh00k0ffh00k0ffh00k0ff0";

    #[derive(serde::Deserialize)]
    struct Vector {
        id: String,
        url: String,
        params: Option<Vec<(String, String)>>,
        json_body: Option<String>,
        alg: Option<String>,
        sig: String,
    }

    fn vectors() -> Vec<Vector> {
        serde_json::from_str(include_str!("../../../fixtures/twilio/signature-vectors.json")).unwrap()
    }

    fn validator() -> Validator {
        Validator::new(vec!["an older token".to_owned().into(), KEY.to_owned().into()])
    }

    #[test]
    fn all_vectors_are_judged_as_the_official_helpers_do() {
        for vector in vectors() {
            let params = vector.params.unwrap_or_default();
            let body = match &vector.json_body {
                Some(json) => Body::Other(json.as_bytes()),
                None => Body::Form(&params),
            };
            if vector.alg.is_some() {
                assert_eq!(sign(Algorithm::HmacSha256, KEY, &vector.url, body), vector.sig, "{}", vector.id);
                continue;
            }
            let accepted = validator().check(&vector.url, body, Some(&vector.sig), None).is_ok();
            // N1 is signed with https instead of wss, which is accepted on purpose.
            let expected = !vector.id.starts_with('N') || vector.id == "N1";
            assert_eq!(accepted, expected, "{}", vector.id);
        }
    }

    #[test]
    fn the_published_example() {
        let params: Vec<(String, String)> = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        assert_eq!(sign(Algorithm::HmacSha1, "12345", url, Body::Form(&params)), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    }

    #[test]
    fn doubt_is_a_refusal() {
        let url = "https://offhook.example.com/twilio/voice";
        let good = sign(Algorithm::HmacSha1, KEY, url, Body::None);
        assert_eq!(validator().check(url, Body::None, Some(&good), None), Ok(()));
        assert_eq!(validator().check(url, Body::None, None, None), Err(Refused::Missing));
        assert_eq!(
            validator().check(url, Body::None, Some(&good), Some("key=1,algorithm=HMAC_SHA256")),
            Err(Refused::UnknownAlgorithm)
        );
        assert_eq!(validator().check(url, Body::Other(b"{}"), Some(&good), None), Err(Refused::BodyChanged));
        assert!(Validator::new(vec![]).check(url, Body::None, Some(&good), None).is_err());
        let of_empty_token = sign(Algorithm::HmacSha1, "", url, Body::None);
        assert!(Validator::new(vec![String::new().into()]).check(url, Body::None, Some(&of_empty_token), None).is_err());
    }

    proptest! {
        #[test]
        fn one_changed_character_is_refused(vector in 0usize..8, at in 0usize..400, replacement in "[a-zA-Z0-9+/=&?]") {
            let vector = &vectors()[vector];
            let params = vector.params.clone().unwrap();
            let (mut url, mut changed) = (vector.url.clone(), params.clone());
            let places = url.len() + changed.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            let mut at = at % places;
            let target = if at < url.len() {
                &mut url
            } else {
                at -= url.len();
                changed.iter_mut().flat_map(|(name, value)| [name, value]).find(|it| {
                    let here = at < it.len();
                    at -= if here { 0 } else { it.len() };
                    here
                }).unwrap()
            };
            prop_assume!(target.is_char_boundary(at) && target.is_char_boundary(at + 1));
            // The scheme is ours, not the sender's, and letter case of a host means nothing.
            prop_assume!(&target[at..=at] != replacement.as_str());
            target.replace_range(at..=at, &replacement);
            let joined = |params: &[(String, String)]| {
                let mut sorted = params.to_vec();
                sorted.sort();
                sorted.dedup();
                sorted.into_iter().map(|(name, value)| name + &value).collect::<String>()
            };
            prop_assume!(format!("{}{}", vector.url, joined(&params)) != format!("{url}{}", joined(&changed)));
            prop_assert!(validator().check(&url, Body::Form(&changed), Some(&vector.sig), None).is_err());
        }
    }
}
