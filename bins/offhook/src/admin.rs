//! `offhook admin`: tenants, their people and keys, prices: what the operator makes before anybody can sign in.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use control::{Role, email, new_key, password_hash};
use offhook::config;
use store::{PriceRow, Store};

/// The author in the audit log.
const OPERATOR: &str = "operator";

#[derive(Subcommand)]
pub(crate) enum Admin {
    /// List tenants and who works for them
    List,
    /// Make a tenant
    AddTenant {
        /// In records and settings: letters, digits, `-` and `_`
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long, default_value = "UTC")]
        time_zone: String,
    },
    /// Let the people and programs of a tenant in again
    Activate { id: String },
    /// Let nobody of a tenant in; its calls are answered as before
    Deactivate { id: String },
    /// Make somebody a member of a tenant, or give a member another role; the password of a new person is read from standard input,
    /// or made and printed
    AddUser {
        email: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long, default_value = "default")]
        tenant: String,
        /// owner, admin, operator or viewer
        #[arg(long, default_value = "owner")]
        role: String,
    },
    /// Set somebody's password, read from standard input, or made and printed; every sign-in is over
    Password { email: String },
    /// Make a key for a program; it is printed this once
    AddKey {
        name: String,
        #[arg(long, default_value = "default")]
        tenant: String,
        /// owner, admin, operator or viewer
        #[arg(long, default_value = "operator")]
        role: String,
    },
    /// Make Twilio's secondary auth token the primary one; every server must accept both before (TWILIO_AUTH_TOKEN_SECONDARY)
    PromoteToken,
    /// Set what something costs from now on, such as `price twilio.outbound_minute 0.013 --unit minute --currency USD`
    Price {
        kind: String,
        price: f64,
        #[arg(long, default_value = "minute")]
        unit: String,
        #[arg(long, default_value = "USD")]
        currency: String,
    },
}

impl Admin {
    pub(crate) async fn run(self, config: &Path) -> Result<()> {
        let open = || crate::data::open(config);
        match self {
            Self::PromoteToken => promote_token(config).await,
            Self::List => list(&open().await?).await,
            Self::AddTenant { id, name, time_zone } => {
                let fits =
                    (1..=64).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_');
                ensure!(fits, "`{id}`: expected 1 to 64 letters, digits, `-` and `_`");
                jiff::tz::TimeZone::get(&time_zone)
                    .with_context(|| format!("`{time_zone}`: expected a name such as Europe/Bucharest"))?;
                let fresh = open().await?.create_tenant(&id, name.as_deref().unwrap_or(&id), &time_zone).await?;
                ensure!(fresh, "there is a tenant `{id}`");
                println!("made; its first owner: offhook admin add-user EMAIL --tenant {id}");
                Ok(())
            }
            Self::Activate { id } => set_active(&open().await?, &id, true).await,
            Self::Deactivate { id } => set_active(&open().await?, &id, false).await,
            Self::AddUser { email, name, tenant, role } => {
                add_user(&open().await?, &email, name.as_deref(), &tenant, &role).await
            }
            Self::Password { email: address } => {
                let store = open().await?;
                let (user, _) = known(&store, &address).await?;
                let (hash, made) = password()?;
                store.set_password(&user.id, &hash).await?;
                tell(made);
                Ok(())
            }
            Self::AddKey { name, tenant, role } => {
                let (role, store) = (parse(&role)?, open().await?);
                let scope = store.tenant(&tenant);
                ensure!(scope.this_tenant().await?.is_some(), "there is no tenant `{tenant}`: offhook admin add-tenant {tenant}");
                let (key, hash) = new_key();
                let id = scope.add_key(&name, role.name(), &hash, None).await?;
                scope.audit(OPERATOR, "key.add", &id, Some(role.name())).await?;
                println!("{key}");
                Ok(())
            }
            Self::Price { kind, price, unit, currency } => {
                ensure!((0.0..1_000_000.0).contains(&price), "`{price}`: expected what one {unit} costs");
                ensure!(
                    currency.len() == 3 && currency.bytes().all(|it| it.is_ascii_uppercase()),
                    "`{currency}`: expected ISO 4217, such as USD"
                );
                let (from_ms, micros) = (jiff::Timestamp::now().as_millisecond(), (price * 1e6).round() as i64);
                open().await?.set_price(&PriceRow { kind, from_ms, unit, micros, currency }).await?;
                println!("set");
                Ok(())
            }
        }
    }
}

async fn promote_token(file: &Path) -> Result<()> {
    let (text, name) = (crate::data::settings_file(file)?, file.display().to_string());
    let config = config::load(text.as_deref().map(|it| (name.as_str(), it)), &crate::data::environment())?;
    let rest = config.rest.context("there is no account: set TWILIO_ACCOUNT_SID")?;
    ensure!(
        config.auth_tokens.len() > 1,
        "TWILIO_AUTH_TOKEN_SECONDARY is not set here: make a secondary token in the console, set it on every server, restart them, then \
         promote it"
    );
    rest.promote_secondary_token().await?;
    println!(
        "promoted: Twilio signs with it from now on, which the servers accept. Set TWILIO_AUTH_TOKEN to it, unset \
         TWILIO_AUTH_TOKEN_SECONDARY, restart them; the token before is void"
    );
    Ok(())
}

async fn list(store: &Store) -> Result<()> {
    for tenant in store.tenants().await? {
        let off = if tenant.active { "" } else { "  (nobody is let in)" };
        println!("{}  {}  {}{off}", tenant.id, tenant.name, tenant.time_zone);
        for it in store.tenant(&tenant.id).members().await? {
            println!("    {:<9} {}  {}", it.role, it.user.email, it.user.name);
        }
    }
    Ok(())
}

async fn set_active(store: &Store, id: &str, active: bool) -> Result<()> {
    ensure!(store.set_tenant_active(id, active).await?, "there is no tenant `{id}`");
    Ok(())
}

fn parse(role: &str) -> Result<Role> {
    Role::parse(role).with_context(|| format!("`{role}`: expected owner, admin, operator or viewer"))
}

async fn known(store: &Store, address: &str) -> Result<(store::UserRow, Option<String>)> {
    let found = store.credentials(&email(address).with_context(|| format!("`{address}` is no address"))?).await?;
    found.with_context(|| format!("nobody has the address {address}"))
}

async fn add_user(store: &Store, address: &str, name: Option<&str>, tenant: &str, role: &str) -> Result<()> {
    let (role, address) = (parse(role)?, email(address).with_context(|| format!("`{address}` is no address"))?);
    let scope = store.tenant(tenant);
    if scope.this_tenant().await?.is_none() && tenant == "default" {
        // The tenant of the settings file needs no ceremony.
        store.create_tenant(tenant, tenant, "UTC").await?;
    }
    ensure!(scope.this_tenant().await?.is_some(), "there is no tenant `{tenant}`: offhook admin add-tenant {tenant}");
    let user = match store.credentials(&address).await? {
        Some((user, _)) => user.id,
        None => {
            let (hash, made) = password()?;
            let id = store.create_user(&address, name.unwrap_or(&address), &hash).await?;
            tell(made);
            id.context("somebody was given that address at this very moment")?
        }
    };
    scope.set_member(&user, role.name()).await?;
    scope.audit(OPERATOR, "member.add", &user, Some(role.name())).await?;
    println!("{address} is {} of {tenant}", role.name());
    Ok(())
}

/// The hash of a password from standard input, or of one that is made, with that one.
fn password() -> Result<(String, Option<String>)> {
    let mut text = String::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().take(4096).read_to_string(&mut text).context("the password cannot be read from standard input")?;
    }
    let text = text.trim_end_matches(['\r', '\n']);
    let made = text.is_empty().then(|| uuid::Uuid::new_v4().simple().to_string());
    let hash = password_hash(made.as_deref().unwrap_or(text)).map_err(anyhow::Error::msg)?;
    Ok((hash, made))
}

fn tell(made: Option<String>) {
    if let Some(password) = made {
        println!("password: {password}");
    }
}
