//! Every write command, and what masks make of it.

use std::collections::BTreeSet;

use keyferry_routing::{CommandFlags, CommandTable};

use super::*;
use crate::filter::{MaskRule, Moment, Settings, Verdict};

/// Masks what is in keys that begin with `m`, and the fields `f` of those that begin with `h`; `c` merges all values.
fn filter(parts: Operands) -> Filter {
    let rule = |text| MaskRule::parse(text, |_| Ok(b"a long secret".to_vec())).unwrap();
    let masks = ["m*=format", "h* .f=fixed:F", "c*=fixed:C", "s*=hash:x"].map(rule).into();
    Filter::new(Settings { masks, masked_parts: parts, ..Settings::default() }).unwrap()
}

fn verdict(filter: &Filter, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let moment = Moment { db: 0, clock: 0 };
    let line = |command: &Command| {
        let words = command.args().map(|arg| arg.escape_ascii().to_string());
        words
            .map(|word| if word.len() == 32 { format!("#{}", &word[..2]) } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    match filter.command(CommandTable::builtin(), &words, moment, &mut Counts::default()) {
        Verdict::Replace(commands) => commands.iter().map(line).collect::<Vec<_>>().join(" | "),
        Verdict::Refuse(refusal) => {
            format!("{refusal:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
        }
        other => format!("{other:?}"),
    }
}

/// Each write command of the table, with a masked key: what is a value in it is masked (`aB1` becomes `xX0`), or it goes as it
/// is, or it is refused.
const EVERY_WRITE: &[(&str, &str)] = &[
    ("APPEND m aB1", "Masked"),
    ("ARDEL m 1", "Masked"),
    ("ARDELRANGE m 1 2", "Masked"),
    ("ARINSERT m aB1", "Masked"),
    ("ARMSET m 1 aB1", "Masked"),
    ("ARRING m 3 aB1", "Masked"),
    ("ARSEEK m 3", "Masked"),
    ("ARSET m 3 aB1", "Masked"),
    ("BITFIELD m SET u8 0 1", "Masked"),
    ("BITOP AND m m m", "Masked"),
    ("BLMOVE m m2 LEFT RIGHT 0", "Pass"),
    ("BLMPOP 0 1 m LEFT", "Pass"),
    ("BLPOP m 0", "Pass"),
    ("BRPOP m 0", "Pass"),
    ("BRPOPLPUSH m m2 0", "Pass"),
    ("BZMPOP 0 1 m MIN", "Masked"),
    ("BZPOPMAX m 0", "Masked"),
    ("BZPOPMIN m 0", "Masked"),
    ("COPY m m2", "Pass"),
    ("DECR m", "Masked"),
    ("DECRBY m 1", "Masked"),
    ("DEL m", "Pass"),
    ("DELEX m IFEQ aB1", "DEL m"),
    ("DELIFEQ m aB1", "DEL m"),
    ("EXPIRE m 1", "Pass"),
    ("EXPIREAT m 1", "Pass"),
    ("GEOADD s NX 1 2 aB1 3 4 b", "GEOADD s NX 1 2 #44 3 4 #c6"),
    ("GEORADIUS m 1 1 1 km STORE m", "Masked"),
    ("GEORADIUSBYMEMBER m aB1 1 km STORE m", "Masked"),
    ("GEOSEARCHSTORE m m FROMMEMBER aB1 BYRADIUS 1 km", "Masked"),
    ("GETDEL m", "Pass"),
    ("GETEX m PX 1", "Pass"),
    ("GETSET m aB1", "GETSET m xX0"),
    ("HDEL m f", "Pass"),
    ("HEXPIRE m 1 FIELDS 1 f", "Pass"),
    ("HEXPIREAT m 1 FIELDS 1 f", "Pass"),
    ("HGETDEL m FIELDS 1 f", "Pass"),
    ("HGETEX m PX 1 FIELDS 1 f", "Pass"),
    ("HINCRBY m f 1", "Masked"),
    ("HINCRBYFLOAT m f 1", "Masked"),
    ("HMSET m f aB1", "HMSET m f xX0"),
    ("HPERSIST m FIELDS 1 f", "Pass"),
    ("HPEXPIRE m 1 FIELDS 1 f", "Pass"),
    ("HPEXPIREAT m 1 FIELDS 1 f", "Pass"),
    ("HSET m f aB1 g c", "HSET m f xX0 g x"),
    ("HSETEX m FNX PX 5 FIELDS 2 f aB1 FIELDS c", "HSETEX m FNX PX 5 FIELDS 2 f xX0 FIELDS x"),
    ("HSETNX m f aB1", "HSETNX m f xX0"),
    ("INCR m", "Masked"),
    ("INCRBY m 1", "Masked"),
    ("INCRBYFLOAT m 1", "Masked"),
    ("INCREX m", "Masked"),
    ("LINSERT s BEFORE aB1 b", "LINSERT s BEFORE #44 #c6"),
    ("LMOVE m m2 LEFT RIGHT", "Pass"),
    ("LMPOP 1 m LEFT", "Pass"),
    ("LPOP m", "Pass"),
    ("LPUSH m aB1 c", "LPUSH m xX0 x"),
    ("LPUSHX m aB1", "LPUSHX m xX0"),
    ("LREM s 1 aB1", "LREM s 1 #44"),
    ("LSET m 1 aB1", "LSET m 1 xX0"),
    ("LTRIM m 0 1", "Pass"),
    ("MIGRATE h 6379 m 0 5", "Masked"),
    ("MOVE m 1", "Pass"),
    ("MSET m aB1 x aB1", "MSET m xX0 x aB1"),
    ("MSETEX 2 m aB1 x aB1 PX 5", "MSETEX 2 m xX0 x aB1 PX 5"),
    ("MSETNX m aB1 x aB1", "MSETNX m xX0 x aB1"),
    ("PERSIST m", "Pass"),
    ("PEXPIRE m 1", "Pass"),
    ("PEXPIREAT m 1", "Pass"),
    ("PFADD m aB1", "Masked"),
    ("PFDEBUG GETREG m", "Masked"),
    ("PFMERGE m m", "Masked"),
    ("PSETEX m 5 aB1", "PSETEX m 5 xX0"),
    ("RENAME m m2", "Pass"),
    ("RENAMENX m m2", "Pass"),
    ("RESTORE m 0 aB1", "Masked"),
    ("RESTORE-ASKING m 0 aB1", "Masked"),
    ("RPOP m", "Pass"),
    ("RPOPLPUSH m m2", "Pass"),
    ("RPUSH m aB1", "RPUSH m xX0"),
    ("RPUSHX m aB1", "RPUSHX m xX0"),
    ("SADD s aB1 b", "SADD s #44 #c6"),
    ("SDIFFSTORE s s1 s2", "Pass"),
    ("SET m aB1 PX 5 NX", "SET m xX0 PX 5 NX"),
    ("SETBIT m 1 1", "Masked"),
    ("SETEX m 5 aB1", "SETEX m 5 xX0"),
    ("SETNX m aB1", "SETNX m xX0"),
    ("SETRANGE m 1 aB1", "Masked"),
    ("SINTERSTORE s s1 s2", "Pass"),
    ("SMOVE s s1 aB1", "SMOVE s s1 #44"),
    ("SORT m STORE m", "Masked"),
    ("SPOP s", "Pass"),
    ("SREM s aB1", "SREM s #44"),
    ("SUNIONSTORE s s1 s2", "Pass"),
    ("UNLINK m", "Pass"),
    ("VADD m VALUES 1 1 aB1", "Masked"),
    ("VREM m aB1", "Masked"),
    ("VSETATTR m aB1 {}", "Masked"),
    ("XACK m g 1-1", "Pass"),
    ("XACKDEL m g IDS 1 1-1", "Pass"),
    (
        "XADD m NOMKSTREAM MAXLEN ~ 5 LIMIT 7 1-1 f aB1 f c",
        "XADD m NOMKSTREAM MAXLEN ~ 5 LIMIT 7 1-1 f xX0 f x",
    ),
    ("XAUTOCLAIM m g c 0 0", "Pass"),
    ("XCFGSET m IDMP-MAXSIZE 1", "Pass"),
    ("XCLAIM m g c 0 1-1", "Pass"),
    ("XDEL m 1-1", "Pass"),
    ("XDELEX m IDS 1 1-1", "Pass"),
    ("XGROUP CREATE m g 0", "Pass"),
    ("XGROUP CREATECONSUMER m g c", "Pass"),
    ("XGROUP DELCONSUMER m g c", "Pass"),
    ("XGROUP DESTROY m g", "Pass"),
    ("XGROUP SETID m g 0", "Pass"),
    ("XIDMPRECORD m p i 1-1", "Pass"),
    ("XNACK m g c IDS 1 1-1", "Pass"),
    ("XREADGROUP GROUP g c STREAMS m 0", "Pass"),
    ("XSETID m 1-1", "Pass"),
    ("XTRIM m MAXLEN 5", "Pass"),
    ("ZADD s GT CH 1 aB1 2 b", "ZADD s GT CH 1 #44 2 #c6"),
    ("ZDIFFSTORE s 1 s1", "Pass"),
    ("ZINCRBY s 1 aB1", "ZINCRBY s 1 #44"),
    ("ZINTERSTORE s 1 s1", "Pass"),
    ("ZMPOP 1 s MIN", "Masked"),
    ("ZPOPMAX s", "Masked"),
    ("ZPOPMIN s", "Masked"),
    ("ZRANGESTORE s s1 0 1", "Masked"),
    ("ZREM s aB1", "ZREM s #44"),
    ("ZREMRANGEBYLEX s [aB1 +", "Masked"),
    ("ZREMRANGEBYRANK s 0 1", "Masked"),
    ("ZREMRANGEBYSCORE s 0 1", "Pass"),
    ("ZUNIONSTORE s 1 s1", "Pass"),
];

#[test]
fn every_write_command_is_masked_or_passed_or_refused() {
    let (filter, table) = (filter(Operands::Refuse), CommandTable::builtin());
    let mut told = BTreeSet::new();
    for (command, expected) in EVERY_WRITE {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(verdict(&filter, command), *expected, "{command}");
        told.insert(table.get(&words).unwrap_or_else(|| panic!("{command}")).name().to_owned());
        let has_value = words.iter().skip(1).any(|word| word.contains("aB1"));
        assert!(!has_value || !matches!(*expected, "Pass"), "{command} lets a value through");
    }
    let writes = table.commands().filter(|spec| spec.flags().contains(CommandFlags::WRITE));
    let with_keys = writes.filter(|spec| !spec.key_specs().is_empty());
    let missing: Vec<&str> = with_keys.map(|spec| spec.name()).filter(|name| !told.contains(*name)).collect();
    assert!(missing.is_empty(), "not in the list: {missing:?}");
}

#[test]
fn values_go_between_keys_of_the_same_masks_only() {
    let filter = filter(Operands::Refuse);
    for (command, expected) in [
        ("RENAME m x", "Masked"),
        ("RENAME x m", "Masked"),
        ("RENAME x y", "Pass"),
        ("RENAME h x", "Masked"),
        ("SUNIONSTORE h x", "Pass"),
        ("SUNIONSTORE s x", "Masked"),
        ("SUNIONSTORE x s", "Masked"),
        ("SMOVE s x aB1", "SREM s #44 | SADD x aB1"),
        ("SMOVE x s aB1", "SREM x aB1 | SADD s #44"),
        ("COPY x m", "Masked"),
        ("LMOVE x m LEFT LEFT", "Masked"),
        ("EVAL s 1 m", "Masked"),
        ("EVAL s 0", "Undeclared"),
        ("EVAL s 1 x", "Pass"),
        ("NOBODY.KNOWS x", "Keys"),
        ("SADD m a", "MaskMerges"),
        ("ZADD c 1 a", "MaskMerges"),
        ("SMOVE m x a", "MaskMerges"),
        ("LREM c 1 a", "Masked"),
        ("LINSERT c BEFORE a b", "Masked"),
        ("HSET h f a g b", "HSET h f F g b"),
        ("HSET h g b", "Pass"),
        ("HINCRBY h f 1", "Masked"),
        ("HINCRBY h g 1", "Pass"),
        ("XADD h 1-1 g 1 f 1", "XADD h 1-1 g 1 f F"),
        ("XADD h IDMPAUTO p * f 1", "Masked"),
        ("XADD h IDMP p i 1-1 f 1", "XADD h IDMP p i 1-1 f F"),
        ("SET h f", "Pass"),
        ("APPEND h f", "Pass"),
        ("SET m aB1 IFEQ old PX 5", "SET m xX0 PX 5"),
        ("SET m IFEQ", "SET m XXXX"),
        ("GET m", "Drop"),
        ("SISMEMBER m a", "Drop"),
        ("PFCOUNT m x", "Drop"),
        ("SORT m", "Drop"),
        ("PUBLISH m a", "Pass"),
        ("FLUSHALL", "Pass"),
        ("SWAPDB 0 1", "Pass"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
}

#[test]
fn changes_of_parts_may_be_left_out_and_told() {
    let filter = filter(Operands::Report);
    for (command, expected) in [
        ("APPEND m a", "Drop"),
        ("BITOP AND m x y", "DEL m"),
        ("BITOP AND x m y", "DEL x"),
        ("RENAME m x", "DEL m | DEL x"),
        ("COPY x m", "DEL m"),
        ("COPY x m DB 1", "Masked"),
        ("LMOVE m x LEFT RIGHT", "LPOP m"),
        ("BRPOPLPUSH x m 0", "RPOP x"),
        ("SUNIONSTORE x s", "DEL x"),
        ("RESTORE m 0 none", "DEL m"),
        ("EVAL s 1 m", "Masked"),
        ("SADD m a", "MaskMerges"),
    ] {
        assert_eq!(verdict(&filter, command), expected, "{command}");
    }
    let mut counts = Counts::default();
    let moment = Moment { db: 0, clock: 0 };
    filter.command(CommandTable::builtin(), &["APPEND", "m", "a"], moment, &mut counts);
    filter.command(CommandTable::builtin(), &["SET", "m", "a"], moment, &mut counts);
    let lines: Vec<_> =
        filter.lines(&counts).into_iter().map(|line| (line.rule, line.count, line.samples)).collect();
    let line = ("mask glob:m*=format".to_owned(), 1, vec!["m".to_owned()]);
    assert_eq!(lines, [line.clone(), line]);
}

#[test]
fn payloads_are_masked_inside() {
    use keyferry_rdb::{HashField, Limits, RawValue, TargetFormat, Value, dump, encode::Encoder};
    let payload = |value: &Value, format: TargetFormat| {
        let mut bytes = Vec::new();
        let ty = Encoder::new(format).encode(value, &mut bytes).unwrap().ty.unwrap();
        let mut payload = bytes::BytesMut::new();
        dump::append_payload(&mut payload, RawValue::new(ty, &bytes), format.version());
        payload.to_vec()
    };
    let field = |name: &str, value: &str, expires_at| {
        let mut field = HashField::new(name, value);
        field.expires_at = expires_at;
        field
    };
    let expiry = Some(33_000_000_000_000);
    let hash = |f: &str, expiry| Value::Hash(vec![field("f", f, None), field("g", "b", expiry)]);
    let list = |item: &str| Value::List(vec![item.into(), "7".into()]);
    let (redis, old, valkey) =
        (TargetFormat::redis(8, 0), TargetFormat::redis(6, 0), TargetFormat::valkey(9, 0));
    for (key, value, format, expected) in [
        ("m", Value::String(b"aB1".to_vec()), old, Value::String(b"xX0".to_vec())),
        ("m", list("aB1"), redis, Value::List(vec!["xX0".into(), "0".into()])),
        ("h", hash("aB1", None), redis, hash("F", None)),
        ("h", hash("aB1", expiry), redis, hash("F", expiry)),
        ("h", hash("aB1", expiry), valkey, hash("F", expiry)),
    ] {
        let sent = payload(&value, format);
        let args: [&[u8]; 4] = [b"RESTORE", key.as_bytes(), b"0", &sent];
        let moment = Moment { db: 0, clock: 0 };
        let filter = filter(Operands::Refuse);
        let verdict = filter.command(CommandTable::builtin(), &args, moment, &mut Counts::default());
        let Verdict::Replace(commands) = verdict else { panic!("{key} {value:?}: {verdict:?}") };
        let masked = dump::Payload::parse(commands[0].arg(3).unwrap()).unwrap();
        assert!(format.accepts(masked.value.ty()), "{key} {value:?}: {:?}", masked.value.ty());
        assert_eq!(masked.value.to_value(&Limits::default()).unwrap(), expected, "{key}");
    }
}
