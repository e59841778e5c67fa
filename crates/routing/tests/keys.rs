//! Keys of commands as real servers find them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use keyferry_resp::Frame;
use keyferry_routing::{
    Access, Begin, CommandFlags, CommandSpec, CommandTable, Find, Key, KeysError, keys_from_reply,
};
use keyferry_testkit::{Client, Rng, Server, named};

/// Argument lists of each command.
const LISTS: usize = 60;

/// An argument list that could be one of this command: each word another one, but for numbers of keys and options.
///
/// Not all are valid: some have wrong numbers of keys, odd lists, options at their end.
fn arguments(spec: &CommandSpec, rng: &mut Rng) -> Vec<String> {
    let name: Vec<String> = spec.name().split('|').map(str::to_owned).collect();
    let least = spec.arity().unsigned_abs() as usize;
    let mut count = least.max(name.len());
    if spec.arity() < 0 {
        count += rng.index(9);
    }
    let mut args = name;
    while args.len() < count {
        args.push(format!("word{}", args.len()));
    }
    for keys in spec.key_specs() {
        let begin = match &keys.begin {
            Begin::Index(index) => *index,
            Begin::Keyword { word, from: from @ 0.. } => {
                let from = from.unsigned_abs() as usize;
                if spec.arity() > 0 || from >= args.len() || rng.chance(1, 4) {
                    continue;
                }
                let at = rng.range(from, args.len() - 1);
                args[at] = if rng.chance(1, 2) { word.to_lowercase() } else { word.to_string() };
                at + 1
            }
            _ => continue,
        };
        if let Find::KeyNum { index, first, step } = keys.find
            && begin + index < args.len()
        {
            let room = (args.len() - (begin + first).min(args.len())) / step.max(1);
            args[begin + index] = match rng.index(12) {
                0 => "0".to_owned(),
                1 => "-1".to_owned(),
                2 => "x".to_owned(),
                3 => "01".to_owned(),
                4 => (room + rng.range(1, 3)).to_string(),
                5 => "18446744073709551617".to_owned(),
                6 => i64::MAX.to_string(),
                _ => rng.range(1, room.max(1)).to_string(),
            };
        }
    }
    options(spec, &mut args, rng);
    args
}

/// Words that mean something where specifications do not tell all.
fn options(spec: &CommandSpec, args: &mut Vec<String>, rng: &mut Rng) {
    // Of each option how many arguments it has.
    let (from, known, more): (usize, &[(&str, usize)], usize) = match spec.name() {
        "set" => (3, &[("GET", 0), ("NX", 0), ("KEEPTTL", 0), ("EX", 1), ("get", 0)], 3),
        "sort" => (2, &[("BY", 1), ("get", 1), ("LIMIT", 2), ("STORE", 1), ("ALPHA", 0), ("DESC", 0)], 6),
        "sort_ro" => (2, &[("BY", 1), ("get", 1), ("LIMIT", 2), ("ALPHA", 0), ("STORE", 1)], 4),
        "bitfield" => (2, &[("GET", 2), ("SET", 3), ("incrby", 3), ("OVERFLOW", 1), ("get", 2)], 4),
        "xread" => (1, &[("COUNT", 1), ("block", 1)], 2),
        "xreadgroup" => (4, &[("COUNT", 1), ("block", 1), ("NOACK", 0)], 3),
        "migrate" => (6, &[("COPY", 0), ("REPLACE", 0), ("AUTH", 1), ("auth2", 2)], 3),
        _ => return,
    };
    args.truncate(from);
    for _ in 0..rng.index(more + 1) {
        let (word, values) = known[rng.index(known.len())];
        args.push(word.to_owned());
        (0..values).for_each(|_| args.push(format!("value{}", args.len())));
    }
    if spec.name().starts_with("xread") {
        if spec.name() == "xreadgroup" {
            args[1] = "GROUP".to_owned();
        }
        args.push("STREAMS".to_owned());
        (0..rng.range(1, 7)).for_each(|_| args.push(format!("stream{}", args.len())));
    }
    if spec.name() == "migrate" {
        if rng.chance(1, 2) {
            args.push("KEYS".to_owned());
            (0..rng.index(4)).for_each(|_| args.push(format!("key{}", args.len())));
        }
        if rng.chance(1, 2) {
            args[3] = String::new();
        }
    }
}

/// What both agree on: the keys and what is done with them.
fn ours(args: &[String], keys: &[Key]) -> Vec<(String, Access)> {
    keys.iter().map(|key| (args[key.index].clone(), key.access)).collect()
}

/// `None` for an error.
fn theirs(reply: &Frame) -> Option<Vec<(String, Access)>> {
    let text = |frame: &Frame| String::from_utf8_lossy(frame.as_bytes().expect("a key")).into_owned();
    reply.as_array().map(|entries| {
        entries
            .iter()
            .map(|entry| match entry.as_array() {
                Some([key, flags]) => {
                    let flags = flags.as_array().expect("a list of flags").iter();
                    let flags =
                        flags.map(|flag| flag.as_str().and_then(Access::named).expect("a known flag"));
                    (text(key), flags.fold(Access::NONE, Access::union))
                }
                _ => (text(entry), Access::NONE),
            })
            .collect()
    })
}

/// Which commands of the table the server has.
fn known_to(client: &mut Client, table: &CommandTable) -> keyferry_testkit::Result<Vec<String>> {
    let names: Vec<&str> = table.commands().map(CommandSpec::name).collect();
    let command: Vec<&str> = ["COMMAND", "INFO"].into_iter().chain(names.iter().copied()).collect();
    let replies = client.list(&command)?;
    assert_eq!(replies.len(), names.len());
    Ok(names
        .iter()
        .zip(replies)
        .filter(|(_, reply)| !reply.is_null())
        .map(|(name, _)| name.to_string())
        .collect())
}

fn check_server(name: &str) -> keyferry_testkit::Result<()> {
    // Older servers find other keys.
    let Ok(binary) = named(name) else {
        println!("there is no {name} on this machine: not compared with it");
        return Ok(());
    };
    let server = Server::builder(binary).start()?;
    let mut client = server.client()?;
    let builtin = CommandTable::builtin();
    let mut learned = CommandTable::new();
    let unknown = learned.learn_command_reply(&client.call(&["COMMAND"])?).expect("the reply is understood");
    println!("{name}: {unknown} commands that are not built in");

    let mut rng = Rng::new(4);
    let mut keys = Vec::new();
    let (mut lists, mut with_keys) = (0, 0);
    for command in known_to(&mut client, builtin)? {
        let spec = builtin.named(&command).expect("is in the table");
        if spec.flags().contains(CommandFlags::CONTAINER) {
            continue;
        }
        let lists_here: Vec<Vec<String>> = (0..LISTS).map(|_| arguments(spec, &mut rng)).collect();
        let ask = |what: &'static str| {
            let lists = &lists_here;
            move |args: usize| {
                ["COMMAND", what].into_iter().map(str::to_owned).chain(lists[args].iter().cloned())
            }
        };
        let mut questions: Vec<Vec<String>> = (0..LISTS).map(|i| ask("GETKEYS")(i).collect()).collect();
        questions.extend((0..LISTS).map(|i| ask("GETKEYSANDFLAGS")(i).collect::<Vec<_>>()));
        let replies = client.pipe(&questions)?;
        let (plain, flagged) = replies.split_at(LISTS);
        for ((args, plain), flagged) in lists_here.iter().zip(plain).zip(flagged) {
            let what = || format!("{name}: {args:?}: {plain:?} {flagged:?}");
            lists += 1;
            for table in [builtin, &learned] {
                let found = table.keys(args, &mut keys).map(|_| ours(args, &keys));
                let Some(expected) = theirs(flagged).filter(|keys| !keys.is_empty()) else {
                    assert!(theirs(plain).is_none_or(|keys| keys.is_empty()), "{}", what());
                    // `PFMERGE key` has one key, but servers do not find it, as the list of sources is empty.
                    if command == "pfmerge" && args.len() == 2 {
                        assert_eq!(found, Ok(vec![(args[1].clone(), keys[0].access)]));
                        continue;
                    }
                    // Of a list of streams without as many ids Redis 8 finds no keys, all others half of it.
                    if command.starts_with("xread") && found.is_ok() {
                        let refused = client.call_raw(args)?;
                        assert!(refused.is_error(), "{}: {refused:?}", what());
                        continue;
                    }
                    assert!(
                        found.as_ref().is_ok_and(Vec::is_empty) || found.is_err(),
                        "{}: {found:?}",
                        what()
                    );
                    continue;
                };
                with_keys += 1;
                if matches!(found, Err(KeysError::BadKeyCount { .. })) {
                    // Numbers such as 01 or 1x, that the server reads for GETKEYS, but not when it comes to run the command.
                    let refused = client.call_raw(args)?;
                    assert!(refused.is_error(), "{}: {refused:?}", what());
                    continue;
                }
                let mut found = found.unwrap_or_else(|error| panic!("{}: {error}", what()));
                // The one command of which the vendors say different things; the table has what Redis says.
                if command == "hsetex" && name.starts_with("valkey") && std::ptr::eq(table, builtin) {
                    found.iter_mut().for_each(|(_, access)| *access = Access::RW | Access::INSERT);
                }
                assert_eq!(found, expected, "{}", what());
                let names: Vec<String> = expected.iter().map(|(key, _)| key.clone()).collect();
                let plain: Vec<String> =
                    theirs(plain).expect("keys").into_iter().map(|(key, _)| key).collect();
                assert_eq!(names, plain);
                // The way for commands that no table describes.
                let mut from_reply = Vec::new();
                keys_from_reply(args, flagged, &mut from_reply).expect("the reply is understood");
                assert_eq!(ours(args, &from_reply), expected, "{}", what());
            }
        }
    }
    println!("{name}: {lists} argument lists, keys in {}", with_keys / 2);
    assert!(with_keys > lists / 2);
    Ok(())
}

#[test]
fn keys_equal_command_getkeys_of_redis_8() -> keyferry_testkit::Result<()> {
    check_server("redis-8.0")
}

#[test]
fn keys_equal_command_getkeys_of_valkey_9() -> keyferry_testkit::Result<()> {
    check_server("valkey-9")
}
