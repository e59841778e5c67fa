//! Estimates of memory beside `MEMORY USAGE`.

use std::collections::BTreeMap;

use keyferry_files::memory::MemoryEstimate;
use keyferry_files::{Error, Found, Input, InputOptions, Place, ValueReader, ValueSink};
use keyferry_rdb::elements::Element;
use keyferry_rdb::{EntryHead, Event, RawValue};
use keyferry_testkit::data::{Mixed, fill};
use keyferry_testkit::{Client, Server, Vendor, all};

/// Estimates of all keys, with their database, name and encoding.
#[derive(Default)]
struct Estimates {
    version: u16,
    open: Option<(u64, Vec<u8>, &'static str, MemoryEstimate)>,
    found: Vec<(u64, Vec<u8>, &'static str, u64)>,
}

impl ValueSink for Estimates {
    fn start(&mut self, head: &EntryHead<'_>, _: Option<RawValue<'_>>) -> Result<bool, Error> {
        self.open = Some((
            head.db,
            head.key.to_vec(),
            head.ty.kind().name(),
            MemoryEstimate::new(head, self.version),
        ));
        Ok(true)
    }

    fn element(&mut self, element: &Element<'_>) -> Result<(), Error> {
        if let Some((_, _, _, estimate)) = &mut self.open {
            estimate.add(element);
        }
        Ok(())
    }

    fn end(&mut self, _: u64) -> Result<(), Error> {
        let ended = self.open.take();
        self.found.extend(ended.map(|(db, key, kind, estimate)| (db, key, kind, estimate.bytes())));
        Ok(())
    }
}

#[test]
fn estimates_are_near_memory_usage() -> keyferry_testkit::Result<()> {
    for binary in all()? {
        let mut server = Server::builder(binary).start()?;
        Mixed { keys: 8000, ..Mixed::default() }.fill(&mut server.client()?)?;
        large(&mut server.client()?)?;
        server.client()?.call(&["SAVE"])?;
        // As a file makes it, not as commands have made it grow.
        server.restart()?;
        let mut client = server.client()?;
        let mut estimates = Estimates::default();
        let mut reader = ValueReader::default();
        let input = Input::open(server.dir().join("dump.rdb"), InputOptions::default()).unwrap();
        input
            .read(|found, place: Place<'_>| match found {
                Found::Event(event) => {
                    if let Event::Header(header) = &event {
                        estimates.version = header.version;
                    }
                    reader.see(&event, place, &mut estimates)
                }
                _ => Ok(()),
            })
            .unwrap();
        assert!(estimates.found.len() > 7500);
        let mut sums: BTreeMap<&str, (u64, u64, f64)> = BTreeMap::new();
        let mut db = None;
        for (number, key, kind, estimate) in &estimates.found {
            if db.replace(*number) != Some(*number) {
                client.call(&["SELECT", &number.to_string()])?;
            }
            let real = client.int(&[b"MEMORY".as_slice(), b"USAGE", key, b"SAMPLES", b"0"])? as u64;
            let sum = sums.entry(kind).or_default();
            sum.0 += estimate;
            sum.1 += real;
            sum.2 = sum.2.max((*estimate as f64 / real as f64 - 1.0).abs());
        }
        for (kind, (estimate, real, worst)) in sums {
            let off = estimate as f64 / real as f64 - 1.0;
            let what = format!("{} {kind}: {estimate} for {real}, one key off by {worst:.3}", binary.name);
            println!("{what}");
            // The table in the documentation of the module.
            let (low, high, single) = match (binary.vendor, binary.version) {
                (Vendor::Valkey, version) if version.at_least(8, 1) => {
                    (-0.05, if kind == "stream" { 2.6 } else { 0.5 }, f64::INFINITY)
                }
                (Vendor::Valkey, _) if kind == "set" => (-0.05, 0.5, f64::INFINITY),
                (Vendor::Valkey, _) => (-0.05, 0.05, f64::INFINITY),
                (_, version) if version.at_least(7, 0) => (-0.01, 0.01, 0.05),
                _ => (-0.15, 0.15, f64::INFINITY),
            };
            assert!((low..=high).contains(&off) && worst <= single, "{what}");
        }
    }
    Ok(())
}

/// Values beyond all compact encodings, and a stream with all that streams have.
fn large(client: &mut Client) -> keyferry_testkit::Result<u64> {
    fill(client, |commands| {
        for key in 0..10 {
            for i in 0..1000 + 100 * key {
                let member = format!("member:{i}");
                commands.push(["ZADD", &format!("large:zset:{key}"), &format!("{}.5", i * 7), &member])?;
                commands.push(["HSET", &format!("large:hash:{key}"), &member, &"v".repeat(i % 80)])?;
                commands.push(["SADD", &format!("large:set:{key}"), &member])?;
                commands.push(["RPUSH", &format!("large:list:{key}"), &member, &i.to_string()])?;
                let id = format!("{}-{}", 1_700_000_000_000u64 + i as u64 * 321, i % 3);
                commands.push(["XADD", &format!("large:stream:{key}"), &id, "field", &member])?;
            }
            let stream = format!("large:stream:{key}");
            commands.push(["XGROUP", "CREATE", &stream, "group", "0"])?;
            for consumer in ["one", "two"] {
                commands.push([
                    "XREADGROUP",
                    "GROUP",
                    "group",
                    consumer,
                    "COUNT",
                    "100",
                    "STREAMS",
                    &stream,
                    ">",
                ])?;
            }
        }
        Ok(())
    })
}
