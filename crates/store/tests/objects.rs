//! Files: encrypted where they lie, whole when they are read, gone when they must be.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Place, apply, entry, on_both, ringing, said};
use futures::TryStreamExt as _;
use store::{Fact, NewObject, ObjectError, ObjectRow, Objects, Sealer};

const NEW: NewObject<'static> =
    NewObject { kind: "recording", media_type: "audio/wav", number: None, call: None, expires_at_ms: None };

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(["ab".repeat(32).as_str()]).unwrap())
}

async fn objects(place: &Place) -> (Objects, std::path::PathBuf) {
    let folder = place.folder.path().join("objects");
    let store = place.store().await;
    (Objects::open(folder.to_str().unwrap(), [], store, sealer()).unwrap(), folder)
}

fn file(place: &Place, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = place.folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

async fn content(objects: &Objects, it: &ObjectRow) -> Result<Vec<u8>, ObjectError> {
    let pieces: Vec<bytes::Bytes> = objects.read(it).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// Every file below a folder.
fn kept(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(kept(&path)),
            path => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn what_is_kept_is_read_whole_and_the_disk_shows_nothing_of_it() {
    on_both(async |place| {
        let (objects, folder) = objects(place).await;
        // Around the borders of chunks.
        for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 300_000] {
            let bytes: Vec<u8> = (0..length).map(|it: u32| b"canary "[it as usize % 7] ^ (it / 7 % 3) as u8).collect();
            let path = file(place, "in", &bytes);
            let object = objects.put("t", &path, &NEW).await.unwrap();
            assert_eq!((object.size_bytes, object.kind.as_str()), (u64::from(length), "recording"));
            assert!(content(&objects, &object).await.unwrap() == bytes, "{length} bytes");
        }
        for path in kept(&folder) {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(6).any(|it| it == b"canary"), "{}", path.display());
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_content_is_there_once_for_a_tenant_and_goes_with_its_last_owner() {
    on_both(async |place| {
        let (objects, folder) = objects(place).await;
        let path = file(place, "in", b"the same");
        let first = objects.put("a", &path, &NEW).await.unwrap();
        let second = objects.put("a", &path, &NEW).await.unwrap();
        let other = objects.put("b", &path, &NEW).await.unwrap();
        assert_eq!(kept(&folder).len(), 2, "tenants share nothing, not even that");
        assert!(matches!(objects.find("b", &first.id).await, Err(ObjectError::Unknown)));
        objects.delete("a", &first.id).await.unwrap();
        assert_eq!(content(&objects, &second).await.unwrap(), b"the same");
        objects.delete("a", &second.id).await.unwrap();
        assert_eq!(kept(&folder).len(), 1);
        assert!(matches!(objects.delete("a", &second.id).await, Err(ObjectError::Unknown)));
        assert_eq!(content(&objects, &other).await.unwrap(), b"the same");
    })
    .await;
}

#[tokio::test]
async fn who_keeps_and_who_deletes_the_same_at_once_do_not_harm_each_other() {
    on_both(async |place| {
        let (objects, folder) = objects(place).await;
        let path = file(place, "in", b"the same");
        for _ in 0..10 {
            let kept_first = objects.put("t", &path, &NEW).await.unwrap();
            let puts = futures::future::join_all((0..4).map(|_| objects.put("t", &path, &NEW)));
            let (put, deleted) = futures::future::join(puts, objects.delete("t", &kept_first.id)).await;
            deleted.unwrap();
            for object in put.into_iter().map(Result::unwrap) {
                assert_eq!(content(&objects, &object).await.unwrap(), b"the same");
                objects.delete("t", &object.id).await.unwrap();
            }
        }
        assert!(kept(&folder).is_empty());
    })
    .await;
}

#[tokio::test]
async fn no_byte_can_be_changed_left_out_or_moved() {
    let place = Place::sqlite();
    let (objects, folder) = objects(&place).await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|it| it as u8).collect();
    let object = objects.put("t", &file(&place, "in", &bytes), &NEW).await.unwrap();
    let path = kept(&folder).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let chunk = 65_536 + 16;
    let mut swapped = whole.clone();
    swapped[..2 * chunk].rotate_left(chunk);
    let mut changed = whole.clone();
    changed[100_000] ^= 1;
    for (what, broken) in [
        ("changed", changed),
        ("cut", whole[..150_000].to_vec()),
        ("cut at a chunk", whole[..2 * chunk].to_vec()),
        ("empty", Vec::new()),
        ("moved", swapped),
        ("longer", [whole.clone(), vec![0]].concat()),
    ] {
        std::fs::write(&path, broken).unwrap();
        assert!(content(&objects, &object).await.is_err(), "{what}");
    }
    std::fs::write(&path, whole).unwrap();
    assert!(content(&objects, &object).await.unwrap() == bytes);
}

#[tokio::test]
async fn tickets_open_one_object_for_a_while() {
    on_both(async |place| {
        let (objects, _) = objects(place).await;
        let object = objects.put("t", &file(place, "in", b"x"), &NEW).await.unwrap();
        let ticket = objects.ticket(&object, 1_000, Duration::from_secs(60));
        assert_eq!(objects.redeem(&ticket, 1_060).await.unwrap().id, object.id);
        assert!(objects.redeem(&ticket, 1_061).await.is_err(), "too late");
        for index in 0..ticket.len() {
            let mut forged = ticket.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            assert!(objects.redeem(&String::from_utf8(forged).unwrap(), 1_000).await.is_err(), "byte {index}");
        }
        for nonsense in ["", ".", "a.b", "x"] {
            assert!(objects.redeem(nonsense, 1_000).await.is_err());
        }
    })
    .await;
}

#[tokio::test]
async fn what_has_expired_is_swept_and_a_person_is_erased_with_every_word() {
    on_both(async |place| {
        let (objects, folder) = objects(place).await;
        let store = place.store().await;
        let old = NewObject { expires_at_ms: Some(1), ..NEW };
        objects.put("t", &file(place, "old", b"old"), &old).await.unwrap();
        let kept_on = objects.put("t", &file(place, "new", b"new"), &NEW).await.unwrap();
        assert_eq!((objects.sweep().await.unwrap(), objects.sweep().await.unwrap()), (1, 0));
        assert_eq!(kept(&folder).len(), 1);
        let number = "+40711111111";
        let mut ring = ringing("1");
        if let Fact::Ringing { from, .. } = &mut ring {
            *from = Some(number.into());
        }
        let message = Fact::Message { name: Some("Ana".into()), number: Some(number.into()), text: "call me".into() };
        let facts = [ring, said("my name is Ana"), message].into_iter().zip(0..).map(|(it, seq)| entry("t", "1", 0, seq, it));
        apply(&store, &facts.collect::<Vec<_>>()).await;
        apply(&store, &[entry("t", "2", 0, 0, ringing("2")), entry("t", "2", 0, 1, said("somebody else"))]).await;
        let voice = NewObject { call: Some("1"), ..NEW };
        objects.put("t", &file(place, "voice", b"voice"), &voice).await.unwrap();
        let sample = NewObject { kind: "sample", number: Some(number), ..NEW };
        objects.put("t", &file(place, "sample", b"sample"), &sample).await.unwrap();
        assert_eq!(objects.erase("other", number).await.unwrap(), (0, 0));
        assert_eq!(objects.erase("t", number).await.unwrap(), (1, 2));
        let scope = store.tenant("t");
        assert!(scope.transcript("1").await.unwrap().is_empty() && scope.messages(10).await.unwrap().is_empty());
        let call = scope.call("1").await.unwrap().unwrap();
        assert_eq!((call.from_number, call.status.as_str()), (None, "ringing"), "that there was a call stays");
        assert_eq!(scope.transcript("2").await.unwrap().len(), 1, "others are as they were");
        assert_eq!(kept(&folder).len(), 1);
        assert_eq!(content(&objects, &kept_on).await.unwrap(), b"new");
        assert_eq!(objects.erase("t", number).await.unwrap(), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_bucket_keeps_files_as_a_folder_does_and_one_that_is_away_keeps_nothing() {
    let (place, s3) = (Place::sqlite(), testbed::S3::start("calls").await);
    let store = place.store().await;
    let objects = Objects::open("s3://calls/offhook", s3.options(), store.clone(), sealer()).unwrap();
    // Large enough to go in several parts.
    let bytes: Vec<u8> = (0..12_000_000_u32).map(|it| (it >> 3) as u8).collect();
    let object = objects.put("t", &file(&place, "in", &bytes), &NEW).await.unwrap();
    assert!(content(&objects, &object).await.unwrap() == bytes);
    let small = objects.put("t", &file(&place, "small", b"canary"), &NEW).await.unwrap();
    assert_eq!(content(&objects, &small).await.unwrap(), b"canary");
    objects.delete("t", &object.id).await.unwrap();
    assert!(objects.read(&object).await.is_err());
    let wrong = s3
        .options()
        .into_iter()
        .map(|(name, value)| if name == "AWS_SECRET_ACCESS_KEY" { (name, "x".into()) } else { (name, value) });
    let stranger = Objects::open("s3://calls/offhook", wrong, store.clone(), sealer()).unwrap();
    assert!(stranger.read(&small).await.is_err(), "signatures are checked");
    s3.stop();
    let mut options = s3.options();
    options.push(("AWS_CONNECT_TIMEOUT".into(), "1 second".into()));
    drop(s3);
    let away = Objects::open("s3://calls/offhook", options, store.clone(), sealer()).unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(60), away.put("t", &file(&place, "more", b"more"), &NEW)).await;
    assert!(!matches!(refused, Ok(Ok(_))), "nobody is told that it is kept");
    assert_eq!(store.tenant("t").objects(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_address_that_is_none_is_told_with_what_was_expected() {
    let place = Place::sqlite();
    let error = Objects::open("ftp://x", [], place.store().await, sealer()).unwrap_err().to_string();
    assert!(error.contains("s3://BUCKET"), "{error}");
}
