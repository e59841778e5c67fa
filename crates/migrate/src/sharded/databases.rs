//! Which database of the source goes to which of the target.

use std::collections::BTreeMap;

use keyferry_resp::Command;
use keyferry_routing::with_keys_replaced;

/// A map of database numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Databases {
    map: BTreeMap<u64, u64>,
    /// How many databases the target has, if it is known.
    count: Option<u64>,
}

/// Why a database or a command between databases has no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    #[error(
        "database {from} has no place: the target has {count} database(s); give it one by --db-map {from}=0, or empty \
         it at the source first"
    )]
    NoDatabase { from: u64, count: u64 },
    #[error("it moves a key between databases {from} and {to} of the source, which are one at the target")]
    Merged { from: u64, to: u64 },
    #[error("it exchanges databases, which the map of databases keeps apart")]
    Exchange,
    #[error("its database number is none")]
    NotANumber,
}

impl Databases {
    /// Databases go where `map` says, others to where they were; the target has `count` of them.
    pub(crate) fn new(map: BTreeMap<u64, u64>, count: Option<u64>) -> Self {
        Databases { map, count }
    }

    /// Where a database of the source goes.
    pub(crate) fn to(&self, from: u64) -> Result<u32, NoPlace> {
        let to = self.map.get(&from).copied().unwrap_or(from);
        match self.count {
            Some(count) if to >= count => Err(NoPlace::NoDatabase { from, count }),
            _ => u32::try_from(to).map_err(|_| NoPlace::NoDatabase { from, count: u64::from(u32::MAX) }),
        }
    }

    /// The databases of the source that go to one of the target.
    pub(crate) fn from(&self, to: u64) -> impl Iterator<Item = u64> + '_ {
        let stays = (!self.map.contains_key(&to)).then_some(to);
        let mapped = self.map.iter().filter(move |&(_, &target)| target == to).map(|(&from, _)| from);
        stays.into_iter().chain(mapped)
    }

    /// The last database that the target may have something in.
    pub(crate) fn last(&self) -> u32 {
        let last = self.count.map_or(15, |count| count.saturating_sub(1));
        u32::try_from(last).unwrap_or(u32::MAX)
    }

    /// True when every database keeps its number.
    pub(crate) fn is_identity(&self) -> bool {
        self.map.iter().all(|(from, to)| from == to)
    }

    /// True when another database of the source may go to where `from` goes.
    pub(crate) fn is_merged(&self, from: u64) -> bool {
        let to = self.map.get(&from).copied().unwrap_or(from);
        let mapped = self.map.iter().any(|(&other, &target)| other != from && target == to);
        mapped || (to != from && !self.map.contains_key(&to))
    }

    /// The command for the target, where it names databases itself (`COPY … DB n`, `MOVE key n`, `SWAPDB a b`); `None`
    /// when it may go as it is. `db` is the source's database that it was meant for.
    pub(crate) fn rewrite(&self, command: &Command, db: u64) -> Result<Option<Command>, NoPlace> {
        let number = |index: usize| -> Result<u64, NoPlace> {
            let text = command.arg(index).and_then(|arg| std::str::from_utf8(arg).ok());
            text.and_then(|text| text.parse().ok()).ok_or(NoPlace::NotANumber)
        };
        if command.is("COPY") {
            let Some(word) = (3..command.len()).find(|&i| is_word(command, i, b"DB")) else {
                return Ok(None);
            };
            let to_db = number(word + 1)?;
            let (here, there) = (self.to(db)?, self.to(to_db)?);
            if here == there {
                if to_db != db && command.arg(1) == command.arg(2) {
                    return Err(NoPlace::Merged { from: db, to: to_db });
                }
                let kept = (0..command.len()).filter(|&i| i != word && i != word + 1);
                let args: Vec<&[u8]> = kept.filter_map(|i| command.arg(i)).collect();
                return Ok(Some(Command::new(args)));
            }
            return Ok(Some(with_keys_replaced(command, &[(word + 1, there.to_string())])));
        }
        if command.is("MOVE") {
            let to_db = number(2)?;
            let (here, there) = (self.to(db)?, self.to(to_db)?);
            if here == there {
                return Err(NoPlace::Merged { from: db, to: to_db });
            }
            return Ok(Some(with_keys_replaced(command, &[(2, there.to_string())])));
        }
        if command.is("SWAPDB") && !self.is_identity() {
            return Err(NoPlace::Exchange);
        }
        Ok(None)
    }
}

fn is_word(command: &Command, index: usize, word: &[u8]) -> bool {
    command.arg(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(map: &[(u64, u64)], command: &[&str], db: u64) -> Result<Option<Command>, NoPlace> {
        Databases::new(map.iter().copied().collect(), Some(4)).rewrite(&Command::new(command), db)
    }

    #[test]
    fn databases_keep_their_numbers_unless_told() {
        let databases = Databases::new(BTreeMap::from([(3, 0)]), Some(1));
        assert_eq!((databases.to(0), databases.to(3)), (Ok(0), Ok(0)));
        assert_eq!(databases.to(1), Err(NoPlace::NoDatabase { from: 1, count: 1 }));
        assert!(databases.is_merged(3) && databases.is_merged(0));
        assert_eq!(databases.from(0).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(databases.from(3).count(), 0);
        assert!(!Databases::default().is_merged(0));
    }

    #[test]
    fn commands_that_name_databases() {
        let copy = &["COPY", "a", "b", "REPLACE", "DB", "2"];
        assert_eq!(
            rewritten(&[(2, 1)], copy, 0),
            Ok(Some(Command::new(["COPY", "a", "b", "REPLACE", "DB", "1"])))
        );
        assert_eq!(rewritten(&[(2, 0)], copy, 0), Ok(Some(Command::new(["COPY", "a", "b", "REPLACE"]))));
        let same = &["copy", "a", "a", "db", "2"];
        assert_eq!(rewritten(&[(2, 0)], same, 0), Err(NoPlace::Merged { from: 0, to: 2 }));
        assert_eq!(rewritten(&[(2, 3)], &["MOVE", "a", "2"], 0), Ok(Some(Command::new(["MOVE", "a", "3"]))));
        assert_eq!(rewritten(&[(2, 0)], &["MOVE", "a", "2"], 0), Err(NoPlace::Merged { from: 0, to: 2 }));
        assert_eq!(rewritten(&[(2, 0)], &["SWAPDB", "0", "1"], 0), Err(NoPlace::Exchange));
        assert_eq!(rewritten(&[], &["SWAPDB", "0", "1"], 0), Ok(None));
        assert_eq!(rewritten(&[(2, 0)], &["SET", "a", "1"], 0), Ok(None));
        assert_eq!(rewritten(&[], &["MOVE", "a", "x"], 0), Err(NoPlace::NotANumber));
    }
}
