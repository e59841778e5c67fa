//! Files to test with.

use std::path::{Path, PathBuf};

use keyferry_files::json::{JsonForm, JsonWriter};
use keyferry_files::survey::{Survey, SurveyOptions};
use keyferry_files::{Error, Found, Input, InputOptions};
use keyferry_rdb::{EntryHead, RawValue, RdbWriter, TargetFormat, Value};

/// Snapshots of all ages: those in the tree and, where it is there, the whole corpus.
pub(crate) fn snapshots() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dirs = ["../rdb/tests/data", "../../../shared/corpus/rdb", "../../../shared/corpus/server-made"];
    let mut files = Vec::new();
    for dir in dirs.map(|dir| here.join(dir)) {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "rdb")));
    }
    files.sort();
    files
}

/// A file of these keys, all in database 0.
pub(crate) fn file_of(keys: &[(&[u8], Value)]) -> Vec<u8> {
    let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 2)).unwrap();
    for (key, value) in keys {
        writer.value(&EntryHead::new(0, key, keyferry_rdb::ValueType::String), value).unwrap();
    }
    writer.finish().unwrap()
}

/// A file of these raw values.
pub(crate) fn raw_file<'a>(entries: impl IntoIterator<Item = (EntryHead<'a>, &'a [u8])>) -> Vec<u8> {
    let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(8, 10)).unwrap();
    for (head, bytes) in entries {
        writer.raw(&head, RawValue::new(head.ty, bytes)).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) fn open(bytes: Vec<u8>) -> Input {
    Input::from_reader("test", std::io::Cursor::new(bytes), InputOptions::default()).unwrap()
}

/// The JSON of a file, as far as it is good.
pub(crate) fn json(input: Input, form: JsonForm) -> (String, Result<(), Error>) {
    let mut json = JsonWriter::new(Vec::new(), form);
    let read = input.read(|found, place| match found {
        Found::Event(event) => json.event(&event, place),
        _ => Ok(()),
    });
    let text = String::from_utf8(json.finish().unwrap()).unwrap();
    (text, read.map(drop))
}

pub(crate) fn survey(input: Input, options: SurveyOptions) -> Result<Survey, Error> {
    let mut survey = Survey::new(options);
    input.read(|found, place| match found {
        Found::Event(event) => survey.event(&event, place),
        _ => Ok(()),
    })?;
    Ok(survey)
}
