//! Deadlines that are held back: commands that set when something expires, with that moved far into the future.
//!
//! A target is behind its source, and its clock goes on. What expires there by itself, before the source has said all that it
//! had to say of it, is lost for the commands that follow: a prolongation finds nothing, a counter begins anew. So
//! while it is behind, every deadline goes to the target [`SHIFT`] later. Keys die by the `DEL` with which the source tells its
//! replicas that they have expired, as they do at a replica.
//!
//! **Takes** a command as a source of any version replicates it. **Gives** one command, or two that belong together, with the
//! same effect but for the deadline. Forms that say a time from now, as sources before 7.0 send them, become absolute.
//! **Leaves alone** what it cannot read, what is further away than [`HORIZON`], and values with deadlines inside: a `RESTORE`
//! of a hash whose fields expire (only its own deadline is moved). No I/O, no clock.
//!
//! # Rules
//!
//! - A held deadline can be told from any other by itself: they lie in `SHIFT..SHIFT + HORIZON`, which are the years 3084 to
//!   3642. So nothing has to be remembered of a key to give it its exact deadline back, by whatever way it got there (`RENAME`,
//!   `COPY`, a failover), and whoever is started again finds what another left.
//! - Conditions (`NX`, `XX`, `GT`, `LT`) of a key's deadline are left out: a source replicates what it has done, so they were
//!   true there; at a target with held deadlines they may be false. Those of hash fields stay, as one command may have been
//!   done for some of its fields only.

use keyferry_resp::{Command, CommandRef};

/// By how much, in milliseconds: some 1115 years. Fields of hashes may expire before 2^46 at the latest (Redis 7.4).
pub(crate) const SHIFT: i64 = 1 << 45;

/// Deadlines from here on, the year 2527, are not moved. Unix time in milliseconds.
pub(crate) const HORIZON: i64 = 1 << 44;

/// Where a deadline goes while it is held; Unix times in milliseconds.
pub(crate) const fn held(deadline: i64) -> i64 {
    match deadline {
        HORIZON.. => deadline,
        1.. => deadline + SHIFT,
        // Long past, and still to be told by the source.
        _ => 1 + SHIFT,
    }
}

/// The deadline that is held by this one, if it is a held one.
pub(crate) const fn exact(deadline: i64) -> Option<i64> {
    match deadline {
        SHIFT.. if deadline < SHIFT + HORIZON => Some(deadline - SHIFT),
        _ => None,
    }
}

/// What a target understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forms {
    /// `SET … PXAT` (6.2).
    pub(crate) set_pxat: bool,
    /// `RESTORE … ABSTTL` (5.0).
    pub(crate) absolute_ttl: bool,
    /// Fields of hashes that expire (Redis 7.4, Valkey 9).
    pub(crate) fields: bool,
}

/// A command in its held form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// What goes to the target in its place: one, or two that belong together.
    pub(crate) commands: Vec<Command>,
    /// Where the original has its keys.
    pub(crate) keys: Vec<usize>,
    /// The deadlines are those of fields.
    pub(crate) fields: bool,
}

/// True for a command that may set a deadline. Cheap: asked of every command.
#[inline]
pub(crate) fn may_set_deadline(command: &CommandRef<'_>) -> bool {
    match command.name().len() {
        3 => command.len() > 3 && command.is("SET"),
        _ => form(command).is_some(),
    }
}

/// The command as it goes to the target while the deadlines that `which` chooses are held. None when it may go as it is.
/// `clock` is when the source did it, as far as that is known; Unix time in milliseconds.
pub(crate) fn hold(
    command: &CommandRef<'_>,
    clock: i64,
    forms: Forms,
    which: impl Fn(i64) -> bool,
) -> Option<Held> {
    Rewrite { command, clock, forms, which, moves: held }.held()
}

/// A command in its held form with the deadline that it holds; none for one without a held deadline.
pub(crate) fn exact_form(command: &CommandRef<'_>) -> Option<Command> {
    let is_held_one = |arg: &[u8]| Some(exact(std::str::from_utf8(arg).ok()?.parse().ok()?).is_some());
    if !command.args().skip(2).any(|arg| is_held_one(arg).unwrap_or(false)) {
        return None;
    }
    let forms = Forms { set_pxat: true, absolute_ttl: true, fields: true };
    let moves = |deadline: i64| exact(deadline).unwrap_or(deadline);
    let is_held = |deadline: i64| exact(deadline).is_some();
    // A time from now is none of ours, whatever the time is.
    let rewritten = Rewrite { command, clock: 0, forms, which: is_held, moves }.held()?;
    rewritten.commands.into_iter().next()
}

/// How a command tells a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    milliseconds: bool,
    absolute: bool,
}

impl Unit {
    /// The unit that an option of this name tells.
    fn of_option(name: &[u8]) -> Option<Self> {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        let unit = |milliseconds, absolute| Some(Unit { milliseconds, absolute });
        match name.len() {
            2 if is("EX") => unit(false, false),
            2 if is("PX") => unit(true, false),
            4 if is("EXAT") => unit(false, true),
            4 if is("PXAT") => unit(true, true),
            _ => None,
        }
    }

    fn deadline(self, text: &[u8], clock: i64) -> Option<i64> {
        let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        let milliseconds = if self.milliseconds { number } else { number.checked_mul(1000)? };
        if self.absolute { Some(milliseconds) } else { milliseconds.checked_add(clock) }
    }
}

/// Where commands have their deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `SET key value … [EX …]`
    Set,
    /// `SETEX key time value`
    SetEx(Unit),
    /// `GETEX key [EX …]`
    GetEx,
    /// `MSETEX n key value … [EX …]`
    MSetEx,
    /// `EXPIRE key time [condition]`
    Expire(Unit),
    /// `RESTORE key time payload [ABSTTL] …`
    Restore,
    /// `HEXPIRE key time [condition] FIELDS n field …`
    HExpire(Unit),
    /// `HSETEX key [EX …] FIELDS n field value …`
    HSetEx,
    /// `HGETEX key [EX …] FIELDS n field …`
    HGetEx,
}

fn form(command: &CommandRef<'_>) -> Option<Form> {
    let unit = |milliseconds, absolute| Unit { milliseconds, absolute };
    let is = |name: &str| command.is(name);
    // By length first: nearly all commands end here.
    match command.name().len() {
        3 if is("SET") => Some(Form::Set),
        5 if is("SETEX") => Some(Form::SetEx(unit(false, false))),
        5 if is("GETEX") => Some(Form::GetEx),
        6 if is("EXPIRE") => Some(Form::Expire(unit(false, false))),
        6 if is("PSETEX") => Some(Form::SetEx(unit(true, false))),
        6 if is("MSETEX") => Some(Form::MSetEx),
        6 if is("HSETEX") => Some(Form::HSetEx),
        6 if is("HGETEX") => Some(Form::HGetEx),
        7 if is("PEXPIRE") => Some(Form::Expire(unit(true, false))),
        7 if is("HEXPIRE") => Some(Form::HExpire(unit(false, false))),
        7 if is("RESTORE") => Some(Form::Restore),
        8 if is("EXPIREAT") => Some(Form::Expire(unit(false, true))),
        8 if is("HPEXPIRE") => Some(Form::HExpire(unit(true, false))),
        9 if is("PEXPIREAT") => Some(Form::Expire(unit(true, true))),
        9 if is("HEXPIREAT") => Some(Form::HExpire(unit(false, true))),
        10 if is("HPEXPIREAT") => Some(Form::HExpire(unit(true, true))),
        14 if is("RESTORE-ASKING") => Some(Form::Restore),
        _ => None,
    }
}

struct Rewrite<'c, W, M> {
    command: &'c CommandRef<'c>,
    clock: i64,
    forms: Forms,
    which: W,
    /// Where a deadline goes.
    moves: M,
}

impl<W: Fn(i64) -> bool, M: Fn(i64) -> i64> Rewrite<'_, W, M> {
    fn held(&self) -> Option<Held> {
        let key = self.arg(1)?;
        let one = |command: Command| Held { commands: vec![command], keys: vec![1], fields: false };
        match form(self.command)? {
            Form::Set => {
                let (at, deadline) = self.option_of_set()?;
                let at_moment = self.moved(deadline)?;
                if self.forms.set_pxat {
                    return Some(one(self.with(&[(at, b"PXAT"), (at + 1, at_moment.as_bytes())])));
                }
                let rest = (0..self.command.len()).filter(|&i| i != at && i != at + 1);
                let set = Command::new(rest.filter_map(|i| self.arg(i)).collect::<Vec<_>>());
                Some(Held { commands: vec![set, expire(key, &at_moment)], keys: vec![1], fields: false })
            }
            Form::SetEx(unit) => {
                let at_moment = self.moved(unit.deadline(self.arg(2)?, self.clock)?)?;
                let value = self.arg(3)?;
                if self.forms.set_pxat {
                    return Some(one(Command::new([b"SET", key, value, b"PXAT", at_moment.as_bytes()])));
                }
                let commands = vec![Command::new([b"SET", key, value]), expire(key, &at_moment)];
                Some(Held { commands, keys: vec![1], fields: false })
            }
            Form::GetEx => {
                let (_, deadline) = self.option(2..self.command.len())?;
                Some(one(expire(key, &self.moved(deadline)?)))
            }
            Form::MSetEx => {
                let pairs: usize = std::str::from_utf8(key).ok()?.parse().ok()?;
                let options = pairs.checked_mul(2)?.checked_add(2)?;
                let (at, deadline) = self.option(options..self.command.len())?;
                let at_moment = self.moved(deadline)?;
                let command = self.with(&[(at, b"PXAT"), (at + 1, at_moment.as_bytes())]);
                let keys = (2..options).step_by(2).collect();
                Some(Held { commands: vec![command], keys, fields: false })
            }
            Form::Expire(unit) => {
                let deadline = unit.deadline(self.arg(2)?, self.clock)?;
                match self.moved(deadline) {
                    Some(at_moment) => Some(one(expire(key, &at_moment))),
                    // What is held may be in the way of a condition.
                    None if self.command.len() > 3 => Some(one(expire(key, &deadline.to_string()))),
                    None => None,
                }
            }
            Form::Restore => self.restore().map(one),
            Form::HExpire(unit) => {
                let at_moment = self.moved(unit.deadline(self.arg(2)?, self.clock)?)?;
                let command = self.with(&[(0, b"HPEXPIREAT"), (2, at_moment.as_bytes())]);
                Some(Held { fields: true, ..one(command) })
            }
            Form::HSetEx => {
                let (at, deadline) = self.option(2..self.fields()?)?;
                let at_moment = self.moved(deadline)?;
                let command = self.with(&[(at, b"PXAT"), (at + 1, at_moment.as_bytes())]);
                Some(Held { fields: true, ..one(command) })
            }
            Form::HGetEx => {
                let fields = self.fields()?;
                let (_, deadline) = self.option(2..fields)?;
                let at_moment = self.moved(deadline)?;
                let mut args: Vec<&[u8]> = vec![b"HPEXPIREAT", key, at_moment.as_bytes()];
                args.extend(self.command.args().skip(fields));
                Some(Held { fields: true, ..one(Command::new(args)) })
            }
        }
    }

    fn arg(&self, index: usize) -> Option<&[u8]> {
        self.command.arg(index)
    }

    /// The held form of a deadline, if it is to be held.
    fn moved(&self, deadline: i64) -> Option<String> {
        let moved = (self.moves)(deadline);
        (moved != deadline && (self.which)(deadline)).then(|| moved.to_string())
    }

    /// The first option in this range that tells a deadline: where it stands, and what it tells. Flags stand alone.
    fn option(&self, range: std::ops::Range<usize>) -> Option<(usize, i64)> {
        range.into_iter().find_map(|at| {
            let unit = Unit::of_option(self.arg(at)?)?;
            Some((at, unit.deadline(self.arg(at + 1)?, self.clock)?))
        })
    }

    /// As [`Rewrite::option`], in a `SET`, where conditions have values of their own.
    fn option_of_set(&self) -> Option<(usize, i64)> {
        let mut at = 3;
        while let Some(name) = self.arg(at) {
            if let Some(unit) = Unit::of_option(name) {
                return Some((at, unit.deadline(self.arg(at + 1)?, self.clock)?));
            }
            let compares = ["IFEQ", "IFNE", "IFDEQ", "IFDNE"];
            at += 1 + usize::from(compares.iter().any(|word| name.eq_ignore_ascii_case(word.as_bytes())));
        }
        None
    }

    /// Where `FIELDS` stands.
    fn fields(&self) -> Option<usize> {
        let mut at = 2;
        while let Some(name) = self.arg(at) {
            if name.eq_ignore_ascii_case(b"FIELDS") {
                return Some(at);
            }
            at += 1 + usize::from(Unit::of_option(name).is_some());
        }
        None
    }

    fn restore(&self) -> Option<Command> {
        let ttl = self.arg(2).filter(|&ttl| ttl != b"0")?;
        let absolute = (4..self.command.len()).any(|i| self.is_word(i, b"ABSTTL"));
        let deadline = Unit { milliseconds: true, absolute }.deadline(ttl, self.clock)?;
        self.moved(deadline)?;
        let moved = (self.moves)(deadline);
        if !self.forms.absolute_ttl {
            let left = moved.saturating_sub(self.clock).max(1).to_string();
            let words = (0..self.command.len()).filter(|&i| i < 4 || !self.is_word(i, b"ABSTTL"));
            let args = words.filter_map(|i| if i == 2 { Some(left.as_bytes()) } else { self.arg(i) });
            return Some(Command::new(args.collect::<Vec<_>>()));
        }
        let moved = moved.to_string();
        let mut args: Vec<&[u8]> = self.command.args().collect();
        args[2] = moved.as_bytes();
        if !absolute {
            args.push(b"ABSTTL");
        }
        Some(Command::new(args))
    }

    fn is_word(&self, index: usize, word: &[u8]) -> bool {
        self.arg(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word))
    }

    /// The command with other arguments at some places.
    fn with(&self, replaced: &[(usize, &[u8])]) -> Command {
        let args = self.command.args().enumerate().map(|(i, arg)| {
            let other = replaced.iter().find(|(at, _)| *at == i);
            other.map_or(arg, |(_, other)| other)
        });
        Command::new(args.collect::<Vec<_>>())
    }
}

fn expire(key: &[u8], at: &str) -> Command {
    Command::new([b"PEXPIREAT", key, at.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: i64 = 1_700_000_000_000;
    const NEW: Forms = Forms { set_pxat: true, absolute_ttl: true, fields: true };

    fn line(command: &Command) -> String {
        command.args().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// The commands in its place, with held deadlines shown as `+` and the deadline.
    fn held_with(command: &str, forms: Forms, which: impl Fn(i64) -> bool) -> Option<Vec<String>> {
        let command = Command::new(command.split(' ').collect::<Vec<_>>());
        let held = hold(&command.as_ref(), CLOCK, forms, which)?;
        assert!(may_set_deadline(&command.as_ref()), "{command:?}");
        let show = |word: &str| match word.parse().ok().and_then(exact) {
            Some(exact) => format!("+{exact}"),
            None => word.to_owned(),
        };
        Some(
            held.commands
                .iter()
                .map(|c| line(c).split(' ').map(show).collect::<Vec<_>>().join(" "))
                .collect(),
        )
    }

    fn held_form(command: &str) -> Option<String> {
        held_with(command, NEW, |_| true).map(|commands| commands.join(" | "))
    }

    #[test]
    fn held_deadlines_are_told_from_others() {
        for deadline in [1, CLOCK, HORIZON - 1] {
            assert_eq!(exact(held(deadline)), Some(deadline));
            assert_eq!(exact(deadline), None);
        }
        assert_eq!(exact(held(-5)), Some(1));
        // The years 2286 and 9999 in seconds, and the end of time.
        for deadline in [HORIZON, 32_503_680_000_000, 253_402_300_799_000, i64::MAX] {
            assert_eq!((held(deadline), exact(deadline)), (deadline, None));
        }
        assert_eq!(exact(held(9_999_999_999_000)), Some(9_999_999_999_000));
        // What fields of hashes may have at most.
        const { assert!(SHIFT + HORIZON < 1 << 46) };
    }

    #[test]
    fn the_exact_form_of_what_was_held_is_found() {
        for sent in [
            "SET k v PXAT 1700000001234",
            "PEXPIREAT k 1700000001234",
            "MSETEX 1 k v PXAT 1700000001234",
            "RESTORE k 1700000001234 payload REPLACE ABSTTL",
            "HPEXPIREAT k 1700000001234 FIELDS 1 f",
            "HSETEX k PXAT 1700000001234 FIELDS 1 f v",
        ] {
            let command = Command::new(sent.split(' ').collect::<Vec<_>>());
            let held = hold(&command.as_ref(), CLOCK, NEW, |_| true).unwrap().commands;
            assert_eq!(exact_form(&held[0].as_ref()).as_ref().map(line), Some(sent.to_owned()));
        }
        for other in [
            "SET k 35184372088999 PXAT 1700000001234",
            "EXPIRE k 10 NX",
            "PEXPIREAT k 1700000001234 GT",
            "RPUSH k 35184372088999",
            "SET k v",
            "GET k",
        ] {
            let command = Command::new(other.split(' ').collect::<Vec<_>>());
            assert_eq!(exact_form(&command.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn every_form_becomes_absolute_and_is_moved() {
        let cases = [
            ("SET k v PXAT 1700000001234", "SET k v PXAT +1700000001234"),
            ("set k v NX ex 10 GET", "set k v NX PXAT +1700000010000 GET"),
            ("SET k v PX 10", "SET k v PXAT +1700000000010"),
            ("SET k v EXAT 1700000001", "SET k v PXAT +1700000001000"),
            ("SET k v IFEQ EX PX 10", "SET k v IFEQ EX PXAT +1700000000010"),
            ("SETEX k 10 v", "SET k v PXAT +1700000010000"),
            ("PSETEX k 10 v", "SET k v PXAT +1700000000010"),
            ("GETEX k EX 10", "PEXPIREAT k +1700000010000"),
            ("EXPIRE k 10", "PEXPIREAT k +1700000010000"),
            ("EXPIRE k -10", "PEXPIREAT k +1699999990000"),
            ("PEXPIRE k 10 NX", "PEXPIREAT k +1700000000010"),
            ("EXPIREAT k 1700000001 GT", "PEXPIREAT k +1700000001000"),
            ("pexpireat k 1700000001234", "PEXPIREAT k +1700000001234"),
            ("PEXPIREAT k 0", "PEXPIREAT k +1"),
            ("MSETEX 2 EX v b PX NX EX 10", "MSETEX 2 EX v b PX NX PXAT +1700000010000"),
            ("RESTORE k 5 x", "RESTORE k +1700000000005 x ABSTTL"),
            (
                "RESTORE k 1700000001234 x REPLACE ABSTTL FREQ 3",
                "RESTORE k +1700000001234 x REPLACE ABSTTL FREQ 3",
            ),
            ("RESTORE-ASKING k 5 x REPLACE", "RESTORE-ASKING k +1700000000005 x REPLACE ABSTTL"),
            ("HEXPIRE h 10 FIELDS 1 f", "HPEXPIREAT h +1700000010000 FIELDS 1 f"),
            ("HPEXPIRE h 10 GT FIELDS 2 f g", "HPEXPIREAT h +1700000000010 GT FIELDS 2 f g"),
            ("HEXPIREAT h 1700000001 FIELDS 1 f", "HPEXPIREAT h +1700000001000 FIELDS 1 f"),
            ("HPEXPIREAT h 1700000001234 FIELDS 1 f", "HPEXPIREAT h +1700000001234 FIELDS 1 f"),
            (
                "HSETEX h FNX PXAT 1700000001234 FIELDS 1 EX FIELDS",
                "HSETEX h FNX PXAT +1700000001234 FIELDS 1 EX FIELDS",
            ),
            ("HGETEX h EX 10 FIELDS 2 EX f", "HPEXPIREAT h +1700000010000 FIELDS 2 EX f"),
        ];
        for (command, expected) in cases {
            assert_eq!(held_form(command).as_deref(), Some(expected), "{command}");
        }
    }

    #[test]
    fn what_sets_no_deadline_goes_as_it_is() {
        for command in [
            "SET k v",
            "SET k EX",
            "SET k v KEEPTTL",
            "SET k v IFEQ EX",
            "SET k v EX",
            "SET k v EX ten",
            "SET k v EX 9223372036854775807",
            "GETEX k",
            "GETEX k PERSIST",
            "MSETEX 1 EX 10",
            "MSETEX x EX 10",
            "MSETEX 9223372036854775807 k v EX 10",
            "RESTORE k 0 x ABSTTL",
            "RESTORE k",
            "PEXPIREAT k 32503680000000",
            "HSETEX h FIELDS 1 EX 10",
            "HGETEX h PERSIST FIELDS 1 f",
            "HSETEX h EX 10",
            "EXPIRE",
            "EXPIRE k",
            "PERSIST k",
            "INCR k",
        ] {
            assert_eq!(held_form(command), None, "{command}");
        }
    }

    #[test]
    fn older_targets_get_what_they_know() {
        let old = Forms { set_pxat: false, absolute_ttl: false, fields: false };
        let form = |command| held_with(command, old, |_| true).map(|commands| commands.join(" | "));
        let two = Some("SET k v NX | PEXPIREAT k +1700000010000".to_owned());
        assert_eq!(form("SET k v EX 10 NX"), two);
        assert_eq!(form("SETEX k 10 v"), Some("SET k v | PEXPIREAT k +1700000010000".to_owned()));
        let left = SHIFT + 5;
        assert_eq!(held(CLOCK + 5) - CLOCK, left);
        assert_eq!(form("RESTORE k 1700000000005 x ABSTTL REPLACE"), Some("RESTORE k +5 x REPLACE".into()));
    }

    #[test]
    fn only_what_is_chosen_is_moved() {
        let near = |command| held_with(command, NEW, |deadline| deadline < CLOCK + 5000);
        assert_eq!(near("SET k v PX 4000").unwrap(), ["SET k v PXAT +1700000004000"]);
        assert_eq!(near("SET k v PX 6000"), None);
        // A condition would compare with what is held.
        assert_eq!(near("PEXPIRE k 6000 GT").unwrap(), ["PEXPIREAT k 1700000006000"]);
        assert_eq!(near("PEXPIRE k 6000"), None);
    }

    #[test]
    fn keys_are_told() {
        let keys = |command: &str| {
            let command = Command::new(command.split(' ').collect::<Vec<_>>());
            let held = hold(&command.as_ref(), CLOCK, NEW, |_| true).unwrap();
            (held.keys, held.fields)
        };
        assert_eq!(keys("MSETEX 2 a 1 b 2 EX 10"), (vec![2, 4], false));
        assert_eq!(keys("SETEX a 10 v"), (vec![1], false));
        assert_eq!(keys("HSETEX h EX 10 FIELDS 1 f v"), (vec![1], true));
    }
}
