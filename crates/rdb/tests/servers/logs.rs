//! Append-only files between this crate and real servers.

use std::ops::ControlFlow;

use keyferry_rdb::aof::{self, AofEvent, AofWriter, ReadOptions};
use keyferry_rdb::{EntryHead, Event, Limits, Parser};
use keyferry_testkit::{CompareOptions, Server, compare_with, data};

use crate::support::{differing, digests, filled, servers, target};

/// A log of a snapshot and of commands, made from what a server wrote, is loaded by the server.
#[test]
fn written_logs_load() {
    for binary in servers().into_iter().filter(|binary| target(binary).version() >= 10) {
        let (source, snapshot) = filled(binary);
        let mut client = source.client().unwrap();
        let server = Server::builder(binary).append_only("no").start().unwrap();
        let dir = server.dir().to_owned();
        drop(server);
        let log = dir.join("appendonlydir");
        std::fs::create_dir_all(&dir).unwrap();
        let mut writer = AofWriter::create_with_base(&log, "appendonly.aof", target(binary), |base| {
            let mut parser = Parser::new();
            parser.feed(&snapshot);
            while let Some(event) = parser.next_event()? {
                match event {
                    Event::Entry(entry) => base.raw(&entry.head, entry.value)?,
                    Event::Function { code } => base.function(code)?,
                    _ => {}
                }
            }
            Ok(())
        })
        .unwrap();
        let commands: [&[&[u8]]; 4] = [
            &[b"SET", b"from the log", b"\r\n"],
            &[b"MULTI"],
            &[b"RPUSH", b"list from the log", b"a", b"b"],
            &[b"EXEC"],
        ];
        for (second, command) in (1_700_000_000..).zip(commands) {
            writer.timestamp(second).unwrap();
            writer.command(1, command).unwrap();
            if command[0] == b"SET" {
                writer.rotate().unwrap();
            }
        }
        writer.finish().unwrap();
        client.call(&["SELECT", "1"]).unwrap();
        for command in commands {
            client.call(command).unwrap();
        }
        client.call(&["SELECT", "0"]).unwrap();
        let server = Server::builder(binary).append_only("no").dir(&dir).start().unwrap();
        let mut loaded = server.client().unwrap();
        assert_eq!(differing(&digests(&mut client), &digests(&mut loaded)), [""; 0], "{binary:?}");
        let comparison = compare_with(&mut client, &mut loaded, &CompareOptions::default()).unwrap();
        assert!(comparison.is_equal(), "{binary:?}: {comparison:#?}");
        drop(server);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Whatever a server logged, its commands and snapshot make the same data again.
#[test]
fn logs_of_servers_are_read() {
    for binary in servers() {
        let source = Server::builder(binary).append_only("always").start().unwrap();
        let mut client = source.client().unwrap();
        data::small(&mut client, 11, 2).unwrap();
        client.call(&["BGREWRITEAOF"]).unwrap();
        let done = client.wait_until(std::time::Duration::from_secs(20), |client| {
            let state = |field| client.info("persistence", field);
            let mut state = state;
            Ok(state("aof_rewrite_in_progress")?.as_deref() == Some("0")
                && state("aof_rewrite_scheduled")?.as_deref() == Some("0"))
        });
        assert!(done.unwrap(), "{binary:?}");
        client.call(&["SELECT", "1"]).unwrap();
        client.call(&["SET", "after the rewrite", "1"]).unwrap();
        client.call(&["SELECT", "0"]).unwrap();
        let log = match source.dir().join("appendonlydir") {
            dir if dir.is_dir() => dir,
            _ => source.dir().join("appendonly.aof"),
        };
        let target = Server::builder(binary).start().unwrap();
        let mut out = target.client().unwrap();
        let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut keys = 0;
        let summary = aof::read(&log, &ReadOptions::default(), |_, event| {
            match event {
                AofEvent::Command(command) => commands.push(command.args().map(<[u8]>::to_vec).collect()),
                AofEvent::Snapshot(Event::Entry(entry)) => {
                    let mut payload = bytes::BytesMut::new();
                    keyferry_rdb::dump::append_payload(&mut payload, entry.value, 6);
                    commands.push(vec![b"SELECT".to_vec(), entry.head.db.to_string().into_bytes()]);
                    let ttl = entry.head.expiry.unwrap_or(0).to_string();
                    let restore: [&[u8]; 5] =
                        [b"RESTORE", entry.head.key, ttl.as_bytes(), &payload, b"ABSTTL"];
                    commands.push(restore.map(<[u8]>::to_vec).to_vec());
                    let value = entry.value.to_value(&Limits::default());
                    assert!(
                        value.is_ok(),
                        "{:?}: {value:?}",
                        EntryHead::new(0, entry.head.key, entry.head.ty)
                    );
                    keys += 1;
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(
            keys > 100 && summary.commands >= 2,
            "{binary:?}: {keys} keys, {} commands",
            summary.commands
        );
        for (reply, command) in out.pipe(&commands).unwrap().iter().zip(&commands) {
            assert!(reply.error().is_none(), "{:?}: {:?}", command[0], reply.error());
        }
        out.call(&["SELECT", "0"]).unwrap();
        assert_eq!(differing(&digests(&mut client), &digests(&mut out)), [""; 0], "{binary:?}");
    }
}
