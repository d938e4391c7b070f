//! Files that calls leave behind: recordings, samples, messages. In a folder or an S3 bucket, encrypted, the same content of a
//! tenant once.
//!
//! Each content has a key of its own, which lies sealed in the database: who has the disk, or the bucket, has nothing. It is
//! encrypted in chunks of 64 KiB (AES-256-GCM; the nonce counts them, the last one is marked), so that none can be changed,
//! left out or moved, and a recording of hours needs no memory.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::db::{Engine, Row, StoreError, Tx, Wall, values};
use crate::seal::{KEY_BYTES, SealError, Sealer, hex, random};
use crate::{Scope, Store};

const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
/// Objects deleted in one transaction.
const SWEEP_MAX: i64 = 100;

/// A file could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("OBJECTS `{0}` is not understood: expected a folder, or s3://BUCKET/PREFIX")]
    Address(String),
    #[error("the object store failed: {0}")]
    Backend(#[from] object_store::Error),
    #[error("a file cannot be read: {0}")]
    File(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the content of an object has been changed or cut")]
    Broken,
    #[error("there is no such object")]
    Unknown,
}

/// A file to be kept.
#[derive(Clone, Copy, Debug)]
pub struct NewObject<'a> {
    /// `recording`, `sample`, `message`, `voicemail`.
    pub kind: &'a str,
    pub media_type: &'a str,
    /// Whose voice it is, E.164.
    pub number: Option<&'a str>,
    pub call: Option<&'a str>,
    /// It is deleted then; Unix milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// A file that is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectRow {
    pub id: String,
    pub tenant: String,
    pub kind: String,
    pub sha256: String,
    pub size_bytes: u64,
    pub media_type: String,
    pub number: Option<String>,
    pub call: Option<String>,
    pub created_at_ms: i64,
    pub expires_at_ms: Option<i64>,
    location: String,
    content_key: Vec<u8>,
}

impl fmt::Debug for ObjectRow {
    /// Neither the number nor the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectRow({} {} {} bytes)", self.id, self.kind, self.size_bytes)
    }
}

fn object_row(row: &Row) -> Result<ObjectRow, StoreError> {
    Ok(ObjectRow {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        kind: row.get("kind")?,
        sha256: row.get("sha256")?,
        size_bytes: row.get("size_bytes")?,
        media_type: row.get("media_type")?,
        number: row.get("number")?,
        call: row.get("call")?,
        created_at_ms: row.get("created_at_ms")?,
        expires_at_ms: row.get("expires_at_ms")?,
        location: row.get("location")?,
        content_key: row.get("content_key")?,
    })
}

/// How to encrypt one content.
struct Cipher {
    key: LessSafeKey,
    next: u64,
}

impl Cipher {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).expect("the key has the right length");
        Self { key, next: 0 }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) {
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from([u8::from(last)]), chunk).expect("memory takes it");
    }

    fn open(&mut self, chunk: &mut [u8], last: bool) -> Result<usize, ObjectError> {
        let nonce = self.nonce();
        Ok(self.key.open_in_place(nonce, Aad::from([u8::from(last)]), chunk).map_err(|_| ObjectError::Broken)?.len())
    }
}

/// Keeps files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Objects {
    backend: Arc<dyn ObjectStore>,
    store: Store,
    sealer: Arc<Sealer>,
}

impl Objects {
    /// Keeps files in a folder (made when missing) or in `s3://BUCKET/PREFIX`, whose account and endpoint are in the
    /// environment's `AWS_…` variables, given here as `options`.
    ///
    /// # Errors
    /// [`ObjectError`]
    pub fn open(
        address: &str,
        options: impl IntoIterator<Item = (String, String)>,
        store: Store,
        sealer: Arc<Sealer>,
    ) -> Result<Self, ObjectError> {
        let backend: Arc<dyn ObjectStore> = if let Some(place) = address.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
            for (name, value) in options {
                if let Ok(key) = name.to_ascii_lowercase().parse() {
                    builder = builder.with_config(key, value);
                }
            }
            Arc::new(PrefixStore::new(builder.build()?, prefix))
        } else if address.contains("://") || address.is_empty() {
            return Err(ObjectError::Address(address.to_owned()));
        } else {
            std::fs::create_dir_all(address)?;
            Arc::new(LocalFileSystem::new_with_prefix(address)?.with_fsync(true))
        };
        Ok(Self { backend, store, sealer })
    }

    /// A place for a content. Two who keep the same for the first time at once have one each: neither harms the other's.
    fn new_location(tenant: &str, sha256: &str) -> String {
        let name = format!("{sha256}-{}", hex(&random::<4>()));
        object_store::path::Path::from_iter([tenant, &sha256[..2], &name]).to_string()
    }

    fn owner(location: &str) -> String {
        format!("object/{location}")
    }

    fn path(location: &str) -> Result<object_store::path::Path, ObjectError> {
        object_store::path::Path::parse(location).map_err(|_| ObjectError::Broken)
    }

    /// Keeps a file for a tenant. The same content again takes no room.
    ///
    /// # Errors
    /// [`ObjectError`]; nothing is kept then.
    pub async fn put(&self, tenant: &str, file: &Path, it: &NewObject<'_>) -> Result<ObjectRow, ObjectError> {
        let (sha256, size) = measure(file).await?;
        let content = Content { sha256: &sha256, size };
        let mut tx = self.store.tenant(tenant).write().await?;
        // Locked: whoever deletes the last object of a content waits, or is waited for.
        let sql = match tx.engine() {
            Engine::Lite => "SELECT location, content_key FROM objects WHERE tenant = $1 AND sha256 = $2 LIMIT 1",
            Engine::Pg => "SELECT location, content_key FROM objects WHERE tenant = $1 AND sha256 = $2 LIMIT 1 FOR UPDATE",
        };
        if let Some(row) = tx.row(sql, values![tenant, &sha256]).await? {
            let (location, sealed): (String, Vec<u8>) = (row.get("location")?, row.get("content_key")?);
            let id = insert(&mut tx, tenant, it, &content, &location, &sealed).await?;
            tx.commit().await?;
            return self.find(tenant, &id).await;
        }
        drop(tx);
        let (location, key) = (Self::new_location(tenant, &sha256), random::<KEY_BYTES>());
        self.upload(file, Self::path(&location)?, &key).await?;
        let sealed = self.sealer.seal(&key, &Self::owner(&location));
        let mut tx = self.store.tenant(tenant).write().await?;
        let id = insert(&mut tx, tenant, it, &content, &location, &sealed).await?;
        tx.commit().await?;
        self.find(tenant, &id).await
    }

    async fn upload(&self, file: &Path, to: object_store::path::Path, key: &[u8; KEY_BYTES]) -> Result<(), ObjectError> {
        let mut from = File::open(file).await?;
        let mut writer = BufWriter::new(self.backend.clone(), to);
        let mut cipher = Cipher::new(key);
        let (mut chunk, mut next) = (read_chunk(&mut from).await?, Vec::new());
        loop {
            if chunk.len() == CHUNK {
                next = read_chunk(&mut from).await?;
            }
            let last = next.is_empty();
            cipher.seal(&mut chunk, last);
            if let Err(error) = writer.write_all(&chunk).await {
                let _ = writer.abort().await;
                return Err(error.into());
            }
            if last {
                break;
            }
            chunk = std::mem::take(&mut next);
        }
        Ok(writer.shutdown().await?)
    }

    /// An object of a tenant.
    ///
    /// # Errors
    /// [`ObjectError::Unknown`]
    pub async fn find(&self, tenant: &str, id: &str) -> Result<ObjectRow, ObjectError> {
        let sql = "SELECT * FROM objects WHERE tenant = $1 AND id = $2";
        let row = self.store.tenant(tenant).ask().await?.row(sql, values![tenant, id]).await?;
        Ok(object_row(&row.ok_or(ObjectError::Unknown)?)?)
    }

    /// The content of an object, piece by piece, each one checked before it is given out.
    ///
    /// # Errors
    /// [`ObjectError`]; also later, in the stream.
    pub async fn read(&self, it: &ObjectRow) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        let key = self.sealer.open(&it.content_key, &Self::owner(&it.location))?;
        let key: [u8; KEY_BYTES] = key.try_into().map_err(|_| ObjectError::Broken)?;
        let sealed = self.backend.get(&Self::path(&it.location)?).await?.into_stream().map_err(ObjectError::from);
        let state = (sealed, BytesMut::new(), Cipher::new(&key), false);
        let opened = futures::stream::try_unfold(state, |(mut sealed, mut held, mut cipher, over)| async move {
            if over {
                return Ok(None);
            }
            // A chunk is the last one when nothing follows it.
            let mut ended = false;
            while held.len() <= CHUNK + TAG && !ended {
                match sealed.try_next().await? {
                    Some(piece) => held.extend_from_slice(&piece),
                    None => ended = true,
                }
            }
            let last = held.len() <= CHUNK + TAG;
            let mut chunk = held.split_to(held.len().min(CHUNK + TAG));
            let length = cipher.open(&mut chunk, last)?;
            chunk.truncate(length);
            Ok(Some((chunk.freeze(), (sealed, held, cipher, last))))
        });
        Ok(opened.boxed())
    }

    /// Deletes an object; its content goes with the last one that has it.
    ///
    /// # Errors
    /// [`ObjectError`]
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<(), ObjectError> {
        let mut tx = self.store.tenant(tenant).write().await?;
        let sql = "DELETE FROM objects WHERE tenant = $1 AND id = $2 RETURNING location";
        let row = tx.row(sql, values![tenant, id]).await?.ok_or(ObjectError::Unknown)?;
        self.remove_unused(&mut tx, vec![row.get("location")?]).await?;
        Ok(tx.commit().await?)
    }

    /// Deletes contents that no row has any more, before the transaction ends that took the last one away: nobody can share
    /// them meanwhile, and what fails leaves the rows.
    async fn remove_unused(&self, tx: &mut Tx, mut locations: Vec<String>) -> Result<(), ObjectError> {
        locations.sort_unstable();
        locations.dedup();
        for location in locations {
            let sql = "SELECT 1 AS found FROM objects WHERE location = $1 LIMIT 1";
            if tx.row(sql, values![&location]).await?.is_some() {
                continue;
            }
            match self.backend.delete(&Self::path(&location)?).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Deletes what has expired; returns how many objects.
    ///
    /// # Errors
    /// [`ObjectError`]
    pub async fn sweep(&self) -> Result<u64, ObjectError> {
        let mut swept = 0;
        loop {
            let expired = {
                let mut ask = self.store.ask(Wall::None).await?;
                let now = ask.now_ms().await?;
                let sql = "SELECT id, tenant FROM objects WHERE expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT $2";
                ask.rows(sql, values![now, SWEEP_MAX]).await?
            };
            if expired.is_empty() {
                return Ok(swept);
            }
            for row in expired {
                let (id, tenant): (String, String) = (row.get("id")?, row.get("tenant")?);
                match self.delete(&tenant, &id).await {
                    Ok(()) => swept += 1,
                    // Another node was faster.
                    Err(ObjectError::Unknown) => (),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Erases a person: every file with their voice, and every word and number of theirs in the records of calls. That there
    /// was a call, when and how long, stays. Returns how many calls and files.
    ///
    /// # Errors
    /// [`ObjectError`]; asked again, it goes on where it stopped.
    pub async fn erase(&self, tenant: &str, number: &str) -> Result<(u64, u64), ObjectError> {
        let mut tx = self.store.tenant(tenant).write().await?;
        let sql = "SELECT id FROM calls WHERE tenant = $1 AND (from_number = $2 OR to_number = $2)";
        let calls = tx.rows(sql, values![tenant, number]).await?;
        let calls = calls.iter().map(|it| it.get("id")).collect::<Result<Vec<String>, _>>()?;
        let mut contents = Vec::new();
        let mut files = 0;
        for call in &calls {
            for sql in [
                "DELETE FROM transcript WHERE tenant = $1 AND call = $2",
                "DELETE FROM call_events WHERE tenant = $1 AND call = $2",
                "DELETE FROM tool_calls WHERE tenant = $1 AND call = $2",
                "DELETE FROM messages WHERE tenant = $1 AND call = $2",
                "DELETE FROM recordings WHERE tenant = $1 AND call = $2",
                "DELETE FROM voicemail_messages WHERE tenant = $1 AND call = $2",
                "DELETE FROM tickets WHERE tenant = $1 AND call = $2",
                "DELETE FROM webhook_deliveries WHERE tenant = $1 AND order_key = $2",
                "UPDATE calls SET from_number = NULL, to_number = NULL, caller_name = NULL, forwarded_from = NULL, summary = NULL
                    WHERE tenant = $1 AND id = $2",
            ] {
                tx.execute(sql, values![tenant, call]).await?;
            }
            let gone =
                tx.rows("DELETE FROM objects WHERE tenant = $1 AND call = $2 RETURNING location", values![tenant, call]).await?;
            files += gone.len() as u64;
            contents.extend(gone.iter().map(|it| it.get("location")).collect::<Result<Vec<String>, _>>()?);
        }
        let gone =
            tx.rows("DELETE FROM objects WHERE tenant = $1 AND number = $2 RETURNING location", values![tenant, number]).await?;
        files += gone.len() as u64;
        contents.extend(gone.iter().map(|it| it.get("location")).collect::<Result<Vec<String>, _>>()?);
        for sql in [
            "DELETE FROM voice_samples WHERE tenant = $1 AND caller_number = $2",
            "DELETE FROM sms_log WHERE tenant = $1 AND to_number = $2",
            "UPDATE voice_clone_calls SET caller_number = NULL, clone_metadata = NULL WHERE tenant = $1 AND caller_number = $2",
            "UPDATE voice_sessions SET phone = '', fingerprint = NULL WHERE tenant = $1 AND phone = $2",
            "UPDATE customers SET name = NULL, phone = id WHERE tenant = $1 AND phone = $2",
        ] {
            tx.execute(sql, values![tenant, number]).await?;
        }
        self.remove_unused(&mut tx, contents).await?;
        tx.commit().await?;
        Ok((calls.len() as u64, files))
    }

    fn ticket_key(&self) -> hmac::Key {
        self.sealer.derived("download")
    }

    /// A word that lets whoever has it read an object for a while: the last part of an address.
    pub fn ticket(&self, it: &ObjectRow, now_s: i64, life: Duration) -> String {
        let until = now_s.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX));
        let text = format!("{}\n{}\n{until}", it.tenant, it.id);
        let tag = hmac::sign(&self.ticket_key(), text.as_bytes());
        format!("{}.{}", URL_SAFE_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    /// The object that a ticket names.
    ///
    /// # Errors
    /// [`ObjectError::Unknown`] for any other word, for one whose time is over, and for an object that is gone.
    pub async fn redeem(&self, ticket: &str, now_s: i64) -> Result<ObjectRow, ObjectError> {
        let (text, tag) = ticket.split_once('.').ok_or(ObjectError::Unknown)?;
        let text = URL_SAFE_NO_PAD.decode(text).map_err(|_| ObjectError::Unknown)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| ObjectError::Unknown)?;
        hmac::verify(&self.ticket_key(), &text, &tag).map_err(|_| ObjectError::Unknown)?;
        let text = String::from_utf8(text).map_err(|_| ObjectError::Unknown)?;
        let mut lines = text.lines();
        let (Some(tenant), Some(id), Some(until)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(ObjectError::Unknown);
        };
        if until.parse::<i64>().map_or(true, |it| it < now_s) {
            return Err(ObjectError::Unknown);
        }
        self.find(tenant, id).await
    }
}

struct Content<'a> {
    sha256: &'a str,
    size: u64,
}

/// Notes an object; returns its id.
async fn insert(
    tx: &mut Tx,
    tenant: &str,
    it: &NewObject<'_>,
    content: &Content<'_>,
    location: &str,
    sealed: &[u8],
) -> Result<String, StoreError> {
    let id = uuid::Uuid::now_v7().to_string();
    let now = tx.now_ms().await?;
    let sql = "INSERT INTO objects (id, tenant, kind, sha256, size_bytes, media_type, number, call, location, content_key, created_at_ms,
            expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let values = values![
        &id,
        tenant,
        it.kind,
        content.sha256,
        content.size,
        it.media_type,
        it.number,
        it.call,
        location,
        sealed,
        now,
        it.expires_at_ms
    ];
    tx.execute(sql, values).await?;
    Ok(id)
}

/// A file's SHA-256, hexadecimal, and its length.
async fn measure(file: &Path) -> Result<(String, u64), io::Error> {
    let mut file = File::open(file).await?;
    let (mut hash, mut size) = (digest::Context::new(&digest::SHA256), 0);
    loop {
        let chunk = read_chunk(&mut file).await?;
        if chunk.is_empty() {
            return Ok((hex(hash.finish().as_ref()), size));
        }
        hash.update(&chunk);
        size += chunk.len() as u64;
    }
}

/// A whole chunk, or what is left of the file.
async fn read_chunk(file: &mut File) -> Result<Vec<u8>, io::Error> {
    let mut chunk = Vec::with_capacity(CHUNK + TAG);
    file.take(CHUNK as u64).read_to_end(&mut chunk).await?;
    Ok(chunk)
}

impl Scope<'_> {
    /// The tenant's objects, newest first.
    pub async fn objects(&self, limit: u32) -> Result<Vec<ObjectRow>, StoreError> {
        let sql = "SELECT * FROM objects WHERE tenant = $1 ORDER BY created_at_ms DESC, id DESC LIMIT $2";
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(object_row).collect()
    }
}
