use crate::args::{Arguments, at, is_word};
use crate::keys::{decimal, visit};
use crate::meaning::{KeyRule, ReplayRule, RouteRule};
use crate::table::{CommandFlags, CommandSpec, CommandTable};

/// Whether a write may be carried out again, when it and all that followed it were carried out already.
///
/// Think of a stream of writes that all succeeded, of which the target has applied all up to some point; it is not known which, so
/// that the last ones are sent again, in order. Errors of type WRONGTYPE during that are expected. If none but
/// [`Blind`](Self::Blind) and [`Adds`](Self::Adds) are sent again, the outcome is what it would have been.
///
/// | | commands |
/// |---|---|
/// | `Blind` | `DEL` `UNLINK` `MSET`; `SET` and `MSETEX` with no option or `PXAT` `EXAT`; `RESTORE … REPLACE` with `ABSTTL` or without expiry; `XDEL` `XACK` |
/// | `Adds` | `HSET` `HMSET` `SADD` `SETBIT` `SETRANGE` `PFADD`; `ZADD` and `GEOADD` with no option but `CH` |
/// | `Removes` | `HDEL` `SREM` `ZREM` |
/// | `Once` | all others |
///
/// Why the others are not among them:
///
/// * `Removes`: `SREM k a` and then `SADD k a`, repeated on `{a}`, remove the last member and with it the key and its expiry.
///   As long as nothing that `Adds` follows them in the same slot, they can be repeated too: what they remove is not there any
///   more. Who keeps one bit a slot, "something was removed since the last checkpoint", can make the next `Adds` there a
///   checkpoint and let the removals go bare.
/// * `PEXPIREAT` and its like: of `PEXPIREAT k t1`, `PEXPIREAT k t2`, the first deletes the key if it is repeated after `t1`, and the
///   second comes too late. The same with `PERSIST` behind `SET … PXAT`, and with the fields of `HPEXPIREAT`, `HSETEX`.
/// * A relative expiry (`SETEX`, `PSETEX`, `SET … EX`, `RESTORE` without `ABSTTL`) ends later each time. Make it absolute when the
///   command arrives: then it is `Blind`.
/// * `SET … KEEPTTL` gives a key that expired in between back without an expiry; `SET` with a condition or `GET`, `SETNX`, `HSETNX`,
///   `MSETNX` look at what was there.
/// * `ZREMRANGEBY…`, `LTRIM`, `LREM`, `XTRIM` may meet what was added since, and empty the key. `LSET` fails if the list is
///   shorter now, `XADD` and `XGROUP` fail if it was done already.
/// * What reads other keys (`RENAME`, `COPY`, `…STORE`, scripts) and what counts (`INCR`, `APPEND`, `RPUSH`, `SPOP`) differs each time.
/// * `FLUSHALL` and `FLUSHDB` reach keys of all slots, whatever was repeated there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replay {
    /// Leaves the key in a state that depends on nothing before, or does nothing the second time.
    Blind,
    /// Sets parts of the key, each to a state that depends on nothing before.
    Adds,
    /// Removes parts of the key: to be repeated only if nothing that [`Adds`](Self::Adds) follows in its slot.
    Removes,
    /// Not to be repeated. What is no write at all or not known counts as this, too.
    Once,
}

impl CommandTable {
    /// Whether this may change data. Scripts may, and unknown commands; so do `SORT`, `GEORADIUS` and `BITFIELD` only with the
    /// options by which they write.
    pub fn is_write<A: Arguments + ?Sized>(&self, args: &A) -> bool {
        let Some(spec) = self.get(args) else { return true };
        match (spec.meaning.keys, spec.meaning.route) {
            (_, RouteRule::Script { writes }) => writes,
            (KeyRule::Sort | KeyRule::GeoRadius { .. } | KeyRule::Bitfield, _) => {
                let mut writes = false;
                let known = visit(spec, args, |key| writes |= key.access.is_write());
                writes || known.is_err()
            }
            _ => spec.flags().contains(CommandFlags::WRITE),
        }
    }

    /// What may be done with this write when it is not known whether it was carried out.
    ///
    /// ```
    /// use keyferry_routing::{CommandTable, Replay};
    ///
    /// let table = CommandTable::builtin();
    /// assert_eq!(table.replay(&["SET", "k", "v", "PXAT", "1893456000000"]), Replay::Blind);
    /// assert_eq!(table.replay(&["SET", "k", "v", "NX"]), Replay::Once);
    /// assert_eq!(table.replay(&["SREM", "k", "a"]), Replay::Removes);
    /// ```
    #[inline]
    pub fn replay<A: Arguments + ?Sized>(&self, args: &A) -> Replay {
        let Ok(spec) = self.checked(args) else { return Replay::Once };
        replay(spec, args)
    }

    /// Whether the outcome of this write depends on no earlier state, so that it may be sent again together with what follows it:
    /// [`Replay::Blind`] or [`Replay::Adds`].
    #[inline]
    pub fn is_blind_write<A: Arguments + ?Sized>(&self, args: &A) -> bool {
        matches!(self.replay(args), Replay::Blind | Replay::Adds)
    }

    /// Whether this changes keys of the whole server without naming them: `FLUSHALL`, `FLUSHDB`, `SWAPDB`.
    pub fn touches_all_keys<A: Arguments + ?Sized>(&self, args: &A) -> bool {
        self.get(args).is_some_and(|spec| matches!(spec.name(), "flushall" | "flushdb" | "swapdb"))
    }
}

#[inline]
fn replay<A: Arguments + ?Sized>(spec: &CommandSpec, args: &A) -> Replay {
    let blind_if = |blind| if blind { Replay::Blind } else { Replay::Once };
    match spec.meaning.replay {
        ReplayRule::Once => Replay::Once,
        ReplayRule::Blind => Replay::Blind,
        ReplayRule::Adds => Replay::Adds,
        ReplayRule::Removes => Replay::Removes,
        ReplayRule::Set => blind_if(only_absolute_expiry(args, 3)),
        ReplayRule::Msetex => {
            let options = decimal(at(args, 1)).and_then(|pairs| pairs.checked_mul(2)?.checked_add(2));
            blind_if(options.is_some_and(|at| at <= args.count() && only_absolute_expiry(args, at)))
        }
        ReplayRule::Zadd => zadd(args),
        ReplayRule::Restore => blind_if(restores_over(args)),
    }
}

/// Whether from argument `index` on there is nothing but an absolute expiry, or nothing.
fn only_absolute_expiry<A: Arguments + ?Sized>(args: &A, index: usize) -> bool {
    match args.count().checked_sub(index) {
        Some(0) => true,
        Some(2) => is_word(args, index, b"PXAT") || is_word(args, index, b"EXAT"),
        _ => false,
    }
}

fn zadd<A: Arguments + ?Sized>(args: &A) -> Replay {
    for option in 2..args.count() {
        if is_word(args, option, b"CH") {
            continue;
        }
        let depends = [&b"NX"[..], b"XX", b"GT", b"LT", b"INCR"];
        if depends.iter().any(|word| is_word(args, option, word)) {
            return Replay::Once;
        }
        break;
    }
    Replay::Adds
}

/// `RESTORE key ttl payload REPLACE [ABSTTL] [IDLETIME s] [FREQ n]`
fn restores_over<A: Arguments + ?Sized>(args: &A) -> bool {
    let (mut replace, mut absolute) = (false, at(args, 2) == b"0");
    let mut option = 4;
    while option < args.count() {
        replace |= is_word(args, option, b"REPLACE");
        absolute |= is_word(args, option, b"ABSTTL");
        let has_value = is_word(args, option, b"IDLETIME") || is_word(args, option, b"FREQ");
        option += if has_value { 2 } else { 1 };
    }
    replace && absolute
}
