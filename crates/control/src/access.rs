//! Who asks, and what they may: tokens of people, keys of programs, roles, and how often anybody may ask.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::request::Parts;
use http::{StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use store::{Renewal, Store, StoreError};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::App;
use crate::problem::Problem;

/// How long a token lets somebody in without being renewed.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(900);
/// How long somebody is signed in who does not sign out.
const SIGN_IN_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Shortest secret that signs tokens, in characters.
const SECRET_MIN: usize = 32;
/// Passwords, in characters.
const PASSWORD: std::ops::RangeInclusive<usize> = 12..=256;
/// Passwords that are looked at, at a time: each takes 19 MiB and tens of milliseconds of a core.
const PASSWORDS_AT_A_TIME: usize = 2;
/// What a program or a person may ask in a second, unless the operator has set it; and how many times that at once.
const ASKED_PER_S: u32 = 20;
const ASKED_AT_ONCE: u32 = 5;
/// Tries of one address to sign in: five at once, then one in twelve seconds.
const TRIES_AT_ONCE: u32 = 5;
const TRY_EVERY: Duration = Duration::from_secs(12);
/// Issuer and audience of tokens.
const ISSUER: &str = "offhook";
/// Begins every key of a program.
const KEY_PREFIX: &str = "ohk_";
/// A hash of no password: somebody who is not there takes as long as somebody who is.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGlzIGhlcmU$mFJGlBzRRUTMQQuZJSHBCHvkD2Sg2lVGBcTd3RLNbKI";

/// What somebody may do; whoever may more may also do this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Makes calls, and does things to live ones.
    Operator,
    /// Changes what is configured, and who works here.
    Admin,
    /// Everything, owners included.
    Owner,
}

impl Role {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin, Self::Owner].into_iter().find(|it| it.name() == text)
    }
}

/// What is wrong with a secret that is to sign tokens; `None`: nothing.
pub fn unsafe_secret(secret: &str) -> Option<&'static str> {
    let known = ["secret", "changeme", "change-me", "your-secret", "your_secret", "default", "password", "example"];
    let lower = secret.to_lowercase();
    if known.iter().any(|it| lower.contains(it)) {
        return Some("it is one that stands in examples: make one with `openssl rand -hex 32`");
    }
    let kinds: std::collections::BTreeSet<char> = secret.chars().collect();
    (secret.len() < SECRET_MIN || kinds.len() < 8).then_some("expected at least 32 random characters: `openssl rand -hex 32`")
}

/// Everything about access that a process keeps.
pub struct Access {
    encoding: EncodingKey,
    decoding: DecodingKey,
    asked: DefaultKeyedRateLimiter<(String, String)>,
    tries: DefaultKeyedRateLimiter<String>,
    passwords: Semaphore,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    /// The sign-in.
    sub: String,
    iat: u64,
    exp: u64,
}

fn quota(at_once: u32) -> NonZeroU32 {
    NonZeroU32::new(at_once).unwrap_or(NonZeroU32::MIN)
}

fn now_s() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

fn random() -> String {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Of a random secret: nothing slower is needed.
fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|it| format!("{it:02x}")).collect()
}

/// What signing in gives.
pub(crate) struct Tokens {
    pub(crate) access: String,
    /// Used once, for the next pair.
    pub(crate) refresh: String,
}

/// Why somebody is not let in.
#[derive(Debug)]
pub(crate) enum Denied {
    Wrong,
    /// Try again after so many seconds.
    TooOften(u64),
    Store(StoreError),
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Wrong => Self::new(
                StatusCode::UNAUTHORIZED,
                "expected `Authorization: Bearer` with a token that is not over, or with a key that is not revoked",
            ),
            Denied::TooOften(seconds) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests: try again later").retry_after(seconds)
            }
            Denied::Store(error) => error.into(),
        }
    }
}

impl Access {
    /// With the secret that signs tokens, and what one program or person may ask in a second.
    pub fn new(secret: &SecretString, asked_per_s: u32) -> Self {
        let secret = secret.expose_secret().as_bytes();
        let per_second = |it| Quota::per_second(quota(it));
        let every = Quota::with_period(TRY_EVERY).unwrap_or(per_second(1));
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            asked: RateLimiter::keyed(per_second(asked_per_s).allow_burst(quota(asked_per_s * ASKED_AT_ONCE))),
            tries: RateLimiter::keyed(every.allow_burst(quota(TRIES_AT_ONCE))),
            passwords: Semaphore::new(PASSWORDS_AT_A_TIME),
        }
    }

    fn token(&self, sign_in: &str) -> String {
        let now = now_s();
        let claims =
            Claims { iss: ISSUER.into(), aud: ISSUER.into(), sub: sign_in.to_owned(), iat: now, exp: now + TOKEN_LIFE.as_secs() };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).expect("claims are JSON")
    }

    /// The sign-in of a token that is ours and not over.
    fn sign_in_of(&self, token: &str) -> Option<String> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[ISSUER]);
        validation.leeway = 0;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
        Some(claims.sub)
    }

    /// Lets somebody in who is who they say.
    pub(crate) async fn sign_in(&self, store: &Store, tenant: &str, user: &str) -> Result<Tokens, StoreError> {
        let secret = random();
        let id = store.tenant(tenant).sign_in(user, &hash(&secret), SIGN_IN_LIFE).await?;
        Ok(Tokens { access: self.token(&id), refresh: format!("{id}.{secret}") })
    }

    /// Takes a refresh token, which is of no use any more, and gives the next pair. One that was used before ends the sign-in.
    pub(crate) async fn renew(&self, store: &Store, refresh: &str) -> Result<Tokens, Denied> {
        let (id, secret) = refresh.split_once('.').ok_or(Denied::Wrong)?;
        let next = random();
        match store.renew(id, &hash(secret), &hash(&next)).await? {
            Renewal::Renewed if store.signed_in(id).await?.is_some() => {
                Ok(Tokens { access: self.token(id), refresh: format!("{id}.{next}") })
            }
            Renewal::Reused => {
                tracing::warn!(sign_in = id, "a refresh token was used twice: somebody has a copy. The sign-in is over");
                Err(Denied::Wrong)
            }
            Renewal::Renewed | Renewal::Over => Err(Denied::Wrong),
        }
    }

    /// Whether somebody's password is right; slow, and few at a time.
    pub(crate) async fn knows(&self, email: &str, password: String, hash: Option<String>) -> Result<(), Denied> {
        if let Err(early) = self.tries.check_key(&email.to_owned()) {
            return Err(Denied::TooOften(seconds(early.wait_time_from(DefaultClock::default().now()))));
        }
        self.tries.retain_recent();
        let _place = self.passwords.acquire().await.map_err(|_| Denied::Wrong)?;
        let looked = tokio::task::spawn_blocking(move || {
            let there = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let right =
                PasswordHash::new(&hash).is_ok_and(|it| Argon2::default().verify_password(password.as_bytes(), &it).is_ok());
            there && right
        });
        if looked.await.unwrap_or(false) { Ok(()) } else { Err(Denied::Wrong) }
    }

    /// Who stands behind an `Authorization` header.
    pub(crate) async fn principal(&self, store: &Store, authorization: Option<&str>) -> Result<Principal, Denied> {
        let secret = authorization.and_then(|it| it.split_once(' ')).filter(|it| it.0.eq_ignore_ascii_case("bearer"));
        let Some((_, secret)) = secret else { return Err(Denied::Wrong) };
        let (kind, sign_in, holder) = if secret.starts_with(KEY_PREFIX) {
            ("key", None, store.key_holder(&hash(secret)).await?)
        } else {
            let Some(sign_in) = self.sign_in_of(secret) else { return Err(Denied::Wrong) };
            let holder = store.signed_in(&sign_in).await?;
            ("user", Some(sign_in), holder)
        };
        let Some(holder) = holder else { return Err(Denied::Wrong) };
        let Some(role) = Role::parse(&holder.role) else { return Err(Denied::Wrong) };
        let key = (holder.tenant, holder.id);
        if let Err(early) = self.asked.check_key(&key) {
            return Err(Denied::TooOften(seconds(early.wait_time_from(DefaultClock::default().now()))));
        }
        if self.asked.len() > 10_000 {
            self.asked.retain_recent();
        }
        let actor = format!("{kind}:{}", key.1);
        let user = sign_in.is_some().then_some(key.1);
        Ok(Principal { tenant: key.0, actor, role, sign_in, user })
    }
}

fn seconds(it: Duration) -> u64 {
    it.as_secs() + 1
}

/// A new key of a program, and its hash; the key is shown once.
pub fn new_key() -> (String, String) {
    let key = format!("{KEY_PREFIX}{}", random());
    let hash = hash(&key);
    (key, hash)
}

/// The hash of a password.
///
/// # Errors
/// What is wrong with the password.
pub fn password_hash(password: &str) -> Result<String, String> {
    let characters = password.chars().count();
    if !PASSWORD.contains(&characters) {
        return Err(format!("a password has {} to {} characters, this one {characters}", PASSWORD.start(), PASSWORD.end()));
    }
    Ok(Argon2::default().hash_password(password.as_bytes()).map_err(|error| error.to_string())?.to_string())
}

/// An address as it is stored, if it can be one.
pub fn email(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let (name, host) = text.split_once('@')?;
    let fits = text.len() <= 254
        && !name.is_empty()
        && host.contains('.')
        && !host.starts_with('.')
        && !host.ends_with('.')
        && !text.chars().any(|it| it.is_whitespace() || it.is_control() || matches!(it, '<' | '>' | ',' | ';'))
        && !host.contains('@');
    fits.then_some(text)
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    pub(crate) tenant: String,
    /// `user:` or `key:`, and the id: for the audit log.
    pub(crate) actor: String,
    pub(crate) role: Role,
    /// Of a person.
    pub(crate) sign_in: Option<String>,
    pub(crate) user: Option<String>,
}

impl FromRequestParts<App> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        Ok(app.access.principal(&app.store, authorization).await?)
    }
}

/// Extractors that let in who may at least so much.
macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $role(pub(crate) Principal);

        impl Deref for $role {
            type Target = Principal;

            fn deref(&self) -> &Principal {
                &self.0
            }
        }

        impl FromRequestParts<App> for $role {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
                let principal = Principal::from_request_parts(parts, app).await?;
                if principal.role < Role::$role {
                    let needed = Role::$role.name();
                    let detail = format!("this needs the role {needed}, you are {}", principal.role.name());
                    return Err(Problem::new(StatusCode::FORBIDDEN, detail));
                }
                Ok(Self(principal))
            }
        }
    )*};
}

roles! {
    /// Anybody of the tenant.
    Viewer,
    /// Whoever may make calls.
    Operator,
    /// Whoever may change things.
    Admin
}

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Signs tokens; `None`: one made of the encryption key.
    pub jwt_secret: Option<SecretString>,
    /// Origins of pages that may ask.
    pub cors_origins: Vec<String>,
    /// What ElevenLabs signs with when a conversation is over; without any nobody is believed.
    pub post_call_secrets: Vec<SecretString>,
    /// Requests of one program or person in a second.
    pub per_second: u32,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { jwt_secret: None, cors_origins: Vec::new(), post_call_secrets: Vec::new(), per_second: ASKED_PER_S }
    }
}

impl ApiSettings {
    /// Access, with the secret that was set or else `fallback`; without either, tokens end with the process.
    pub fn access(&self, fallback: Option<[u8; 32]>) -> Arc<Access> {
        let made = || SecretString::from(fallback.map_or_else(random, |it| URL_SAFE_NO_PAD.encode(it)));
        Arc::new(Access::new(&self.jwt_secret.clone().unwrap_or_else(made), self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_contain_each_other_and_secrets_are_no_examples() {
        assert!(Role::Owner > Role::Admin && Role::Admin > Role::Operator && Role::Operator > Role::Viewer);
        assert_eq!(Role::parse("operator"), Some(Role::Operator));
        assert_eq!(Role::parse("root"), None);
        for wrong in ["", "secret", "short", &"a".repeat(64), "my-super-secret-key-that-is-long-enough-1234"] {
            assert!(unsafe_secret(wrong).is_some(), "{wrong}");
        }
        assert_eq!(unsafe_secret("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"), None);
        assert!(PasswordHash::new(NOBODY).is_ok());
        assert_eq!(email(" Ana@Example.COM ").as_deref(), Some("ana@example.com"));
        for wrong in ["ana", "@example.com", "a@b", "a@.b", "a b@example.com", "a@b@example.com", "<a>@example.com"] {
            assert_eq!(email(wrong), None, "{wrong}");
        }
        assert!(password_hash("short").is_err());
    }
}
