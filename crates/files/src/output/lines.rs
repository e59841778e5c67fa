//! Lines of JSON.

use std::io::{self, Write};

use keyferry_rdb::aof::AofCommand;
use keyferry_rdb::convert::Loss;
use keyferry_rdb::elements::Templates;
use keyferry_rdb::{Dialect, Entry, EntryHead, Event, ModuleAux, RawValue};

use super::{Complete, Destination, Fault, Form, Sink, Values};
use crate::error::Error;
use crate::input::Place;
use crate::json::{JsonForm, JsonWriter};

/// One object a key. Values are shown as they are, so nothing is lost.
pub(super) struct LinesSink {
    json: JsonWriter<Counted>,
}

struct Counted {
    destination: Destination,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.destination.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.destination.flush()
    }
}

/// Errors get their place from whoever gave the event.
const NO_PLACE: Place<'static> = Place { input: "", offset: 0 };

impl LinesSink {
    pub(super) fn new(destination: Destination, values: &Values) -> Self {
        let out = Counted { destination, written: 0 };
        Self { json: JsonWriter::with_limits(out, JsonForm::Lines, values.limits.clone()) }
    }

    fn event(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        self.json.event(event, NO_PLACE).map_err(|error| match error {
            Error::Data { error, .. } => Fault::from(*error),
            Error::Write(error) => Fault::Write(error),
            error => Fault::Write(io::Error::other(error.to_string())),
        })
    }
}

impl Sink for LinesSink {
    fn begin_input(&mut self, _: Dialect, _: &Templates) {}

    fn note(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        self.event(event)
    }

    fn aux(&mut self, _: &[u8], _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn size(&mut self, _: u64, _: u64, _: u64) -> Result<(), Fault> {
        Ok(())
    }

    fn function(&mut self, code: &[u8]) -> Result<bool, Fault> {
        self.event(&Event::Function { code })?;
        Ok(true)
    }

    fn module_aux(&mut self, aux: &ModuleAux<'_>) -> Result<bool, Fault> {
        self.event(&Event::ModuleAux(*aux))?;
        Ok(true)
    }

    fn entry(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        _: &mut Vec<Loss>,
    ) -> Result<Option<Form>, Fault> {
        self.event(&Event::Entry(Entry::new(*head, value)))?;
        Ok(Some(Form::Raw))
    }

    fn value_start(&mut self, head: &EntryHead<'_>) -> Result<(), Fault> {
        self.event(&Event::ValueStart(*head))
    }

    fn value_part(&mut self, part: &[u8]) -> Result<(), Fault> {
        self.event(&Event::ValuePart(part))
    }

    fn value_end(&mut self, _: &mut Vec<Loss>) -> Result<Option<Form>, Fault> {
        self.event(&Event::ValueEnd)?;
        Ok(Some(Form::Raw))
    }

    fn command(&mut self, _: u64, _: &AofCommand<'_>) -> Result<(), Fault> {
        // Not asked for: `OutputKind::takes_commands`.
        Ok(())
    }

    fn annotation(&mut self, _: &[u8]) -> Result<bool, Fault> {
        Ok(false)
    }

    fn finish(self: Box<Self>) -> Result<Complete, Fault> {
        let out = self.json.finish().map_err(|error| match error {
            Error::Write(error) => Fault::Write(error),
            error => Fault::Write(io::Error::other(error.to_string())),
        })?;
        Ok(Complete { bytes: out.written, pending: out.destination.finish()? })
    }
}
