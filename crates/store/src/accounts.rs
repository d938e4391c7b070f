//! Who may look and change: tenants, their people, keys of their programs, and who has signed in. Only hashes of secrets are here.

use std::time::Duration;

use crate::db::{Engine, Row, StoreError, Tx, Wall, values};
use crate::{Scope, Store};

/// A key's last use is noted at most so often.
const USE_NOTED_MS: i64 = 60_000;

/// A business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    pub id: String,
    pub name: String,
    /// Whether its people and programs may sign in.
    pub active: bool,
    /// Such as `Europe/Bucharest`.
    pub time_zone: String,
    pub created_at_ms: i64,
}

/// A person, who may work for several tenants.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRow {
    pub id: String,
    /// In lower case.
    pub email: String,
    pub name: String,
}

impl std::fmt::Debug for UserRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({})", self.id)
    }
}

/// A person of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    pub user: UserRow,
    /// `owner`, `admin`, `operator`, `viewer`.
    pub role: String,
    pub created_at_ms: i64,
}

/// A key of a tenant's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub id: String,
    pub name: String,
    pub role: String,
    pub created_at_ms: i64,
    pub expires_at_ms: Option<i64>,
    pub last_used_ms: Option<i64>,
    pub revoked_at_ms: Option<i64>,
}

/// Who stands behind a token or a key, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub tenant: String,
    /// Id of the user or of the key.
    pub id: String,
    pub role: String,
}

/// What became of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Another one takes its place.
    Renewed,
    /// It was used before: somebody has a copy. Its sign-in is over, for whoever has it.
    Reused,
    /// Its sign-in is unknown, or over.
    Over,
}

/// Why a member was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("a tenant needs an owner: make somebody else one first")]
    LastOwner,
    #[error("there is no such member")]
    Unknown,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn user(row: &Row) -> Result<UserRow, StoreError> {
    Ok(UserRow { id: row.get("id")?, email: row.get("email")?, name: row.get("name")? })
}

fn tenant(row: &Row) -> Result<TenantRow, StoreError> {
    Ok(TenantRow {
        id: row.get("id")?,
        name: row.get("name")?,
        active: row.get("active")?,
        time_zone: row.get("time_zone")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}

fn holder(row: &Row) -> Result<Holder, StoreError> {
    Ok(Holder { tenant: row.get("tenant")?, id: row.get("id")?, role: row.get("role")? })
}

impl Store {
    /// Makes a tenant; `false` when there is one of that id.
    pub async fn create_tenant(&self, id: &str, name: &str, time_zone: &str) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql =
            "INSERT INTO tenants (id, name, active, time_zone, created_at_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let fresh = tx.execute(sql, values![id, name, true, time_zone, now]).await? == 1;
        tx.commit().await?;
        Ok(fresh)
    }

    /// Lets the people and programs of a tenant in, or not; `false` when there is no such tenant.
    pub async fn set_tenant_active(&self, id: &str, active: bool) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let there = tx.execute("UPDATE tenants SET active = $1 WHERE id = $2", values![active, id]).await? == 1;
        tx.commit().await?;
        Ok(there)
    }

    /// Every tenant that was made.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, StoreError> {
        self.ask(Wall::None).await?.rows("SELECT * FROM tenants ORDER BY id", &[]).await?.iter().map(tenant).collect()
    }

    /// Makes a person; returns the id, `None` when the address is taken. `email` is in lower case.
    pub async fn create_user(&self, email: &str, name: &str, password_hash: &str) -> Result<Option<String>, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let (id, now) = (uuid::Uuid::now_v7().to_string(), tx.now_ms().await?);
        let sql = "INSERT INTO users (id, email, name, password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let fresh = tx.execute(sql, values![&id, email, name, password_hash, now]).await? == 1;
        tx.commit().await?;
        Ok(fresh.then_some(id))
    }

    /// Somebody by address, with the hash of the password.
    pub async fn credentials(&self, email: &str) -> Result<Option<(UserRow, Option<String>)>, StoreError> {
        let sql = "SELECT id, email, name, password_hash FROM users WHERE email = $1";
        let row = self.ask(Wall::None).await?.row(sql, values![email]).await?;
        row.map(|it| Ok((user(&it)?, it.get("password_hash")?))).transpose()
    }

    /// Somebody by id, with the hash of the password.
    pub async fn user(&self, id: &str) -> Result<Option<(UserRow, Option<String>)>, StoreError> {
        let sql = "SELECT id, email, name, password_hash FROM users WHERE id = $1";
        let row = self.ask(Wall::None).await?.row(sql, values![id]).await?;
        row.map(|it| Ok((user(&it)?, it.get("password_hash")?))).transpose()
    }

    /// Sets a password; whoever has signed in with the one before has to sign in again.
    pub async fn set_password(&self, id: &str, hash: &str) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let there = tx.execute("UPDATE users SET password_hash = $1 WHERE id = $2", values![hash, id]).await? == 1;
        let sql = "UPDATE sign_ins SET revoked_at_ms = $1 WHERE user_id = $2 AND revoked_at_ms IS NULL";
        tx.execute(sql, values![now, id]).await?;
        tx.commit().await?;
        Ok(there)
    }

    /// For whom somebody works: tenants that are active, with the role there.
    pub async fn memberships(&self, user: &str) -> Result<Vec<(TenantRow, String)>, StoreError> {
        let sql =
            "SELECT t.id, t.name, t.active, t.time_zone, t.created_at_ms, m.role FROM members m JOIN tenants t ON t.id = m.tenant
            WHERE m.user_id = $1 AND t.active ORDER BY t.id";
        let rows = self.ask(Wall::None).await?.rows(sql, values![user]).await?;
        rows.iter().map(|it| Ok((tenant(it)?, it.get("role")?))).collect()
    }

    /// Who stands behind a sign-in that is not over: asked with every request, so that whoever is sent away is away at once.
    pub async fn signed_in(&self, sign_in: &str) -> Result<Option<Holder>, StoreError> {
        let mut ask = self.ask(Wall::None).await?;
        let now = ask.now_ms().await?;
        let sql = "SELECT s.tenant, s.user_id AS id, m.role FROM sign_ins s
            JOIN members m ON m.tenant = s.tenant AND m.user_id = s.user_id JOIN tenants t ON t.id = s.tenant
            WHERE s.id = $1 AND s.revoked_at_ms IS NULL AND s.expires_at_ms > $2 AND t.active";
        ask.row(sql, values![sign_in, now]).await?.map(|it| holder(&it)).transpose()
    }

    /// Puts one refresh token in the place of another, by their hashes.
    pub async fn renew(&self, sign_in: &str, used: &str, next: &str) -> Result<Renewal, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE sign_ins SET hash = $1 WHERE id = $2 AND hash = $3 AND revoked_at_ms IS NULL AND expires_at_ms > $4";
        if tx.execute(sql, values![next, sign_in, used, now]).await? == 1 {
            tx.commit().await?;
            return Ok(Renewal::Renewed);
        }
        let sql = "UPDATE sign_ins SET revoked_at_ms = $1 WHERE id = $2 AND revoked_at_ms IS NULL AND expires_at_ms > $1";
        let reused = tx.execute(sql, values![now, sign_in]).await? == 1;
        tx.commit().await?;
        Ok(if reused { Renewal::Reused } else { Renewal::Over })
    }

    /// Ends a sign-in.
    pub async fn sign_out(&self, sign_in: &str) -> Result<(), StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE sign_ins SET revoked_at_ms = $1 WHERE id = $2 AND revoked_at_ms IS NULL";
        tx.execute(sql, values![now, sign_in]).await?;
        tx.commit().await
    }

    /// Whose a key is, by its hash; `None` when it is unknown, revoked or over.
    pub async fn key_holder(&self, hash: &str) -> Result<Option<Holder>, StoreError> {
        let mut ask = self.ask(Wall::None).await?;
        let now = ask.now_ms().await?;
        let sql = "SELECT k.tenant, k.id, k.role, k.last_used_ms FROM api_keys k JOIN tenants t ON t.id = k.tenant
            WHERE k.hash = $1 AND k.revoked_at_ms IS NULL AND (k.expires_at_ms IS NULL OR k.expires_at_ms > $2) AND t.active";
        let Some(row) = ask.row(sql, values![hash, now]).await? else { return Ok(None) };
        let found = holder(&row)?;
        if row.get::<Option<i64>>("last_used_ms")?.is_none_or(|it| it < now - USE_NOTED_MS) {
            let mut tx = self.write(Wall::Tenant(&found.tenant)).await?;
            let sql = "UPDATE api_keys SET last_used_ms = $1 WHERE tenant = $2 AND id = $3";
            tx.execute(sql, values![now, &found.tenant, &found.id]).await?;
            tx.commit().await?;
        }
        Ok(Some(found))
    }

    /// Deletes sign-ins that are over.
    pub async fn forget_sign_ins(&self) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let gone = tx.execute("DELETE FROM sign_ins WHERE expires_at_ms < $1", values![now]).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

impl Scope<'_> {
    /// The tenant itself.
    pub async fn this_tenant(&self) -> Result<Option<TenantRow>, StoreError> {
        let row = self.ask().await?.row("SELECT * FROM tenants WHERE id = $1", values![self.tenant]).await?;
        row.map(|it| tenant(&it)).transpose()
    }

    /// Notes that somebody has signed in, for so long; returns the sign-in's id.
    pub async fn sign_in(&self, user: &str, hash: &str, life: Duration) -> Result<String, StoreError> {
        let mut tx = self.write().await?;
        let (id, now) = (uuid::Uuid::now_v7().to_string(), tx.now_ms().await?);
        let until = now + i64::try_from(life.as_millis()).unwrap_or(i64::MAX / 4);
        let sql =
            "INSERT INTO sign_ins (id, tenant, user_id, hash, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6)";
        tx.execute(sql, values![&id, self.tenant, user, hash, now, until]).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The tenant's people.
    pub async fn members(&self) -> Result<Vec<MemberRow>, StoreError> {
        let sql = "SELECT u.id, u.email, u.name, m.role, m.created_at_ms FROM members m JOIN users u ON u.id = m.user_id
            WHERE m.tenant = $1 ORDER BY u.email";
        let member =
            |row: &Row| Ok(MemberRow { user: user(row)?, role: row.get("role")?, created_at_ms: row.get("created_at_ms")? });
        self.ask().await?.rows(sql, values![self.tenant]).await?.iter().map(member).collect()
    }

    /// Makes somebody a member, or gives a member another role.
    ///
    /// # Errors
    /// [`MemberError::LastOwner`]
    pub async fn set_member(&self, user: &str, role: &str) -> Result<(), MemberError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO members (tenant, user_id, role, created_at_ms) VALUES ($1, $2, $3, $4)
            ON CONFLICT (tenant, user_id) DO UPDATE SET role = excluded.role";
        tx.execute(sql, values![self.tenant, user, role, now]).await?;
        owned(&mut tx, self.tenant).await?;
        Ok(tx.commit().await?)
    }

    /// Sends somebody away, at once.
    ///
    /// # Errors
    /// [`MemberError::LastOwner`], [`MemberError::Unknown`]
    pub async fn remove_member(&self, user: &str) -> Result<(), MemberError> {
        let mut tx = self.write().await?;
        let sql = "DELETE FROM members WHERE tenant = $1 AND user_id = $2";
        if tx.execute(sql, values![self.tenant, user]).await? == 0 {
            return Err(MemberError::Unknown);
        }
        owned(&mut tx, self.tenant).await?;
        Ok(tx.commit().await?)
    }

    /// Adds a program's key, by its hash; returns its id.
    pub async fn add_key(&self, name: &str, role: &str, hash: &str, expires_at_ms: Option<i64>) -> Result<String, StoreError> {
        let mut tx = self.write().await?;
        let (id, now) = (uuid::Uuid::now_v7().to_string(), tx.now_ms().await?);
        let sql = "INSERT INTO api_keys (id, tenant, name, role, hash, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        tx.execute(sql, values![&id, self.tenant, name, role, hash, now, expires_at_ms]).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The tenant's keys, revoked ones too, the newest first.
    pub async fn keys(&self, limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        let sql = "SELECT * FROM api_keys WHERE tenant = $1 ORDER BY created_at_ms DESC, id DESC LIMIT $2";
        let key = |row: &Row| {
            Ok(KeyRow {
                id: row.get("id")?,
                name: row.get("name")?,
                role: row.get("role")?,
                created_at_ms: row.get("created_at_ms")?,
                expires_at_ms: row.get("expires_at_ms")?,
                last_used_ms: row.get("last_used_ms")?,
                revoked_at_ms: row.get("revoked_at_ms")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(key).collect()
    }

    /// Makes a key useless, at once; `false` when there is no such key, or it is already.
    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE api_keys SET revoked_at_ms = $1 WHERE tenant = $2 AND id = $3 AND revoked_at_ms IS NULL";
        let there = tx.execute(sql, values![now, self.tenant, id]).await? == 1;
        tx.commit().await?;
        Ok(there)
    }
}

/// A change that left a tenant without owner is not committed.
async fn owned(tx: &mut Tx, tenant: &str) -> Result<(), MemberError> {
    if tx.engine() == Engine::Pg {
        // Two owners who send each other away at the same time: one of them counts after the other.
        tx.row("SELECT id FROM tenants WHERE id = $1 FOR UPDATE", values![tenant]).await?;
    }
    let sql = "SELECT COUNT(*) AS owners FROM members WHERE tenant = $1 AND role = 'owner'";
    let owners: i64 = tx.row(sql, values![tenant]).await?.map_or(Ok(0), |it| it.get("owners"))?;
    if owners == 0 { Err(MemberError::LastOwner) } else { Ok(()) }
}
