use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Where a server, and a migration in its journal, keeps the parts of an append-only file.
const LOG_DIR: &str = "appendonlydir";

/// How the directories begin that a journal has for the shards of its source.
const SHARD: &str = "shard-";

/// What is to be opened, one by one, to read all that there is at a path: each an input for [`Input::open`](crate::Input::open).
///
/// Of the directory that a server keeps its data in, it is the directory of its append-only file in several parts; of the journal of
/// a migration as many as it has sources, in the order of their names. A directory that has a manifest in it stands for itself, and so does
/// whatever is not a directory: a file, a manifest, `-`. None where a directory has nothing of that kind.
///
/// A shard whose log is missing is among them nevertheless: opening it fails, and the others alone are not all there is.
///
/// # Errors
///
/// [`Error::Open`] for a directory that cannot be listed.
pub fn inputs_at(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, Error> {
    let path = path.as_ref();
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = entries(path).map_err(|error| Error::Open { input: path.display().to_string(), error })?;
    if entries.iter().any(|entry| is_manifest(entry)) {
        return Ok(vec![path.to_owned()]);
    }
    let own = Some(path.join(LOG_DIR)).filter(|own| own.is_dir());
    let shards = entries.iter().filter(|entry| is_shard(entry)).map(|shard| shard.join(LOG_DIR));
    Ok(own.into_iter().chain(shards).collect())
}

/// By name.
fn entries(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut entries =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    entries.sort();
    Ok(entries)
}

/// One that is being written does not count.
fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".manifest") && !name.starts_with("temp-")
}

fn is_shard(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SHARD)) && path.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, InputKind, InputOptions};

    fn log(dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("appendonly.aof.1.incr.aof"), "#TS:1\r\n").unwrap();
        fs::write(dir.join("appendonly.aof.manifest"), "file appendonly.aof.1.incr.aof seq 1 type i\n")
            .unwrap();
        dir.to_owned()
    }

    #[test]
    fn a_server_and_a_journal_of_one_source_have_one_log() {
        let dir = tempfile::tempdir().unwrap();
        let at = || inputs_at(dir.path()).unwrap();
        assert!(at().is_empty());
        fs::write(dir.path().join("dump.rdb"), "REDIS0011").unwrap();
        fs::write(dir.path().join("keyferry.json"), "{}").unwrap();
        assert!(at().is_empty());
        let below = log(&dir.path().join("appendonlydir"));
        assert_eq!(at(), [below.as_path()]);
        assert_eq!(inputs_at(&below).unwrap(), [below.as_path()]);
        assert_eq!(Input::open(&below, InputOptions::default()).unwrap().kind(), InputKind::MultiPart);
    }

    #[test]
    fn a_journal_of_a_cluster_has_one_log_a_shard() {
        let dir = tempfile::tempdir().unwrap();
        let logs = ["shard-0", "shard-5461"].map(|shard| log(&dir.path().join(shard).join("appendonlydir")));
        fs::write(dir.path().join("shard-9"), "no directory").unwrap();
        log(&dir.path().join("other").join("appendonlydir"));
        assert_eq!(inputs_at(dir.path()).unwrap(), logs);
        assert_eq!(inputs_at(dir.path().join("shard-0")).unwrap(), logs[..1]);
        // A shard that has lost its log is not left out.
        fs::remove_dir_all(&logs[1]).unwrap();
        let found = inputs_at(dir.path()).unwrap();
        assert_eq!(found, logs);
        let error = Input::open(&found[1], InputOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Open { input, .. } if input.contains("shard-5461")), "{error}");
    }

    #[test]
    fn what_is_no_directory_stands_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = log(dir.path()).join("appendonly.aof.manifest");
        for path in [manifest.as_path(), &dir.path().join("none"), Path::new("-"), dir.path()] {
            assert_eq!(inputs_at(path).unwrap(), [path]);
        }
        // While a manifest is being written, there is none.
        fs::rename(&manifest, dir.path().join("temp-appendonly.aof.manifest")).unwrap();
        assert!(inputs_at(dir.path()).unwrap().is_empty());
    }
}
