//! Values that are sent whole.

use bytes::BufMut;
use keyferry_rdb::{
    EntryHead, Eviction, RawValue, ValueType,
    convert::{Converted, Converter, Way},
    dump,
    native::{CommandSink, Loss},
};
use keyferry_resp::encode::{write_array_header, write_bulk, write_bulk_header, write_bulk_int};

use super::{State, large::may_vanish, now_ms};
use crate::{
    error::Error,
    existing::Treat,
    output::{Output, PieceKind},
};

/// What is known of a key whose value is sent whole.
pub(super) struct Key<'a> {
    pub(super) key: &'a [u8],
    pub(super) expiry: Option<i64>,
    pub(super) eviction: Option<Eviction>,
    pub(super) meta: Option<&'a [u8]>,
    pub(super) treat: Treat,
}

impl State {
    /// A key and its value.
    pub(super) fn entry(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        out: &mut Output,
    ) -> Result<(), Error> {
        if value.is_empty_container() {
            self.counts.empty_containers_dropped += 1;
            return Ok(());
        }
        let treat = self.treatment_of(head);
        if self.script.is_some() {
            if !Self::has_commands(head.ty.kind()) {
                return self.payload_rewritten(head, value, out);
            }
            self.start_large(head, treat, out)?;
            self.large_part(value.bytes(), out)?;
            self.counts.large -= 1;
            return self.end_large(out);
        }
        // Its field names are elsewhere in the snapshot, or it has deadlines inside that are to be held.
        let held_inside = self.hold.is_some() && may_vanish(head.ty) && self.abilities.native.field_expiry;
        if !value.ty().fits_dump() || held_inside || treat == Treat::Merge {
            self.start_large(head, treat, out)?;
            self.large_part(value.bytes(), out)?;
            self.counts.large -= u64::from(value.ty().fits_dump());
            return self.end_large(out);
        }
        if self.way(value.ty()) != Way::Raw {
            return self.converted(head, value, treat, out);
        }
        self.whole(head, value, treat, out)
    }

    /// A value in a form that the target reads.
    fn whole(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        treat: Treat,
        out: &mut Output,
    ) -> Result<(), Error> {
        let expiry = self.deadline(head);
        self.select(head.db, out);
        self.count(head);
        let plain = treat == Treat::Replace
            && head.eviction.is_none()
            && head.meta.is_none()
            && (head.expiry.is_none() || self.abilities.set_pxat);
        match value.verbatim_string() {
            // No more for the target than a payload, and no checksum on either side.
            Some(string) if plain => set(head.key, string, expiry, out),
            _ => {
                let key = Key { key: head.key, expiry, eviction: head.eviction, meta: head.meta, treat };
                self.restore(&key, value, out)?;
            }
        }
        out.commands += 1;
        out.keys += 1;
        self.cut(out, PieceKind::Key, head.key, head.db);
        Ok(())
    }

    /// How values of this type go to the target.
    pub(super) fn way(&self, ty: ValueType) -> Way {
        self.converter.as_ref().map_or(Way::Raw, |converter| converter.way(ty))
    }

    /// A value that the target does not read as it is.
    fn converted(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        treat: Treat,
        out: &mut Output,
    ) -> Result<(), Error> {
        let Some(mut converter) = self.converter.take() else {
            return Err(Error::Internal("the converter is at work already".into()));
        };
        let done = self.converted_by(&mut converter, head, value, treat, out);
        self.converter = Some(converter);
        done
    }

    fn converted_by(
        &mut self,
        converter: &mut Converter,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        treat: Treat,
        out: &mut Output,
    ) -> Result<(), Error> {
        let conversion = converter.convert(value)?;
        let value = match conversion.converted {
            Converted::Raw(value) | Converted::Reencoded(value) => value,
            Converted::Native => {
                self.start_large(head, treat, out)?;
                self.large_part(value.bytes(), out)?;
                return self.end_large(out);
            }
            Converted::Lost => {
                out.losses.extend(conversion.losses);
                self.select(head.db, out);
                self.count(head);
                self.note_losses(head.key, out)?;
                self.lost(head.key, treat, out);
                out.keys += 1;
                return Ok(());
            }
        };
        out.losses.extend(conversion.losses);
        self.note_losses(head.key, out)?;
        self.whole(head, value, treat, out)
    }

    /// What the target has under the name of a key that cannot be there is not the source's.
    pub(super) fn lost(&self, key: &[u8], treat: Treat, out: &mut Output) {
        if treat == Treat::Replace {
            out.command(&[b"DEL", key]);
        }
        self.cut(out, PieceKind::Key, key, self.selected.unwrap_or(0));
    }

    /// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s | FREQ n]`
    pub(super) fn restore(
        &mut self,
        head: &Key<'_>,
        value: RawValue<'_>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let meta = match head.meta {
            Some(_) if !self.abilities.key_metadata => {
                out.losses.push(Loss::KeyMetadata);
                self.note_losses(head.key, out)?;
                None
            }
            meta => meta,
        };
        let abilities = self.abilities;
        let eviction = head.eviction.filter(|_| abilities.absolute_ttl);
        let expires = head.expiry.is_some();
        let replace = abilities.replace && head.treat != Treat::OnlyNew;
        let args = 4
            + usize::from(replace)
            + usize::from(expires && abilities.absolute_ttl)
            + if eviction.is_some() { 2 } else { 0 };
        let bytes = &mut out.bytes;
        write_array_header(bytes, args);
        bytes.extend_from_slice(b"$7\r\nRESTORE\r\n");
        write_bulk(bytes, head.key);
        let ttl = match head.expiry {
            None => 0,
            Some(at) if abilities.absolute_ttl => at.max(1),
            // 0 would mean for ever.
            Some(at) => at.saturating_sub(now_ms()).max(1),
        };
        write_bulk_int(bytes, ttl);
        // Type byte, value, version, checksum.
        let payload = 1 + value.bytes().len() + 10 + meta.map_or(0, |m| m.len() + 1);
        write_bulk_header(bytes, payload);
        match meta {
            None => dump::append_payload(bytes, value, dump::UNIVERSAL_VERSION),
            Some(meta) => dump::append_payload_with_meta(bytes, meta, value, dump::UNIVERSAL_VERSION),
        }
        bytes.put_slice(b"\r\n");
        if replace {
            bytes.extend_from_slice(b"$7\r\nREPLACE\r\n");
        }
        if expires && abilities.absolute_ttl {
            bytes.extend_from_slice(b"$6\r\nABSTTL\r\n");
        }
        match eviction {
            Some(Eviction::Idle(seconds)) => {
                bytes.extend_from_slice(b"$8\r\nIDLETIME\r\n");
                write_bulk_int(bytes, i64::try_from(seconds).unwrap_or(i64::MAX));
            }
            Some(Eviction::Freq(n)) => {
                bytes.extend_from_slice(b"$4\r\nFREQ\r\n");
                write_bulk_int(bytes, i64::from(n));
            }
            _ => {}
        }
        Ok(())
    }
}

/// `SET key value [PXAT ms]`
fn set(key: &[u8], value: &[u8], expiry: Option<i64>, out: &mut Output) {
    let bytes = &mut out.bytes;
    bytes.extend_from_slice(if expiry.is_some() { b"*5\r\n$3\r\nSET\r\n" } else { b"*3\r\n$3\r\nSET\r\n" });
    write_bulk(bytes, key);
    write_bulk(bytes, value);
    if let Some(at) = expiry {
        bytes.extend_from_slice(b"$4\r\nPXAT\r\n");
        write_bulk_int(bytes, at.max(1));
    }
}
