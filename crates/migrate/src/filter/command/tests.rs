//! What becomes of commands.

use keyferry_rdb::EntryHead;

use super::super::{Entry, Operands, Rule, Settings};
use super::*;

fn filter(change: impl FnOnce(&mut Settings)) -> Filter {
    let mut settings = Settings::default();
    change(&mut settings);
    Filter::new(settings).unwrap()
}

fn without(names: &[&str]) -> Filter {
    filter(|settings| {
        let mut rule = Rule::exclude();
        rule.keys.keys = names.iter().map(|name| name.parse().unwrap()).collect();
        settings.rules.push(rule);
    })
}

/// What becomes of a command, in a line.
fn verdict(filter: &Filter, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let moment = Moment { db: 0, clock: 0 };
    let line = |command: &Command| {
        command.args().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
    };
    match filter.command(CommandTable::builtin(), &words, moment, &mut Counts::default()) {
        Verdict::Replace(commands) => commands.iter().map(line).collect::<Vec<_>>().join(" | "),
        Verdict::Refuse(refusal) => {
            format!("{refusal:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn commands_of_several_keys_are_narrowed_or_refused() {
    let filter = without(&["x*"]);
    for (command, expected) in [
        ("DEL a x b", "DEL a b"),
        ("MSET a 1 x 2 b 3", "MSET a 1 b 3"),
        ("MSETEX 3 a 1 x 2 b 3 PXAT 99", "MSETEX 2 a 1 b 3 PXAT 99"),
        ("MSETEX 1 x 2 PXAT 99", "Drop"),
        ("UNLINK x x1", "Drop"),
        ("PFCOUNT a x", "Drop"),
        ("PFMERGE a b", "Pass"),
        ("PFMERGE a x", "Operand"),
        ("PFMERGE x a", "Drop"),
        ("BITOP AND a b x", "Operand"),
        ("BITOP AND x a b", "Drop"),
        ("ZUNIONSTORE a 2 b x WEIGHTS 1 2", "Operand"),
        ("ZUNIONSTORE a 2 b c WEIGHTS 1 2", "Pass"),
        ("GEORADIUS a 1 1 1 km STORE x", "Drop"),
        ("GEORADIUS x 1 1 1 km STORE a", "Operand"),
        ("SORT a STORE x", "Drop"),
        ("SORT x STORE a", "Operand"),
        ("SORT a BY w_* GET # STORE b", "SortPattern"),
        ("SORT a BY nosort GET # STORE b", "Pass"),
        ("BLMOVE a x LEFT RIGHT 0", "LPOP a"),
        ("BRPOPLPUSH a x 0", "RPOP a"),
        ("RENAME a x", "DEL a"),
        ("MOVE a 1", "Pass"),
        ("EVAL s 2 a x", "Undivided"),
        ("EVAL s 1 x", "Drop"),
        ("EVAL s 1 a", "Pass"),
        ("EVAL s 0", "Undeclared"),
        ("PUBLISH x y", "Pass"),
        ("SCRIPT LOAD x", "Pass"),
        ("XREADGROUP GROUP g c STREAMS a x 1 1", "Undivided"),
        ("LMPOP 2 a x LEFT", "Undivided"),
        ("FLUSHDB", "Empty { db: Some(0) }"),
        ("FLUSHALL ASYNC", "Empty { db: None }"),
        ("SWAPDB 0 1", "Pass"),
        ("NOBODY.KNOWS a", "Keys"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
}

#[test]
fn what_comes_from_outside_may_be_reported_instead() {
    let mut rule = Rule::exclude();
    rule.keys.keys.push("x*".parse().unwrap());
    let filter = filter(|settings| {
        settings.rules.push(rule);
        settings.operands = Operands::Report;
    });
    for (command, expected) in [
        ("SUNIONSTORE a x b", "DEL a"),
        ("RENAME x a", "DEL a"),
        ("COPY x a", "DEL a"),
        ("LMOVE x a LEFT LEFT", "Drop"),
        ("PFMERGE a x", "Drop"),
        ("SMOVE x a m", "SADD a m"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
    let mut counts = Counts::default();
    let moment = Moment { db: 0, clock: 0 };
    filter.command(CommandTable::builtin(), &["SUNIONSTORE", "a", "x"], moment, &mut counts);
    let lines = filter.lines(&counts);
    assert_eq!(
        (&*lines[0].rule, lines[0].what, lines[0].count, &lines[0].samples[..]),
        ("exclude keys=glob:x*", "keys that lack what came from keys left out", 1, &["a".to_owned()][..])
    );
}

#[test]
fn types_are_told_by_commands() {
    let only = |kinds: &[Kind]| {
        let mut rule = Rule::include();
        rule.keys.kinds = kinds.to_vec();
        filter(|settings| {
            settings.rules.push(rule);
            settings.otherwise = Effect::Exclude;
        })
    };
    let lists = only(&[Kind::List]);
    for (command, expected) in [
        ("RPUSH a 1", "Pass"),
        ("SADD a 1", "Drop"),
        ("SET a 1", "DEL a"),
        ("SET a 1 GET", "DEL a"),
        ("APPEND a 1", "Drop"),
        ("MSET a 1 b 2", "DEL a | DEL b"),
        ("DEL a b", "Pass"),
        ("PEXPIREAT a 1", "Pass"),
        ("RENAME a b", "DEL b | COPY a b | DEL a"),
        ("RENAME a a", "Pass"),
        ("COPY a b", "Pass"),
        ("COPY a b REPLACE", "DEL b | COPY a b"),
        ("COPY a b REPLACE DB 3", "Type"),
        ("MOVE a 1", "Pass"),
        ("SORT a STORE b", "Operand"),
        ("SUNIONSTORE a b c", "DEL a"),
        ("EVAL s 1 a", "Type"),
        ("XADD a * f v", "Drop"),
    ] {
        assert_eq!(verdict(&lists, command), expected, "{command}");
    }
    assert_eq!(verdict(&only(&[Kind::SortedSet]), "ZUNIONSTORE a 1 b"), "Operand");
    assert_eq!(verdict(&only(&[Kind::SortedSet, Kind::Set]), "ZUNIONSTORE a 1 b"), "Pass");
    // A list of one element, and a string, as DUMP of version 10 gives them.
    let restore = |ty: u8| {
        let payload = [&[ty, 1, 1, b'x'][..], &10u16.to_le_bytes(), &[0; 8]].concat();
        let args: [&[u8]; 5] = [b"RESTORE", b"a", b"0", &payload, b"REPLACE"];
        lists.command(CommandTable::builtin(), &args, Moment { db: 0, clock: 0 }, &mut Counts::default())
    };
    assert_eq!(restore(1), Verdict::Pass);
    assert_eq!(restore(0), Verdict::Replace(vec![Command::new(["DEL", "a"])]));
}

#[test]
fn rules_about_commands() {
    let filter = filter(|settings| {
        for (commands, names) in
            [("@pubsub,flushall,expire,nobody.knows", &[][..]), ("@write", &["x*"]), ("rename", &["r*"])]
        {
            let mut rule = Rule::exclude();
            rule.commands = Some(commands.parse().unwrap());
            rule.keys.keys = names.iter().map(|name: &&str| name.parse().unwrap()).collect();
            settings.rules.push(rule);
        }
    });
    for (command, expected) in [
        ("PUBLISH a b", "Drop"),
        ("FLUSHALL", "Drop"),
        ("FLUSHDB", "Pass"),
        ("EXPIRE a 1", "Drop"),
        ("NOBODY.KNOWS a", "Drop"),
        ("SOMEBODY.ELSE a", "Pass"),
        ("DEL a x", "DEL a"),
        ("SET x 1", "Drop"),
        ("SUNIONSTORE a x", "Drop"),
        ("RENAME r a", "Drop"),
        ("RENAME a b", "Pass"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
}

#[test]
fn databases_are_told_apart() {
    let filter = filter(|settings| {
        let mut rule = Rule::exclude();
        rule.keys.databases = vec![1, 2];
        settings.rules.push(rule);
    });
    for (command, expected) in [
        ("SET a 1", "Pass"),
        ("FLUSHDB", "Pass"),
        ("FLUSHALL", "Empty { db: None }"),
        ("MOVE a 1", "DEL a"),
        ("MOVE a 3", "Pass"),
        ("COPY a b DB 1", "Drop"),
        ("COPY a b DB 3", "Pass"),
        ("SWAPDB 0 3", "Pass"),
        ("SWAPDB 1 2", "Drop"),
        ("SWAPDB 0 1", "Exchange"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
    assert!(filter.owns_all(0) && filter.leaves_out_all(1) && filter.owns(0, b"x") && !filter.owns(1, b"x"));
}

#[test]
fn renamed_keys_are_renamed_wherever_they_stand() {
    let renaming = |renames: &[&str]| {
        Filter::new(Settings {
            renames: renames.iter().map(|rename| rename.parse().unwrap()).collect(),
            ..Settings::default()
        })
    };
    let filter = renaming(&["add-prefix:p:"]).unwrap();
    for (command, expected) in [
        ("SET a a", "SET p:a a"),
        ("SUNIONSTORE a b {c}", "SUNIONSTORE p:a p:b p:{c}"),
        ("ZINTERSTORE a 2 b c AGGREGATE MIN", "ZINTERSTORE p:a 2 p:b p:c AGGREGATE MIN"),
        ("SORT a STORE b", "SORT p:a STORE p:b"),
        ("FLUSHDB", "Empty { db: Some(0) }"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
    assert!(filter.owns(0, b"p:x") && !filter.owns(0, b"x"));
    assert_eq!(verdict(&renaming(&["add-prefix:{p}"]).unwrap(), "SET a 1"), "Tag");
    assert!(renaming(&["strip-prefix:p:"]).is_err());
    // Each key is looked at, too.
    let mut settings = Settings::default();
    settings.renames.push("replace-prefix:odd=even".parse().unwrap());
    let mut likely = Rule::exclude();
    likely.keys.keys.push("regex:^(even|odd)(1|a|user:1)$".parse().unwrap());
    settings.rules.push(likely);
    let sly = Filter::new(settings).unwrap();
    assert_eq!(verdict(&sly, "SET odd7 1"), "Collision");
    assert_eq!(verdict(&sly, "SET even7 1"), "Collision");
    assert_eq!(verdict(&sly, "SET other 1"), "Pass");
}

#[test]
fn expiries_change_where_they_are_set() {
    let filter = filter(|settings| {
        settings.ttls.push("prefix:x=drop".parse().unwrap());
        settings.ttls.push("add:1s".parse().unwrap());
        settings.renames.push("add-prefix:p:".parse().unwrap());
    });
    for (command, expected) in [
        ("SETEX x 5 v", "SET p:x v"),
        ("SETEX a 5 v", "SETEX p:a 6 v"),
        ("PEXPIREAT x 5", "Drop"),
        ("PERSIST x", "PERSIST p:x"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
    let head = |key| EntryHead::new(0, key, ValueType::String).with_expiry(Some(7000));
    let mut counts = Counts::default();
    for (key, expiry) in [(&b"x"[..], None), (b"a", Some(8000))] {
        let Ok(Entry::Take(taken)) = filter.entry(&head(key), 1, 5000, &mut counts) else { panic!() };
        assert_eq!(taken.expiry, expiry);
    }
    let lines = filter.lines(&counts);
    let changed = lines.iter().filter(|line| line.what == "expiries changed");
    assert_eq!(
        changed.map(|line| &*line.rule).collect::<Vec<_>>(),
        ["expiry prefix:x=drop", "expiry add:1000ms"]
    );
}

#[test]
fn a_filter_has_a_name_that_stays() {
    let filter = without(&["x*", "regex:^a"]);
    assert_eq!(
        filter.describe(),
        "exclude keys=glob:x*,regex:^a\notherwise include\noperands Refuse collisions Refuse tags Refuse\n"
    );
    assert_eq!(filter.fingerprint().len(), 32);
    assert_ne!(filter.fingerprint(), without(&["x*"]).fingerprint());
    assert_eq!(filter.fingerprint(), without(&["x*", "regex:^a"]).fingerprint());
    assert!(Filter::new(Settings::default()).unwrap().is_everything());
}
