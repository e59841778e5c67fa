//! What a table learns from replies to COMMAND: odd ones, and those of real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use keyferry_resp::{Frame, Null};
use keyferry_routing::{
    Access, CommandTable, KeysError, LearnError, Refusal, Replay, Route, keys_from_reply, slot,
};
use keyferry_testkit::{Server, all};
use proptest::prelude::*;

fn bulk(text: &str) -> Frame {
    Frame::from(text.to_owned())
}

fn entry(name: &str, arity: i64, flags: &[&str], triple: [i64; 3]) -> Vec<Frame> {
    let mut fields =
        vec![bulk(name), Frame::from(arity), Frame::Set(flags.iter().map(|flag| bulk(flag)).collect())];
    fields.extend(triple.map(Frame::from));
    fields
}

fn indexes(table: &CommandTable, args: &[&str]) -> Result<Vec<usize>, KeysError> {
    let mut keys = Vec::new();
    table.keys(args, &mut keys)?;
    Ok(keys.iter().map(|key| key.index).collect())
}

#[test]
fn commands_of_servers_before_7() {
    let mut table = CommandTable::new();
    let reply = Frame::Array(vec![
        Frame::Array(entry("json.mget", -3, &["readonly"], [1, -2, 1])),
        Frame::Array(entry("ts.madd", -4, &["write", "denyoom"], [1, -1, 3])),
        Frame::Array(entry("my.pair", 3, &["write"], [1, 2, 1])),
        Frame::Array(entry("my.movable", -3, &["write", "movablekeys"], [0, 0, 0])),
        Frame::Array(entry("my.keyless", -1, &["readonly"], [0, 0, 0])),
        Frame::Null(Null::Array),
        // Without specifications what is known stays.
        Frame::Array(entry("zunionstore", -4, &["write", "movablekeys"], [0, 0, 0])),
        Frame::Array(entry("object", -2, &["readonly"], [2, 2, 1])),
    ]);
    assert_eq!(table.learn_command_reply(&reply), Ok(5));
    assert_eq!(indexes(&table, &["JSON.MGET", "a", "b", "$"]), Ok(vec![1, 2]));
    assert_eq!(indexes(&table, &["ts.madd", "a", "1", "2", "b", "1", "2"]), Ok(vec![1, 4]));
    assert_eq!(indexes(&table, &["my.pair", "a", "b"]), Ok(vec![1, 2]));
    assert_eq!(indexes(&table, &["my.keyless"]), Ok(vec![]));
    assert!(matches!(indexes(&table, &["my.movable", "a", "b"]), Err(KeysError::NotDescribed { .. })));
    assert_eq!(indexes(&table, &["ZUNIONSTORE", "d", "1", "a"]), Ok(vec![1, 3]));
    assert_eq!(indexes(&table, &["object", "freq", "a"]), Ok(vec![2]));
    assert!(matches!(table.route(&["my.pair", "a", "b"]), Route::Compute(_)));
    assert!(matches!(table.route(&["MY.MOVABLE", "a", "b"]), Route::Refuse(Refusal::Keys(_))));
    assert_eq!(table.replay(&["my.pair", "a", "b"]), Replay::Once);
    assert!(table.is_write(&["my.pair", "a", "b"]) && !table.is_write(&["json.mget", "a", "$"]));
    assert!(table.is_write(&["no.such", "a"]));
}

#[test]
fn facts_that_would_lead_astray() {
    let mut table = CommandTable::new();
    let reply = Frame::Array(vec![
        Frame::Array(entry("set", -1, &["write"], [1, 1, 1])),
        Frame::Array(entry("sort", -1, &["write"], [1, 1, 1])),
        Frame::Array(entry("x.one", -1, &["write"], [1, 1, 1])),
    ]);
    table.learn_command_reply(&reply).unwrap();
    for args in [&["SET"][..], &["SORT"], &["x.one"]] {
        assert!(indexes(&table, args).is_err(), "{args:?}");
        assert!(matches!(table.route(args), Route::Refuse(_)), "{args:?}");
        assert_eq!(table.replay(args), Replay::Once);
    }
    assert_eq!(table.route(&["x.one", "a"]), Route::Slot(slot(b"a")));
}

#[test]
fn replies_that_are_none() {
    let mut table = CommandTable::new();
    let refused = table.learn_command_reply(&Frame::Error("NOPERM no".into()));
    assert!(matches!(refused, Err(LearnError::Refused(_))));
    for fields in [
        vec![],
        vec![bulk("a")],
        entry("", 1, &[], [0; 3]),
        entry("a", i64::MAX, &[], [0; 3]),
        entry("a", 1, &[], [0; 3])[..5].to_vec(),
    ] {
        let error = table.learn_command_reply(&Frame::Array(vec![
            Frame::Array(entry("ok", 1, &[], [0; 3])),
            Frame::Array(fields),
        ]));
        assert!(matches!(error, Err(LearnError::Malformed { command: 1, .. })), "{error:?}");
    }
    let mut keys = Vec::new();
    let args = ["X", "a", "b", "a"];
    let of = |names: &[&str]| Frame::Array(names.iter().map(|name| bulk(name)).collect());
    keys_from_reply(&args, &of(&["a", "a", "b"]), &mut keys).unwrap();
    assert_eq!(
        keys.iter().map(|key| (key.index, key.access)).collect::<Vec<_>>(),
        [(1, Access::RW), (3, Access::RW), (2, Access::RW)]
    );
    assert_eq!(keys_from_reply(&args, &of(&["a", "X"]), &mut keys), Err(LearnError::ForeignKey));
    assert!(keys.is_empty());
    assert!(matches!(
        keys_from_reply(&args, &Frame::Error("ERR x".into()), &mut keys),
        Err(LearnError::Refused(_))
    ));
}

/// A server has nothing that contradicts the table, and nothing in it cannot be read.
#[test]
fn every_server_can_be_learned_from() -> keyferry_testkit::Result<()> {
    for binary in all()? {
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        for protocol in ["2", "3"] {
            client.call(&["HELLO", protocol])?;
            let mut table = CommandTable::new();
            let new = table.learn_command_reply(&client.call(&["COMMAND"])?).unwrap();
            let known = CommandTable::builtin().commands().len();
            assert_eq!(table.commands().len(), known + new, "{}", binary.name);
            assert!(new < 20, "{}: {new}", binary.name);
            for (args, expected) in [
                (&["SET", "a", "b"][..], &[1][..]),
                (&["SORT", "a", "STORE", "b"], &[1, 3]),
                (&["ZUNIONSTORE", "d", "2", "a", "b"], &[1, 3, 4]),
                (&["XREAD", "COUNT", "1", "STREAMS", "a", "b", "0", "0"], &[4, 5]),
                (&["EVAL", "s", "1", "a", "b"], &[3]),
                (&["XGROUP", "CREATE", "a", "g", "0"], &[2]),
                (&["GEORADIUS", "a", "1", "1", "1", "m", "STORE", "d"], &[1, 7]),
            ] {
                assert_eq!(indexes(&table, args).as_deref(), Ok(expected), "{}: {args:?}", binary.name);
            }
        }
    }
    Ok(())
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let leaf = prop_oneof![
        (-3i64..5).prop_map(Frame::Integer),
        any::<i64>().prop_map(Frame::Integer),
        prop::sample::select(vec![
            "get",
            "set",
            "x|y",
            "config|get",
            "write",
            "flags",
            "begin_search",
            "find_keys",
            "type",
            "spec",
            "index",
            "range",
            "keynum",
            "lastkey",
            "limit",
            "keystep"
        ])
        .prop_map(bulk),
        Just(Frame::Null(Null::Bulk)),
    ];
    leaf.prop_recursive(4, 40, 10, |inner| prop::collection::vec(inner, 0..11).prop_map(Frame::Array))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_replies_do_no_harm(
        entries in prop::collection::vec((any_frame(), -4i64..4, prop::array::uniform3(-3i64..4), any_frame()), 0..4),
        args in prop::collection::vec(prop::sample::select(vec!["get", "set", "x", "1", "9", "config", "mget", "del"]), 0..6),
    ) {
        let mut table = CommandTable::new();
        let entries = entries.into_iter().map(|(name, arity, triple, specs)| {
            let mut fields = entry("", arity, &["write"], triple);
            fields[0] = name;
            fields.extend([Frame::Array(vec![]), Frame::Array(vec![]), specs, Frame::Array(vec![])]);
            Frame::Array(fields)
        });
        let _ = table.learn_command_reply(&Frame::Array(entries.collect()));
        let mut keys = Vec::new();
        if table.keys(&args, &mut keys).is_ok() {
            prop_assert!(keys.iter().all(|key| key.index < args.len()));
        }
        let _ = table.route(&args);
        let _ = table.replay(&args);
    }
}
