//! Inputs of any kind turned into outputs of any kind, for any server.
//!
//! [`convert`] reads snapshots and append-only files, chooses keys, moves them to other databases, makes their values fit for
//! the target, and writes snapshots, logs of commands, or both in a directory; several inputs into one output, or one
//! into several by slot, as the shards of a cluster hold them. Values are written as they are where the target takes
//! them, else in another encoding, else by commands; what the target has no place for is named in the report, and the
//! conversion fails for it unless told otherwise.
//!
//! Memory is bounded by the parts in which values come (a megabyte), not by values. Values that have to be encoded anew are
//! gone through twice; above a few megabytes they wait on disk, beside the output. Where keys may come together under
//! one name, 16 bytes of each are kept, some 40 with their table.

mod collisions;
mod commands;
mod loss;
mod report;

use std::time::{SystemTime, UNIX_EPOCH};

use keyferry_rdb::convert::Loss;
use keyferry_rdb::elements::Templates;
use keyferry_rdb::{EntryHead, Event, Header, Kind, Limits, ModuleId, RawValue, TargetFormat};
use keyferry_routing::slot;

use crate::error::Error;
use crate::input::{Found, Input, Place};
use crate::output::{Complete, Fault, Form, Output, OutputKind, OwnedHead, Sink};
use crate::select::{Filter, Selection};
use crate::text::line;
pub use collisions::{DatabaseMap, DatabaseMove, OnCollision, library_name};
use collisions::{Libraries, Library, Seen};
use commands::CommandFilter;
pub use loss::{Lost, Modules};
pub use report::{CollisionReport, ConvertReport, InputReport, LossReport, OutputReport};

/// What to do about what the target has no place for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnLoss {
    /// It is an error. All losses are told before it ends, and no output is left.
    #[default]
    Fail,
    /// It is left out and told.
    Drop,
}

/// How to convert.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// The server that is to load the outputs. Default: one like that which wrote the inputs.
    pub target: Option<TargetFormat>,
    /// Which keys are wanted, by their names and databases in the input.
    pub selection: Selection,
    /// Which database becomes which.
    pub databases: DatabaseMap,
    /// What to do about losses.
    pub on_loss: OnLoss,
    /// What to do about keys and function libraries that are there already.
    pub on_collision: OnCollision,
    /// The modules that the target has. Vector sets need not be named: Redis 8 has them.
    pub modules: Modules,
    /// Bounds on what inputs may make this hold.
    pub limits: Limits,
    /// The time of the copy: hash fields that expired before are left out where the target has no expiring fields, lest they
    /// come back to life. Default: when the options were made.
    pub now: SystemTime,
    /// How many losses, and how many collisions, are kept by name; all are counted. Default 10,000.
    pub listed: usize,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            target: None,
            selection: Selection::default(),
            databases: DatabaseMap::default(),
            on_loss: OnLoss::default(),
            on_collision: OnCollision::default(),
            modules: Modules::default(),
            limits: Limits::default(),
            now: SystemTime::now(),
            listed: 10_000,
        }
    }
}

impl ConvertOptions {
    /// True when everything is chosen and nothing changed: a snapshot could be copied as it is.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.target.is_none() && self.selection.is_everything() && self.databases.is_identity()
    }
}

/// How a conversion ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Converted {
    /// What was done, also when it failed.
    pub report: ConvertReport,
    /// When this is an error, no file has the name of an output, but what was written to [`Output::writer`] is out.
    pub result: Result<(), Error>,
}

/// Converts inputs, in this order, into outputs. A key goes to the first output that has its slot.
///
/// ```no_run
/// use keyferry_files::convert::{ConvertOptions, convert};
/// use keyferry_files::{Input, InputOptions, Output, OutputKind};
///
/// let input = Input::open("dump.rdb", InputOptions::default())?;
/// let output = Output::path("old.rdb", OutputKind::Snapshot);
/// let mut options = ConvertOptions::default();
/// options.target = "redis-6.0".parse().ok();
/// let converted = convert(vec![input], vec![output], options);
/// for loss in &converted.report.losses {
///     eprintln!("{:?}: {}", loss.key, loss.what);
/// }
/// converted.result?;
/// # Ok::<(), keyferry_files::Error>(())
/// ```
pub fn convert(inputs: Vec<Input>, outputs: Vec<Output>, options: ConvertOptions) -> Converted {
    let mut run = Run::new(inputs.len(), outputs, options);
    let result = run.run(inputs);
    let mut report = run.report;
    report.complete = result.is_ok();
    report.error = result.as_ref().err().map(ToString::to_string);
    Converted { report, result }
}

struct Run {
    options: ConvertOptions,
    /// Until the target is known.
    waiting: Vec<Output>,
    open: Vec<Open>,
    target: Option<TargetFormat>,
    filter: Filter,
    commands: CommandFilter,
    /// Only where keys may come together.
    seen: Option<Seen>,
    libraries: Libraries,
    report: ConvertReport,
    /// Keys whose slot is that of no output.
    other_slots: u64,
    /// The number of inputs, and of the one being read.
    inputs: usize,
    current: usize,
    templates: Templates,
    db: u64,
    large: Large,
    losses: Vec<Loss>,
}

/// An output that is being written.
struct Open {
    name: String,
    kind: OutputKind,
    slots: Option<keyferry_routing::SlotSet>,
    is_stream: bool,
    sink: Box<dyn Sink>,
}

/// Where the value goes that comes in parts.
enum Large {
    Nowhere,
    /// A value of a module, whose first bytes say of which.
    Module(OwnedHead),
    To {
        output: usize,
        head: OwnedHead,
    },
}

/// What becomes of a key.
enum Way {
    To(usize),
    Nowhere,
}

impl Run {
    fn new(inputs: usize, outputs: Vec<Output>, options: ConvertOptions) -> Self {
        let may_collide = inputs > 1 || options.databases.may_merge();
        Self {
            filter: Filter::new(options.selection.clone()),
            commands: CommandFilter::new(&options, &outputs),
            target: options.target,
            waiting: outputs,
            open: Vec::new(),
            seen: may_collide.then(Seen::new),
            libraries: Libraries::default(),
            report: ConvertReport::default(),
            other_slots: 0,
            inputs,
            current: 0,
            templates: Templates::new(),
            db: 0,
            large: Large::Nowhere,
            losses: Vec::new(),
            options,
        }
    }

    fn run(&mut self, inputs: Vec<Input>) -> Result<(), Error> {
        for (number, input) in inputs.into_iter().enumerate() {
            self.current = number;
            self.report.inputs.push(InputReport { name: input.name().to_owned(), ..InputReport::default() });
            let ended = input.read(|found, place| self.found(&found, &place))?;
            if let Some(report) = self.report.inputs.last_mut() {
                report.commands = ended.commands;
                report.cut_at = ended.cut.map(|cut| cut.good_offset);
            }
            self.report.left_out = self.filter.counts().total() + self.other_slots;
        }
        if let Some(target) = self.target.or(self.open.is_empty().then(|| TargetFormat::redis(7, 0))) {
            self.open_outputs(target)?;
        }
        self.check_policies()?;
        self.finish()
    }

    /// Ends all outputs, then gives all their names.
    fn finish(&mut self) -> Result<(), Error> {
        let mut complete = Vec::new();
        for (number, open) in self.open.drain(..).enumerate() {
            let Complete { bytes, pending } =
                open.sink.finish().map_err(|fault| fault.of_output(&open.name))?;
            if let Some(report) = self.report.outputs.get_mut(number) {
                report.bytes = bytes;
            }
            complete.extend(pending);
        }
        complete.into_iter().try_for_each(|pending| pending.commit())
    }

    fn check_policies(&self) -> Result<(), Error> {
        let count = self.report.total_losses();
        if self.options.on_loss == OnLoss::Fail && count > 0 {
            let first = self.report.losses.first();
            let first = first.map_or_else(String::new, |loss| match &loss.key {
                Some(key) => format!("\"{key}\": {}", loss.what),
                None => loss.what.clone(),
            });
            return Err(Error::Losses { count, first });
        }
        let count = self.report.collision_count;
        if self.options.on_collision == OnCollision::Fail && count > 0 {
            let first = self.report.collisions.first().map_or_else(String::new, |found| found.key.clone());
            return Err(Error::Collisions { count, first });
        }
        Ok(())
    }

    /// Fails at once where nothing can be taken back.
    fn check_streams(&self) -> Result<(), Error> {
        if self.open.iter().any(|open| open.is_stream) { self.check_policies() } else { Ok(()) }
    }

    fn found(&mut self, found: &Found<'_>, place: &Place<'_>) -> Result<(), Error> {
        match found {
            Found::Event(event) => self.event(event, place),
            Found::Command(command) => self.command(command, place),
            Found::Timestamp(seconds) => self.annotation(format!("TS:{seconds}").as_bytes(), place),
            Found::Annotation(text) => self.annotation(text.strip_prefix(b"#").unwrap_or(text), place),
        }
    }

    fn event(&mut self, event: &Event<'_>, place: &Place<'_>) -> Result<(), Error> {
        if let Event::Entry(_) | Event::ValueStart(_) = event {
            self.report.keys_read += 1;
            if let Some(report) = self.report.inputs.last_mut() {
                report.keys += 1;
            }
        }
        if !self.filter.admits(event) {
            return Ok(());
        }
        match event {
            Event::Header(header) => {
                self.header(header, place)?;
                self.each(place, |sink| sink.note(event))
            }
            Event::Aux { name, value } if self.current == 0 && is_kept(name) => {
                self.each(place, |sink| sink.aux(name, value))
            }
            Event::SelectDb(db) => {
                self.db = *db;
                Ok(())
            }
            Event::ResizeDb { keys, expires } => {
                // A hint, which helps servers only as long as it is about right.
                let whole = self.inputs == 1 && self.open.len() == 1 && self.open[0].slots.is_none();
                if whole && self.options.selection.is_everything() && self.seen.is_none() {
                    let db = self.options.databases.target(self.db);
                    return self.each(place, |sink| sink.size(db, *keys, *expires));
                }
                Ok(())
            }
            Event::Function { code } => self.function(code, place),
            Event::FunctionPreGa(function) => self.function(&function.to_code(), place),
            Event::ModuleAux(aux) => {
                let mut written = self.has_module(aux.module);
                if written {
                    self.each(place, |sink| {
                        written &= sink.module_aux(aux)?;
                        Ok(())
                    })?;
                }
                if written { Ok(()) } else { self.lose(place, None, None, Lost::ModuleData(aux.module)) }
            }
            Event::SlotImport(_) => self.lose(place, None, None, Lost::SlotImport),
            Event::HashTemplate(template) => {
                self.templates.learn(template).map_err(|error| place.error(error))?;
                self.each(place, |sink| sink.note(event))
            }
            Event::Entry(entry) => self.entry(&entry.head, entry.value, place),
            Event::ValueStart(head) => self.value_start(head, place),
            Event::ValuePart(part) => self.value_part(part, place),
            Event::ValueEnd => self.value_end(place),
            // Hints at slots, opcodes of vendors that hold nothing, other auxiliary fields.
            _ => Ok(()),
        }
    }

    fn header(&mut self, header: &Header, place: &Place<'_>) -> Result<(), Error> {
        let own = TargetFormat::of_version(header.version, header.dialect);
        let target = match self.target {
            None => own,
            Some(target) => {
                let fits = own.dialect() == target.dialect() && own.version() <= target.version();
                if self.options.target.is_none() && !fits && !self.for_people() {
                    return Err(Error::MixedVersions { input: place.input.to_owned() });
                }
                target
            }
        };
        self.open_outputs(target)?;
        self.templates = Templates::new();
        for open in &mut self.open {
            open.sink.begin_input(header.dialect, &self.templates);
        }
        Ok(())
    }

    /// Opens the outputs, unless they are open.
    fn open_outputs(&mut self, target: TargetFormat) -> Result<(), Error> {
        let mut target = target;
        let since = self.options.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        target.expired_before = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        self.target = Some(target);
        for output in self.waiting.drain(..) {
            let (name, kind, slots) = (output.name(), output.kind, output.slots.clone());
            self.report.outputs.push(OutputReport {
                name: name.clone(),
                kind: kind.name(),
                slots: slots.as_ref().map(ToString::to_string),
                ..OutputReport::default()
            });
            let is_stream = output.is_stream();
            let sink = output.open(target, &self.options.limits)?;
            self.open.push(Open { name, kind, slots, is_stream, sink });
        }
        Ok(())
    }

    /// Gives something to every output.
    fn each(
        &mut self,
        place: &Place<'_>,
        mut give: impl FnMut(&mut dyn Sink) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        for open in &mut self.open {
            give(&mut *open.sink).map_err(|fault| error(fault, place, &open.name))?;
        }
        Ok(())
    }

    fn function(&mut self, code: &[u8], place: &Place<'_>) -> Result<(), Error> {
        match self.libraries.insert(code) {
            Library::Same => return Ok(()),
            Library::Other => return self.collide(place, None, library_name(code)),
            Library::New => {}
        }
        let mut written = true;
        self.each(place, |sink| {
            written &= sink.function(code)?;
            Ok(())
        })?;
        self.report.functions += u64::from(written);
        if written { Ok(()) } else { self.lose(place, None, Some(library_name(code)), Lost::Function) }
    }

    fn has_module(&self, module: ModuleId) -> bool {
        let built_in = self.target.is_some_and(|target| target.features.vector_sets.is_some());
        self.options.modules.has(module) || built_in && module.is_vector_set() || self.for_people()
    }

    /// Whether no server is to load the outputs.
    fn for_people(&self) -> bool {
        self.open.iter().all(|open| open.kind == OutputKind::Lines)
    }

    /// What is lost of a value of a module, all of which may not be there yet, because the target cannot have it.
    fn without_module(&self, value: RawValue<'_>) -> Option<Lost> {
        let module = value.module()?;
        if self.options.modules.has(module) || self.for_people() {
            return None;
        }
        let newest = self.target.and_then(|target| target.features.vector_sets);
        match newest.filter(|_| module.is_vector_set()) {
            // A layout that cannot be told may be a newer one.
            Some(newest) if value.vector_set_layout().is_some_and(|layout| layout <= newest) => None,
            Some(_) => Some(Lost::VectorSet),
            None => Some(Lost::Module(module)),
        }
    }

    /// Chooses the output for a key.
    fn route(&mut self, head: &EntryHead<'_>, place: &Place<'_>) -> Result<(u64, Way), Error> {
        let db = self.options.databases.target(head.db);
        let key_slot = slot(head.key);
        let of_slot = |open: &Open| open.slots.as_ref().is_none_or(|slots| slots.contains(key_slot));
        let Some(output) = self.open.iter().position(of_slot) else {
            self.other_slots += 1;
            return Ok((db, Way::Nowhere));
        };
        if db != 0 && self.open[output].slots.is_some() && !self.for_people() {
            self.report.keys_lost += 1;
            self.lose(place, Some(head.db), Some(head.key), Lost::Database)?;
            return Ok((db, Way::Nowhere));
        }
        if self.seen.as_mut().is_some_and(|seen| !seen.insert(db, head.key)) {
            self.collide(place, Some(head.db), head.key)?;
            return Ok((db, Way::Nowhere));
        }
        Ok((db, Way::To(output)))
    }

    fn entry(&mut self, head: &EntryHead<'_>, value: RawValue<'_>, place: &Place<'_>) -> Result<(), Error> {
        if value.is_empty_container() {
            self.report.empty_dropped += 1;
            return Ok(());
        }
        if let Some(lost) = self.without_module(value) {
            self.report.keys_lost += 1;
            return self.lose(place, Some(head.db), Some(head.key), lost);
        }
        let (db, Way::To(output)) = self.route(head, place)? else { return Ok(()) };
        let mut moved = *head;
        moved.db = db;
        let open = &mut self.open[output];
        let form = open
            .sink
            .entry(&moved, value, &mut self.losses)
            .map_err(|fault| error(fault, place, &open.name))?;
        self.written(output, head.db, head.key, form, place)
    }

    fn value_start(&mut self, head: &EntryHead<'_>, place: &Place<'_>) -> Result<(), Error> {
        if head.ty.kind() == Kind::Module {
            self.large = Large::Module(OwnedHead::new(head));
            return Ok(());
        }
        self.large = Large::Nowhere;
        let (db, Way::To(output)) = self.route(head, place)? else { return Ok(()) };
        let mut moved = *head;
        moved.db = db;
        let open = &mut self.open[output];
        open.sink.value_start(&moved).map_err(|fault| error(fault, place, &open.name))?;
        self.large = Large::To { output, head: OwnedHead::new(head) };
        Ok(())
    }

    fn value_part(&mut self, part: &[u8], place: &Place<'_>) -> Result<(), Error> {
        if let Large::Module(head) = &self.large {
            let owned = head.clone();
            let head = owned.head();
            self.large = Large::Nowhere;
            if let Some(lost) = self.without_module(RawValue::new(head.ty, part)) {
                self.report.keys_lost += 1;
                return self.lose(place, Some(head.db), Some(head.key), lost);
            }
            let (db, Way::To(output)) = self.route(&head, place)? else { return Ok(()) };
            let mut moved = head;
            moved.db = db;
            let open = &mut self.open[output];
            open.sink.value_start(&moved).map_err(|fault| error(fault, place, &open.name))?;
            self.large = Large::To { output, head: owned };
        }
        let Large::To { output, .. } = self.large else { return Ok(()) };
        let open = &mut self.open[output];
        open.sink.value_part(part).map_err(|fault| error(fault, place, &open.name))
    }

    fn value_end(&mut self, place: &Place<'_>) -> Result<(), Error> {
        let Large::To { output, head } = std::mem::replace(&mut self.large, Large::Nowhere) else {
            return Ok(());
        };
        let open = &mut self.open[output];
        let form = open.sink.value_end(&mut self.losses).map_err(|fault| error(fault, place, &open.name))?;
        let head = head.head();
        self.written(output, head.db, head.key, form, place)
    }

    /// Counts a key, and tells its losses.
    fn written(
        &mut self,
        output: usize,
        db: u64,
        key: &[u8],
        form: Option<Form>,
        place: &Place<'_>,
    ) -> Result<(), Error> {
        // A hash all of whose fields have expired.
        if self.losses.iter().any(|loss| matches!(loss, Loss::EmptyContainer { .. })) {
            self.losses.clear();
            self.report.empty_dropped += 1;
            return Ok(());
        }
        *match form {
            Some(Form::Raw) => &mut self.report.raw,
            Some(Form::Reencoded) => &mut self.report.reencoded,
            Some(Form::Commands) => &mut self.report.as_commands,
            None => &mut self.report.keys_lost,
        } += 1;
        if form.is_some() {
            self.report.keys_written += 1;
            if let Some(report) = self.report.outputs.get_mut(output) {
                report.keys += 1;
            }
        }
        if self.losses.is_empty() {
            return Ok(());
        }
        for loss in std::mem::take(&mut self.losses) {
            self.list(place, Some(db), Some(key), Lost::Value(loss), form.is_none());
        }
        self.check_streams()
    }

    /// Tells a loss of something that was not written at all.
    fn lose(
        &mut self,
        place: &Place<'_>,
        db: Option<u64>,
        key: Option<&[u8]>,
        lost: Lost,
    ) -> Result<(), Error> {
        self.list(place, db, key, lost, db.is_some());
        self.check_streams()
    }

    fn list(&mut self, place: &Place<'_>, db: Option<u64>, key: Option<&[u8]>, lost: Lost, whole_key: bool) {
        *self.report.loss_counts.entry(lost.name()).or_default() += 1;
        if self.report.losses.len() < self.options.listed {
            self.report.losses.push(LossReport {
                input: place.input.to_owned(),
                db,
                key: key.map(|key| line(key).into_owned()),
                kind: lost.name(),
                what: lost.to_string(),
                whole_key,
                lost: (lost, key.unwrap_or_default().to_vec()),
            });
        }
    }

    fn collide(&mut self, place: &Place<'_>, db: Option<u64>, key: &[u8]) -> Result<(), Error> {
        self.report.collision_count += 1;
        if self.report.collisions.len() < self.options.listed {
            self.report.collisions.push(CollisionReport {
                input: place.input.to_owned(),
                db,
                key: line(key).into_owned(),
            });
        }
        self.check_streams()
    }
}

fn error(fault: Fault, place: &Place<'_>, output: &str) -> Error {
    match fault {
        Fault::Data(error) => place.error(error),
        Fault::Write(error) => Error::output(output, error),
    }
}

/// Whether an auxiliary field still holds in a converted file. Replication ids and offsets do not: a server would take the
/// file for the state of its old primary. What says that commands follow is the business of the output.
fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(b"repl-") && !name.starts_with(b"aof-")
}
