//! Snapshots.

use keyferry_rdb::aof::AofCommand;
use keyferry_rdb::convert::{Converted, Converter, Loss, Way};
use keyferry_rdb::elements::Templates;
use keyferry_rdb::{Dialect, EntryHead, ModuleAux, RawValue, RdbWriter};

use super::{Complete, Destination, Fault, Form, OwnedHead, Sink, Spool, Values, encode};

pub(super) struct RdbSink {
    writer: RdbWriter<Destination>,
    converter: Converter,
    values: Values,
    large: Large,
}

/// The value that comes in parts.
enum Large {
    None,
    /// It goes as it comes.
    Raw {
        meta_lost: bool,
    },
    /// The target has nothing for its type.
    Lost(Loss),
    /// It is gone through when it is complete.
    Spooled(OwnedHead, Spool),
}

fn converter(values: &Values) -> Converter {
    // Files have no bound like that of payloads.
    Converter::new(values.target)
        .with_limits(values.limits.clone())
        .with_templates(values.templates.clone())
        .with_max_payload(usize::MAX)
}

impl RdbSink {
    pub(super) fn new(destination: Destination, values: Values) -> Result<Self, Fault> {
        let writer = RdbWriter::new(destination, values.target)?;
        Ok(Self { writer, converter: converter(&values), values, large: Large::None })
    }
}

/// Takes off metadata that the target has no place for. Whether there was any.
fn drop_meta(head: &mut EntryHead<'_>, values: &Values) -> bool {
    head.meta.take_if(|_| !values.target.key_metadata()).is_some()
}

impl Sink for RdbSink {
    fn begin_input(&mut self, _: Dialect, templates: &Templates) {
        self.values.templates = templates.clone();
        self.converter = converter(&self.values);
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        Ok(self.writer.aux(name, value)?)
    }

    fn size(&mut self, db: u64, keys: u64, expires: u64) -> Result<(), Fault> {
        self.writer.select_db(db)?;
        Ok(self.writer.resize_db(keys, expires)?)
    }

    fn function(&mut self, code: &[u8]) -> Result<bool, Fault> {
        let takes = self.values.target.functions();
        if takes {
            self.writer.function(code)?;
        }
        Ok(takes)
    }

    fn module_aux(&mut self, aux: &ModuleAux<'_>) -> Result<bool, Fault> {
        match self.writer.module_aux(aux.record) {
            Err(keyferry_rdb::Error::NotAccepted { .. }) => Ok(false),
            written => Ok(written.map(|()| true)?),
        }
    }

    fn entry(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        losses: &mut Vec<Loss>,
    ) -> Result<Option<Form>, Fault> {
        let conversion = self.converter.convert(value).map_err(|error| error.with_key(head.key))?;
        losses.extend(conversion.losses);
        let (form, value) = match conversion.converted {
            Converted::Raw(value) => (Form::Raw, value),
            Converted::Reencoded(value) => (Form::Reencoded, value),
            // The first does not happen without a bound.
            Converted::Native | Converted::Lost => return Ok(None),
        };
        let mut head = *head;
        head.ty = value.ty();
        if drop_meta(&mut head, &self.values) {
            losses.push(Loss::KeyMetadata);
        }
        self.writer.raw(&head, value)?;
        Ok(Some(form))
    }

    fn value_start(&mut self, head: &EntryHead<'_>) -> Result<(), Fault> {
        let mut head = *head;
        self.large = if self.values.goes_raw(head.ty) {
            let meta_lost = drop_meta(&mut head, &self.values);
            self.writer.value_start(&head)?;
            Large::Raw { meta_lost }
        } else if self.converter.way(head.ty) == Way::Lost {
            Large::Lost(Loss::NotAccepted { ty: head.ty })
        } else {
            Large::Spooled(OwnedHead::new(&head), self.values.spool())
        };
        Ok(())
    }

    fn value_part(&mut self, part: &[u8]) -> Result<(), Fault> {
        match &mut self.large {
            Large::Raw { .. } => self.writer.value_part(part)?,
            Large::Spooled(_, spool) => spool.put(part)?,
            Large::None | Large::Lost(_) => {}
        }
        Ok(())
    }

    fn value_end(&mut self, losses: &mut Vec<Loss>) -> Result<Option<Form>, Fault> {
        match std::mem::replace(&mut self.large, Large::None) {
            Large::None => Ok(None),
            Large::Lost(loss) => {
                losses.push(loss);
                Ok(None)
            }
            Large::Raw { meta_lost } => {
                losses.extend(meta_lost.then_some(Loss::KeyMetadata));
                Ok(Some(Form::Raw))
            }
            Large::Spooled(head, mut spool) => {
                let mut head = head.head();
                let plan =
                    self.values.survey(head.ty, &mut spool).map_err(|fault| in_key(fault, head.key))?;
                losses.extend_from_slice(plan.losses());
                let Some(ty) = plan.ty() else { return Ok(None) };
                head.ty = ty;
                if drop_meta(&mut head, &self.values) {
                    losses.push(Loss::KeyMetadata);
                }
                self.writer.value_start(&head)?;
                encode(plan, &mut spool, |bytes| Ok(self.writer.value_part(bytes)?))?;
                Ok(Some(Form::Reencoded))
            }
        }
    }

    fn command(&mut self, _: u64, _: &AofCommand<'_>) -> Result<(), Fault> {
        // Not asked for: `OutputKind::takes_commands`.
        Ok(())
    }

    fn annotation(&mut self, _: &[u8]) -> Result<bool, Fault> {
        Ok(false)
    }

    fn finish(self: Box<Self>) -> Result<Complete, Fault> {
        // The end mark and the checksum.
        let bytes = self.writer.position() + 9;
        let pending = self.writer.finish()?.finish()?;
        Ok(Complete { bytes, pending })
    }
}

/// The fault with the key named.
pub(super) fn in_key(fault: Fault, key: &[u8]) -> Fault {
    match fault {
        Fault::Data(error) => Fault::Data(error.with_key(key)),
        fault => fault,
    }
}
