//! What each form of a command comes to where it is not known.

use keyferry_resp::{Command, CommandRef};

use super::{Translated, gaps::Gaps};
use crate::sharded::as_sets;

/// Moves an element between lists as `LMOVE` does.
const MOVE: &str = "local v = redis.call(ARGV[1], KEYS[1]) if v then redis.call(ARGV[2], KEYS[2], v) end";

/// Copies a key as `COPY … REPLACE` does.
const COPY: &str = "local v = redis.call('DUMP', KEYS[1]) if v then local t = redis.call('PTTL', KEYS[1]) \
                    if t < 0 then t = 0 end redis.call('RESTORE', KEYS[2], t, v, 'REPLACE') end";

/// What a command comes to at a target with these gaps.
pub(super) fn translate(gaps: Gaps, command: &CommandRef<'_>) -> Translated {
    let name = command.name().to_ascii_lowercase();
    let args: Vec<&[u8]> = command.args().collect();
    match &name[..] {
        b"set" if gaps.since_6_2 => set(&args),
        b"msetex" if gaps.msetex => msetex(gaps, command),
        b"lmove" if gaps.since_6_2 => move_element(&args),
        b"copy" if gaps.since_6_2 => copy(&args),
        b"lpop" | b"rpop" if gaps.since_6_2 && args.len() > 2 => pop(&name, &args),
        b"expire" | b"pexpire" | b"expireat" | b"pexpireat" if gaps.since_7_0 && args.len() > 3 => {
            // What a source passes on it has done: the condition held.
            one(args.iter().take(3).copied())
        }
        b"xsetid" if gaps.since_7_0 && args.len() > 3 => one(args.iter().take(3).copied()),
        b"xgroup" => group(gaps, &args),
        b"function" if gaps.since_7_0 => Translated::Loses("function libraries".into(), Vec::new()),
        b"spublish" if gaps.since_7_0 => Translated::Loses("messages of sharded channels".into(), Vec::new()),
        b"hexpire" | b"hpexpire" | b"hexpireat" | b"hpexpireat" | b"hpersist" if gaps.field_expiry => {
            Translated::Loses(FIELDS.into(), Vec::new())
        }
        b"hsetex" if gaps.field_expiry => set_fields(&args),
        b"vadd" | b"vrem" | b"vsetattr" if gaps.vector_sets => {
            Translated::Loses("vector sets".into(), Vec::new())
        }
        b"xcfgset" | b"xidmprecord" if gaps.idempotent_producers => {
            Translated::Loses("idempotent producers of streams".into(), Vec::new())
        }
        _ => Translated::AsItIs,
    }
}

const FIELDS: &str = "deadlines of hash fields";

fn one<'a>(args: impl IntoIterator<Item = &'a [u8]>) -> Translated {
    Translated::Commands(vec![Command::new(args.into_iter().collect::<Vec<_>>())])
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// `SET key value [NX|XX] [GET] [EXAT s|PXAT ms|…]`: the deadline by a command of its own.
fn set(args: &[&[u8]]) -> Translated {
    let (mut kept, mut expiry, mut changed) = (Vec::new(), None, false);
    let mut rest = args.iter();
    while let Some(&arg) = rest.next() {
        // The first three are the name, the key and the value.
        let option = kept.len() >= 3;
        if option && is(arg, "GET") {
            changed = true;
        } else if option && (is(arg, "PXAT") || is(arg, "EXAT")) {
            let Some(at) = rest.next() else { return Translated::AsItIs };
            expiry = Some((if is(arg, "PXAT") { "PEXPIREAT" } else { "EXPIREAT" }, *at));
        } else {
            kept.push(arg);
        }
    }
    if !changed && expiry.is_none() {
        return Translated::AsItIs;
    }
    let key = args.get(1).copied().unwrap_or_default();
    let mut commands = vec![Command::new(kept)];
    commands.extend(expiry.map(|(name, at)| Command::new([name.as_bytes(), key, at])));
    Translated::Commands(commands)
}

fn msetex(gaps: Gaps, command: &CommandRef<'_>) -> Translated {
    let Some(sets) = as_sets(&command.to_owned()) else { return Translated::AsItIs };
    let known = |set: Command| match translate(gaps, &set.as_ref()) {
        Translated::Commands(commands) => commands,
        _ => vec![set],
    };
    Translated::Commands(sets.into_iter().flat_map(known).collect())
}

/// `LMOVE source destination LEFT|RIGHT LEFT|RIGHT`
fn move_element(args: &[&[u8]]) -> Translated {
    let &[_, source, destination, from, to] = args else { return Translated::AsItIs };
    if is(from, "RIGHT") && is(to, "LEFT") {
        return one([b"RPOPLPUSH", source, destination]);
    }
    let pop: &[u8] = if is(from, "LEFT") { b"LPOP" } else { b"RPOP" };
    let push: &[u8] = if is(to, "LEFT") { b"LPUSH" } else { b"RPUSH" };
    one([b"EVAL", MOVE.as_bytes(), b"2", source, destination, pop, push])
}

/// `COPY source destination [REPLACE]`; what names a database the target may know or not.
fn copy(args: &[&[u8]]) -> Translated {
    match args {
        &[_, source, destination, ref options @ ..] if options.iter().all(|arg| is(arg, "REPLACE")) => {
            one([b"EVAL", COPY.as_bytes(), b"2", source, destination])
        }
        _ => Translated::AsItIs,
    }
}

/// `LPOP key count`: what is left is a range.
fn pop(name: &[u8], args: &[&[u8]]) -> Translated {
    let (Some(key), Some(count)) = (args.get(1), args.get(2).and_then(|count| number(count))) else {
        return Translated::AsItIs;
    };
    let (first, last) = match name {
        b"lpop" => (count, -1),
        _ => (0, -count - 1),
    };
    let (first, last) = (first.to_string(), last.to_string());
    one([&b"LTRIM"[..], key, first.as_bytes(), last.as_bytes()])
}

/// A count that a list may have.
fn number(arg: &[u8]) -> Option<i64> {
    let number: u32 = std::str::from_utf8(arg).ok()?.parse().ok()?;
    Some(i64::from(number))
}

/// `XGROUP CREATE|SETID|CREATECONSUMER …`
fn group(gaps: Gaps, args: &[&[u8]]) -> Translated {
    let subcommand = args.get(1).copied().unwrap_or_default();
    if gaps.since_6_2
        && is(subcommand, "CREATECONSUMER")
        && let &[_, _, key, group, consumer] = args
    {
        // A consumer is there as soon as it asks for its own past.
        return one([&b"XREADGROUP"[..], b"GROUP", group, consumer, b"COUNT", b"1", b"STREAMS", key, b"0"]);
    }
    // Behind the key, the group and the id.
    let counted = args.iter().skip(5).position(|arg| is(arg, "ENTRIESREAD")).map(|at| at + 5);
    match counted {
        Some(at) if gaps.since_7_0 => {
            one(args.iter().enumerate().filter(|(n, _)| *n != at && *n != at + 1).map(|(_, arg)| *arg))
        }
        _ => Translated::AsItIs,
    }
}

/// `HSETEX key [FNX|FXX] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL] FIELDS n field value …`
fn set_fields(args: &[&[u8]]) -> Translated {
    let Some(at) = args.iter().skip(2).position(|arg| is(arg, "FIELDS")).map(|at| at + 2) else {
        return Translated::AsItIs;
    };
    let (Some(key), Some(pairs)) = (args.get(1), args.get(at + 2..)) else { return Translated::AsItIs };
    let has_deadline = args[2..at].iter().any(|arg| !is(arg, "FNX") && !is(arg, "FXX"));
    let command = vec![Command::new([&[&b"HSET"[..], key], pairs].concat())];
    if has_deadline { Translated::Loses(FIELDS.into(), command) } else { Translated::Commands(command) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Gaps = Gaps {
        since_6_2: true,
        since_7_0: true,
        field_expiry: true,
        vector_sets: true,
        msetex: true,
        idempotent_producers: true,
        payloads: true,
    };

    /// What a command comes to, as text; `lost:` and what comes first when something is.
    fn translated(gaps: Gaps, text: &str) -> String {
        let command = Command::new(text.split(' ').collect::<Vec<_>>());
        let shown = |commands: &[Command]| {
            let words = |command: &Command| {
                command
                    .args()
                    .map(|arg| String::from_utf8_lossy(arg).into_owned())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            commands.iter().map(words).collect::<Vec<_>>().join("; ")
        };
        match translate(gaps, &command.as_ref()) {
            Translated::AsItIs => "=".into(),
            Translated::Commands(commands) => shown(&commands),
            Translated::Loses(what, commands) => format!("lost: {what}; {}", shown(&commands)),
        }
    }

    #[test]
    fn what_is_not_known_is_said_otherwise() {
        for (command, expected) in [
            ("SET k v", "="),
            ("SET k v PX 5", "="),
            ("SET k GET", "="),
            ("SET k v PXAT 5", "SET k v; PEXPIREAT k 5"),
            ("set k v xx exat 5 get", "set k v xx; EXPIREAT k 5"),
            ("SET PXAT GET KEEPTTL GET", "SET PXAT GET KEEPTTL"),
            ("MSETEX 2 a 1 b 2 PXAT 5", "SET a 1; PEXPIREAT a 5; SET b 2; PEXPIREAT b 5"),
            ("LMOVE a b RIGHT LEFT", "RPOPLPUSH a b"),
            ("LPOP l", "="),
            ("LPOP l 3", "LTRIM l 3 -1"),
            ("RPOP l 3", "LTRIM l 0 -4"),
            ("PEXPIREAT k 5", "="),
            ("PEXPIREAT k 5 GT", "PEXPIREAT k 5"),
            ("XSETID s 1-1 ENTRIESADDED 5 MAXDELETEDID 1-0", "XSETID s 1-1"),
            ("XGROUP CREATE s g 0 MKSTREAM ENTRIESREAD 5", "XGROUP CREATE s g 0 MKSTREAM"),
            ("XGROUP CREATE s ENTRIESREAD 0", "="),
            ("XGROUP CREATECONSUMER s g c", "XREADGROUP GROUP g c COUNT 1 STREAMS s 0"),
            ("FUNCTION LOAD x", "lost: function libraries; "),
            ("HPEXPIREAT h 5 FIELDS 1 f", "lost: deadlines of hash fields; "),
            ("HSETEX h PXAT 5 FIELDS 1 f v", "lost: deadlines of hash fields; HSET h f v"),
            ("HSETEX h FNX FIELDS 2 f v FIELDS w", "HSET h f v FIELDS w"),
            ("VADD s VALUES 1 1 e", "lost: vector sets; "),
            ("INCR k", "="),
        ] {
            assert_eq!(translated(ALL, command), expected, "{command}");
            assert_eq!(translated(Gaps::default(), command), "=", "{command}");
        }
        let left = "LMOVE a b LEFT RIGHT";
        assert!(translated(ALL, left).ends_with("2 a b LPOP RPUSH"), "{}", translated(ALL, left));
        assert!(translated(ALL, "COPY a b REPLACE").ends_with("end 2 a b"));
        assert_eq!(translated(ALL, "COPY a b DB 3"), "=");
    }
}
