//! Generated values: every payload that is written of one is accepted by the server it was written for.

use keyferry_rdb::encode::Encoder;
use keyferry_rdb::{Limits, RawValue, Value, ValueType, dump};
use keyferry_testkit::Server;
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, TestRng, TestRunner};

use crate::support::{servers, target};
use crate::values;

/// How many values each server gets.
const CASES: usize = 250;

/// The same on every run, so that a failure can be looked into.
fn generated() -> Vec<Value> {
    let config = Config::default();
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let strategy = values::value();
    (0..CASES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn payloads_of_generated_values_are_accepted() {
    let values = generated();
    for binary in servers() {
        let format = target(binary);
        let server = Server::builder(binary);
        // Servers that can check all of a payload do.
        let checks = format.version() > 9;
        let server = if checks { server.config("sanitize-dump-payload", "yes") } else { server };
        let server = server.start().unwrap();
        let mut client = server.client().unwrap();
        let mut encoder = Encoder::new(format);
        let (mut accepted, mut equal) = (0, 0);
        for (number, value) in values.iter().enumerate() {
            let mut bytes = Vec::new();
            let encoded = encoder.encode(value, &mut bytes).unwrap();
            let Some(ty) = encoded.ty else { continue };
            let mut payload = bytes::BytesMut::new();
            dump::append_payload(&mut payload, RawValue::new(ty, &bytes), format.version());
            client
                .call(&[&b"RESTORE"[..], b"key", b"0", &payload, b"REPLACE"])
                .unwrap_or_else(|error| panic!("{}, value {number}, {ty}: {error}\n{value:?}", binary.name));
            accepted += 1;
            // What it gives back is the same, but for fields that expire and for what it derives of streams.
            let expires =
                matches!(value, Value::Hash(fields) if fields.iter().any(|field| field.expires_at.is_some()));
            if expires || ty.kind() == ValueType::Stream.kind() {
                continue;
            }
            let dumped = client.bytes(&["DUMP", "key"]).unwrap().unwrap();
            let back = dump::Payload::parse(&dumped).unwrap().value.to_value(&Limits::default()).unwrap();
            assert!(
                same(&back, value),
                "{}, value {number}, {ty}: {back:?} became of {value:?}",
                binary.name
            );
            equal += 1;
        }
        println!("{}: {accepted} of {} accepted, {equal} the same", binary.name, values.len());
        assert!(accepted > CASES / 2 && equal > CASES / 3, "{}: {accepted}, {equal}", binary.name);
    }
}

/// Servers since 7.0 take minus zero for zero in plain encodings.
fn same(found: &Value, want: &Value) -> bool {
    let plus_zero = |value: &Value| match value {
        Value::SortedSet(members) => {
            Value::SortedSet(members.iter().map(|(member, score)| (member.clone(), score + 0.0)).collect())
        }
        value => value.clone(),
    };
    plus_zero(found) == plus_zero(want)
}
