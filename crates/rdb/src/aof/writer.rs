//! Writing multi-part append-only files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, ManifestFile};
use crate::error::Error;
use crate::target::TargetFormat;
use crate::writer::RdbWriter;

const DOING: &str = "writing an append-only file";

/// Appends a command in the form of append-only files, which is also that of the protocol.
///
/// ```
/// let mut out = Vec::new();
/// keyferry_rdb::aof::append_command(&mut out, &[b"DEL", b"key"]);
/// assert_eq!(out, b"*2\r\n$3\r\nDEL\r\n$3\r\nkey\r\n");
/// ```
pub fn append_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    let mut number = itoa::Buffer::new();
    let mut frame = |out: &mut Vec<u8>, mark, n: usize| {
        out.push(mark);
        out.extend_from_slice(number.format(n).as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    frame(out, b'*', args.len());
    for arg in args {
        frame(out, b'$', arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes a log as a directory of files with a manifest, which Redis 7.0 and later and Valkey load.
///
/// The files of `name` are `name.1.base.rdb`, `name.1.incr.aof` and so on, and `name.manifest`. The manifest names a file
/// only once it exists, and is replaced in one step, so the directory can be loaded at any moment.
///
/// ```no_run
/// use keyferry_rdb::aof::AofWriter;
/// use keyferry_rdb::{EntryHead, TargetFormat, Value, ValueType};
///
/// let mut writer = AofWriter::create_with_base("appendonlydir", "appendonly.aof", TargetFormat::redis(7, 0), |base| {
///     let head = EntryHead::new(0, b"counter", ValueType::String);
///     base.value(&head, &Value::String(b"41".to_vec())).map(drop)
/// })?;
/// writer.command(0, &[b"INCR", b"counter"])?;
/// writer.finish()?;
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Debug)]
pub struct AofWriter {
    dir: PathBuf,
    name: String,
    manifest: Manifest,
    out: BufWriter<File>,
    buf: Vec<u8>,
    db: Option<u64>,
    second: Option<i64>,
    in_transaction: bool,
}

impl AofWriter {
    /// Begins a log that starts from nothing, making the directory where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] in [`Error::InFile`], also when the directory has a log of this name already, or `name` is none for a
    /// file.
    pub fn create(dir: impl AsRef<Path>, name: &str) -> Result<Self, Error> {
        Self::begin(dir.as_ref(), name, Manifest::default())
    }

    /// Begins a log that starts from a snapshot, which `write` fills. `target` is the oldest server that is to load it.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and those of `write`.
    pub fn create_with_base(
        dir: impl AsRef<Path>,
        name: &str,
        target: TargetFormat,
        write: impl FnOnce(&mut RdbWriter<BufWriter<File>>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let dir = dir.as_ref();
        prepare(dir, name)?;
        let base = ManifestFile::new(format!("{name}.1.base.rdb"), 1);
        let path = dir.join(&base.name);
        let mut writer = RdbWriter::new(BufWriter::new(new_file(&path)?), target)?;
        writer.aux(b"aof-base", b"1")?;
        write(&mut writer)?;
        let file = writer.finish().map_err(|error| error.in_file(&path))?;
        file.get_ref().sync_all().map_err(|error| io(&path, &error))?;
        Self::begin(dir, name, Manifest { base: Some(base), ..Manifest::default() })
    }

    fn begin(dir: &Path, name: &str, manifest: Manifest) -> Result<Self, Error> {
        prepare(dir, name)?;
        let mut manifest = manifest;
        let out = next_file(dir, name, &mut manifest)?;
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            manifest,
            out,
            buf: Vec::new(),
            db: None,
            second: None,
            in_transaction: false,
        })
    }

    /// Writes a command that runs in `db`, with `SELECT` in front where the database changes. Times in it should be
    /// absolute: a log is replayed later. `SELECT` itself need not be written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] in [`Error::InFile`].
    pub fn command(&mut self, db: u64, args: &[&[u8]]) -> Result<(), Error> {
        let Some(name) = args.first() else { return Ok(()) };
        self.buf.clear();
        if self.db != Some(db) {
            let mut number = itoa::Buffer::new();
            append_command(&mut self.buf, &[b"SELECT", number.format(db).as_bytes()]);
            self.db = Some(db);
        }
        if !name.eq_ignore_ascii_case(b"SELECT") {
            append_command(&mut self.buf, args);
        }
        if name.eq_ignore_ascii_case(b"MULTI") {
            self.in_transaction = true;
        } else if name.eq_ignore_ascii_case(b"EXEC") {
            self.in_transaction = false;
        }
        self.write()
    }

    /// Says that commands from here on ran in this second of the Unix epoch or later. Written when it is another second
    /// than before, and not inside transactions.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] in [`Error::InFile`].
    pub fn timestamp(&mut self, seconds: i64) -> Result<(), Error> {
        if self.second == Some(seconds) || self.in_transaction {
            return Ok(());
        }
        self.second = Some(seconds);
        self.buf.clear();
        self.buf.extend_from_slice(format!("#TS:{seconds}\r\n").as_bytes());
        self.write()
    }

    /// Ends the current file and begins the next.
    ///
    /// # Errors
    ///
    /// [`Error::OpenTransaction`] inside a transaction, which must not span files; [`Error::Io`] in [`Error::InFile`].
    pub fn rotate(&mut self) -> Result<(), Error> {
        if self.in_transaction {
            return Err(Error::OpenTransaction { doing: "beginning the next file" });
        }
        self.sync()?;
        self.out = next_file(&self.dir, &self.name, &mut self.manifest)?;
        // Each file starts in database 0 for whoever reads it, and tells its time anew.
        (self.db, self.second) = (None, None);
        Ok(())
    }

    /// Makes sure that what was written is on disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] in [`Error::InFile`].
    pub fn sync(&mut self) -> Result<(), Error> {
        let flushed = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        flushed.map_err(|error| io(&self.path(), &error))
    }

    /// The files of the log so far.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Ends the log, on disk.
    ///
    /// # Errors
    ///
    /// [`Error::OpenTransaction`] inside a transaction, which servers would not load; [`Error::Io`] in [`Error::InFile`].
    pub fn finish(mut self) -> Result<Manifest, Error> {
        self.sync()?;
        if self.in_transaction {
            return Err(Error::OpenTransaction { doing: "ending the log" });
        }
        Ok(self.manifest)
    }

    fn write(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.buf).map_err(|error| io(&self.path(), &error))
    }

    /// The current file.
    fn path(&self) -> PathBuf {
        self.dir.join(self.manifest.incremental.last().map_or("", |file| &file.name))
    }
}

/// Makes the directory, and sees to it that no log of this name is there.
fn prepare(dir: &Path, name: &str) -> Result<(), Error> {
    use std::io::ErrorKind;
    let refuse = |kind, what| Err(io(&dir.join(name), &std::io::Error::new(kind, what)));
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return refuse(ErrorKind::InvalidInput, "the name of a log must be that of a file");
    }
    std::fs::create_dir_all(dir).map_err(|error| io(dir, &error))?;
    if dir.join(format!("{name}.manifest")).exists() {
        return refuse(ErrorKind::AlreadyExists, "there is a log of this name already");
    }
    Ok(())
}

fn new_file(path: &Path) -> Result<File, Error> {
    File::create_new(path).map_err(|error| io(path, &error))
}

/// Makes the next incremental file and names it in the manifest.
fn next_file(dir: &Path, name: &str, manifest: &mut Manifest) -> Result<BufWriter<File>, Error> {
    let seq = manifest.incremental.last().map_or(1, |file| file.seq + 1);
    let file = ManifestFile::new(format!("{name}.{seq}.incr.aof"), seq);
    let out = new_file(&dir.join(&file.name))?;
    manifest.incremental.push(file);
    let (temporary, path) = (dir.join(format!("temp-{name}.manifest")), dir.join(format!("{name}.manifest")));
    let mut text = File::create(&temporary).map_err(|error| io(&temporary, &error))?;
    let written = text.write_all(&manifest.to_bytes()).and_then(|()| text.sync_all());
    written.map_err(|error| io(&temporary, &error))?;
    std::fs::rename(&temporary, &path).map_err(|error| io(&path, &error))?;
    // Where directories cannot be opened, the rename is all there is.
    if let Ok(dir) = File::open(dir) {
        let _ = dir.sync_all();
    }
    Ok(BufWriter::new(out))
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::io(DOING, error).in_file(path)
}
