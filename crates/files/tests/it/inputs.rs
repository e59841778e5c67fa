//! Inputs of every kind.

use std::io::Cursor;

use keyferry_files::{Ended, Error, Found, Input, InputKind, InputOptions};
use keyferry_rdb::aof::append_command;
use keyferry_rdb::{Event, Value};

use crate::support::file_of;

/// What a reading shows, in words.
fn read(input: Input) -> (Vec<String>, Result<Ended, Error>) {
    let mut seen = Vec::new();
    let ended = input.read(|found, place| {
        match found {
            Found::Event(Event::Entry(entry)) => {
                seen.push(format!("key {} at {}", entry.head.key.escape_ascii(), place.offset));
            }
            Found::Command(command) => {
                let args: Vec<_> = command.args().map(String::from_utf8_lossy).collect();
                seen.push(format!("{} at {}", args.join(" "), place.offset));
            }
            Found::Timestamp(seconds) => seen.push(format!("time {seconds}")),
            _ => {}
        }
        Ok(())
    });
    (seen, ended)
}

fn input(bytes: Vec<u8>) -> Input {
    Input::from_reader("test", Cursor::new(bytes), InputOptions::default()).unwrap()
}

fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    append_command(&mut out, &args);
    out
}

fn snapshot() -> (Vec<u8>, String) {
    let file = file_of(&[(b"k", Value::String(b"hello".to_vec()))]);
    let at = file.windows(6).position(|window| window == b"\x05hello").unwrap();
    (file, format!("key k at {at}"))
}

#[test]
fn a_snapshot_alone() {
    let (file, key) = snapshot();
    let input = input(file);
    assert_eq!(input.kind(), InputKind::Snapshot);
    let (seen, ended) = read(input);
    assert_eq!(seen, [key]);
    let ended = ended.unwrap();
    assert_eq!((ended.snapshots, ended.commands, ended.cut), (1, 0, None));
}

#[test]
fn a_snapshot_with_commands_behind_it() {
    let (mut file, key) = snapshot();
    let at = file.len();
    file.extend(command(&["SELECT", "0"]));
    file.extend(b"#TS:17\r\n");
    let (seen, ended) = read(input(file));
    assert_eq!(seen, [key, format!("SELECT 0 at {at}"), "time 17".to_owned()]);
    assert_eq!(ended.unwrap().commands, 1);
}

#[test]
fn a_log_alone() {
    let mut file = b"#TS:1\r\n".to_vec();
    file.extend(command(&["SET", "a", "1"]));
    let input = input(file);
    assert_eq!(input.kind(), InputKind::Log);
    assert_eq!(read(input).0, ["time 1", "SET a 1 at 7"]);
}

#[test]
fn several_parts_by_directory_or_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let (file, key) = snapshot();
    std::fs::write(dir.path().join("a.1.base.rdb"), &file).unwrap();
    std::fs::write(dir.path().join("a.1.incr.aof"), command(&["INCR", "n"])).unwrap();
    std::fs::write(dir.path().join("a.2.incr.aof"), b"").unwrap();
    let manifest = dir.path().join("a.manifest");
    let text =
        "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n";
    std::fs::write(&manifest, text).unwrap();
    for path in [dir.path(), &manifest] {
        let input = Input::open(path, InputOptions::default()).unwrap();
        assert_eq!(input.kind(), InputKind::MultiPart);
        let progress = input.progress();
        assert_eq!(progress.total(), Some(file.len() as u64 + 21));
        let (seen, ended) = read(input);
        assert_eq!(seen, [key.clone(), "INCR n at 0".to_owned()]);
        assert_eq!(ended.unwrap().commands, 1);
        assert_eq!(progress.read(), file.len() as u64 + 21);
    }
    std::fs::remove_file(dir.path().join("a.1.incr.aof")).unwrap();
    let (seen, ended) = read(Input::open(dir.path(), InputOptions::default()).unwrap());
    assert_eq!(seen.len(), 1);
    assert!(matches!(ended, Err(Error::Open { input, .. }) if input.ends_with("a.1.incr.aof")));
    std::fs::remove_file(&manifest).unwrap();
    let error = Input::open(dir.path(), InputOptions::default()).unwrap_err().to_string();
    assert!(error.contains("the directory holds none"), "{error}");
}

#[test]
fn what_is_no_data_is_refused_at_once() {
    let open = |bytes: &'static [u8]| Input::from_reader("x", bytes, InputOptions::default());
    assert!(matches!(open(b""), Err(Error::Empty { .. })));
    let error = open(b"\x1F\x8B\x08\0").unwrap_err();
    assert!(matches!(&error, Error::UnknownKind { found, .. } if found == "\\x1f\\x8b\\x08\\x00"), "{error}");
    assert!(matches!(Input::open("/no/such/file", InputOptions::default()), Err(Error::Open { .. })));
    let (_, ended) = read(input(b"REDISX".to_vec()));
    assert!(matches!(ended, Err(Error::Data { .. })));
}

#[test]
fn a_snapshot_cut_anywhere_is_an_error() {
    let (file, _) = snapshot();
    for len in 1..file.len() {
        let (_, ended) = read(input(file[..len].to_vec()));
        let Err(Error::Data { error, .. }) = ended else { panic!("cut at {len}: {ended:?}") };
        assert_eq!(error.offset(), len as u64);
    }
}

#[test]
fn a_log_may_be_cut_if_allowed() {
    let mut file = command(&["SET", "a", "1"]);
    let good = file.len() as u64;
    file.extend(&command(&["SET", "b", "2"])[..9]);
    let (seen, ended) = read(input(file.clone()));
    assert_eq!(seen.len(), 1);
    assert!(matches!(ended, Err(Error::Data { .. })));
    let mut options = InputOptions::default();
    options.allow_cut_log = true;
    let (_, ended) = read(Input::from_reader("log", Cursor::new(file), options.clone()).unwrap());
    let cut = ended.unwrap().cut.unwrap();
    assert_eq!((cut.input.as_str(), cut.good_offset), ("log", good));
    // Damage in a snapshot is never allowed.
    let (file, _) = snapshot();
    let (_, ended) = read(Input::from_reader("x", Cursor::new(file[..20].to_vec()), options).unwrap());
    assert!(ended.is_err());
}

#[test]
fn errors_of_the_reader_and_of_whoever_sees() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
            let magic = b"REDIS0009\xFE\x00\x00\x01a\x01b";
            let n = space.len().min(magic.len() - self.0);
            if n == 0 {
                return Err(std::io::Error::other("the disk is gone"));
            }
            space[..n].copy_from_slice(&magic[self.0..self.0 + n]);
            self.0 += n;
            Ok(n)
        }
    }
    let (seen, ended) = read(Input::from_reader("disk", Broken(0), InputOptions::default()).unwrap());
    assert_eq!(seen.len(), 1);
    assert!(matches!(ended, Err(Error::Read { offset: 16, .. })), "{ended:?}");
    let (file, _) = snapshot();
    let ended = input(file).read(|_, _| Err(Error::Write(std::io::ErrorKind::BrokenPipe.into())));
    assert!(ended.unwrap_err().is_broken_pipe());
}
