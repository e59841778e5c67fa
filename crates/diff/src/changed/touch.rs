//! Which keys a command touches.

use keyferry_files::text::short_line;
use keyferry_routing::{CommandFlags, CommandTable, Key};

use super::ChangedKeys;

/// Names of commands that are shown.
const SHOWN: usize = 40;

/// Follows the commands of a log.
pub(super) struct Toucher {
    table: &'static CommandTable,
    db: u64,
    keys: Vec<Key>,
    memory: usize,
}

impl Toucher {
    pub(super) fn new(memory: usize) -> Self {
        Self { table: CommandTable::builtin(), db: 0, keys: Vec::new(), memory }
    }

    /// Passes over a command that does not count.
    pub(super) fn follow(&mut self, args: &[&[u8]]) {
        if let [name, db] = args
            && name.eq_ignore_ascii_case(b"select")
            && let Some(db) = std::str::from_utf8(db).ok().and_then(|db| db.parse().ok())
        {
            self.db = db;
        }
    }

    /// Takes in what the next command touches.
    pub(super) fn command(&mut self, args: &[&[u8]], changed: &mut ChangedKeys) {
        let Some(name) = args.first().map(|name| name.to_ascii_lowercase()) else { return };
        let number = |at: usize| std::str::from_utf8(args.get(at)?).ok()?.parse::<u64>().ok();
        match (&name[..], number(1), number(2)) {
            (b"select", ..) => return self.follow(args),
            (b"flushall", ..) => return changed.widen(|| "FLUSHALL was carried out".to_owned()),
            (b"flushdb", ..) => {
                let db = self.db;
                return changed.make_whole(db, || format!("FLUSHDB was carried out in database {db}"));
            }
            (b"swapdb", Some(a), Some(b)) => {
                for db in [a, b] {
                    changed.make_whole(db, || format!("SWAPDB {a} {b} was carried out"));
                }
                return;
            }
            _ => {}
        }
        if !self.table.is_write(args) {
            return;
        }
        let found = self.table.keys(args, &mut self.keys);
        let untold = match found {
            Err(_) => true,
            // A script may touch what it does not name.
            Ok(spec) if spec.flags().contains(CommandFlags::NO_MANDATORY_KEYS) => true,
            // They have no keys, and are compared by themselves.
            Ok(spec) if spec.name().starts_with("function") => return,
            Ok(_) => self.keys.is_empty(),
        };
        if untold {
            let name = short_line(args[0], SHOWN);
            return changed
                .widen(|| format!("{name} was carried out, of which nobody can tell what it touches"));
        }
        let elsewhere = match &name[..] {
            b"move" => Some((1, number(2))),
            b"copy" => {
                let word = (3..args.len()).find(|&at| args[at].eq_ignore_ascii_case(b"db"));
                word.map(|at| (2, number(at + 1)))
            }
            _ => None,
        };
        match elsewhere {
            Some((key, Some(db))) => changed.add(db, args.get(key).copied().unwrap_or_default(), self.memory),
            Some((_, None)) => {
                let name = short_line(args[0], SHOWN);
                changed.widen(|| format!("{name} names no database that is one"));
            }
            None => {}
        }
        for key in &self.keys {
            if let Some(key) = args.get(key.index) {
                changed.add(self.db, key, self.memory);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(commands: &[&str]) -> ChangedKeys {
        let mut changed = ChangedKeys::default();
        let mut toucher = Toucher::new(1 << 20);
        for command in commands {
            let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
            toucher.command(&args, &mut changed);
        }
        changed
    }

    fn names(changed: &ChangedKeys) -> Vec<String> {
        let mut names = Vec::new();
        for db in 0..16 {
            let of_db = changed.of_db(db).map(|key| format!("{db} {}", key.escape_ascii()));
            names.extend(of_db);
        }
        names.sort();
        names
    }

    #[test]
    fn keys_are_told_by_name() {
        let changed = after(&[
            "SELECT 0",
            "SET a 1",
            "PING",
            "PUBLISH channel message",
            "MULTI",
            "RENAME b c",
            "SUNIONSTORE d e f",
            "EXEC",
            "SELECT 3",
            "MOVE g 5",
            "COPY h i DB 6",
            "XADD s * f v",
            "SORT l BY nosort STORE m",
            "FUNCTION FLUSH",
            "hdel n f",
        ]);
        assert!(changed.widened().is_empty(), "{changed:?}");
        let expected = "0 a,0 b,0 c,0 d,0 e,0 f,3 g,3 h,3 i,3 l,3 m,3 n,3 s,5 g,6 i";
        assert_eq!(names(&changed).join(","), expected);
        assert!(changed.contains(3, b"n") && !changed.contains(0, b"n"));
    }

    #[test]
    fn what_cannot_be_told_by_key_widens() {
        let changed = after(&["SELECT 2", "SET a 1", "FLUSHDB", "SET b 1", "SELECT 4", "SET c 1"]);
        assert!(changed.is_whole(2) && !changed.is_whole(4) && changed.contains(2, b"never named"));
        assert_eq!(names(&changed), ["4 c"]);
        assert_eq!(changed.widened(), ["FLUSHDB was carried out in database 2"]);
        let changed = after(&["SET a 1", "SWAPDB 1 7"]);
        assert!(changed.is_whole(1) && changed.is_whole(7) && !changed.is_whole(0));
        for everything in
            ["FLUSHALL", "EVAL return 0", "FCALL f 0", "EVALSHA abc 1 k", "NOSUCHCOMMAND k", "SET k"]
        {
            let changed = after(&["SET a 1", everything, "SET b 1"]);
            assert!(changed.is_whole(0) && changed.is_whole(9), "{everything}");
            assert_eq!((changed.widened().len(), names(&changed).len()), (1, 0), "{everything}");
        }
        let mut changed = ChangedKeys::default();
        let mut toucher = Toucher::new(1000);
        for n in 0..100 {
            toucher.command(&[b"SET", format!("key:{n}").as_bytes(), b"v"], &mut changed);
        }
        assert!(changed.is_whole(0) && changed.widened()[0].contains("1000 bytes"), "{changed:?}");
    }
}
