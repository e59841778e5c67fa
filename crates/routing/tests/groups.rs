//! Groups and categories of commands as real servers tell them.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_resp::Frame;
use keyferry_routing::{CommandFlags, CommandSpec, CommandTable};
use keyferry_testkit::{Client, Result, Server, all};

/// The categories of `ACL CAT`.
const CATEGORIES: &[&str] = &[
    "read",
    "write",
    "keyspace",
    "string",
    "bitmap",
    "hyperloglog",
    "list",
    "set",
    "sortedset",
    "geo",
    "hash",
    "stream",
    "pubsub",
    "scripting",
    "transaction",
    "connection",
    "admin",
    "dangerous",
    "fast",
    "slow",
    "blocking",
];

/// Commands that a source may send to its replicas.
fn is_replicated(spec: &CommandSpec) -> bool {
    let flags = spec.flags();
    !flags.contains(CommandFlags::CONTAINER)
        && flags.intersects(CommandFlags::WRITE.union(CommandFlags::MAY_REPLICATE))
}

fn texts(frame: &Frame) -> BTreeSet<String> {
    let items = frame.as_array().unwrap_or_default();
    let text = |item: &Frame| item.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).to_lowercase());
    items.iter().filter_map(text).collect()
}

/// The group of each command that the server tells, subcommands included.
fn groups(client: &mut Client) -> Result<BTreeMap<String, String>> {
    fn learn(pairs: &[Frame], groups: &mut BTreeMap<String, String>) {
        let text =
            |frame: &Frame| frame.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).to_lowercase());
        for pair in pairs.chunks_exact(2) {
            let (Some(name), Some(facts)) = (text(&pair[0]), pair[1].as_array()) else { continue };
            for fact in facts.chunks_exact(2) {
                match (text(&fact[0]).as_deref(), text(&fact[1])) {
                    (Some("group"), Some(group)) => drop(groups.insert(name.clone(), group)),
                    (Some("subcommands"), _) => learn(fact[1].as_array().unwrap_or_default(), groups),
                    _ => {}
                }
            }
        }
    }
    let docs = client.call(&["COMMAND", "DOCS"])?;
    let mut known = BTreeMap::new();
    learn(docs.as_array().unwrap_or_default(), &mut known);
    Ok(known)
}

#[test]
fn groups_are_those_of_the_servers() -> Result<()> {
    let table = CommandTable::builtin();
    for binary in all()? {
        let server = Server::builder(binary).start()?;
        // Servers tell since 7.0.
        let Ok(groups) = groups(&mut server.client()?) else { continue };
        assert!(groups.len() > 200, "{}: {groups:?}", binary.name);
        for (name, group) in groups {
            let Some(spec) = table.named(&name) else { continue };
            assert_eq!(spec.group().name(), group, "{name} in {}", binary.name);
        }
    }
    Ok(())
}

#[test]
fn categories_are_those_of_the_servers() -> Result<()> {
    let table = CommandTable::builtin();
    for binary in all()? {
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        let mut known = texts(&client.call(&["ACL", "CAT", "fast"])?);
        known.extend(texts(&client.call(&["ACL", "CAT", "slow"])?));
        assert!(known.len() > 150, "{}", binary.name);
        let mut wrong = Vec::new();
        for category in CATEGORIES {
            let told = texts(&client.call(&["ACL", "CAT", category])?);
            // Redis 6.0 has `PFDEBUG` in no category of a type, and 7.0 what loads functions among the writes, as later ones do not.
            let is_compared = |spec: &&CommandSpec| {
                is_replicated(spec)
                    && spec.name() != "pfdebug"
                    && !(*category == "write" && spec.name().starts_with("function|"))
            };
            for spec in table.commands().filter(|spec| is_compared(spec) && known.contains(spec.name())) {
                let ours = spec.is_in_category(category).unwrap_or_default();
                if ours != told.contains(spec.name()) {
                    wrong.push(format!("{}: {} in {category}: {ours}", binary.name, spec.name()));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    Ok(())
}
