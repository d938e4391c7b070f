//! Who works for a tenant, its programs' keys, and who did what.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use store::MemberError;
use utoipa::{IntoParams, ToSchema};

use super::given::{Asked, At, Given, limit, moment, ms};
use crate::App;
use crate::access::{Admin, Principal, Role, Viewer, email, new_key, password_hash};
use crate::problem::Problem;

/// Longest name of anything, in characters.
const NAME_MAX: usize = 100;

#[derive(Serialize, ToSchema)]
pub(crate) struct Tenant {
    id: String,
    name: String,
    /// Such as `Europe/Bucharest`.
    time_zone: String,
    #[schema(format = DateTime)]
    created_at: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Member {
    user_id: String,
    email: String,
    name: String,
    role: Role,
    #[schema(format = DateTime)]
    created_at: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMember {
    email: String,
    name: String,
    role: Role,
    /// 12 to 256 characters; somebody who has one keeps it.
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRole {
    role: Role,
}

/// A program's key, without the key itself.
#[derive(Serialize, ToSchema)]
pub(crate) struct Key {
    id: String,
    name: String,
    role: Role,
    #[schema(format = DateTime)]
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    name: String,
    role: Role,
    /// RFC 3339; without it, until it is revoked.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct KeyOnce {
    id: String,
    /// Shown this once.
    key: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    /// 1 to 100, default 50.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    #[schema(format = DateTime)]
    at: String,
    /// `user:` or `key:` and an id, or `operator`.
    actor: String,
    action: String,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

fn name(text: &str) -> Result<&str, Problem> {
    let text = text.trim();
    let fits = !text.is_empty() && text.chars().count() <= NAME_MAX && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(Problem::unusable(format!("name: expected 1 to {NAME_MAX} characters"))) }
}

/// Nobody gives more than they have; owners are made and changed by owners alone.
fn may_give(who: &Principal, role: Role) -> Result<(), Problem> {
    if role <= who.role {
        return Ok(());
    }
    let detail = format!("only whoever is {} may do that to somebody who is, or becomes, {}", role.name(), role.name());
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

fn refused(error: MemberError) -> Problem {
    match error {
        MemberError::LastOwner => Problem::new(StatusCode::CONFLICT, "a tenant needs an owner: make somebody else one first"),
        MemberError::Unknown => Problem::not_there(),
        MemberError::Store(error) => error.into(),
    }
}

/// The tenant that one works for.
#[utoipa::path(get, path = "/api/tenant", tag = "people", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Tenant)))]
pub(crate) async fn tenant(State(app): State<App>, who: Viewer) -> Result<Json<Tenant>, Problem> {
    let row = app.store.tenant(&who.tenant).this_tenant().await?.ok_or_else(Problem::not_there)?;
    Ok(Json(Tenant { id: row.id, name: row.name, time_zone: row.time_zone, created_at: moment(row.created_at_ms) }))
}

/// Who works for the tenant.
#[utoipa::path(get, path = "/api/members", tag = "people", security(("bearer" = ["admin"])),
    responses((status = 200, body = Vec<Member>)))]
pub(crate) async fn members(State(app): State<App>, who: Admin) -> Result<Json<Vec<Member>>, Problem> {
    let rows = app.store.tenant(&who.tenant).members().await?;
    let member = |it: store::MemberRow| {
        let role = Role::parse(&it.role)?;
        Some(Member { user_id: it.user.id, email: it.user.email, name: it.user.name, role, created_at: moment(it.created_at_ms) })
    };
    Ok(Json(rows.into_iter().filter_map(member).collect()))
}

/// Add somebody.
///
/// Somebody who works for another tenant keeps name and password; nothing that is answered tells that.
#[utoipa::path(post, path = "/api/members", tag = "people", security(("bearer" = ["admin"])), request_body = NewMember,
    responses((status = 201, body = Member), (status = 409, body = inline(super::ProblemDocument))))]
pub(crate) async fn add_member(
    State(app): State<App>,
    who: Admin,
    Given(it): Given<NewMember>,
) -> Result<(StatusCode, Json<Member>), Problem> {
    may_give(&who, it.role)?;
    let address = email(&it.email).ok_or_else(|| Problem::unusable("email: expected an address such as ana@example.com"))?;
    let (name, scope) = (name(&it.name)?.to_owned(), app.store.tenant(&who.tenant));
    let password = it.password;
    let hash = tokio::task::spawn_blocking(move || password_hash(&password)).await;
    let hash = hash.unwrap_or_else(|error| Err(error.to_string())).map_err(Problem::unusable)?;
    if scope.members().await?.iter().any(|found| found.user.email == address) {
        return Err(Problem::new(StatusCode::CONFLICT, "somebody with that address is a member: change the role instead"));
    }
    let user = match app.store.credentials(&address).await? {
        Some((user, _)) => user,
        None => {
            let id = app.store.create_user(&address, &name, &hash).await?;
            let taken = || Problem::new(StatusCode::CONFLICT, "somebody was given that address at this very moment: try again");
            store::UserRow { id: id.ok_or_else(taken)?, email: address.clone(), name: name.clone() }
        }
    };
    scope.set_member(&user.id, it.role.name()).await.map_err(refused)?;
    scope.audit(&who.actor, "member.add", &user.id, Some(it.role.name())).await?;
    let created_at = jiff::Timestamp::now().to_string();
    let member = Member { user_id: user.id, email: address, name, role: it.role, created_at };
    Ok((StatusCode::CREATED, Json(member)))
}

async fn role_of(app: &App, who: &Principal, user: &str) -> Result<Role, Problem> {
    let members = app.store.tenant(&who.tenant).members().await?;
    let found = members.into_iter().find(|it| it.user.id == user).and_then(|it| Role::parse(&it.role));
    found.ok_or_else(Problem::not_there)
}

/// Give somebody another role.
#[utoipa::path(put, path = "/api/members/{user_id}", tag = "people", security(("bearer" = ["admin"])), params(("user_id" = String, Path)),
    request_body = NewRole, responses((status = 204), (status = 409, description = "The last owner", body = inline(super::ProblemDocument))))]
pub(crate) async fn change_member(
    State(app): State<App>,
    who: Admin,
    At(user): At<String>,
    Given(it): Given<NewRole>,
) -> Result<StatusCode, Problem> {
    may_give(&who, role_of(&app, &who, &user).await?.max(it.role))?;
    let scope = app.store.tenant(&who.tenant);
    scope.set_member(&user, it.role.name()).await.map_err(refused)?;
    scope.audit(&who.actor, "member.change", &user, Some(it.role.name())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send somebody away, at once.
#[utoipa::path(delete, path = "/api/members/{user_id}", tag = "people", security(("bearer" = ["admin"])), params(("user_id" = String, Path)),
    responses((status = 204), (status = 409, description = "The last owner", body = inline(super::ProblemDocument))))]
pub(crate) async fn remove_member(State(app): State<App>, who: Admin, At(user): At<String>) -> Result<StatusCode, Problem> {
    may_give(&who, role_of(&app, &who, &user).await?)?;
    let scope = app.store.tenant(&who.tenant);
    scope.remove_member(&user).await.map_err(refused)?;
    scope.audit(&who.actor, "member.remove", &user, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keys of the tenant's programs, the newest first.
#[utoipa::path(get, path = "/api/keys", tag = "people", security(("bearer" = ["admin"])), responses((status = 200, body = Vec<Key>)))]
pub(crate) async fn keys(State(app): State<App>, who: Admin) -> Result<Json<Vec<Key>>, Problem> {
    let rows = app.store.tenant(&who.tenant).keys(100).await?;
    let key = |it: store::KeyRow| {
        let role = Role::parse(&it.role)?;
        Some(Key {
            id: it.id,
            name: it.name,
            role,
            created_at: moment(it.created_at_ms),
            expires_at: it.expires_at_ms.map(moment),
            last_used_at: it.last_used_ms.map(moment),
            revoked_at: it.revoked_at_ms.map(moment),
        })
    };
    Ok(Json(rows.into_iter().filter_map(key).collect()))
}

/// Make a key. It is shown once; here only its hash is kept.
#[utoipa::path(post, path = "/api/keys", tag = "people", security(("bearer" = ["admin"])), request_body = NewKey,
    responses((status = 201, body = KeyOnce)))]
pub(crate) async fn add_key(
    State(app): State<App>,
    who: Admin,
    Given(it): Given<NewKey>,
) -> Result<(StatusCode, Json<KeyOnce>), Problem> {
    may_give(&who, it.role)?;
    let (name, expires) = (name(&it.name)?, ms("expires_at", it.expires_at.as_deref())?);
    if expires.is_some_and(|at| at <= jiff::Timestamp::now().as_millisecond()) {
        return Err(Problem::unusable("expires_at: it is over already"));
    }
    let (key, hash) = new_key();
    let scope = app.store.tenant(&who.tenant);
    let id = scope.add_key(name, it.role.name(), &hash, expires).await?;
    scope.audit(&who.actor, "key.add", &id, Some(it.role.name())).await?;
    Ok((StatusCode::CREATED, Json(KeyOnce { id, key })))
}

/// Make a key useless, at once.
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "people", security(("bearer" = ["admin"])), params(("id" = String, Path)),
    responses((status = 204)))]
pub(crate) async fn revoke_key(State(app): State<App>, who: Admin, At(id): At<String>) -> Result<StatusCode, Problem> {
    let scope = app.store.tenant(&who.tenant);
    let role = scope.keys(u32::MAX).await?.into_iter().find(|it| it.id == id).and_then(|it| Role::parse(&it.role));
    may_give(&who, role.ok_or_else(Problem::not_there)?)?;
    if scope.revoke_key(&id).await? {
        scope.audit(&who.actor, "key.revoke", &id, None).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Who did what, the newest first.
#[utoipa::path(get, path = "/api/audit", tag = "people", security(("bearer" = ["admin"])), params(AuditQuery),
    responses((status = 200, body = Vec<AuditEntry>)))]
pub(crate) async fn audit(
    State(app): State<App>,
    who: Admin,
    Asked(it): Asked<AuditQuery>,
) -> Result<Json<Vec<AuditEntry>>, Problem> {
    let rows = app.store.tenant(&who.tenant).audit_log(limit(it.limit)?).await?;
    let entry = |it: store::AuditRow| AuditEntry {
        at: moment(it.at_ms),
        actor: it.actor,
        action: it.action,
        target: it.target,
        detail: it.detail,
    };
    Ok(Json(rows.into_iter().map(entry).collect()))
}
