use crate::client::Client;
use crate::error::{Error, Result};

/// Counters and registers of one ledger.
const NAMES: u64 = 8;

/// What is known of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was acknowledged.
    Done,
    /// Nobody knows: the connection was lost before the reply.
    Maybe,
    /// It was refused.
    Not,
}

/// What one connection of an application has written, and what was said to it.
///
/// Its keys are all in one slot. The write of number `n` goes, by turns, to a counter, the list, and a register; each has its fate.
#[derive(Debug)]
pub struct Ledger {
    tag: String,
    fates: Vec<Fate>,
    /// Numbers that were sent and not answered yet.
    open: u64,
}

/// What a ledger came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Writes that were acknowledged, all of which were found.
    pub acknowledged: u64,
    /// Writes of which nobody knew, and that may or may not be there.
    pub unknown: u64,
}

impl Ledger {
    /// An empty one, whose keys have this hash tag.
    pub fn new(tag: &str) -> Ledger {
        Ledger { tag: tag.to_owned(), fates: Vec::new(), open: 0 }
    }

    /// Its hash tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The next write. It counts as one of which nobody knows until it is answered.
    pub fn next_write(&mut self) -> Vec<String> {
        let number = self.fates.len() as u64;
        self.fates.push(Fate::Maybe);
        self.open += 1;
        let (tag, name, value) = (&self.tag, number / 4 % NAMES, number.to_string());
        match number % 4 {
            0 => vec!["INCR".to_owned(), format!("ledger:{{{tag}}}:counter:{name}")],
            1 => vec!["RPUSH".to_owned(), format!("ledger:{{{tag}}}:list"), value],
            2 => vec!["SET".to_owned(), format!("ledger:{{{tag}}}:register:{name}"), value],
            // What expires soon, and late.
            _ => {
                let time = if name == 0 { "1500" } else { "3600000" };
                let key = format!("ledger:{{{tag}}}:expiring:{name}");
                vec!["SET".to_owned(), key, value, "PX".to_owned(), time.to_owned()]
            }
        }
    }

    /// The oldest write that was not answered was acknowledged, or refused.
    pub fn answered(&mut self, acknowledged: bool) {
        let at = self.fates.len() - usize::try_from(self.open).unwrap_or(0);
        if let Some(fate) = self.fates.get_mut(at) {
            *fate = if acknowledged { Fate::Done } else { Fate::Not };
        }
        self.open = self.open.saturating_sub(1);
    }

    /// The connection is lost: what was not answered stays unknown.
    pub fn lost(&mut self) {
        self.open = 0;
    }

    /// Looks for every acknowledged write.
    ///
    /// # Errors
    /// [`Error::Round`] with what is lost, or there twice; those of the client.
    pub fn check(&self, client: &mut Client) -> Result<Tally> {
        let tag = &self.tag;
        let mut tally = Tally::default();
        for fate in &self.fates {
            tally.acknowledged += u64::from(*fate == Fate::Done);
            tally.unknown += u64::from(*fate == Fate::Maybe);
        }
        for name in 0..NAMES {
            let of = |kind: u64| {
                let is = move |number: &(u64, &Fate)| number.0 % 4 == kind && number.0 / 4 % NAMES == name;
                (0_u64..).zip(&self.fates).filter(is)
            };
            let key = format!("ledger:{{{tag}}}:counter:{name}");
            let least = of(0).filter(|(_, fate)| **fate == Fate::Done).count() as u64;
            let most = least + of(0).filter(|(_, fate)| **fate == Fate::Maybe).count() as u64;
            let has = number(client, &key)?.unwrap_or(0);
            if !(least..=most).contains(&has) {
                return Err(wrong(&key, format!("{has} where {least} to {most} were counted")));
            }
            for (kind, what) in [(2, "register"), (3, "expiring")] {
                if (kind, name) == (3, 0) {
                    continue;
                }
                let key = format!("ledger:{{{tag}}}:{what}:{name}");
                let last = of(kind).filter(|(_, fate)| **fate == Fate::Done).last().map(|(number, _)| number);
                let has = number(client, &key)?;
                let fits = has == last
                    || has.is_some_and(|has| {
                        let unknown = of(kind).any(|(of, fate)| of == has && *fate == Fate::Maybe);
                        unknown && last.is_none_or(|last| has > last)
                    });
                if !fits {
                    return Err(wrong(&key, format!("{has:?} where {last:?} was acknowledged last")));
                }
            }
        }
        self.check_list(client)?;
        Ok(tally)
    }

    fn check_list(&self, client: &mut Client) -> Result<()> {
        let key = format!("ledger:{{{}}}:list", self.tag);
        let items = client.list(&["LRANGE", &key, "0", "-1"])?;
        let items: Vec<u64> = items.iter().filter_map(|item| item.as_str()?.parse().ok()).collect();
        let mut seen = vec![false; self.fates.len()];
        let mut last = None;
        for item in &items {
            let at = usize::try_from(*item).unwrap_or(usize::MAX);
            match (self.fates.get(at), seen.get(at)) {
                (Some(Fate::Done | Fate::Maybe), Some(false)) => seen[at] = true,
                (_, Some(true)) => return Err(wrong(&key, format!("item {item} is there twice"))),
                _ => return Err(wrong(&key, format!("item {item} was not acknowledged"))),
            }
            if self.fates.get(at) == Some(&Fate::Done) {
                if last.is_some_and(|last| last > *item) {
                    return Err(wrong(&key, format!("item {item} stands behind {last:?}")));
                }
                last = Some(*item);
            }
        }
        let done = |at: &usize| at % 4 == 1 && self.fates[*at] == Fate::Done && !seen[*at];
        let lost: Vec<usize> = (0..self.fates.len()).filter(done).collect();
        match lost.first() {
            None => Ok(()),
            Some(first) => {
                Err(wrong(&key, format!("{} acknowledged items are lost, the first {first}", lost.len())))
            }
        }
    }
}

fn number(client: &mut Client, key: &str) -> Result<Option<u64>> {
    let value = client.bytes(&["GET", key])?;
    Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
}

fn wrong(key: &str, what: String) -> Error {
    Error::Round(format!("{key}: {what}"))
}
