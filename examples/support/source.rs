//! What `--source` names: servers by a URL, or files.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use indicatif::{HumanBytes, HumanCount};
use keyferry_client::Endpoint;
use keyferry_migrate::{FileReport, Migration};

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Source {
    /// A server, a cluster, or what sentinels watch.
    Servers(Box<Endpoint>),
    /// Files, in their order; `-` is standard input.
    Files(Vec<PathBuf>),
}

impl Source {
    /// Takes what was given: one URL, or files.
    ///
    /// # Errors
    /// In the words of a person, without passwords.
    pub fn of(given: &[String]) -> Result<Self, String> {
        let is_file = |text: &&String| *text == "-" || Path::new(text).exists();
        let urls = given.iter().filter(|text| text.contains("://") && !is_file(text)).count();
        match given {
            [url] if urls == 1 => {
                Ok(Source::Servers(Box::new(url.parse().map_err(|e| format!("--source: {e}"))?)))
            }
            _ if urls > 0 => Err("--source: one URL, or files: not both, and not several URLs".to_owned()),
            files => {
                if let Some(missing) = files.iter().find(|file| !is_file(file)) {
                    return Err(format!(
                        "--source: {missing} is no file that is there, and no URL (redis://host:port)"
                    ));
                }
                if files.iter().filter(|file| *file == "-").count() > 1 {
                    return Err("--source: standard input can be read once only".to_owned());
                }
                Ok(Source::Files(files.iter().map(PathBuf::from).collect()))
            }
        }
    }

    /// The migration from there.
    #[must_use]
    pub fn to(self, target: Endpoint) -> Migration {
        match self {
            Source::Servers(source) => Migration::new(*source, target),
            Source::Files(files) => Migration::from_files(files, target),
        }
    }

    /// True for files.
    #[must_use]
    pub fn is_files(&self) -> bool {
        matches!(self, Source::Files(_))
    }
}

/// For people, without passwords.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Servers(source) => source.fmt(f),
            Source::Files(files) => {
                let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                f.write_str(&files.join(" "))
            }
        }
    }
}

/// Tells what each file held.
pub fn print_files(files: &[FileReport]) {
    for file in files {
        if file.skipped {
            println!("file     {}: an earlier run has applied it", file.name);
            continue;
        }
        let mut line = format!("{}: {}, {}", file.name, file.kind.name(), HumanBytes(file.bytes));
        for (count, what) in [
            (file.commands, "commands"),
            (file.already_applied, "of them applied by an earlier run"),
            (file.letters, "refused before"),
            (file.letters_repeated, "of them there twice, and left out once"),
            (file.link_commands, "PING and REPLCONF, left out"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {} {what}", HumanCount(count)));
            }
        }
        println!("file     {line}");
        for (name, count) in &file.unknown_annotations {
            println!(
                "file     {}: {count} lines #{name} of a kind that is not known: passed over",
                file.name
            );
        }
        if let Some(cut) = file.cut_at {
            println!("file     {}: cut behind byte {cut}: what stands before that was applied", file.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_files() {
        let of = |given: &[&str]| Source::of(&given.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert!(matches!(of(&["redis://a:1"]), Ok(Source::Servers(_))));
        assert!(matches!(of(&["-"]), Ok(Source::Files(_))));
        let dir = std::env::temp_dir().display().to_string();
        assert!(matches!(of(&[&dir, "-"]), Ok(Source::Files(files)) if files.len() == 2));
        for (wrong, why) in [
            (&["redis://a:1", "redis://b:1"][..], "several URLs"),
            (&["redis://a:1", "-"], "not both"),
            (&["-", "-"], "once"),
            (&["no-such-file.rdb"], "no file"),
            (&["localhost:6379"], "no URL"),
            (&["redis://:secret@a:x"], "--source"),
        ] {
            let error = of(wrong).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }
}
