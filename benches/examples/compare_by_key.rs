//! A comparison of two servers that works as redis-full-check's full mode does, as a yardstick for others: keys of the source by
//! `SCAN`, and for each batch of 256 the types, then the lengths on both sides, then the values of the source, then those of
//! the target, brought into maps; five workers. Prints the number of keys that differ.
//!
//! What is wrong there is not done again: expiries are not compared, but a list that is a prefix of the other differs.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use keyferry_client::{ConnectOptions, Connection, Frame, Pipeline};
use tokio::sync::{Mutex, mpsc};

const BATCH: usize = 256;
const WORKERS: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [source, target] = &args[..] else {
        eprintln!("usage: compare_by_key SOURCE-URL TARGET-URL");
        return ExitCode::from(2);
    };
    match compare(source, target).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(count) => {
            println!("{count} keys differ");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

async fn compare(source: &str, target: &str) -> Outcome<u64> {
    let (source, target) = (ConnectOptions::from_url(source)?, ConnectOptions::from_url(target)?);
    let info = Connection::connect(&source).await?.info("keyspace").await?;
    let databases: Vec<u32> = info.keyspace().map(|keyspace| keyspace.db).collect();
    let mut differ = 0;
    // One database after the other.
    for db in databases {
        let (source, target) = (source.clone().with_db(db), target.clone().with_db(db));
        let (sender, receiver) = mpsc::channel::<Vec<Bytes>>(1024);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            let (mut a, mut b) = (Connection::connect(&source).await?, Connection::connect(&target).await?);
            let receiver = Arc::clone(&receiver);
            workers.push(tokio::spawn(async move {
                let mut differ = 0;
                loop {
                    let keys = receiver.lock().await.recv().await;
                    let Some(keys) = keys else { return Ok::<u64, Box<dyn Error + Send + Sync>>(differ) };
                    differ += batch(&mut a, &mut b, &keys).await?;
                }
            }));
        }
        let mut scanner = Connection::connect(&source).await?;
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let reply = scanner.call([&b"SCAN"[..], &cursor, b"COUNT", b"256"]).await?;
            let mut reply = reply.into_array().unwrap_or_default();
            let keys = reply.pop().and_then(Frame::into_array).unwrap_or_default();
            cursor = reply.pop().and_then(Frame::into_bytes).unwrap_or_default();
            let keys: Vec<Bytes> = keys.into_iter().filter_map(Frame::into_bytes).collect();
            for keys in keys.chunks(BATCH) {
                sender.send(keys.to_vec()).await?;
            }
            if &cursor[..] == b"0" {
                break;
            }
        }
        drop(sender);
        for worker in workers {
            differ += worker.await??;
        }
    }
    Ok(differ)
}

async fn batch(a: &mut Connection, b: &mut Connection, keys: &[Bytes]) -> Outcome<u64> {
    let mut pipeline = Pipeline::new();
    keys.iter().for_each(|key| _ = pipeline.push([&b"TYPE"[..], key]));
    let types: Vec<String> = a
        .pipeline(&pipeline)
        .await?
        .iter()
        .map(|frame| frame.as_str().unwrap_or_default().to_owned())
        .collect();
    pipeline.clear();
    for (key, ty) in keys.iter().zip(&types) {
        let word = match &ty[..] {
            "string" => "STRLEN",
            "hash" => "HLEN",
            "list" => "LLEN",
            "set" => "SCARD",
            "zset" => "ZCARD",
            _ => "XLEN",
        };
        pipeline.push([word.as_bytes(), key]);
    }
    let (lengths_a, lengths_b) = tokio::try_join!(a.pipeline(&pipeline), b.pipeline(&pipeline))?;
    pipeline.clear();
    for (key, ty) in keys.iter().zip(&types) {
        match &ty[..] {
            "string" => pipeline.push([&b"GET"[..], key]),
            "hash" => pipeline.push([&b"HGETALL"[..], key]),
            "list" => pipeline.push([&b"LRANGE"[..], key, b"0", b"-1"]),
            "set" => pipeline.push([&b"SMEMBERS"[..], key]),
            "zset" => pipeline.push([&b"ZRANGE"[..], key, b"0", b"-1", b"WITHSCORES"]),
            _ => pipeline.push([&b"XRANGE"[..], key, b"-", b"+"]),
        };
    }
    let values_a = a.pipeline(&pipeline).await?;
    let values_b = b.pipeline(&pipeline).await?;
    let mut differ = 0;
    for (number, ty) in types.iter().enumerate() {
        let equal = lengths_a[number] == lengths_b[number]
            && match &ty[..] {
                "hash" | "zset" => map(&values_a[number]) == map(&values_b[number]),
                "set" => set(&values_a[number]) == set(&values_b[number]),
                _ => values_a[number] == values_b[number],
            };
        differ += u64::from(!equal);
    }
    Ok(differ)
}

fn map(frame: &Frame) -> HashMap<&[u8], &[u8]> {
    let items = frame.as_array().unwrap_or_default();
    let pairs = items.chunks_exact(2);
    pairs.filter_map(|pair| Some((&pair[0].as_bytes()?[..], &pair[1].as_bytes()?[..]))).collect()
}

fn set(frame: &Frame) -> HashSet<&[u8]> {
    frame.as_array().unwrap_or_default().iter().filter_map(|item| Some(&item.as_bytes()?[..])).collect()
}
