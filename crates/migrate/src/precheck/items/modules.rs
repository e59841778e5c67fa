//! Modules, whose types and commands only they know.

use std::collections::BTreeMap;

use keyferry_client::Info;

use crate::precheck::{Finding, Item, Known, report::Judge, survey::Surveyed};

pub(super) fn check(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::Modules);
    let (source, target) = (modules_of(&known.source), modules_of(&known.target));
    for (name, version) in &source {
        match target.get(name) {
            // What runs scripts in Valkey 9; elsewhere no module does.
            None if name == "lua" => {
                judge
                    .note(format!("{name} (version {version}): a part of the source that others do without"));
            }
            // Redis 8 has it whether it is used or not; what it is used for is among the losses.
            None if name == "vectorset" => judge.warn(
                format!("{name} (version {version}) is a part of the source, and not of the target"),
                "keys of its type have no place there: see the item losses",
            ),
            None => judge.fail(
                format!("{name} (version {version}) is loaded at the source and not at the target"),
                "load it there; if no key is of its types and no command of it is used, ignore this",
            ),
            Some(there) if there < version => judge.warn(
                format!("{name}: version {version} at the source, {there} at the target"),
                "older versions of a module may not read what newer ones write: update it at the target",
            ),
            Some(there) => {
                judge.note(format!("{name}: version {version} at the source, {there} at the target"))
            }
        }
    }
    if let Some(node) = known.source.nodes.iter().find(|node| node.info_refused.is_some()) {
        judge.warn(node.silence(), "give the user +info, or compare MODULE LIST of both sides");
    } else if source.is_empty() {
        judge.note("the source has none");
    }
    judge.done()
}

/// Of files it is known which types of modules their values have, not which module that is.
pub(super) fn of_files(known: &Known<'_>, types: &BTreeMap<String, u64>) -> Finding {
    let mut judge = Judge::new(Item::Modules);
    let target = modules_of(&known.target);
    let there: Vec<&str> = target.keys().map(String::as_str).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    for (name, count) in types {
        let line = format!(
            "{count} values of the type {name}, which a module defines; modules of the target: {there}"
        );
        if target.is_empty() {
            judge.fail(line, "load the module there");
        } else {
            judge.warn(line, "be sure that the module of this type is one of them");
        }
    }
    if types.is_empty() {
        judge.note("no value of a module");
    }
    judge.done()
}

/// The modules of an end and their versions: of several nodes the newest at the source, the oldest at the target, so that the
/// worst case is seen.
fn modules_of(end: &Surveyed) -> BTreeMap<String, u64> {
    let lists: Vec<BTreeMap<String, u64>> = end.nodes.iter().map(|node| modules(&node.info)).collect();
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    let is_target = end.end == crate::precheck::survey::End::Target;
    for (name, version) in lists.iter().flatten() {
        if is_target && !lists.iter().all(|list| list.contains_key(name)) {
            continue;
        }
        let known = all.entry(name.clone()).or_insert(*version);
        *known = if is_target { *version.min(known) } else { *version.max(known) };
    }
    all
}

/// The lines `module:name=…,ver=…`.
fn modules(info: &Info) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for (_, key, value) in info.iter().filter(|(_, key, _)| *key == "module") {
        let line = Info::parse(format!("{key}:{value}").as_bytes());
        if let Some(name) = line.field("module", "name") {
            let version = line.field("module", "ver").and_then(|version| version.parse().ok()).unwrap_or(0);
            found.insert(name.to_owned(), version);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_info_tell_names_and_versions() {
        let info = Info::parse(
            b"# Modules\r\nmodule:name=vectorset,ver=1,api=1,filters=0,usedby=[],using=[],options=[handle-io-errors]\r\n\
              module:name=ReJSON,ver=20808,api=1\r\nmodule:ver=1\r\n",
        );
        let want = [("ReJSON".to_owned(), 20808), ("vectorset".to_owned(), 1)];
        assert_eq!(modules(&info), BTreeMap::from(want));
    }
}
