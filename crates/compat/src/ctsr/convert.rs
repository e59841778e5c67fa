//! The same file as cases of our own.

use std::fmt::Write as _;

use keyferry_client::Protocol;
use keyferry_routing::CommandTable;
use serde_json::Value;

use super::{Cases, CtsrCase, tokens};
use crate::Error;
use crate::case::{Act, Case, MAIN, Step};
use crate::expect::Expect;
use crate::gate::Gate;
use crate::needs::Needs;
use crate::suite::{Group, Suite};

/// What is put before the keys, which may begin with anything.
const KEY: &str = "$K_";

impl Cases {
    /// Cases of our own that ask the same, in RESP2, and need no `FLUSHALL`: every key gets the scratch prefix. Texts that
    /// are numbers with a fraction are compared as numbers. Each version is a group.
    ///
    /// # Errors
    ///
    /// [`Error::Case`] for a line that is no command.
    pub fn to_suite(&self, file: &str) -> Result<Suite, Error> {
        let mut suite = Suite::default();
        for (position, case) in self.cases.iter().enumerate() {
            if case.skipped {
                continue;
            }
            let converted = convert(position, case).map_err(|why| Error::case(file, &case.name, why))?;
            let name = format!("since {}", case.since);
            match suite.groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.cases.push(converted),
                None => {
                    suite.groups.push(Group {
                        name,
                        from: Some(file.to_owned()),
                        weight: 1.0,
                        cases: vec![converted],
                    });
                }
            }
        }
        Ok(suite)
    }
}

fn convert(position: usize, case: &CtsrCase) -> Result<Case, String> {
    let lines = case.command.iter().map(|line| match case.command_binary {
        true => tokens::binary(line),
        false => Ok(tokens::text(line)),
    });
    let lines: Vec<Vec<Vec<u8>>> = lines.collect::<Result<_, _>>()?;
    let keys: Vec<Vec<usize>> = lines.iter().map(|args| key_positions(args)).collect();
    let mut names: Vec<&[u8]> = Vec::new();
    for (args, positions) in lines.iter().zip(&keys) {
        names.extend(positions.iter().filter_map(|&at| args.get(at)).map(Vec::as_slice));
    }
    let mut steps = Vec::with_capacity(lines.len());
    let mut connection = 0;
    for (at, (args, positions)) in lines.iter().zip(&keys).enumerate() {
        let expect = match case.result.get(at) {
            Some(value) => expectation(value, case.sort_result, &names),
            // There is nothing that it could be equal to.
            None => Expect::Either(Vec::new()),
        };
        let on = if connection == 0 { MAIN.to_owned() } else { format!("connection {connection}") };
        steps.push(Step {
            on,
            act: Act::Call(command(args, positions)),
            expect: Some(expect),
            expect3: None,
            keep: None,
            within: None,
            only: None,
        });
        // What the original opens anew.
        let name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let subscribes = crate::session::subscribes(args);
        if name == b"QUIT" || (subscribes && args.len() > 2) {
            connection += 1;
        }
    }
    let requires = match case.tags.as_deref() {
        Some("standalone") => Needs::STANDALONE,
        Some("cluster") => Needs::CLUSTER,
        _ => Needs::NONE,
    };
    let gate = Gate::Redis(case.since.clone());
    gate.check()?;
    let converted = Case {
        name: format!("{} (#{})", case.name, position + 1),
        since: Some(gate),
        until: None,
        requires,
        only: Some(Protocol::Resp2),
        from: None,
        steps,
        finally: Vec::new(),
        derived: Needs::NONE,
    };
    converted.finished()
}

fn key_positions(args: &[Vec<u8>]) -> Vec<usize> {
    let mut keys = Vec::new();
    match CommandTable::builtin().keys(args, &mut keys) {
        Ok(_) => keys.iter().map(|key| key.index).collect(),
        Err(_) => Vec::new(),
    }
}

/// The arguments as a line of ours.
fn command(args: &[Vec<u8>], keys: &[usize]) -> String {
    let mut line = String::new();
    for (at, arg) in args.iter().enumerate() {
        if at > 0 {
            line.push(' ');
        }
        line.push('"');
        if keys.contains(&at) {
            line.push_str(KEY);
        }
        for &byte in arg {
            match byte {
                b'"' | b'\\' => {
                    line.push('\\');
                    line.push(char::from(byte));
                }
                b'$' => line.push_str("$$"),
                0x20..=0x7e => line.push(char::from(byte)),
                _ => {
                    let _ = write!(line, "\\x{byte:02x}");
                }
            }
        }
        line.push('"');
    }
    line
}

fn expectation(value: &Value, sort: bool, keys: &[&[u8]]) -> Expect {
    match value {
        Value::Null => Expect::Null,
        Value::Bool(b) => Expect::Integer(i64::from(*b)),
        Value::Number(n) => n.as_i64().map_or(Expect::Either(Vec::new()), Expect::Integer),
        Value::String(text) => {
            let own = text.replace('$', "$$");
            let mut any = vec![Expect::Text(own.clone()), Expect::Simple(text.clone())];
            if keys.contains(&text.as_bytes()) {
                any.push(Expect::Text(format!("{KEY}{own}")));
            }
            if text.contains('.')
                && let Ok(number) = text.parse()
            {
                any.push(Expect::Number(number));
            }
            Expect::Either(any)
        }
        Value::Array(items) => {
            let inner: Vec<Expect> = items.iter().map(|item| expectation(item, sort, keys)).collect();
            match sort && !items.iter().any(Value::is_array) {
                true => Expect::Unordered(inner),
                false => Expect::Array(inner),
            }
        }
        Value::Object(_) => Expect::Either(Vec::new()),
    }
}
