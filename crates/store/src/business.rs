//! What calls are about: customers, bookings, tickets.

use crate::Scope;
use crate::db::{Row, StoreError, values};

/// A customer, known by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerRow {
    pub id: String,
    pub name: Option<String>,
    /// E.164.
    pub phone: String,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// The call that created or last changed it.
    pub call: Option<String>,
}

/// A time that is taken, or held for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookingRow {
    pub id: String,
    pub customer: Option<String>,
    /// The call in which it was made.
    pub call: Option<String>,
    pub starts_at_ms: i64,
    pub ends_at_ms: i64,
    /// Where the business is: the times above are told by its clock.
    pub time_zone: String,
    /// `held`, `confirmed`, `cancelled`.
    pub status: String,
    /// Until when it is held, if it is.
    pub hold_expires_ms: Option<i64>,
    /// What the caller writes down.
    pub confirmation: String,
}

/// Something that somebody has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketRow {
    pub id: String,
    pub customer: Option<String>,
    pub call: Option<String>,
    pub subject: String,
    pub body: String,
    /// `low`, `normal`, `high`, `urgent`.
    pub priority: String,
    /// `open`, `closed`.
    pub status: String,
    pub created_at_ms: i64,
}

fn customer(row: &Row) -> Result<CustomerRow, StoreError> {
    Ok(CustomerRow {
        id: row.get("id")?,
        name: row.get("name")?,
        phone: row.get("phone")?,
        created_at_ms: row.get("created_at_ms")?,
        updated_at_ms: row.get("updated_at_ms")?,
        call: row.get("call")?,
    })
}

fn booking(row: &Row) -> Result<BookingRow, StoreError> {
    Ok(BookingRow {
        id: row.get("id")?,
        customer: row.get("customer")?,
        call: row.get("call")?,
        starts_at_ms: row.get("starts_at_ms")?,
        ends_at_ms: row.get("ends_at_ms")?,
        time_zone: row.get("time_zone")?,
        status: row.get("status")?,
        hold_expires_ms: row.get("hold_expires_ms")?,
        confirmation: row.get("confirmation")?,
    })
}

fn ticket(row: &Row) -> Result<TicketRow, StoreError> {
    Ok(TicketRow {
        id: row.get("id")?,
        customer: row.get("customer")?,
        call: row.get("call")?,
        subject: row.get("subject")?,
        body: row.get("body")?,
        priority: row.get("priority")?,
        status: row.get("status")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}

impl Scope<'_> {
    /// The customer with a number, made if there is none; a name that is given replaces the one before.
    pub async fn save_customer(&self, phone: &str, name: Option<&str>, call: Option<&str>) -> Result<CustomerRow, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO customers (id, tenant, name, phone, created_at_ms, updated_at_ms, call) VALUES ($1, $2, $3, $4, $5, $5, $6)
            ON CONFLICT (tenant, phone) DO UPDATE SET name = COALESCE(excluded.name, customers.name),
                updated_at_ms = excluded.updated_at_ms, call = COALESCE(excluded.call, customers.call) RETURNING *";
        let id = uuid::Uuid::now_v7().to_string();
        let row = tx.row(sql, values![id, self.tenant, name, phone, now, call]).await?;
        let saved = customer(&row.ok_or_else(|| StoreError::Row("a customer was saved and is not there".into()))?)?;
        tx.commit().await?;
        Ok(saved)
    }

    /// A customer by id.
    pub async fn customer_of_id(&self, id: &str) -> Result<Option<CustomerRow>, StoreError> {
        let sql = "SELECT * FROM customers WHERE tenant = $1 AND id = $2";
        let row = self.ask().await?.row(sql, values![self.tenant, id]).await?;
        row.map(|it| customer(&it)).transpose()
    }

    /// The customer with a number.
    pub async fn customer(&self, phone: &str) -> Result<Option<CustomerRow>, StoreError> {
        let sql = "SELECT * FROM customers WHERE tenant = $1 AND phone = $2";
        let row = self.ask().await?.row(sql, values![self.tenant, phone]).await?;
        row.map(|it| customer(&it)).transpose()
    }

    /// Customers, those changed last first.
    pub async fn customers(&self, limit: u32) -> Result<Vec<CustomerRow>, StoreError> {
        let sql = "SELECT * FROM customers WHERE tenant = $1 ORDER BY updated_at_ms DESC, id DESC LIMIT $2";
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(customer).collect()
    }

    /// Notes a booking, or changes it: the id is the caller's. `false` when the id is somebody else's.
    pub async fn save_booking(&self, it: &BookingRow) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql =
            "INSERT INTO bookings (id, tenant, customer, call, starts_at_ms, ends_at_ms, time_zone, status, hold_expires_ms,
                confirmation, created_at_ms, updated_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
            ON CONFLICT (id) DO NOTHING";
        let fresh = tx
            .execute(
                sql,
                values![
                    &it.id,
                    self.tenant,
                    &it.customer,
                    &it.call,
                    it.starts_at_ms,
                    it.ends_at_ms,
                    &it.time_zone,
                    &it.status,
                    it.hold_expires_ms,
                    &it.confirmation,
                    now
                ],
            )
            .await?;
        let sql = "UPDATE bookings SET customer = $1, starts_at_ms = $2, ends_at_ms = $3, time_zone = $4, status = $5,
                hold_expires_ms = $6, updated_at_ms = $7 WHERE tenant = $8 AND id = $9";
        let values = values![
            &it.customer,
            it.starts_at_ms,
            it.ends_at_ms,
            &it.time_zone,
            &it.status,
            it.hold_expires_ms,
            now,
            self.tenant,
            &it.id
        ];
        let saved = fresh == 1 || tx.execute(sql, values).await? == 1;
        tx.commit().await?;
        Ok(saved)
    }

    /// Bookings that touch a span of time, cancelled ones too, in order.
    pub async fn bookings(&self, from_ms: i64, to_ms: i64) -> Result<Vec<BookingRow>, StoreError> {
        let sql = "SELECT * FROM bookings WHERE tenant = $1 AND ends_at_ms > $2 AND starts_at_ms < $3 ORDER BY starts_at_ms, id";
        self.ask().await?.rows(sql, values![self.tenant, from_ms, to_ms]).await?.iter().map(booking).collect()
    }

    /// What was booked in a call.
    pub async fn bookings_of_call(&self, call: &str) -> Result<Vec<BookingRow>, StoreError> {
        let sql = "SELECT * FROM bookings WHERE tenant = $1 AND call = $2 ORDER BY starts_at_ms, id";
        self.ask().await?.rows(sql, values![self.tenant, call]).await?.iter().map(booking).collect()
    }

    /// Opens a ticket; returns its id.
    pub async fn open_ticket(
        &self,
        subject: &str,
        body: &str,
        priority: &str,
        customer: Option<&str>,
        call: Option<&str>,
    ) -> Result<String, StoreError> {
        let mut tx = self.write().await?;
        let (id, now) = (uuid::Uuid::now_v7().to_string(), tx.now_ms().await?);
        let sql =
            "INSERT INTO tickets (id, tenant, customer, call, subject, body, priority, status, created_at_ms, updated_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $8)";
        tx.execute(sql, values![&id, self.tenant, customer, call, subject, body, priority, now]).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Sets a ticket's status; `false` when there is no such ticket.
    pub async fn set_ticket(&self, id: &str, status: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE tickets SET status = $1, updated_at_ms = $2 WHERE tenant = $3 AND id = $4";
        let there = tx.execute(sql, values![status, now, self.tenant, id]).await? == 1;
        tx.commit().await?;
        Ok(there)
    }

    /// The newest tickets first.
    pub async fn tickets(&self, limit: u32) -> Result<Vec<TicketRow>, StoreError> {
        let sql = "SELECT * FROM tickets WHERE tenant = $1 ORDER BY created_at_ms DESC, id DESC LIMIT $2";
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(ticket).collect()
    }
}
