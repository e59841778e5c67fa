//! Records that are not keys: their opcodes and fields.

use super::report::Found;
use super::{Error, Parser};
use crate::event::{Eviction, SlotInfo};
use crate::text::{self, Place};
use crate::types::{Dialect, ModuleId};
use crate::wire::{self, Stop};

/// Opcodes of the record level.
pub(super) mod op {
    pub(in crate::parser) const EOF: u8 = 255;
    pub(in crate::parser) const SELECT_DB: u8 = 254;
    pub(in crate::parser) const EXPIRE_SECONDS: u8 = 253;
    pub(in crate::parser) const EXPIRE_MS: u8 = 252;
    pub(in crate::parser) const RESIZE_DB: u8 = 251;
    pub(in crate::parser) const AUX: u8 = 250;
    pub(in crate::parser) const FREQ: u8 = 249;
    pub(in crate::parser) const IDLE: u8 = 248;
    pub(in crate::parser) const MODULE_AUX: u8 = 247;
    pub(in crate::parser) const FUNCTION_PRE_GA: u8 = 246;
    pub(in crate::parser) const FUNCTION: u8 = 245;
    pub(in crate::parser) const SLOT_INFO: u8 = 244;
    /// Key metadata with Redis, a slot import with Valkey.
    pub(in crate::parser) const META_OR_IMPORT: u8 = 243;
    pub(in crate::parser) const HASH_TEMPLATE: u8 = 242;
    /// Redis Enterprise: LRU of data in RAM.
    pub(in crate::parser) const ENTERPRISE_LRU: u8 = 107;
    /// Redis Enterprise: number of the slot that follows.
    pub(in crate::parser) const ENTERPRISE_SLOT: u8 = 121;
}

impl Parser {
    /// Reports the record of `opcode` at `lent..pos`, or notes what it says of the next key.
    pub(super) fn record(&mut self, opcode: u8) -> Result<Option<Found>, Box<Error>> {
        // The walker has passed over these bytes, so what is read here is there.
        let mut fields = Fields { record: &self.buf[self.lent..self.pos], at: 1 };
        self.scratch.clear();
        let scratch = &mut self.scratch;
        let limit = self.limits.inflated;
        let mut read = || -> Result<Option<Found>, text::Fault> {
            Ok(Some(match opcode {
                op::SELECT_DB => {
                    self.db = fields.len()?;
                    Found::SelectDb
                }
                op::IDLE => {
                    self.pending.eviction = Some(Eviction::Idle(fields.len()?));
                    return Ok(None);
                }
                op::ENTERPRISE_LRU | op::ENTERPRISE_SLOT => Found::Vendor { opcode },
                op::RESIZE_DB => Found::ResizeDb { keys: fields.len()?, expires: fields.len()? },
                op::AUX => {
                    Found::Aux { name: fields.str(limit, scratch)?, value: fields.str(limit, scratch)? }
                }
                op::FUNCTION => Found::Function { code: fields.str(limit, scratch)? },
                op::FUNCTION_PRE_GA => Found::FunctionPreGa {
                    name: fields.str(limit, scratch)?,
                    engine: fields.str(limit, scratch)?,
                    description: match fields.len()? {
                        0 => None,
                        _ => Some(fields.str(limit, scratch)?),
                    },
                    code: fields.str(limit, scratch)?,
                },
                op::MODULE_AUX => {
                    let module = ModuleId(fields.len()?);
                    if fields.len()? != 2 {
                        return Err(text::Fault::Bad(
                            "auxiliary data of a module does not start with its time",
                        ));
                    }
                    Found::ModuleAux { module, when: fields.len()? }
                }
                op::SLOT_INFO => Found::SlotInfo(SlotInfo {
                    slot: fields.len()?,
                    keys: fields.len()?,
                    expires: fields.len()?,
                }),
                op::META_OR_IMPORT if self.dialect == Dialect::Valkey => {
                    let job = fields.str(limit, scratch)?;
                    fields.len()?;
                    Found::SlotImport { job, ranges: self.lent + fields.at }
                }
                op::META_OR_IMPORT => {
                    self.meta.clear();
                    self.meta.extend_from_slice(&fields.record[1..]);
                    self.pending.meta = true;
                    return Ok(None);
                }
                _ => {
                    let id = fields.len()?;
                    let len = fields.len()?;
                    let limit = self.limits.templates as u64;
                    let claimed = self.templates.len() as u64 + 1;
                    if claimed > limit {
                        return Err(text::Fault::Limit { claimed, limit });
                    }
                    if self.templates.insert(id, len).is_some() {
                        return Err(text::Fault::Bad("a hash template is defined twice"));
                    }
                    Found::HashTemplate { id, len, fields: self.lent + fields.at }
                }
            }))
        };
        read().map_err(|fault| {
            let what =
                if opcode == op::HASH_TEMPLATE { "number of hash templates" } else { "length of a string" };
            self.text_fault(self.lent, what, fault)
        })
    }
}

/// Reads the fields of a record that a walker has passed over.
struct Fields<'a> {
    record: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn len(&mut self) -> Result<u64, text::Fault> {
        let (n, size) = wire::len(&self.record[self.at..]).map_err(unwalked)?;
        self.at += size;
        Ok(n)
    }

    fn str(&mut self, limit: usize, scratch: &mut Vec<u8>) -> Result<Place, text::Fault> {
        let head = wire::str_head(&self.record[self.at..]).map_err(unwalked)?;
        let at = self.at + head.head;
        let end = at + head.payload as usize;
        let payload = self.record.get(at..end).ok_or(text::Fault::Bad(UNWALKED))?;
        self.at = end;
        text::decode(payload, head, at, limit, scratch)
    }
}

const UNWALKED: &str = "a record is shorter than its fields";

fn unwalked(stop: Stop) -> text::Fault {
    text::Fault::Bad(match stop {
        Stop::Need => UNWALKED,
        Stop::Bad(what) => what,
    })
}
