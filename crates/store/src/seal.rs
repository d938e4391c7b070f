//! What must not be read by whoever finds a disk: sealed with a key that is kept elsewhere.
//!
//! A sealed text is `[1][key id: 4][nonce: 12][AES-256-GCM ciphertext and tag]`; what it belongs to is authenticated with it, so
//! that nobody can put one in another's place. Nonces are random: with one key at most 2³² texts may be sealed (NIST SP
//! 800-38D, section 8.3), far more than there are recordings.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac, rand};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const VERSION: u8 = 1;
const ID_BYTES: usize = 4;

/// A key or a sealed text that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("an encryption key has {KEY_BYTES} bytes, as 64 hexadecimal digits: `openssl rand -hex 32` makes one")]
    Key,
    #[error("the key file {path} cannot be used: {problem}")]
    File { path: String, problem: String },
    #[error("this was sealed with the key {0}, which is not among those configured")]
    UnknownKey(String),
    #[error("what was sealed has been changed, or belongs to something else")]
    Broken,
}

struct Key {
    id: [u8; ID_BYTES],
    aead: LessSafeKey,
    bytes: [u8; KEY_BYTES],
}

impl Key {
    fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let hash = digest::digest(&digest::SHA256, &bytes);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&hash.as_ref()[..ID_BYTES]);
        let aead = UnboundKey::new(&AES_256_GCM, &bytes).map(LessSafeKey::new).expect("the key has the right length");
        Self { id, aead, bytes }
    }
}

/// Seals with the first key, opens with all of them: to change keys put the new one in front.
pub struct Sealer {
    keys: Vec<Key>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

/// Random bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let text = text.trim();
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Sealer {
    /// Keys as hexadecimal digits, the one to seal with first.
    ///
    /// # Errors
    /// [`SealError::Key`]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, SealError> {
        let keys = keys.into_iter().map(|it| unhex(it).map(Key::new).ok_or(SealError::Key)).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SealError::Key) } else { Ok(Self { keys }) }
    }

    /// The keys in a file, one a line; where there is no file, one is made with a fresh key that only we can read.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let failed = |error: io::Error| SealError::File { path: path.display().to_string(), problem: error.to_string() };
        match fs::read_to_string(path) {
            Ok(text) => Self::new(text.lines().map(str::trim).filter(|it| !it.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = hex(&random::<KEY_BYTES>());
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
                file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Self::new([key.as_str()])
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Seals `plain`, which belongs to `owner`.
    pub fn seal(&self, plain: &[u8], owner: &str) -> Vec<u8> {
        let key = &self.keys[0];
        let nonce = random::<NONCE_LEN>();
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&key.id);
        sealed.extend_from_slice(&nonce);
        let mut text = plain.to_vec();
        let owner = Aad::from(owner.as_bytes());
        key.aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), owner, &mut text).expect("memory takes it");
        sealed.extend_from_slice(&text);
        sealed
    }

    /// Opens what was sealed for `owner`.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn open(&self, sealed: &[u8], owner: &str) -> Result<Vec<u8>, SealError> {
        let (head, text) = sealed.split_at_checked(1 + ID_BYTES + NONCE_LEN).ok_or(SealError::Broken)?;
        if head[0] != VERSION {
            return Err(SealError::Broken);
        }
        let id = &head[1..=ID_BYTES];
        let key = self.keys.iter().find(|it| it.id == id).ok_or_else(|| SealError::UnknownKey(hex(id)))?;
        let nonce = Nonce::try_assume_unique_for_key(&head[1 + ID_BYTES..]).map_err(|_| SealError::Broken)?;
        let mut text = text.to_vec();
        let plain = key.aead.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut text).map_err(|_| SealError::Broken)?;
        Ok(plain.to_vec())
    }

    /// 32 bytes for a purpose, made of the newest key: another key makes others.
    pub fn secret_for(&self, purpose: &str) -> [u8; 32] {
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(&self.derived(purpose), b"secret").as_ref());
        secret
    }

    /// A key for another purpose, made of the first one: knowing it tells nothing about the key itself.
    pub(crate) fn derived(&self, purpose: &str) -> hmac::Key {
        let first = hmac::Key::new(hmac::HMAC_SHA256, &self.keys[0].bytes);
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&first, purpose.as_bytes()).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

    #[test]
    fn what_is_sealed_is_opened_by_its_key_for_its_owner_and_nothing_else() {
        let sealer = Sealer::new([OLD]).unwrap();
        let sealed = sealer.seal(b"secret", "tenant/1");
        assert_ne!(sealed, sealer.seal(b"secret", "tenant/1"), "no two are alike");
        assert!(!sealed.windows(6).any(|it| it == b"secret"));
        assert_eq!(sealer.open(&sealed, "tenant/1").unwrap(), b"secret");
        assert!(matches!(sealer.open(&sealed, "tenant/2"), Err(SealError::Broken)));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(sealer.open(&changed, "tenant/1").is_err(), "byte {index}");
            assert!(sealer.open(&sealed[..index], "tenant/1").is_err(), "{index} bytes");
        }
        let other = Sealer::new([NEW]).unwrap();
        assert!(matches!(other.open(&sealed, "tenant/1"), Err(SealError::UnknownKey(_))));
        let both = Sealer::new([NEW, OLD]).unwrap();
        assert_eq!(both.open(&sealed, "tenant/1").unwrap(), b"secret", "keys can be changed");
        assert!(sealer.open(&both.seal(b"x", "o"), "o").is_err(), "the new one seals");
    }

    #[test]
    fn a_key_file_is_made_once_and_only_ours() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let sealed = Sealer::from_file(&path).unwrap().seal(b"x", "o");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Sealer::from_file(&path).unwrap().open(&sealed, "o").unwrap(), b"x");
        fs::write(&path, "no key").unwrap();
        assert!(Sealer::from_file(&path).unwrap_err().to_string().contains("openssl rand -hex 32"));
    }
}
