//! The Dockerfile: it copies what a build makes, and runs what it has copied.

use std::{collections::BTreeSet, path::Path};

use crate::manifest::deploy;

pub(crate) fn dockerfile() -> String {
    std::fs::read_to_string(deploy().join("Dockerfile")).unwrap()
}

/// The instructions of this name, without it.
fn instructions<'d>(dockerfile: &'d str, name: &str) -> Vec<&'d str> {
    dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
}

#[test]
fn the_image_has_the_programs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let dockerfile = dockerfile();
    let manifest =
        |path: &str| std::fs::read_to_string(root.join(path)).unwrap().parse::<toml::Table>().unwrap();
    let (workspace, examples) = (manifest("Cargo.toml"), manifest("examples/Cargo.toml"));
    let examples: BTreeSet<&str> = examples["example"]
        .as_array()
        .unwrap()
        .iter()
        .map(|example| example["name"].as_str().unwrap())
        .collect();

    let stages = instructions(&dockerfile, "FROM");
    let rust = workspace["workspace"]["package"]["rust-version"].as_str().unwrap();
    assert_eq!(stages[0], format!("rust:{rust}-bookworm AS build"));
    // Of the same release, for the same C library.
    assert_eq!(stages[1], "gcr.io/distroless/cc-debian12:nonroot");
    assert_eq!(
        instructions(&dockerfile, "RUN"),
        ["cargo build --release --locked -p keyferry-examples --examples"]
    );
    let workdir = instructions(&dockerfile, "WORKDIR")[0];
    let mut programs = BTreeSet::new();
    for copied in instructions(&dockerfile, "COPY --from=build") {
        let mut words =
            copied.split(' ').map(|word| word.strip_prefix(&format!("{workdir}/")).unwrap_or(word));
        let (first, last) = (words.next().unwrap(), words.next_back().unwrap());
        match first.strip_prefix("target/release/examples/") {
            Some(program) => {
                assert!(examples.contains(program), "{program} is no example");
                assert_eq!(last, format!("/usr/local/bin/{program}"));
                programs.insert(format!("{last:?}"));
            }
            None => {
                assert!([first].into_iter().chain(words).all(|file| root.join(file).is_file()), "{copied}")
            }
        }
    }
    let entry = instructions(&dockerfile, "ENTRYPOINT")[0];
    assert!(programs.contains(entry.trim_matches(['[', ']'])), "{entry}");
    assert_eq!(entry, "[\"/usr/local/bin/migrate\"]");
    // What a build reads is not left out.
    let ignored = std::fs::read_to_string(deploy().join("Dockerfile.dockerignore")).unwrap();
    let taken: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let members = workspace["workspace"]["members"].as_array().unwrap().iter();
    let members = members.map(|member| member.as_str().unwrap().split('/').next().unwrap());
    for needed in members.chain(["Cargo.toml", "Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"]) {
        assert!(taken.contains(needed) && root.join(needed).exists(), "{needed}");
    }
}
