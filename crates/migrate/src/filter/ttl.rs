//! Other times at which keys expire.
//!
//! A deadline is changed where it is set: in the snapshot, and in each command that sets one. What only carries it along
//! (`RENAME`, `COPY`) changes nothing. A key that expires at the source meanwhile is deleted by the source's `DEL`, whatever the
//! target was told. Deadlines of the fields of hashes stay.

use std::fmt;
use std::str::FromStr;

use keyferry_files::KeyName;
use keyferry_resp::Command;
use keyferry_routing::Arguments;

use super::command::number;

/// What becomes of the expiry of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ttl {
    /// They never expire.
    Drop,
    /// They expire after so many milliseconds at most, counted from when it was set or the snapshot taken.
    Cap(i64),
    /// What is left is multiplied by this, in percent.
    Scale(u32),
    /// They expire so many milliseconds later.
    Add(i64),
}

/// What becomes of the expiry of some keys.
///
/// As text: `drop`, `cap:1h`, `scale:150%`, `add:30s`, with `NAME=` before it where only keys of such [names](KeyName) are meant. Units are `ms`,
/// `s`, `m`, `h` and `d`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TtlRule {
    /// The keys; none for all.
    pub keys: Option<KeyName>,
    /// What becomes of it.
    pub ttl: Ttl,
}

impl TtlRule {
    /// A rule for all keys.
    pub fn new(ttl: Ttl) -> Self {
        TtlRule { keys: None, ttl }
    }

    pub(super) fn is_about(&self, key: &[u8]) -> bool {
        self.keys.as_ref().is_none_or(|name| name.matches(key))
    }
}

impl Ttl {
    /// A deadline, in Unix milliseconds, as it becomes; none for never. `clock` is when it was set.
    pub fn apply(self, deadline: i64, clock: i64) -> Option<i64> {
        match self {
            Ttl::Drop => None,
            Ttl::Cap(most) => Some(deadline.min(clock.saturating_add(most))),
            Ttl::Scale(percent) => {
                let left = i128::from(deadline) - i128::from(clock);
                // What is over stays over.
                let scaled = if left > 0 { left * i128::from(percent) / 100 } else { left };
                Some(i64::try_from(i128::from(clock) + scaled).unwrap_or(i64::MAX))
            }
            Ttl::Add(more) => Some(deadline.saturating_add(more)),
        }
    }
}

impl FromStr for TtlRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (keys, what) = match text.rsplit_once('=') {
            Some((name, what)) => (Some(name.parse().map_err(|e| format!("{e}"))?), what),
            None => (None, text),
        };
        let wrong = || format!("\"{what}\" is none of drop, cap:1h, scale:150%, add:30s");
        let ttl = match what.split_once(':') {
            None if what == "drop" => Ttl::Drop,
            Some(("cap", time)) => Ttl::Cap(milliseconds(time).filter(|&time| time > 0).ok_or_else(wrong)?),
            Some(("add", time)) => Ttl::Add(milliseconds(time).ok_or_else(wrong)?),
            Some(("scale", percent)) => {
                Ttl::Scale(percent.strip_suffix('%').and_then(|text| text.parse().ok()).ok_or_else(wrong)?)
            }
            _ => return Err(wrong()),
        };
        Ok(TtlRule { keys, ttl })
    }
}

fn milliseconds(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '-')?;
    let (count, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.parse::<i64>().ok()?.checked_mul(unit)
}

impl fmt::Display for TtlRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(keys) = &self.keys {
            write!(f, "{keys}=")?;
        }
        match self.ttl {
            Ttl::Drop => f.write_str("drop"),
            Ttl::Cap(most) => write!(f, "cap:{most}ms"),
            Ttl::Scale(percent) => write!(f, "scale:{percent}%"),
            Ttl::Add(more) => write!(f, "add:{more}ms"),
        }
    }
}

/// Where a command sets the deadline of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline {
    /// The argument that tells the time.
    at: usize,
    milliseconds: bool,
    absolute: bool,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A word before it says what it is: `SET … PX 5`.
    Option,
    /// `SETEX key 5 value`
    SetEx,
    /// `EXPIRE key 5 [condition]`
    Expire,
    /// `GETEX key EX 5`
    GetEx,
    /// `RESTORE key 5 payload`
    Restore,
}

/// What becomes of a command when the deadline of its keys does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redated {
    Same,
    As(Command),
    /// Nothing else is in it.
    Nothing,
}

/// The command with another deadline.
pub(super) fn redate<A: Arguments + ?Sized>(name: &str, args: &A, ttl: Ttl, clock: i64) -> Redated {
    let Some(found) = find(name, args) else { return Redated::Same };
    let arg = |index: usize| args.argument(index).unwrap_or_default();
    let Some(time) = std::str::from_utf8(arg(found.at)).ok().and_then(|text| text.parse::<i64>().ok()) else {
        return Redated::Same;
    };
    let unit = if found.milliseconds { 1 } else { 1000 };
    let base = if found.absolute { 0 } else { clock };
    let deadline = base.saturating_add(time.saturating_mul(unit));
    let all = || (0..args.count()).map(arg).collect::<Vec<_>>();
    let Some(new) = ttl.apply(deadline, clock) else {
        return match found.form {
            Form::Expire | Form::GetEx => Redated::Nothing,
            Form::SetEx => Redated::As(Command::new([b"SET", arg(1), arg(3)])),
            Form::Option => {
                let kept =
                    all().into_iter().enumerate().filter(|(i, _)| *i != found.at && *i + 1 != found.at);
                Redated::As(Command::new(kept.map(|(_, arg)| arg).collect::<Vec<_>>()))
            }
            Form::Restore => {
                let mut args = all();
                args[found.at] = b"0";
                Redated::As(Command::new(args))
            }
        };
    };
    if new == deadline {
        return Redated::Same;
    }
    // Rounded up, and never what servers refuse.
    let told = new.saturating_sub(base);
    let told = (told / unit + i64::from(told % unit > 0)).max(1).to_string();
    let mut args = all();
    args[found.at] = told.as_bytes();
    if found.form == Form::Expire {
        // The source has carried it out: its condition held there, and may not hold here.
        args.truncate(3);
    }
    Redated::As(Command::new(args))
}

fn find<A: Arguments + ?Sized>(name: &str, args: &A) -> Option<Deadline> {
    let fixed = |milliseconds, absolute, form| Some(Deadline { at: 2, milliseconds, absolute, form });
    match name {
        "set" => option(args, 3, Form::Option),
        "getex" => option(args, 2, Form::GetEx),
        "msetex" => {
            let pairs = args.argument(1).and_then(number)?;
            option(args, usize::try_from(pairs).ok()?.checked_mul(2)?.checked_add(2)?, Form::Option)
        }
        "setex" => fixed(false, false, Form::SetEx),
        "psetex" => fixed(true, false, Form::SetEx),
        "expire" => fixed(false, false, Form::Expire),
        "pexpire" => fixed(true, false, Form::Expire),
        "expireat" => fixed(false, true, Form::Expire),
        "pexpireat" => fixed(true, true, Form::Expire),
        "restore" | "restore-asking" => {
            let absolute = (4..args.count()).any(|i| is_word(args, i, "ABSTTL"));
            let found = fixed(true, absolute, Form::Restore);
            found.filter(|_| args.argument(2) != Some(b"0"))
        }
        _ => None,
    }
}

/// The option from argument `from` on that tells a deadline.
fn option<A: Arguments + ?Sized>(args: &A, from: usize, form: Form) -> Option<Deadline> {
    let mut at = from;
    while at + 1 < args.count() {
        for (word, milliseconds, absolute) in
            [("EX", false, false), ("PX", true, false), ("EXAT", false, true), ("PXAT", true, true)]
        {
            if is_word(args, at, word) {
                return Some(Deadline { at: at + 1, milliseconds, absolute, form });
            }
        }
        // Conditions that have a value of their own.
        let compares = ["IFEQ", "IFNE", "IFDEQ", "IFDNE"].iter().any(|word| is_word(args, at, word));
        at += if compares { 2 } else { 1 };
    }
    None
}

fn is_word<A: Arguments + ?Sized>(args: &A, index: usize, word: &str) -> bool {
    args.argument(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: i64 = 1_000_000;

    fn redated(command: &str, ttl: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let rule: TtlRule = ttl.parse().unwrap();
        match redate(&words[0].to_lowercase(), &words, rule.ttl, CLOCK) {
            Redated::Same => "same".to_owned(),
            Redated::Nothing => "nothing".to_owned(),
            Redated::As(command) => {
                let line: Vec<_> = command.args().map(|arg| arg.escape_ascii().to_string()).collect();
                line.join(" ")
            }
        }
    }

    #[test]
    fn each_form_is_changed() {
        for (command, ttl, expected) in [
            ("SET k v PX 5000 NX", "drop", "SET k v NX"),
            ("SET k EX IFEQ EX EX 5", "drop", "SET k EX IFEQ EX"),
            ("SET k PX", "drop", "same"),
            ("SET k v KEEPTTL", "drop", "same"),
            ("SETEX k 5 v", "drop", "SET k v"),
            ("PEXPIREAT k 2000000", "drop", "nothing"),
            ("GETEX k PXAT 2000000", "drop", "nothing"),
            ("GETEX k PERSIST", "drop", "same"),
            ("MSETEX 1 EX 5 PXAT 2000000", "drop", "MSETEX 1 EX 5"),
            ("RESTORE k 5 p REPLACE", "drop", "RESTORE k 0 p REPLACE"),
            ("RESTORE k 0 p REPLACE", "add:1s", "same"),
            ("SET k v PX 5000", "cap:2s", "SET k v PX 2000"),
            ("SET k v PX 1000", "cap:2s", "same"),
            ("SET k v EXAT 5000", "cap:2500ms", "SET k v EXAT 1003"),
            ("EXPIRE k 10 XX", "scale:150%", "EXPIRE k 15"),
            ("PEXPIREAT k 1000500", "scale:200%", "PEXPIREAT k 1001000"),
            ("PEXPIREAT k 999500", "scale:200%", "same"),
            ("RESTORE k 1001000 p ABSTTL", "add:1m", "RESTORE k 1061000 p ABSTTL"),
            ("PEXPIRE k 100", "add:-1s", "PEXPIRE k 1"),
            ("HPEXPIREAT k 5 FIELDS 1 f", "drop", "same"),
        ] {
            assert_eq!(redated(command, ttl), expected, "{command} {ttl}");
        }
    }

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("drop", "drop"),
            ("prefix:a=b:=cap:1h", "prefix:a=b:=cap:3600000ms"),
            ("cache:*=scale:50%", "glob:cache:*=scale:50%"),
            ("add:-2d", "add:-172800000ms"),
        ] {
            let rule: TtlRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rule));
        }
        for wrong in [
            "",
            "keep",
            "cap:",
            "cap:1",
            "cap:0s",
            "cap:-1s",
            "scale:2",
            "scale:-1%",
            "add:x",
            "regex:(=drop",
        ] {
            assert!(wrong.parse::<TtlRule>().is_err(), "{wrong}");
        }
    }
}
