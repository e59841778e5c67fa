//! Announced lengths cost no memory. A process of its own, as it measures the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use bytes::BytesMut;
use keyferry_resp::{CommandDecoder, Decoder, ReplySkipper};

/// The most address space that the process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn bombs_cost_no_memory() {
    let before = peak();
    let mut open = Vec::new();
    // Each announces everything that the limits allow, and sends nothing of it.
    for i in 0..200 {
        let mut decoder = Decoder::new();
        let mut buf = BytesMut::from(match i % 5 {
            0 => "*16777216\r\n*16777000\r\n",
            1 => "$536870912\r\n",
            2 => "*2\r\n%8000000\r\n",
            3 => "=536870912\r\ntxt:",
            _ => "$?\r\n;536870912\r\nx",
        });
        assert_eq!(decoder.decode(&mut buf), Ok(None));
        let mut commands = CommandDecoder::new();
        let mut request = BytesMut::from("*16777216\r\n$536870912\r\nx");
        assert_eq!(commands.decode(&mut request), Ok(None));
        let mut skipper = ReplySkipper::new();
        assert_eq!(skipper.skip(b"*16777216\r\n!536870912\r\nx", 1).unwrap().replies, 0);
        open.push((decoder, buf, commands, request, skipper));
    }
    // Nested headers that each announce the most: what is reserved does not add up either.
    let mut decoder = Decoder::new();
    let mut buf = BytesMut::from("*262000\r\n".repeat(100).as_str());
    buf.extend_from_slice(&b":1\r\n".repeat(250_000));
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    let grown = peak() - before;
    // The elements that are there take 48 bytes each; doubling can hold twice that for a moment, thrice with the old
    // half.
    assert!(grown < 80 << 10, "{grown} KiB");
}
