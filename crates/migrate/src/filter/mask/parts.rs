//! Where values stand among the arguments of commands.

use keyferry_routing::Arguments;

/// The first field of `XADD key [options] id field value …`. None for what is not known, and where the id of the
/// entry is made from its values (`IDMPAUTO`).
pub(super) fn first_entry_field<A: Arguments + ?Sized>(args: &A) -> Option<usize> {
    let is = |at: usize, word: &str| is_word(args, at, word);
    let mut at = 2;
    loop {
        if is(at, "NOMKSTREAM") || is(at, "KEEPREF") || is(at, "DELREF") || is(at, "ACKED") {
            at += 1;
        } else if is(at, "MAXLEN") || is(at, "MINID") {
            let exact = is(at + 1, "~") || is(at + 1, "=");
            at += if exact { 3 } else { 2 };
        } else if is(at, "LIMIT") {
            at += 2;
        } else if is(at, "IDMP") {
            at += 3;
        } else if is(at, "IDMPAUTO") || at >= args.count() {
            return None;
        } else {
            return Some(at + 1);
        }
    }
}

/// The first score of `ZADD key [options] score member …`, the first longitude of `GEOADD`.
pub(super) fn first_score<A: Arguments + ?Sized>(args: &A) -> usize {
    let options = ["NX", "XX", "GT", "LT", "CH", "INCR"];
    (2..args.count()).find(|&at| !options.iter().any(|word| is_word(args, at, word))).unwrap_or(args.count())
}

/// The fields and values of `HSETEX key [options] FIELDS n field value …`.
pub(super) fn hsetex_fields<A: Arguments + ?Sized>(args: &A) -> Option<(usize, usize)> {
    let mut at = 2;
    while at < args.count() {
        if is_word(args, at, "FIELDS") {
            let count: usize = std::str::from_utf8(args.argument(at + 1)?).ok()?.parse().ok()?;
            let end = count.checked_mul(2)?.checked_add(at + 2)?;
            return (end <= args.count()).then_some((at + 2, end));
        }
        let alone = ["FNX", "FXX", "KEEPTTL"].iter().any(|word| is_word(args, at, word));
        at += if alone { 1 } else { 2 };
    }
    None
}

/// Whether an argument of `SET` is a condition that compares with the value before, which another argument tells.
pub(super) fn compares<A: Arguments + ?Sized>(args: &A, at: usize) -> bool {
    ["IFEQ", "IFNE", "IFDEQ", "IFDNE"].iter().any(|word| is_word(args, at, word))
}

pub(super) fn is_word<A: Arguments + ?Sized>(args: &A, at: usize, word: &str) -> bool {
    args.argument(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
}
