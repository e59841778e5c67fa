//! Append-only files in several parts.

use std::fs::File;
use std::io::Write;

use keyferry_rdb::aof::{AofCommand, Manifest, ManifestFile};
use keyferry_rdb::convert::Loss;
use keyferry_rdb::elements::Templates;
use keyferry_rdb::{Dialect, EntryHead, Limits, ModuleAux, RawValue, TargetFormat};

use super::log::LogSink;
use super::rdb::RdbSink;
use super::{Complete, Destination, Fault, Form, Pending, Sink, Values};

/// The servers' default for `appendfilename`.
const NAME: &str = "appendonly.aof";

/// A snapshot, then a log.
pub(super) struct DirectorySink {
    pending: Pending,
    values: Values,
    dialect: Dialect,
    base: Option<Box<RdbSink>>,
    log: Option<Box<LogSink>>,
    manifest: Manifest,
    bytes: u64,
}

impl DirectorySink {
    pub(super) fn new(pending: Pending, target: TargetFormat, limits: &Limits) -> Self {
        let spool_dir = Some(pending.temporary().to_owned());
        let values = Values { target, limits: limits.clone(), templates: Templates::new(), spool_dir };
        Self {
            pending,
            dialect: target.dialect(),
            values,
            base: None,
            log: None,
            manifest: Manifest::default(),
            bytes: 0,
        }
    }

    fn create(&self, name: &str) -> Result<Destination, Fault> {
        Ok(Destination::file(File::create_new(self.pending.temporary().join(name))?, None))
    }

    fn base(&mut self) -> Result<&mut RdbSink, Fault> {
        if self.base.is_none() {
            let file = ManifestFile::new(format!("{NAME}.1.base.rdb"), 1);
            let mut base = RdbSink::new(self.create(&file.name)?, self.values.clone())?;
            base.begin_input(self.dialect, &self.values.templates);
            base.aux(b"aof-base", b"1")?;
            self.manifest.base = Some(file);
            self.base = Some(Box::new(base));
        }
        self.base.as_deref_mut().ok_or_else(missing)
    }

    fn log(&mut self) -> Result<&mut LogSink, Fault> {
        if self.log.is_none() {
            if let Some(base) = self.base.take() {
                self.bytes += base.finish()?.bytes;
            }
            let file = ManifestFile::new(format!("{NAME}.1.incr.aof"), 1);
            self.log = Some(Box::new(LogSink::new(self.create(&file.name)?, self.values.clone(), true)));
            self.manifest.incremental.push(file);
        }
        self.log.as_deref_mut().ok_or_else(missing)
    }
}

/// Not to be met: it was made the line before.
fn missing() -> Fault {
    Fault::Write(std::io::Error::other("a part of the log is not open"))
}

impl Sink for DirectorySink {
    fn begin_input(&mut self, dialect: Dialect, templates: &Templates) {
        self.dialect = dialect;
        self.values.templates = templates.clone();
        if let Some(base) = &mut self.base {
            base.begin_input(dialect, templates);
        }
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.base()?.aux(name, value)
    }

    fn size(&mut self, db: u64, keys: u64, expires: u64) -> Result<(), Fault> {
        self.base()?.size(db, keys, expires)
    }

    fn function(&mut self, code: &[u8]) -> Result<bool, Fault> {
        self.base()?.function(code)
    }

    fn module_aux(&mut self, aux: &ModuleAux<'_>) -> Result<bool, Fault> {
        self.base()?.module_aux(aux)
    }

    fn entry(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        losses: &mut Vec<Loss>,
    ) -> Result<Option<Form>, Fault> {
        self.base()?.entry(head, value, losses)
    }

    fn value_start(&mut self, head: &EntryHead<'_>) -> Result<(), Fault> {
        self.base()?.value_start(head)
    }

    fn value_part(&mut self, part: &[u8]) -> Result<(), Fault> {
        self.base()?.value_part(part)
    }

    fn value_end(&mut self, losses: &mut Vec<Loss>) -> Result<Option<Form>, Fault> {
        self.base()?.value_end(losses)
    }

    fn command(&mut self, db: u64, command: &AofCommand<'_>) -> Result<(), Fault> {
        self.log()?.command(db, command)
    }

    fn annotation(&mut self, text: &[u8]) -> Result<bool, Fault> {
        self.log()?.annotation(text)
    }

    fn finish(mut self: Box<Self>) -> Result<Complete, Fault> {
        // Servers write on in the last file, so there is always one.
        self.log()?;
        if let Some(log) = self.log.take() {
            self.bytes += log.finish()?.bytes;
        }
        let text = self.manifest.to_bytes();
        let mut manifest = self.create(&format!("{NAME}.manifest"))?;
        manifest.write_all(&text)?;
        manifest.finish()?;
        Ok(Complete { bytes: self.bytes + text.len() as u64, pending: Some(self.pending) })
    }
}
