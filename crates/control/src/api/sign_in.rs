//! Signing in and out, and who one is.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::given::Given;
use crate::App;
use crate::access::{Denied, Principal, Role, TOKEN_LIFE, Tokens, Viewer, email, password_hash};
use crate::problem::Problem;

/// Somebody who signs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    email: String,
    password: String,
    /// For whom; needed by people who work for several.
    tenant: Option<String>,
}

/// A token for requests, and one for the next pair.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// For `Authorization: Bearer`.
    access_token: String,
    /// Used once.
    refresh_token: String,
    /// `Bearer`
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    tenant: String,
}

impl TokenPair {
    fn new(it: Tokens, tenant: String) -> Self {
        let expires_in = TOKEN_LIFE.as_secs();
        Self { access_token: it.access, refresh_token: it.refresh, token_type: "Bearer", expires_in, tenant }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refresh {
    refresh_token: String,
}

/// Who asks.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    tenant: String,
    /// `user:` or `key:`, and the id.
    actor: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    current: String,
    /// 12 to 256 characters.
    new: String,
}

fn refused() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "address and password do not belong together")
}

/// Sign in.
///
/// Five tries at once for an address, then one in twelve seconds.
#[utoipa::path(post, path = "/api/auth/login", tag = "access", request_body = SignIn, responses(
    (status = 200, body = TokenPair), (status = 401, body = inline(super::ProblemDocument)),
    (status = 409, description = "Works for several: name one as `tenant`", body = inline(super::ProblemDocument))))]
pub(crate) async fn sign_in(State(app): State<App>, Given(it): Given<SignIn>) -> Result<Json<TokenPair>, Problem> {
    let address = email(&it.email).ok_or_else(refused)?;
    let (user, hash) = app.store.credentials(&address).await?.unzip();
    app.access.knows(&address, it.password, hash.flatten()).await.map_err(|denied| match denied {
        Denied::Wrong => refused(),
        other => other.into(),
    })?;
    let user = user.ok_or_else(refused)?;
    let mut tenants = app.store.memberships(&user.id).await?;
    if let Some(wanted) = &it.tenant {
        tenants.retain(|found| found.0.id == *wanted);
    }
    let tenant = match tenants.as_slice() {
        [] => return Err(refused()),
        [(tenant, _)] => tenant.id.clone(),
        several => {
            let names: Vec<&str> = several.iter().map(|it| it.0.id.as_str()).collect();
            let detail = format!("you work for several: say as `tenant` for which ({})", names.join(", "));
            return Err(Problem::new(StatusCode::CONFLICT, detail).with("tenants", names));
        }
    };
    Ok(Json(TokenPair::new(app.access.sign_in(&app.store, &tenant, &user.id).await?, tenant)))
}

/// Exchange a refresh token for the next pair.
///
/// A refresh token is used once. One that comes a second time was copied: the sign-in is over for whoever has it.
#[utoipa::path(post, path = "/api/auth/refresh", tag = "access", request_body = Refresh, responses(
    (status = 200, body = TokenPair), (status = 401, body = inline(super::ProblemDocument))))]
pub(crate) async fn refresh(State(app): State<App>, Given(it): Given<Refresh>) -> Result<Json<TokenPair>, Problem> {
    let tokens = app.access.renew(&app.store, &it.refresh_token).await.map_err(|denied| match denied {
        Denied::Wrong => Problem::new(StatusCode::UNAUTHORIZED, "the refresh token was used before, or is over: sign in again"),
        other => other.into(),
    })?;
    let authorization = format!("Bearer {}", tokens.access);
    let who = app.access.principal(&app.store, Some(&authorization)).await?;
    Ok(Json(TokenPair::new(tokens, who.tenant)))
}

/// Sign out: the tokens of this sign-in are over.
#[utoipa::path(post, path = "/api/auth/logout", tag = "access", security(("bearer" = ["viewer"])), responses((status = 204)))]
pub(crate) async fn sign_out(State(app): State<App>, who: Viewer) -> Result<StatusCode, Problem> {
    if let Some(sign_in) = &who.sign_in {
        app.store.sign_out(sign_in).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Who asks.
#[utoipa::path(get, path = "/api/me", tag = "access", security(("bearer" = ["viewer"])), responses((status = 200, body = Me)))]
pub(crate) async fn me(State(app): State<App>, who: Viewer) -> Result<Json<Me>, Problem> {
    let user = match &who.user {
        Some(user) => app.store.user(user).await?.map(|it| it.0),
        None => None,
    };
    let Principal { tenant, actor, role, .. } = who.0;
    let (email, name) = user.map(|it| (it.email, it.name)).unzip();
    Ok(Json(Me { tenant, actor, role, email, name }))
}

/// Change one's own password; every sign-in is over.
#[utoipa::path(put, path = "/api/me/password", tag = "access", security(("bearer" = ["viewer"])), request_body = NewPassword,
    responses((status = 204)))]
pub(crate) async fn change_password(
    State(app): State<App>,
    who: Viewer,
    Given(it): Given<NewPassword>,
) -> Result<StatusCode, Problem> {
    let no_person = || Problem::unusable("a key has no password: sign in as a person");
    let user = who.user.as_ref().ok_or_else(no_person)?;
    let (row, hash) = app.store.user(user).await?.ok_or_else(no_person)?;
    app.access.knows(&row.email, it.current, hash).await.map_err(|denied| match denied {
        Denied::Wrong => Problem::unusable("current: it is not the password"),
        other => other.into(),
    })?;
    let hash = tokio::task::spawn_blocking(move || password_hash(&it.new)).await.unwrap_or_else(|error| Err(error.to_string()));
    app.store.set_password(user, &hash.map_err(Problem::unusable)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
