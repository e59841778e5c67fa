//! Files that are cut or damaged: what stands before the damage is there, and the byte is told.

use std::{fs, path::Path};

use keyferry_migrate::Error;
use keyferry_testkit::{Rng, data};
use tokio::task::block_in_place;

use super::{import, imported, snapshot};
use crate::support::{any, temporary_keys};

/// The byte that an error names.
fn byte_of(error: &Error) -> u64 {
    match error {
        Error::File(keyferry_files::Error::Data { error, .. }) => error.offset(),
        other => panic!("{other}"),
    }
}

/// A snapshot that is cut anywhere: its keys up to there are at the target, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_cut() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    block_in_place(|| {
        data::tiny_keys(&mut client, 1, 2000).unwrap();
        data::big(&mut client, 7, "big", data::Shape::List, 1 << 20).unwrap();
    });
    let bytes = fs::read(block_in_place(|| snapshot(&source))).unwrap();
    let all = client.int(&["DBSIZE"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.rdb");
    let mut rng = Rng::new(11);
    let mut there = client;
    let mut at_target = target.client().unwrap();
    for _ in 0..6 {
        at_target.call(&["FLUSHALL"]).unwrap();
        let cut = rng.range(20, bytes.len() - 1);
        fs::write(&path, &bytes[..cut]).unwrap();
        let finished = import(&[&path], &target.url(), |o| o.value_limit = 10_000).await;
        let error = finished.result.unwrap_err();
        assert_eq!(byte_of(&error), cut as u64, "{error}");
        assert!(error.to_string().contains(&cut.to_string()), "{error}");
        let keys = at_target.list(&["KEYS", "*"]).unwrap();
        let keys: Vec<_> =
            keys.iter().filter(|key| !key.as_str().is_some_and(|k| k.starts_with("keyferry:"))).collect();
        assert!((keys.len() as i64) < all || cut > bytes.len() - 50, "cut at {cut}");
        assert_eq!(keys.len() as u64, finished.report.figures.keys_applied, "cut at {cut}");
        for key in keys {
            let key = key.as_bytes().unwrap();
            let (a, b) =
                (there.call(&[b"DUMP", &key[..]]).unwrap(), at_target.call(&[b"DUMP", &key[..]]).unwrap());
            assert_eq!(a, b, "cut at {cut}");
        }
        assert_eq!(block_in_place(|| temporary_keys(&target)), 0);
    }
    // The whole file goes on with it.
    fs::write(&path, &bytes).unwrap();
    imported(&[&path], &target.url(), |_| {}).await;
    block_in_place(|| crate::support::assert_equal(&source, &target, "whole"));
}

/// A log that is cut inside of a command or a transaction, or damaged in its middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_cut() {
    let target = any();
    let mut client = target.client().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.aof");
    let command = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        format!("*{}\r\n{}", words.len(), words.concat())
    };
    let incr = command(&["INCR", "n"]);
    let transaction = [command(&["MULTI"]), incr.clone(), command(&["EXEC"])].concat();
    let whole = [command(&["SELECT", "0"]), incr.repeat(100), transaction.clone()].concat();
    let before = whole.len() - transaction.len();
    for (bytes, told, applied, cut_at) in [
        (whole[..before - 5].to_owned(), before - 5, 99, before - incr.len()),
        (whole[..whole.len() - 3].to_owned(), whole.len() - 3, 100, before),
        (
            whole[..before + command(&["MULTI"]).len()].to_owned(),
            before + command(&["MULTI"]).len(),
            100,
            before,
        ),
    ] {
        for allow in [false, true] {
            client.call(&["FLUSHALL"]).unwrap();
            fs::write(&path, &bytes).unwrap();
            let finished = import(&[&path], &target.url(), |o| o.allow_cut_log = allow).await;
            match (allow, finished.result) {
                (false, Err(error)) => assert_eq!(byte_of(&error), told as u64, "{error}"),
                (true, Ok(())) => assert_eq!(finished.report.files[0].cut_at, Some(cut_at as u64)),
                other => panic!("{other:?}"),
            }
            assert_eq!(client.int(&["INCRBY", "n", "0"]).unwrap(), applied);
        }
    }
    // Damaged in the middle: told, and gone on with when it has been mended.
    client.call(&["FLUSHALL"]).unwrap();
    let mut damaged = whole.clone().into_bytes();
    let damaged_at = before - 3 * incr.len();
    assert!(damaged_at > 1 << 10, "it has to be behind what the file is known by");
    damaged[damaged_at] = b'?';
    fs::write(&path, &damaged).unwrap();
    let error = import(&[&path], &target.url(), |o| o.allow_cut_log = true).await.result.unwrap_err();
    assert_eq!(byte_of(&error), (before - 3 * incr.len()) as u64);
    assert_eq!(client.int(&["INCRBY", "n", "0"]).unwrap(), 97);
    fs::write(&path, &whole).unwrap();
    let finished = imported(&[&path], &target.url(), |_| {}).await;
    assert!(finished.report.resumed);
    assert_eq!(finished.report.files[0].already_applied, 97);
    assert_eq!(client.int(&["INCRBY", "n", "0"]).unwrap(), 101);
}

/// Another file under the same name of the migration, of which the target has a part, is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_file_is_not_gone_on_with() {
    let target = any();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.aof");
    let incr = "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
    fs::write(&path, [incr, incr, "*2\r\n$3\r\nGE"].concat()).unwrap();
    import(&[&path], &target.url(), |_| {}).await.result.unwrap_err();
    fs::write(&path, ["*2\r\n$4\r\nDECR\r\n$1\r\nn\r\n", incr].concat()).unwrap();
    let error = import(&[&path], &target.url(), |_| {}).await.result.unwrap_err();
    assert!(matches!(error, Error::OtherFile { .. }), "{error}");
    let other = dir.path().join("other.aof");
    fs::copy(&path, &other).unwrap();
    let id = |o: &mut keyferry_migrate::Options| o.id = Some("one".to_owned());
    fs::write(&path, [incr, "*2\r\n$3\r\nGE"].concat()).unwrap();
    import(&[&path], &target.url(), id).await.result.unwrap_err();
    let error = import(&[&other], &target.url(), id).await.result.unwrap_err();
    assert!(matches!(error, Error::OtherSource { .. }), "{error}");
    assert_eq!(target.client().unwrap().text(&["GET", "n"]).unwrap(), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_of_data_is_refused() {
    let (source, target) = (any(), any());
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "SET a b\n").unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let good = block_in_place(|| {
        source.client().unwrap().call(&["SET", "a", "b"]).unwrap();
        snapshot(&source)
    });
    for bad in [&text, &empty, &dir.path().join("none"), &dir.path().to_owned()] {
        let files: [&Path; 2] = [&good, bad];
        let error = import(&files, &target.url(), |_| {}).await.result.unwrap_err();
        assert!(matches!(error, Error::File(_)), "{error}");
        assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0, "{error}");
    }
}
