//! What scripts do to commands, and what hostile ones do not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_resp::Command;
use keyferry_routing::CommandTable;
use proptest::prelude::*;

use super::*;
use crate::rewrite::{Rewriting, Rewritten, Script};

fn script(text: &str) -> Rewriting {
    Arc::new(Script::new(Lua::new("test.lua", text.as_bytes()).unwrap())).begin(false).unwrap()
}

fn of(script: &mut Rewriting, db: u64, command: &str) -> Result<String, String> {
    let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    let line = |(db, command): &(u64, Command)| {
        let words: Vec<_> = command.args().map(|arg| arg.escape_ascii().to_string()).collect();
        format!("{db}: {}", words.join(" "))
    };
    Ok(match script.of(CommandTable::builtin(), db, false, &args)? {
        Rewritten::AsItIs => "as it is".to_owned(),
        Rewritten::Commands(commands) => commands.iter().map(line).collect::<Vec<_>>().join(" | "),
    })
}

fn once(text: &str, command: &str) -> Result<String, String> {
    of(&mut script(text), 0, command)
}

/// What users of RedisShake write: keys and types that stay out, other prefixes, databases that change places, commands divided.
#[test]
fn scripts_of_users_do_what_they_say() {
    let mut filter = script(
        "local wanted = 'user:'\n if KEYS[1] == nil or string.sub(KEYS[1], 1, #wanted) ~= wanted then return end\n shake.call(DB, ARGV)",
    );
    assert_eq!(of(&mut filter, 0, "SET user:1 a").unwrap(), "as it is");
    assert_eq!(of(&mut filter, 0, "SET other a").unwrap(), "");
    let mut types = script("if GROUP == 'HASH' or GROUP == 'SCRIPTING' then return end shake.call(DB, ARGV)");
    assert_eq!(of(&mut types, 0, "HSET a f v").unwrap(), "");
    assert_eq!(of(&mut types, 0, "SCRIPT LOAD x").unwrap(), "");
    assert_eq!(of(&mut types, 0, "ZADD a 1 v").unwrap(), "as it is");
    let mut prefix = script(
        "shake.log('old=' .. table.concat(ARGV, ' '))
         for i, index in ipairs(KEY_INDEXES) do
             local key = ARGV[index]
             if string.sub(key, 1, 4) == 'old:' then ARGV[index] = 'new:' .. string.sub(key, 5) end
         end
         shake.call(DB, ARGV)",
    );
    assert_eq!(of(&mut prefix, 0, "MSET old:a old:v x y").unwrap(), "0: MSET new:a old:v x y");
    assert_eq!(of(&mut prefix, 0, "SUNIONSTORE old:a b old:c").unwrap(), "0: SUNIONSTORE new:a b new:c");
    let mut swapped = script("if DB == 1 then DB = 2 elseif DB == 2 then DB = 1 end shake.call(DB, ARGV)");
    assert_eq!(of(&mut swapped, 1, "SET a 1").unwrap(), "2: SET a 1");
    assert_eq!(of(&mut swapped, 2, "SET a 1").unwrap(), "1: SET a 1");
    assert_eq!(of(&mut swapped, 3, "SET a 1").unwrap(), "as it is");
    let divided = "if CMD ~= 'MSET' then keyferry.call(DB, ARGV) return end
         for i = 2, #ARGV, 2 do keyferry.call(DB, {'SET', ARGV[i], ARGV[i + 1]}) end";
    assert_eq!(once(divided, "mset a 1 b 2").unwrap(), "0: SET a 1 | 0: SET b 2");
    let more = "shake.call(DB, ARGV) if CMD == 'SET' then shake.call(DB, {'INCRBY', 'count', 1.0 // 1}) end";
    assert_eq!(once(more, "SET a 1").unwrap(), "0: SET a 1 | 0: INCRBY count 1.0");
}

#[test]
fn scripts_are_told_what_a_command_is() {
    let told =
        "local t = {DB, CMD, GROUP, PHASE, #ARGV, #KEYS, KEYS[1] or '-', KEY_INDEXES[1] or 0, SLOTS[1] or 0}
        keyferry.call(0, {'SET', 'told', table.concat(t, ',')})";
    for (command, expected) in [
        ("mset k1 a k2 b", "MSET,STRING,stream,5,2,k1,2,12706"),
        ("XGROUP DELCONSUMER {k1}s g c", "XGROUP-DELCONSUMER,STREAM,stream,5,1,{k1}s,3,12706"),
        ("ZADD {k1}z 1 m", "ZADD,SORTED_SET,stream,4,1,{k1}z,2,12706"),
        ("nobody.knows a", "NOBODY.KNOWS,UNKNOWN,stream,2,0,-,0,0"),
    ] {
        assert_eq!(once(told, command).unwrap(), format!("0: SET told 0,{expected}"), "{command}");
    }
    // Nothing stays from one command to the next, whatever the script does.
    let mut stays = script(
        "seen = (seen or 0) + 1 keyferry.called = (keyferry.called or 0) + 1
         keyferry.call(0, {'SET', 'n', seen .. keyferry.called .. math.random(1000000)})",
    );
    assert_eq!(of(&mut stays, 0, "SET a 1"), of(&mut stays, 0, "SET a 1"));
    // Any bytes.
    let mut bytes = script("ARGV[3] = ARGV[3]:reverse() keyferry.call(DB, ARGV)");
    let Ok(Rewritten::Commands(sent)) =
        bytes.of(CommandTable::builtin(), 0, false, &[b"SET", b"\xff\0", b"\0\r\n\xfe"])
    else {
        panic!()
    };
    assert_eq!(sent[0].1, Command::new([&b"SET"[..], b"\xff\0", b"\xfe\n\r\0"]));
}

/// Each ends soon, with its line, and the next command finds everything as it was.
#[test]
fn hostile_scripts_come_to_nothing() {
    let mut wrong = Vec::new();
    for (text, why) in [
        ("\nwhile true do end", "test.lua:2: it takes too many instructions"),
        ("local function f() return f() end f()", "too many instructions"),
        ("local function f() return 1 + f() end f()", "not enough memory"),
        ("local s = 'x' while true do s = s .. s end", "not enough memory"),
        ("local t = {} for i = 1, 1e9 do t[i] = i end", "not enough memory"),
        ("local s = string.rep('x', 1e10)", "resulting string too large"),
        ("local s = ('x'):rep(1e8, 'y')", "not enough memory"),
        ("local s = ('x'):rep(1e18, 'y')", "resulting string too large"),
        ("local s = (''):rep(1e18) keyferry.call(0, {'GET', 'a' .. s})", "no write"),
        ("string.find(('a'):rep(1e5), ('.-'):rep(30) .. 'b')", "too many instructions"),
        ("local s = ('a'):rep(1e5):match('(.*)(.*)(.*)(.*)b')", "too many instructions"),
        ("for _ in ('a'):rep(1e5):gmatch('.-.-.-b') do end", "too many instructions"),
        ("('a'):rep(1e5):gsub('a-a-a-a-b', '')", "too many instructions"),
        ("('x'):rep(1e6):gsub('x', ('y'):rep(1e6))", "not enough memory"),
        (
            "local t = {} for i = 1, 1e5 do t[i] = 1 end while true do table.insert(t, 1, 1) end",
            "too many instructions",
        ),
        ("local t = {} for k = 0, 62 do t[1 << k] = 1 end table.sort(t)", "compare nil"),
        ("table.concat({}, '', 1, 1e15)", "too much to join"),
        ("table.concat({}, ('x'):rep(1e6), 1, 1e6)", "invalid value"),
        ("table.unpack({}, 1, 1e8)", "too many results"),
        ("local function f(s) return (s:gsub('x', f)) end f('x')", "stack overflow"),
        ("for i = 1, 1e9 do keyferry.call(0, {'SET', 'a', 'b'}) end", "more than 10000 commands"),
        (
            "local s = ('x'):rep(1e6) for i = 1, 1e9 do keyferry.call(0, {'SET', 'a', s}) end",
            "bytes are sent",
        ),
        ("for i = 1, 1e9 do keyferry.log('x') end", "bytes are logged"),
        ("os.execute('true')", "global 'os'"),
        ("io.open('/etc/passwd')", "global 'io'"),
        ("require('os')", "global 'require'"),
        ("load('return 1')()", "global 'load'"),
        ("dofile('/etc/passwd')", "global 'dofile'"),
        ("debug.getinfo(1)", "global 'debug'"),
        ("pcall(error)", "global 'pcall'"),
        ("coroutine.create(error)", "global 'coroutine'"),
        ("setmetatable({}, {})", "global 'setmetatable'"),
        ("getmetatable('').__index = 1", "global 'getmetatable'"),
        ("collectgarbage('stop')", "global 'collectgarbage'"),
        ("string.dump(function() end)", "field 'dump'"),
        ("('x').dump(function() end)", "field 'dump'"),
        ("string.find = nil", "cannot be changed"),
        ("error('on purpose')", "test.lua:1: on purpose"),
        ("error({})", "table: 0x"),
        ("keyferry.call('x', ARGV)", "test.lua:1: call: the first argument"),
        ("keyferry.call(-1, ARGV)", "the first argument"),
        ("keyferry.call(0, {})", "without a name"),
        ("keyferry.call(0, {'SET', 'a', {}})", "argument 3 is a table"),
        ("keyferry.call(0)", "converting Lua nil to table"),
        ("shake.call(0, {'SET', 'a'})", "does not take"),
        ("string.find('a', '[')", "missing ']'"),
        ("string.find('a', '%')", "ends with '%'"),
    ] {
        let text = format!("if CMD == 'GET' then {text}\nend keyferry.call(DB, ARGV)");
        let limits = Limits { instructions: 1_000_000, memory: 4 << 20 };
        let lua = Lua::new("test.lua", text.as_bytes()).unwrap().with_limits(limits);
        let mut script = Arc::new(Script::new(lua)).begin(false).unwrap();
        let begun = Instant::now();
        let error =
            of(&mut script, 0, "GET a").map_or_else(|error| error, |sent| format!("no error: {sent}"));
        if !error.contains(why) || error.contains('\n') || error.len() > 300 {
            wrong.push(format!("{text}: {error}"));
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{text}: {:?}", begun.elapsed());
        assert_eq!(of(&mut script, 0, "SET a 1").unwrap(), "as it is", "{text}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (text, why) in [("\nif", "test.lua:2:"), ("\x1bLua", "binary"), ("goto x", "label")] {
        let error = Lua::new("test.lua", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(Lua::new("test.lua", &vec![b' '; LARGEST + 1]).is_err());
    let nested = format!("local a = {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(Lua::new("test.lua", nested.as_bytes()).is_err());
}

/// A large command has room in memory.
#[test]
fn large_commands_pass() {
    let value = vec![b'x'; 40 << 20];
    let mut script = script("ARGV[2] = 'new:' .. ARGV[2] keyferry.call(DB, ARGV)");
    let sent = script.of(CommandTable::builtin(), 0, false, &[b"SET", b"a", &value]).unwrap();
    let Rewritten::Commands(sent) = sent else { panic!() };
    assert_eq!(sent[0].1.arg(1), Some(&b"new:a"[..]));
    assert_eq!(sent[0].1.arg(2).map(<[u8]>::len), Some(value.len()));
}

#[test]
fn tables_are_as_in_lua() {
    for (text, expected) in [
        ("local t = {1, 2} table.insert(t, 3) table.insert(t, 1, 0) table.insert(t, 3, 9)", "0,1,9,2,3"),
        ("local t = {1, 2, 3} table.remove(t, 1) table.remove(t)", "2"),
        ("local t = {} table.remove(t)", ""),
        ("local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end)", "3,2,1"),
        ("local t = {unpack({1, 2, 3}, 2)}", "2,3"),
        ("local t = {('ab'):rep(2, '-'), ('x'):rep(0), ('x'):rep(-1)}", "ab-ab,,"),
    ] {
        let sent = once(&format!("{text} keyferry.call(0, {{'SET', 'a', table.concat(t, ',')}})"), "SET a b");
        assert_eq!(sent.unwrap(), format!("0: SET a {expected}"), "{text}");
    }
}

/// Our functions for patterns, and Lua's own.
struct Both {
    own: mlua::Lua,
    theirs: mlua::Lua,
}

const CALLS: &str = r##"
    local text, pattern, init, with = ...
    local all = {}
    local function add(...)
        for i = 1, select("#", ...) do all[#all + 1] = tostring((select(i, ...))) end
        all[#all + 1] = ";"
    end
    add(text:find(pattern, init))
    add(text:find(pattern, init, true))
    add(text:match(pattern, init))
    for a, b, c in text:gmatch(pattern) do add(a, b, c) end
    add(text:gsub(pattern, with))
    add(text:gsub(pattern, { a = "A", ab = 7 }))
    add(text:gsub(pattern, function(a, b) return b end, 2))
    return table.concat(all, ",")
"##;

impl Both {
    fn new() -> Self {
        let own = mlua::Lua::new();
        let string: mlua::Table = own.globals().get("string").unwrap();
        strings::replace(&own, &string, &Arc::new(budget::Instructions::new(u64::MAX))).unwrap();
        Both { own, theirs: mlua::Lua::new() }
    }

    fn both(&self, text: &str, pattern: &str, init: i64, with: &str) -> [Option<String>; 2] {
        [&self.own, &self.theirs].map(|lua| lua.load(CALLS).call::<String>((text, pattern, init, with)).ok())
    }
}

/// Whether something is no pattern, which Lua sees only when it comes so far.
fn is_refused(own: &Option<String>, pattern: &str) -> bool {
    own.is_none() && pattern::Pattern::new(pattern.as_bytes(), true).is_err()
}

#[test]
fn patterns_are_those_of_lua() {
    let both = Both::new();
    for pattern in [
        "",
        "a",
        "^a",
        "a$",
        "^",
        "$",
        "^$",
        ".",
        "a*",
        "a-",
        "a+",
        "a?b",
        "(a)(b)",
        "()a()",
        "(a*(.)%w(%s*))",
        "%f[%w]%w+",
        "%f[%z]",
        "%b()",
        "%bab",
        "[a-]",
        "[]]",
        "[^]]",
        "[%a-z]",
        "[a-%%]",
        "[^%s]+",
        "(.)%1",
        "(a)%2",
        "%1",
        "%0",
        "(",
        ")",
        "(()",
        "[",
        "[a",
        "[^",
        "%",
        "%b",
        "%bx",
        "%f",
        "%fa",
        "a**",
        "*",
        "^*",
        "a^",
        "$a",
        "%$",
        "[[:alpha:]]",
        "%p+",
        "%c",
        "%g+",
        "%x+",
        "%X",
        "%d-%s",
        "(%w+)=(%w+)",
        "[%]]",
        "[%",
        "[a-%",
    ] {
        for text in ["", "a", "ab", "aab b(a(b)a) %1", "x=1, y=2", "THE (quick) fox", "a]b]-^", "\0a\0"] {
            for init in [1, 2, -1, 9] {
                let [own, theirs] = both.both(text, pattern, init, "<%0>");
                if !is_refused(&own, pattern) {
                    assert_eq!(own, theirs, "{text:?} {pattern:?} {init}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn patterns_are_those_of_lua_whatever_they_are(
        pattern in "[\\^]?([ab.()\\[\\]%*+?$^-]|%[abfws1]|\\[\\^?[ab%-]{1,3}\\]|\\([ab.]\\*?\\)|[ab][-+*?]){0,7}[$]?",
        text in "[ab() 1-]{0,8}",
        init in -3..4i64,
        with in "([xy]|%[012%]){0,3}",
    ) {
        static BOTH: std::sync::OnceLock<Both> = std::sync::OnceLock::new();
        let both = BOTH.get_or_init(Both::new);
        let [own, theirs] = both.both(&text, &pattern, init, &with);
        if is_refused(&own, &pattern) {
            return Ok(());
        }
        prop_assert_eq!(own, theirs, "{:?} {:?} {}", text, pattern, init);
    }
}
