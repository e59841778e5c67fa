//! Values that come in parts.

use std::sync::atomic::Ordering;

use keyferry_rdb::{
    EntryHead, Eviction, Kind, RawValue, ValueType,
    convert::Way,
    native::{CommandSink, Loss, NativeOptions, Rebuild},
};

use super::{State, TEMPORARY_PREFIX, Temporary, now_ms, rewritten::Building, value::Key};
use crate::{
    error::Error,
    existing::Treat,
    output::{Output, PieceKind},
    snapshot_filter::Masks,
};

/// Values that have no native form are collected up to the largest bulk string that servers take by default.
pub(super) const LARGEST_PAYLOAD: usize = 512 << 20;

/// A value that comes in parts.
#[derive(Debug)]
pub(super) enum Large {
    /// Rebuilt under a temporary name.
    Native {
        rebuild: Box<Rebuild>,
        temporary: Vec<u8>,
        key: Vec<u8>,
        expiry: Option<i64>,
        guarded: bool,
        treat: Treat,
        masks: Option<Masks>,
    },
    /// Added to what the target has under this name.
    Union { rebuild: Box<Rebuild>, key: Vec<u8>, expiry: Option<i64>, masks: Option<Masks> },
    /// Shown to a script.
    Rewritten(Box<Building>),
    /// Collected, since it has no native form.
    Whole {
        key: Vec<u8>,
        expiry: Option<i64>,
        eviction: Option<Eviction>,
        meta: Option<Vec<u8>>,
        ty: ValueType,
        bytes: Vec<u8>,
        treat: Treat,
    },
    /// Already expired.
    Expired { key: Vec<u8>, treat: Treat },
    /// Of a type that the target does not know.
    Lost { key: Vec<u8>, treat: Treat },
}

impl State {
    pub(super) fn start_large(
        &mut self,
        head: &EntryHead<'_>,
        treat: Treat,
        out: &mut Output,
    ) -> Result<(), Error> {
        self.select(head.db, out);
        self.count(head);
        self.counts.large += 1;
        // What is merged keeps the later deadline of both, which cannot be told from a held one.
        let as_it_is = treat == Treat::Merge || self.script.is_some();
        let expiry = if as_it_is { head.expiry } else { self.deadline(head) };
        let expired = expiry.is_some_and(|at| at <= now_ms());
        let large = if self.script.is_some() {
            if !Self::has_commands(head.ty.kind()) {
                let what = format!("key {:?} ({})", String::from_utf8_lossy(head.key), head.ty);
                return Err(self.unsupported(what, "it is large, has no commands, and a script is to see it"));
            }
            // It sees the deadline as it is.
            Large::Rewritten(Box::new(self.building(head)))
        } else if expired {
            Large::Expired { key: head.key.to_vec(), treat }
        } else if self.way(head.ty) == Way::Lost {
            out.losses.push(Loss::NotAccepted { ty: head.ty });
            self.note_losses(head.key, out)?;
            Large::Lost { key: head.key.to_vec(), treat }
        } else if treat == Treat::Merge {
            let rebuild = Box::new(self.rebuild(head.key, head.ty));
            Large::Union { rebuild, key: head.key.to_vec(), expiry, masks: None }
        } else if matches!(head.ty.kind(), Kind::Module | Kind::RateLimiter | Kind::CronJob)
            || head.meta.is_some()
        {
            Large::Whole {
                key: head.key.to_vec(),
                expiry,
                eviction: head.eviction,
                meta: head.meta.map(<[u8]>::to_vec),
                ty: head.ty,
                bytes: Vec::new(),
                treat,
            }
        } else {
            let temporary = keyferry_routing::sibling_key(head.key, TEMPORARY_PREFIX);
            self.temporaries.push(Temporary {
                db: head.db,
                key: temporary.clone(),
                renamed: false,
                end: None,
            });
            // What a run that was killed may have left.
            out.command(&[b"DEL", &temporary]);

            if may_vanish(head.ty) {
                // Fields that expire meanwhile must not take the key with them.
                out.command(&[b"HSET", &temporary, &guard_field(&temporary), b""]);
            }
            if let Some((hold, databases)) = &self.hold
                && may_vanish(head.ty)
            {
                out.hold_fields = true;
                hold.counts.held_in_snapshot.fetch_add(1, Ordering::Relaxed);
                if let Ok(db) = databases.to(head.db) {
                    hold.note(db, head.key, true);
                }
            }
            Large::Native {
                rebuild: Box::new(self.rebuild(&temporary, head.ty)),
                temporary,
                key: head.key.to_vec(),
                expiry,
                guarded: may_vanish(head.ty),
                treat,
                masks: None,
            }
        };
        self.large = Some(large);
        self.cut(out, PieceKind::Part, head.key, head.db);
        Ok(())
    }

    /// What builds a value under this name.
    fn rebuild(&self, name: &[u8], ty: ValueType) -> Rebuild {
        let mut options = NativeOptions::default();
        options.features = Some(self.abilities.native);
        options.templates = self.templates.clone();
        Rebuild::new(name, ty, self.dialect, &options)
    }

    pub(super) fn large_part(&mut self, part: &[u8], out: &mut Output) -> Result<(), Error> {
        if let Some(Large::Rewritten(mut building)) =
            self.large.take_if(|large| matches!(large, Large::Rewritten(_)))
        {
            self.building_part(&mut building, part, out)?;
            self.large = Some(Large::Rewritten(building));
            return Ok(());
        }
        match &mut self.large {
            Some(Large::Native { rebuild, key, masks, .. } | Large::Union { rebuild, key, masks, .. }) => {
                match masks {
                    None => rebuild.feed(part, out)?,
                    Some(masks) => rebuild.feed(part, &mut masks.sink(out))?,
                }
                if self.divide {
                    out.cut(PieceKind::Part, key, self.selected.unwrap_or(0));
                }
            }
            Some(Large::Whole { key, ty, bytes, .. }) => {
                if bytes.len() + part.len() > LARGEST_PAYLOAD {
                    let what = format!("key {:?} ({ty})", String::from_utf8_lossy(key));
                    return Err(self.unsupported(what, "it has no native form and is above 512 MiB"));
                }
                bytes.extend_from_slice(part);
            }
            Some(Large::Expired { .. } | Large::Lost { .. } | Large::Rewritten(_)) | None => {}
        }
        Ok(())
    }

    pub(super) fn end_large(&mut self, out: &mut Output) -> Result<(), Error> {
        let mut digits = itoa::Buffer::new();
        match self.large.take() {
            Some(Large::Native { mut rebuild, temporary, key, expiry, guarded, treat, masks }) => {
                if let Some(last) = self.temporaries.last_mut() {
                    last.renamed = true;
                }
                finish(&mut rebuild, masks, out)?;
                if self.note_losses(&key, out)? {
                    out.keys += 1;
                    self.cut(out, PieceKind::Part, &key, self.selected.unwrap_or(0));
                    return Ok(());
                }
                // Seen by others only whole, and with its expiry. A piece is executed as a whole anyway.
                if !self.divide {
                    out.command(&[b"MULTI"]);
                }
                // Who hands it over carries that out by itself, and looks at the answer.
                let rename: &[u8] = if treat == Treat::OnlyNew { b"RENAMENX" } else { b"RENAME" };
                out.command(&[rename, &temporary, &key]);
                if guarded {
                    out.command(&[b"HDEL", &key, &guard_field(&temporary)]);
                }
                if let Some(at) = expiry {
                    out.command(&[b"PEXPIREAT", &key, digits.format(at).as_bytes()]);
                }
                if !self.divide {
                    out.command(&[b"EXEC"]);
                }
                self.cut(out, PieceKind::Part, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Union { mut rebuild, key, expiry, masks }) => {
                finish(&mut rebuild, masks, out)?;
                // One without elements adds nothing.
                if !self.note_losses(&key, out)? {
                    match expiry {
                        None => out.command(&[b"PERSIST", &key]),
                        // A key without a deadline keeps none.
                        Some(at) if self.abilities.expire_gt => {
                            out.command(&[b"PEXPIREAT", &key, digits.format(at).as_bytes(), b"GT"]);
                        }
                        // Nobody can tell which is later: the target's stays.
                        Some(_) => {}
                    }
                }
                self.cut(out, PieceKind::Part, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Whole { key, expiry, eviction, meta, ty, bytes, treat }) => {
                let whole = Key { key: &key, expiry, eviction, meta: meta.as_deref(), treat };
                self.restore(&whole, RawValue::new(ty, &bytes), out)?;
                out.commands += 1;
                self.cut(out, PieceKind::Key, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Expired { key, treat }) => {
                if treat == Treat::Replace {
                    out.command(&[b"DEL", &key]);
                }
                self.counts.expired_dropped += 1;
                self.cut(out, PieceKind::Key, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Lost { key, treat }) => self.lost(&key, treat, out),
            Some(Large::Rewritten(building)) => return self.end_building(*building, true, out),
            None => {}
        }
        out.keys += 1;
        Ok(())
    }
}

fn finish(rebuild: &mut Rebuild, masks: Option<Masks>, out: &mut Output) -> Result<(), Error> {
    match masks {
        None => rebuild.finish(out)?,
        Some(masks) => rebuild.finish(&mut masks.sink(out))?,
    }
    Ok(())
}

/// True for types whose elements expire by themselves.
pub(super) fn may_vanish(ty: ValueType) -> bool {
    ty.kind() == Kind::Hash && ty.since() >= 12
}

/// A field that is in no hash of anybody's.
fn guard_field(temporary: &[u8]) -> Vec<u8> {
    [temporary, b"\0guard"].concat()
}
