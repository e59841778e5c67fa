//! One case: what is sent, what should come back, and to which servers it applies.

use keyferry_client::Protocol;
use serde_json::{Map, Value, json};

use crate::command::{Piece, pieces, split};
use crate::expect::Expect;
use crate::gate::Gate;
use crate::needs::{Needs, needs_of};

/// The name of the connection that steps use which name none.
pub(crate) const MAIN: &str = "main";

/// One case of a [`Suite`](crate::Suite).
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub(crate) name: String,
    pub(crate) since: Option<Gate>,
    pub(crate) until: Option<Gate>,
    pub(crate) requires: Needs,
    /// The only protocol that it is about.
    pub(crate) only: Option<Protocol>,
    /// Where the expectations come from, if not from where those of the whole file come from.
    pub(crate) from: Option<String>,
    pub(crate) steps: Vec<Step>,
    /// Sent in the end, whatever happened, and not looked at.
    pub(crate) finally: Vec<String>,
    /// What the steps need besides what is written in `requires`.
    pub(crate) derived: Needs,
}

/// One step of a case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// The connection.
    pub(crate) on: String,
    pub(crate) act: Act,
    pub(crate) expect: Option<Expect>,
    /// In RESP3, where that is something else.
    pub(crate) expect3: Option<Expect>,
    /// The name under which the reply is kept, and where in it the thing is that is kept.
    pub(crate) keep: Option<(String, Vec<usize>)>,
    /// Repeat the command until the reply is right, for at most so many milliseconds.
    pub(crate) within: Option<u64>,
    /// The only protocol in which the step is taken.
    pub(crate) only: Option<Protocol>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Act {
    /// Sends a command and reads its reply.
    Call(String),
    /// Sends a command and reads nothing.
    Send(String),
    /// Reads what comes next.
    Read,
    /// Waits for so many milliseconds.
    Sleep(u64),
}

/// The longest that a case may sleep in one step, in milliseconds.
const LONGEST_SLEEP: u64 = 10_000;

impl Case {
    /// Its name, which no other case of its group has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first versions that it applies to; `None` for all.
    pub fn since(&self) -> Option<&Gate> {
        self.since.as_ref()
    }

    /// The first versions that it does not apply to any more.
    pub fn until(&self) -> Option<&Gate> {
        self.until.as_ref()
    }

    /// What the server must be or allow, written in the case or seen from its commands.
    pub fn needs(&self) -> Needs {
        self.requires | self.derived
    }

    /// The server that the expectations were obtained from, where the case names one of its own.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// The commands as they are written.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        let steps = self.steps.iter().filter_map(|step| match &step.act {
            Act::Call(command) | Act::Send(command) => Some(command.as_str()),
            _ => None,
        });
        steps.chain(self.finally.iter().map(String::as_str))
    }

    /// How many of its steps say what the reply should be.
    pub fn expectations(&self) -> usize {
        self.steps.iter().filter(|step| step.expect.is_some() || step.expect3.is_some()).count()
    }

    /// Whether no command of it can change anything.
    pub fn is_read_only(&self) -> bool {
        self.commands().all(|command| split(command).is_ok_and(|words| crate::needs::is_read_only(&words)))
    }

    /// The names of the keys in its commands, and of those in another slot.
    pub(crate) fn keys(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut own, mut other): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        for command in self.commands() {
            for word in split(command).unwrap_or_default() {
                let parts = pieces(&word);
                // The name of a key goes on to the end of its argument, as in `$user:1`, unless something is put in there.
                let whole = parts.iter().skip(1).all(|piece| matches!(piece, Piece::Text(_)));
                let rest: Vec<u8> = parts
                    .iter()
                    .skip(1)
                    .filter_map(|piece| match piece {
                        Piece::Text(text) => Some(*text),
                        _ => None,
                    })
                    .flatten()
                    .copied()
                    .collect();
                for (at, piece) in parts.into_iter().enumerate() {
                    let (into, name) = match piece {
                        Piece::Key(name) => (&mut own, name),
                        Piece::OtherKey(name) => (&mut other, name),
                        _ => continue,
                    };
                    let mut name = name.to_vec();
                    if at == 0 && whole {
                        name.extend_from_slice(&rest);
                    }
                    if !into.contains(&name) {
                        into.push(name);
                    }
                }
            }
        }
        (own, other)
    }

    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let Value::Object(object) = value else { return Err("a case is an object".to_owned()) };
        let mut fields = Fields::new(object);
        let gate = |value: Option<&Value>| -> Result<Option<Gate>, String> {
            let Some(value) = value else { return Ok(None) };
            let gate: Gate = serde_json::from_value(value.clone())
                .map_err(|_| "a version is a text, or an object of texts by vendor".to_owned())?;
            gate.check()?;
            Ok(Some(gate))
        };
        let case = Self {
            name: fields.text("name")?.ok_or("it has no name")?,
            since: gate(fields.take("since"))?,
            until: gate(fields.take("until"))?,
            requires: match fields.take("requires") {
                None => Needs::NONE,
                Some(Value::Array(names)) => {
                    let mut needs = Needs::NONE;
                    for name in names {
                        needs = needs | Needs::named(name.as_str().unwrap_or_default())?;
                    }
                    needs
                }
                Some(_) => return Err("\"requires\" is an array".to_owned()),
            },
            only: fields.protocol()?,
            from: fields.text("from")?,
            steps: match fields.take("steps") {
                Some(Value::Array(steps)) if !steps.is_empty() => {
                    let parsed = steps.iter().enumerate();
                    parsed
                        .map(|(at, step)| Step::parse(step).map_err(|why| format!("step {}: {why}", at + 1)))
                        .collect::<Result<_, _>>()?
                }
                _ => return Err("it has no steps".to_owned()),
            },
            finally: match fields.take("finally") {
                None => Vec::new(),
                Some(Value::Array(items)) => {
                    items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
                }
                Some(_) => return Err("\"finally\" is an array of commands".to_owned()),
            },
            derived: Needs::NONE,
        };
        fields.done()?;
        case.finished()
    }

    /// Works out what its commands need.
    pub(crate) fn finished(mut self) -> Result<Self, String> {
        let mut derived = Needs::NONE;
        for command in self.commands() {
            let words = split(command).map_err(|why| format!("{command}: {why}"))?;
            derived = derived | needs_of(&words);
        }
        self.derived = derived;
        Ok(self)
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".to_owned(), json!(self.name));
        for (name, gate) in [("since", &self.since), ("until", &self.until)] {
            if let Some(gate) = gate {
                object.insert(name.to_owned(), json!(gate));
            }
        }
        if self.requires != Needs::NONE {
            object.insert("requires".to_owned(), json!(self.requires.names().collect::<Vec<_>>()));
        }
        if let Some(only) = self.only {
            object.insert("protocol".to_owned(), json!(number(only)));
        }
        if let Some(from) = &self.from {
            object.insert("from".to_owned(), json!(from));
        }
        object.insert("steps".to_owned(), Value::Array(self.steps.iter().map(Step::to_json).collect()));
        if !self.finally.is_empty() {
            object.insert("finally".to_owned(), json!(self.finally));
        }
        Value::Object(object)
    }
}

impl Step {
    /// What the reply should be in this protocol.
    pub(crate) fn expected(&self, protocol: Protocol) -> Option<&Expect> {
        match protocol {
            Protocol::Resp3 => self.expect3.as_ref().or(self.expect.as_ref()),
            Protocol::Resp2 => self.expect.as_ref(),
        }
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let mut step = Self {
            on: MAIN.to_owned(),
            act: Act::Read,
            expect: None,
            expect3: None,
            keep: None,
            within: None,
            only: None,
        };
        match value {
            Value::String(command) => step.act = Act::Call(command.clone()),
            Value::Array(parts) => match &parts[..] {
                [Value::String(command), expect @ ..] if expect.len() <= 2 => {
                    step.act = Act::Call(command.clone());
                    step.expect = expect.first().map(Expect::parse).transpose()?;
                    step.expect3 = expect.get(1).map(Expect::parse).transpose()?;
                }
                _ => return Err("it is [command, expectation, expectation in RESP3]".to_owned()),
            },
            Value::Object(object) => step.read_object(object)?,
            _ => return Err("it is a text, an array or an object".to_owned()),
        }
        Ok(step)
    }

    fn read_object(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        let mut fields = Fields::new(object);
        if let Some(on) = fields.text("on")? {
            self.on = on;
        }
        let acts = [
            fields.text("do")?.map(Act::Call),
            fields.text("send")?.map(Act::Send),
            fields.take("read").map(|_| Act::Read),
            fields.number("sleep")?.map(|ms| Act::Sleep(ms.min(LONGEST_SLEEP))),
        ];
        let mut acts = acts.into_iter().flatten();
        self.act = match (acts.next(), acts.next()) {
            (Some(act), None) => act,
            _ => return Err("it has one of \"do\", \"send\", \"read\", \"sleep\"".to_owned()),
        };
        self.expect = fields.take("expect").map(Expect::parse).transpose()?;
        self.expect3 = fields.take("resp3").map(Expect::parse).transpose()?;
        self.within = fields.number("within")?;
        self.only = fields.protocol()?;
        let at = match fields.take("at") {
            None => Vec::new(),
            Some(path) => serde_json::from_value(path.clone())
                .map_err(|_| "\"at\" is an array of positions".to_owned())?,
        };
        self.keep = fields.text("as")?.map(|name| (name, at));
        if self.within.is_some() && (self.expect.is_none() || !matches!(self.act, Act::Call(_))) {
            return Err("\"within\" goes with \"do\" and \"expect\"".to_owned());
        }
        if matches!(self.act, Act::Send(_) | Act::Sleep(_)) && (self.expect.is_some() || self.keep.is_some())
        {
            return Err("nothing is read in this step".to_owned());
        }
        fields.done()
    }

    fn to_json(&self) -> Value {
        let plain = self.on == MAIN && self.keep.is_none() && self.within.is_none() && self.only.is_none();
        if let (true, Act::Call(command)) = (plain, &self.act) {
            return match (&self.expect, &self.expect3) {
                (None, None) => json!(command),
                (Some(two), None) => json!([command, two.to_json()]),
                (two, Some(three)) => {
                    let two = two.as_ref().unwrap_or(three);
                    json!([command, two.to_json(), three.to_json()])
                }
            };
        }
        let mut object = Map::new();
        if self.on != MAIN {
            object.insert("on".to_owned(), json!(self.on));
        }
        match &self.act {
            Act::Call(command) => object.insert("do".to_owned(), json!(command)),
            Act::Send(command) => object.insert("send".to_owned(), json!(command)),
            Act::Read => object.insert("read".to_owned(), json!(true)),
            Act::Sleep(ms) => object.insert("sleep".to_owned(), json!(ms)),
        };
        if let Some(only) = self.only {
            object.insert("protocol".to_owned(), json!(number(only)));
        }
        if let Some((name, at)) = &self.keep {
            object.insert("as".to_owned(), json!(name));
            if !at.is_empty() {
                object.insert("at".to_owned(), json!(at));
            }
        }
        if let Some(ms) = self.within {
            object.insert("within".to_owned(), json!(ms));
        }
        for (name, expect) in [("expect", &self.expect), ("resp3", &self.expect3)] {
            if let Some(expect) = expect {
                object.insert(name.to_owned(), expect.to_json());
            }
        }
        Value::Object(object)
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    }
}

/// The fields of an object, of which none may be left over.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    taken: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, taken: Vec::new() }
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.taken.push(name);
        self.object.get(name)
    }

    fn text(&mut self, name: &'static str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("\"{name}\" is a text")),
        }
    }

    fn number(&mut self, name: &'static str) -> Result<Option<u64>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("\"{name}\" is a number")),
        }
    }

    fn protocol(&mut self) -> Result<Option<Protocol>, String> {
        match self.number("protocol")? {
            None => Ok(None),
            Some(2) => Ok(Some(Protocol::Resp2)),
            Some(3) => Ok(Some(Protocol::Resp3)),
            Some(_) => Err("\"protocol\" is 2 or 3".to_owned()),
        }
    }

    fn done(self) -> Result<(), String> {
        match self.object.keys().find(|name| !self.taken.contains(&name.as_str())) {
            Some(name) => Err(format!("nothing is called \"{name}\" here")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_and_written() {
        let text = json!({
            "name": "several things", "since": {"redis": "7.0.0"}, "until": "8.0.0", "requires": ["admin"],
            "protocol": 3, "from": "redis 7.0.15",
            "steps": [
                "SET $k v", ["GET $k", "v"], ["HGETALL $h", ["a", "1"], {"map": [["a", "1"]]}],
                {"on": "b", "send": "BLPOP $q 0"}, {"on": "b", "read": true, "expect": null}, {"sleep": 5},
                {"do": "PTTL $k", "within": 500, "expect": -2}, {"do": "XADD $s * a b", "as": "id", "at": [0, 1]},
            ],
            "finally": ["CONFIG RESETSTAT"],
        });
        let case = Case::parse(&text).unwrap();
        assert_eq!(case.to_json(), text);
        assert_eq!(Case::parse(&case.to_json()).unwrap(), case);
        assert_eq!(case.keys().0, [&b"k"[..], b"h", b"q", b"s"]);
        assert_eq!(case.expectations(), 4);
        assert!(!case.is_read_only());
    }

    #[test]
    fn mistakes_are_told() {
        for (wrong, told) in [
            (json!(1), "object"),
            (json!({"steps": ["PING"]}), "no name"),
            (json!({"name": "x"}), "no steps"),
            (json!({"name": "x", "steps": []}), "no steps"),
            (json!({"name": "x", "steps": ["PING"], "sicne": "7"}), "\"sicne\""),
            (json!({"name": "x", "steps": ["PING"], "since": {"redsi": "7"}}), "redsi"),
            (json!({"name": "x", "steps": ["PING"], "requires": ["money"]}), "money"),
            (json!({"name": "x", "steps": ["PING"], "protocol": 4}), "2 or 3"),
            (json!({"name": "x", "steps": [[1]]}), "step 1"),
            (json!({"name": "x", "steps": [{"on": "a"}]}), "one of"),
            (json!({"name": "x", "steps": [{"do": "PING", "read": true}]}), "one of"),
            (json!({"name": "x", "steps": [{"send": "PING", "expect": 1}]}), "nothing is read"),
            (json!({"name": "x", "steps": [{"do": "PING", "within": 5}]}), "within"),
            (json!({"name": "x", "steps": ["SET \"a"]}), "SET"),
            (json!({"name": "x", "steps": [""]}), "name"),
        ] {
            let error = Case::parse(&wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
