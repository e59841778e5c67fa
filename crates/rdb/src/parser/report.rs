//! From what was found to the events that are reported.

use super::{Parser, Pending};
use crate::event::{
    Checksum, Entry, EntryHead, Event, FunctionPreGa, HashTemplate, Header, ModuleAux, RawValue, SlotImport,
    SlotInfo,
};
use crate::text::Place;
use crate::types::ModuleId;

/// An event in terms of positions: indexes of `buf`, places relative to `lent`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Header,
    Aux { name: Place, value: Place },
    SelectDb,
    ResizeDb { keys: u64, expires: u64 },
    SlotInfo(SlotInfo),
    SlotImport { job: Place, ranges: usize },
    Function { code: Place },
    FunctionPreGa { name: Place, engine: Place, description: Option<Place>, code: Place },
    ModuleAux { module: ModuleId, when: u64 },
    HashTemplate { id: u64, len: u64, fields: usize },
    Vendor { opcode: u8 },
    Entry { value: usize },
    ValueStart,
    ValuePart,
    ValueEnd,
    End(Checksum),
}

impl Parser {
    /// Builds the event.
    #[inline(always)]
    pub(super) fn event(&mut self, found: Found) -> Event<'_> {
        match found {
            Found::Entry { value } => {
                let pending = std::mem::take(&mut self.pending);
                let head = self.head(pending);
                Event::Entry(Entry { head, value: RawValue::new(head.ty, &self.buf[value..self.pos]) })
            }
            other => self.rare_event(other),
        }
    }

    #[inline(always)]
    fn head(&self, pending: Pending) -> EntryHead<'_> {
        EntryHead {
            db: self.db,
            key: self.place(self.key),
            expiry: pending.expiry,
            eviction: pending.eviction,
            meta: pending.meta.then_some(&*self.meta),
            ty: self.ty,
        }
    }

    #[inline(always)]
    fn place(&self, place: Place) -> &[u8] {
        place.of(&self.buf[self.lent..], &self.scratch)
    }

    #[inline(never)]
    fn rare_event(&mut self, found: Found) -> Event<'_> {
        let pending = match found {
            Found::ValueStart => std::mem::take(&mut self.pending),
            _ => Pending::default(),
        };
        match found {
            Found::Header => Event::Header(Header { dialect: self.dialect, version: self.version }),
            Found::Aux { name, value } => Event::Aux { name: self.place(name), value: self.place(value) },
            Found::SelectDb => Event::SelectDb(self.db),
            Found::ResizeDb { keys, expires } => Event::ResizeDb { keys, expires },
            Found::SlotInfo(info) => Event::SlotInfo(info),
            Found::SlotImport { job, ranges } => {
                Event::SlotImport(SlotImport::new(self.place(job), &self.buf[ranges..self.pos]))
            }
            Found::Function { code } => Event::Function { code: self.place(code) },
            Found::FunctionPreGa { name, engine, description, code } => Event::FunctionPreGa(FunctionPreGa {
                name: self.place(name),
                engine: self.place(engine),
                description: description.map(|place| self.place(place)),
                code: self.place(code),
            }),
            Found::ModuleAux { module, when } => {
                Event::ModuleAux(ModuleAux { module, when, record: &self.buf[self.lent..self.pos] })
            }
            Found::HashTemplate { id, len, fields } => {
                Event::HashTemplate(HashTemplate { id, len, fields: &self.buf[fields..self.pos] })
            }
            Found::Vendor { opcode } => Event::Vendor { opcode, bytes: &self.buf[self.lent + 1..self.pos] },
            Found::Entry { value } => {
                let head = self.head(pending);
                Event::Entry(Entry { head, value: RawValue::new(head.ty, &self.buf[value..self.pos]) })
            }
            Found::ValueStart => Event::ValueStart(self.head(pending)),
            Found::ValuePart => Event::ValuePart(&self.buf[self.lent..self.pos]),
            Found::ValueEnd => Event::ValueEnd,
            Found::End(checksum) => Event::End { checksum },
        }
    }
}
