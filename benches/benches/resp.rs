//! RESP decoding beside the crates `redis-protocol` and `resp-rs`, on the same bytes.
//!
//! `cargo bench -p keyferry-benches --bench resp`. Before anything is measured every contender's answer is checked: the
//! number of commands and arguments, and a hash over all argument bytes.
//!
//! * `commands/whole`: a replication stream of 8 MiB that is in memory as a whole, for each contender in the form
//!   that it takes it.
//! * `commands/reads`: the same stream arriving in reads of 64 KiB behind whatever was left over.
//! * `replies/frames`: typical replies, as values.
//! * `replies/skipped`: replies of a write pipeline that nobody wants but for the errors.

#![allow(missing_docs, reason = "the functions that criterion's macros make")]
#![allow(clippy::unwrap_used, reason = "a contender that fails ends the benchmark")]

use std::hash::Hasher;
use std::hint::black_box;

use bytes::{Buf, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use keyferry_benches::Random;
use keyferry_resp::{Command, CommandDecoder, Decoder, Frame, ReplySkipper, encode_command};
use redis_protocol::resp2::types::BytesFrame;
use resp_rs::resp2;

const READ: usize = 64 << 10;

/// What a contender saw: commands, arguments, argument bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    commands: u64,
    args: u64,
    bytes: u64,
}

/// Receives every argument. While measuring it adds lengths; while checking it also hashes the bytes.
trait Sink: Default {
    fn arg(&mut self, arg: &[u8]);
    fn command(&mut self);
}

impl Sink for Seen {
    #[inline(always)]
    fn arg(&mut self, arg: &[u8]) {
        self.args += 1;
        self.bytes += arg.len() as u64;
    }
    #[inline(always)]
    fn command(&mut self) {
        self.commands += 1;
    }
}

#[derive(Default)]
struct Hashed {
    seen: Seen,
    hasher: std::collections::hash_map::DefaultHasher,
}

impl Sink for Hashed {
    fn arg(&mut self, arg: &[u8]) {
        self.seen.arg(arg);
        self.hasher.write_usize(arg.len());
        self.hasher.write(arg);
    }
    fn command(&mut self) {
        self.seen.command();
        self.hasher.write_u8(0xff);
    }
}

/// A stream as a busy primary sends it: mostly small writes, some with many arguments, values from a few bytes to
/// 16 KiB.
fn replication_stream(size: usize) -> Bytes {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let payload = vec![b'v'; 16 << 10];
    let mut out = BytesMut::with_capacity(size + (64 << 10));
    while out.len() < size {
        let key = format!("user:{}:{}", random.below(1000), random.below(1_000_000));
        let key = key.as_bytes();
        let value_len = match random.below(100) {
            0..50 => 4 + random.below(28),
            50..85 => 32 + random.below(96),
            85..97 => 128 + random.below(900),
            97..99 => 1000 + random.below(3000),
            _ => 4000 + random.below(12_000),
        } as usize;
        let value = &payload[..value_len];
        let number = random.below(100_000).to_string();
        let number = number.as_bytes();
        match random.below(20) {
            0..7 => encode_command(&mut out, [b"SET", key, value]),
            7..9 => encode_command(&mut out, [b"SET", key, value, b"PXAT", b"1767225600000"]),
            9..12 => encode_command(&mut out, [b"HSET", key, b"name", value, b"seen", number]),
            12..14 => encode_command(&mut out, [b"INCRBY", key, number]),
            14..16 => encode_command(&mut out, [b"ZADD", key, number, value]),
            16 => encode_command(&mut out, [b"DEL", key]),
            17 => encode_command(&mut out, [b"PEXPIREAT", key, b"1767225600000"]),
            18 => {
                let items: Vec<&[u8]> = [b"RPUSH", key].into_iter().chain(vec![number; 12]).collect();
                encode_command(&mut out, items);
            }
            _ => encode_command(&mut out, [b"XADD", key, b"1767225600000-0", b"event", value]),
        }
    }
    out.freeze()
}

/// Replies of reads: values, nulls, hashes, sorted sets, scans.
fn reply_stream(size: usize) -> Bytes {
    let mut random = Random::new(0x2545_f491_4f6c_dd1d);
    let mut out = BytesMut::with_capacity(size + (64 << 10));
    let payload = "v".repeat(4096);
    while out.len() < size {
        let text = match random.below(10) {
            0..3 => format!("${}\r\n{}\r\n", 48, &payload[..48]),
            3 => "$-1\r\n".to_owned(),
            4 => format!(":{}\r\n", random.below(1_000_000)),
            5 => "+OK\r\n".to_owned(),
            6 => {
                let fields: String = (0..8).map(|i| format!("$6\r\nfield{i}\r\n$5\r\nvalue\r\n")).collect();
                format!("*16\r\n{fields}")
            }
            7 => {
                let keys: String = (0..10).map(|i| format!("$8\r\nkey:100{i}\r\n")).collect();
                format!("*2\r\n$4\r\n1024\r\n*10\r\n{keys}")
            }
            8 => format!("${}\r\n{}\r\n", 1500, &payload[..1500]),
            _ => "*3\r\n$1\r\na\r\n$-1\r\n:7\r\n".to_owned(),
        };
        out.extend_from_slice(text.as_bytes());
    }
    out.freeze()
}

/// Replies of a pipeline of SET, DEL, HSET.
fn status_stream(replies: usize) -> Bytes {
    let mut random = Random::new(0x1234_5678_9abc_def1);
    let mut out = BytesMut::new();
    for _ in 0..replies {
        out.extend_from_slice(if random.below(3) == 0 { b":1\r\n" } else { b"+OK\r\n" });
    }
    out.freeze()
}

// The contenders, on a stream that is there as a whole.

fn keyferry_commands<S: Sink>(mut buf: BytesMut) -> S {
    let mut sink = S::default();
    let mut decoder = CommandDecoder::new();
    while let Some(command) = decoder.decode(&mut buf).unwrap() {
        take_command(&mut sink, &command);
    }
    sink
}

fn keyferry_refs<S: Sink>(mut input: &[u8]) -> S {
    let mut sink = S::default();
    let mut decoder = CommandDecoder::new();
    while let Some(command) = decoder.next_ref(input).unwrap() {
        command.args().for_each(|arg| sink.arg(arg));
        sink.command();
        input = &input[command.consumed()..];
    }
    sink
}

fn keyferry_frames<S: Sink>(mut buf: BytesMut) -> S {
    let mut sink = S::default();
    let mut decoder = Decoder::new();
    while let Some(frame) = decoder.decode(&mut buf).unwrap() {
        take_frame(&mut sink, &frame);
        sink.command();
    }
    sink
}

fn redis_protocol_frames<S: Sink>(mut buf: BytesMut) -> S {
    let mut sink = S::default();
    while let Some((frame, _, _)) = redis_protocol::resp2::decode::decode_bytes_mut(&mut buf).unwrap() {
        take_redis_protocol(&mut sink, &frame);
        sink.command();
    }
    sink
}

/// `redis-protocol` without ownership: ranges into the input.
fn redis_protocol_ranges<S: Sink>(mut input: &[u8]) -> S {
    use redis_protocol::resp2::types::RangeFrame;
    fn take<S: Sink>(sink: &mut S, input: &[u8], frame: &RangeFrame) {
        match frame {
            RangeFrame::Array(items) => items.iter().for_each(|item| take(sink, input, item)),
            RangeFrame::BulkString((start, end)) => sink.arg(&input[*start..*end]),
            _ => {}
        }
    }
    let mut sink = S::default();
    while let Some((frame, consumed)) = redis_protocol::resp2::decode::decode_range(input).unwrap() {
        take(&mut sink, input, &frame);
        sink.command();
        input = &input[consumed..];
    }
    sink
}

fn resp_rs_frames<S: Sink>(mut input: Bytes) -> S {
    let mut sink = S::default();
    while !input.is_empty() {
        let (frame, rest) = resp2::parse_frame(input).unwrap();
        take_resp_rs(&mut sink, &frame);
        sink.command();
        input = rest;
    }
    sink
}

// The contenders, fed with reads. Each gets the bytes into the buffer that it reads from in the same way.

fn keyferry_commands_in_reads<S: Sink>(input: &[u8]) -> S {
    let mut sink = S::default();
    let mut decoder = CommandDecoder::new();
    let mut buf = BytesMut::with_capacity(2 * READ);
    for read in input.chunks(READ) {
        buf.extend_from_slice(read);
        while let Some(command) = decoder.decode(&mut buf).unwrap() {
            take_command(&mut sink, &command);
        }
    }
    sink
}

fn keyferry_refs_in_reads<S: Sink>(input: &[u8]) -> S {
    let mut sink = S::default();
    let mut decoder = CommandDecoder::new();
    let mut buf = BytesMut::with_capacity(2 * READ);
    for read in input.chunks(READ) {
        buf.extend_from_slice(read);
        let mut done = 0;
        while let Some(command) = decoder.next_ref(&buf[done..]).unwrap() {
            command.args().for_each(|arg| sink.arg(arg));
            sink.command();
            done += command.consumed();
        }
        buf.advance(done);
    }
    sink
}

fn keyferry_frames_in_reads<S: Sink>(input: &[u8]) -> S {
    let mut sink = S::default();
    let mut decoder = Decoder::new();
    let mut buf = BytesMut::with_capacity(2 * READ);
    for read in input.chunks(READ) {
        buf.extend_from_slice(read);
        while let Some(frame) = decoder.decode(&mut buf).unwrap() {
            take_frame(&mut sink, &frame);
            sink.command();
        }
    }
    sink
}

fn redis_protocol_in_reads<S: Sink>(input: &[u8]) -> S {
    let mut sink = S::default();
    let mut buf = BytesMut::with_capacity(2 * READ);
    for read in input.chunks(READ) {
        buf.extend_from_slice(read);
        while let Some((frame, _, _)) = redis_protocol::resp2::decode::decode_bytes_mut(&mut buf).unwrap() {
            take_redis_protocol(&mut sink, &frame);
            sink.command();
        }
    }
    sink
}

fn resp_rs_in_reads<S: Sink>(input: &Bytes) -> S {
    let mut sink = S::default();
    let mut parser = resp2::Parser::new();
    let mut at = 0;
    while at < input.len() {
        let end = input.len().min(at + READ);
        parser.feed(input.slice(at..end));
        at = end;
        while let Some(frame) = parser.next_frame().unwrap() {
            take_resp_rs(&mut sink, &frame);
            sink.command();
        }
    }
    sink
}

#[inline(always)]
fn take_command<S: Sink>(sink: &mut S, command: &Command) {
    command.args().for_each(|arg| sink.arg(arg));
    sink.command();
}

#[inline(always)]
fn take_frame<S: Sink>(sink: &mut S, frame: &Frame) {
    match frame {
        Frame::Array(items) => items.iter().for_each(|item| take_leaf(sink, item)),
        frame => take_leaf(sink, frame),
    }
    fn take_leaf<S: Sink>(sink: &mut S, frame: &Frame) {
        match frame {
            Frame::Bulk(arg) | Frame::Simple(arg) => sink.arg(arg),
            Frame::Array(items) => items.iter().for_each(|item| take_leaf(sink, item)),
            _ => {}
        }
    }
}

#[inline(always)]
fn take_redis_protocol<S: Sink>(sink: &mut S, frame: &BytesFrame) {
    match frame {
        BytesFrame::Array(items) => items.iter().for_each(|item| take_leaf(sink, item)),
        frame => take_leaf(sink, frame),
    }
    fn take_leaf<S: Sink>(sink: &mut S, frame: &BytesFrame) {
        match frame {
            BytesFrame::BulkString(arg) | BytesFrame::SimpleString(arg) => sink.arg(arg),
            BytesFrame::Array(items) => items.iter().for_each(|item| take_leaf(sink, item)),
            _ => {}
        }
    }
}

#[inline(always)]
fn take_resp_rs<S: Sink>(sink: &mut S, frame: &resp2::Frame) {
    match frame {
        resp2::Frame::Array(Some(items)) => items.iter().for_each(|item| take_leaf(sink, item)),
        frame => take_leaf(sink, frame),
    }
    fn take_leaf<S: Sink>(sink: &mut S, frame: &resp2::Frame) {
        match frame {
            resp2::Frame::BulkString(Some(arg)) | resp2::Frame::SimpleString(arg) => sink.arg(arg),
            resp2::Frame::Array(Some(items)) => items.iter().for_each(|item| take_leaf(sink, item)),
            _ => {}
        }
    }
}

fn assert_same(what: &str, answers: &[(&str, Hashed)]) -> Seen {
    let (_, first) = &answers[0];
    for (name, answer) in answers {
        assert_eq!(answer.seen, first.seen, "{what}: {name}");
        assert_eq!(answer.hasher.finish(), first.hasher.finish(), "{what}: {name}");
    }
    first.seen
}

fn commands(c: &mut Criterion) {
    let stream = replication_stream(8 << 20);
    let owned = || BytesMut::from(&stream[..]);
    let bytes = || Bytes::from(stream.to_vec());
    let seen = assert_same(
        "commands",
        &[
            ("keyferry Command", keyferry_commands(owned())),
            ("keyferry CommandRef", keyferry_refs(&stream)),
            ("keyferry Frame", keyferry_frames(owned())),
            ("redis-protocol", redis_protocol_frames(owned())),
            ("redis-protocol ranges", redis_protocol_ranges(&stream)),
            ("resp-rs", resp_rs_frames(bytes())),
            ("keyferry Command in reads", keyferry_commands_in_reads(&stream)),
            ("keyferry CommandRef in reads", keyferry_refs_in_reads(&stream)),
            ("keyferry Frame in reads", keyferry_frames_in_reads(&stream)),
            ("redis-protocol in reads", redis_protocol_in_reads(&stream)),
            ("resp-rs in reads", resp_rs_in_reads(&stream)),
        ],
    );

    let mut group = c.benchmark_group("commands/whole");
    group.throughput(Throughput::Elements(seen.commands));
    group.bench_function("keyferry CommandRef", |b| {
        b.iter_batched(bytes, |input| black_box(keyferry_refs::<Seen>(&input)), BatchSize::LargeInput)
    });
    group.bench_function("keyferry Command", |b| {
        b.iter_batched(owned, |input| black_box(keyferry_commands::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("keyferry Frame", |b| {
        b.iter_batched(owned, |input| black_box(keyferry_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("resp-rs Frame", |b| {
        b.iter_batched(bytes, |input| black_box(resp_rs_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("redis-protocol BytesFrame", |b| {
        b.iter_batched(owned, |input| black_box(redis_protocol_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("redis-protocol RangeFrame", |b| {
        b.iter_batched(bytes, |input| black_box(redis_protocol_ranges::<Seen>(&input)), BatchSize::LargeInput)
    });
    group.finish();

    let mut group = c.benchmark_group("commands/reads");
    group.throughput(Throughput::Elements(seen.commands));
    group.bench_function("keyferry CommandRef", |b| {
        b.iter(|| black_box(keyferry_refs_in_reads::<Seen>(black_box(&stream))))
    });
    group.bench_function("keyferry Command", |b| {
        b.iter(|| black_box(keyferry_commands_in_reads::<Seen>(black_box(&stream))))
    });
    group.bench_function("keyferry Frame", |b| {
        b.iter(|| black_box(keyferry_frames_in_reads::<Seen>(black_box(&stream))))
    });
    group.bench_function("resp-rs Frame", |b| {
        b.iter(|| black_box(resp_rs_in_reads::<Seen>(black_box(&stream))))
    });
    group.bench_function("redis-protocol BytesFrame", |b| {
        b.iter(|| black_box(redis_protocol_in_reads::<Seen>(black_box(&stream))))
    });
    group.finish();
}

fn replies(c: &mut Criterion) {
    let stream = reply_stream(4 << 20);
    let owned = || BytesMut::from(&stream[..]);
    let bytes = || Bytes::from(stream.to_vec());
    let seen = assert_same(
        "replies",
        &[
            ("keyferry", keyferry_frames(owned())),
            ("redis-protocol", redis_protocol_frames(owned())),
            ("resp-rs", resp_rs_frames(bytes())),
        ],
    );
    let mut group = c.benchmark_group("replies/frames");
    group.throughput(Throughput::Elements(seen.commands));
    group.bench_function("keyferry Frame", |b| {
        b.iter_batched(owned, |input| black_box(keyferry_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("resp-rs Frame", |b| {
        b.iter_batched(bytes, |input| black_box(resp_rs_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("redis-protocol BytesFrame", |b| {
        b.iter_batched(owned, |input| black_box(redis_protocol_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.finish();

    const REPLIES: usize = 1_000_000;
    let statuses = status_stream(REPLIES);
    let owned = || BytesMut::from(&statuses[..]);
    let skipped = |input: &[u8]| {
        let mut skipper = ReplySkipper::new();
        let mut count = 0;
        for read in input.chunks(READ) {
            let skipped = skipper.skip(read, u64::MAX).unwrap();
            assert_eq!((skipped.consumed, skipped.error), (read.len(), None));
            count += skipped.replies;
        }
        count
    };
    assert_eq!(skipped(&statuses), REPLIES as u64);
    assert_eq!(keyferry_frames::<Seen>(owned()).commands, REPLIES as u64);
    assert_eq!(redis_protocol_frames::<Seen>(owned()).commands, REPLIES as u64);
    let mut group = c.benchmark_group("replies/skipped");
    group.throughput(Throughput::Elements(REPLIES as u64));
    group.bench_function("keyferry ReplySkipper", |b| b.iter(|| black_box(skipped(black_box(&statuses)))));
    group.bench_function("keyferry Frame", |b| {
        b.iter_batched(owned, |input| black_box(keyferry_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("resp-rs Frame", |b| {
        let bytes = || Bytes::from(statuses.to_vec());
        b.iter_batched(bytes, |input| black_box(resp_rs_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.bench_function("redis-protocol BytesFrame", |b| {
        b.iter_batched(owned, |input| black_box(redis_protocol_frames::<Seen>(input)), BatchSize::LargeInput)
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(3));
    targets = commands, replies
}
criterion_main!(benches);
