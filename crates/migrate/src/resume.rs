//! Where a link goes on: what the target says, what the journal holds, and what follows from both.

use keyferry_replication::Position;

use crate::journal::Kept;

/// How far a link has come, as the target itself tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It knows nothing of it.
    Nothing,
    /// Something of a snapshot is there, and nobody knows how much, or of which.
    Begun,
    /// The snapshot that stands for `position` is there in part: entries that end at or before this byte of it.
    Snapshot { position: Position, bytes: u64 },
    /// Everything up to here is there. Never inside of a transaction.
    Stream(Position),
}

impl Applied {
    /// The snapshot that the target has the beginning of, and up to which byte; for the target's state.
    pub(crate) fn snapshot_text(epoch: u64, position: &Position, bytes: u64) -> String {
        format!("{epoch} {}:{} {bytes}", position.id, position.offset)
    }

    /// Reads that; [`Applied::Begun`] where it is of another full sync than `epoch`, or is none.
    pub(crate) fn of_snapshot(text: Option<&str>, epoch: u64) -> Self {
        let read = || {
            let mut words = text?.split(' ');
            let (of, at, bytes) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
            let (id, offset) = at.rsplit_once(':')?;
            let position = Position::after_snapshot(id.parse().ok()?, offset.parse().ok()?);
            let fits = of.parse().ok() == Some(epoch) && words.next().is_none();
            fits.then_some(Applied::Snapshot { position, bytes })
        };
        read().unwrap_or(Applied::Begun)
    }

    /// The same, if it is of the snapshot that stands for this; else something is there of another.
    pub(crate) fn of_position(self, wanted: &Option<Position>) -> Self {
        match &self {
            Applied::Snapshot { position, .. } if Some(position) != wanted.as_ref() => Applied::Begun,
            _ => self,
        }
    }
}

/// How a link begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// With a full sync. `again`: the target holds something of an earlier one, and perhaps keys that are no more.
    Full { again: bool },
    /// With the snapshot in the journal, which stands for `position`, from this byte on; the source is asked for what comes
    /// after `psync`. `again`: it came over an earlier one.
    Snapshot { position: Position, skip: u64, psync: Position, again: bool },
    /// With the stream after `from`, which is in the journal up to `psync`; what comes after that is asked for.
    Stream { from: Position, psync: Position },
}

impl Plan {
    /// What follows from both.
    pub(crate) fn of(kept: &Kept, applied: &Applied) -> Self {
        match applied {
            Applied::Nothing => Self::from_snapshot(kept, None, 0, false),
            Applied::Begun => Self::from_snapshot(kept, None, 0, true),
            Applied::Snapshot { position, bytes } => Self::from_snapshot(kept, Some(position), *bytes, true),
            Applied::Stream(from) => {
                let mut plan = Plan::Stream { from: from.clone(), psync: from.clone() };
                if let (Some(run), Plan::Stream { psync, .. }) = (&kept.run, &mut plan) {
                    let known = run.ids.contains(&from.id);
                    if known && run.start.offset <= from.offset && from.offset <= run.end.offset {
                        *psync = run.end.clone();
                    }
                }
                plan
            }
        }
    }

    /// With the snapshot in the journal, if it is there and everything that came after it: the one of which the target
    /// has the beginning, if it has any.
    fn from_snapshot(kept: &Kept, wanted: Option<&Position>, skip: u64, again: bool) -> Self {
        let Some(base) = &kept.base else { return Plan::Full { again } };
        let is = |position: &Position| position.id == base.id && position.offset == base.offset;
        if !wanted.is_none_or(is) {
            return Plan::Full { again };
        }
        let psync = match &kept.run {
            None => base.clone(),
            Some(run) if run.start.offset == base.offset && run.ids.contains(&base.id) => run.end.clone(),
            Some(_) => return Plan::Full { again },
        };
        Plan::Snapshot { position: base.clone(), skip, psync, again: kept.again }
    }

    /// Where the source is asked to go on, if it is.
    pub(crate) fn psync(&self) -> Option<&Position> {
        match self {
            Plan::Full { .. } => None,
            Plan::Snapshot { psync, .. } | Plan::Stream { psync, .. } => Some(psync),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Run;

    const A: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn at(id: &str, offset: u64) -> Position {
        Position::after_snapshot(id.parse().unwrap(), offset)
    }

    fn kept(base: Option<u64>, run: Option<(u64, u64)>) -> Kept {
        let ids = vec![A.parse().unwrap()];
        let run = run.map(|(start, end)| Run { start: at(A, start), end: at(A, end), ids });
        Kept { base: base.map(|offset| at(A, offset)), again: false, run, notes: Vec::new() }
    }

    #[test]
    fn a_snapshot_is_gone_on_with_when_it_is_there_with_all_that_followed() {
        let begun = |offset| Applied::Snapshot { position: at(A, offset), bytes: 77 };
        let go_on =
            |skip, end| Plan::Snapshot { position: at(A, 100), skip, psync: at(A, end), again: false };
        for (kept, applied, plan) in [
            (kept(Some(100), Some((100, 500))), begun(100), go_on(77, 500)),
            (kept(Some(100), None), begun(100), go_on(77, 100)),
            // The target has lost it: from the beginning.
            (kept(Some(100), Some((100, 500))), Applied::Nothing, go_on(0, 500)),
            // What came right after the snapshot is no more.
            (kept(Some(100), Some((200, 500))), begun(100), Plan::Full { again: true }),
            (kept(Some(100), Some((200, 500))), Applied::Nothing, Plan::Full { again: false }),
            // Another snapshot than the target has the beginning of.
            (kept(Some(100), Some((100, 500))), begun(101), Plan::Full { again: true }),
            (kept(None, None), begun(100), Plan::Full { again: true }),
            (kept(None, None), Applied::Nothing, Plan::Full { again: false }),
            (kept(None, None), Applied::Begun, Plan::Full { again: true }),
            (kept(Some(100), Some((100, 500))), Applied::Begun, go_on(0, 500)),
        ] {
            assert_eq!(Plan::of(&kept, &applied), plan, "{kept:?} {applied:?}");
        }
        let over = Kept { again: true, ..kept(Some(100), None) };
        let psync = at(A, 100);
        let plan = Plan::Snapshot { position: at(A, 100), skip: 0, psync, again: true };
        assert_eq!(Plan::of(&over, &Applied::Begun), plan);
        let other = Applied::Snapshot { position: at(B, 100), bytes: 5 };
        assert_eq!(Plan::of(&kept(Some(100), None), &other), Plan::Full { again: true });
    }

    #[test]
    fn how_much_of_a_snapshot_is_there_is_read_back() {
        let applied = Applied::Snapshot { position: at(A, 100), bytes: 77 };
        let text = Applied::snapshot_text(3, &at(A, 100), 77);
        assert_eq!(Applied::of_snapshot(Some(&text), 3), applied);
        // Of another full sync, or damaged.
        assert_eq!(Applied::of_snapshot(Some(&text), 4), Applied::Begun);
        for bad in
            [None, Some(""), Some("3"), Some("3 x:1 2"), Some(&*format!("{text} 1")), Some(&text[..40])]
        {
            assert_eq!(Applied::of_snapshot(bad, 3), Applied::Begun);
        }
    }

    #[test]
    fn the_stream_is_gone_on_with_from_the_journal_where_that_has_the_place() {
        for (run, from, end) in [
            (Some((100, 500)), 100, 500),
            (Some((100, 500)), 300, 500),
            (Some((100, 500)), 500, 500),
            (Some((100, 500)), 99, 99),
            // The journal was left behind: the stream went straight through.
            (Some((100, 500)), 501, 501),
            (None, 300, 300),
        ] {
            let plan = Plan::of(&kept(Some(100), run), &Applied::Stream(at(A, from)));
            assert_eq!(plan, Plan::Stream { from: at(A, from), psync: at(A, end) }, "{run:?} {from}");
        }
        // Of another history.
        let plan = Plan::of(&kept(None, Some((100, 500))), &Applied::Stream(at(B, 300)));
        assert_eq!(plan, Plan::Stream { from: at(B, 300), psync: at(B, 300) });
        // A history that went on under another id is one.
        let mut kept = kept(None, Some((100, 500)));
        let run = kept.run.as_mut().unwrap();
        run.ids.push(B.parse().unwrap());
        run.end.id = B.parse().unwrap();
        for id in [A, B] {
            let plan = Plan::of(&kept, &Applied::Stream(at(id, 300)));
            assert_eq!(plan, Plan::Stream { from: at(id, 300), psync: at(B, 500) });
        }
    }
}
