//! Cases in groups, and the files that they are in.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Error;
use crate::case::Case;

/// A file of our own, with its name.
macro_rules! file {
    ($name:literal) => {
        (concat!($name, ".json"), include_str!(concat!("../cases/", $name, ".json")))
    };
}

/// Our own cases, a file for each group.
static BUILTIN: &[(&str, &str)] = &[
    file!("acl"),
    file!("arity"),
    file!("bitmap"),
    file!("cluster"),
    file!("config"),
    file!("connection"),
    file!("dump-restore"),
    file!("encoding"),
    file!("expiry"),
    file!("functions"),
    file!("generic"),
    file!("geo"),
    file!("hash"),
    file!("hash-field-expiry"),
    file!("hyperloglog"),
    file!("list"),
    file!("notifications"),
    file!("pubsub"),
    file!("scripting"),
    file!("server"),
    file!("set"),
    file!("sorted-set"),
    file!("stream"),
    file!("string"),
    file!("transactions"),
    file!("vector-set"),
    file!("wrong-type"),
];

/// Groups of cases.
///
/// ```
/// use keyferry_compat::Suite;
///
/// let suite = Suite::parse("mine.json", r#"{
///     "group": "string", "from": "redis 7.0.15",
///     "cases": [
///         {"name": "SET and GET", "steps": [["SET $k hello", "+OK"], ["GET $k", "hello"]]},
///         {"name": "GET of a list", "steps": ["RPUSH $l a", ["GET $l", "-WRONGTYPE"]]}
///     ]
/// }"#)?;
/// assert_eq!(suite.cases().count(), 2);
/// # Ok::<(), keyferry_compat::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suite {
    pub(crate) groups: Vec<Group>,
}

/// Cases about one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub(crate) name: String,
    pub(crate) from: Option<String>,
    pub(crate) weight: f64,
    pub(crate) cases: Vec<Case>,
}

impl Group {
    /// What the cases are about: `string`, `stream`, `expiry`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server that the expectations were obtained from.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// How much it counts in the score; 1 unless its file says otherwise.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The cases.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }
}

impl Suite {
    /// Our own cases, over every group of commands of Redis 8 and Valkey 9. Each expectation was obtained from a real server,
    /// which the file names.
    ///
    /// # Errors
    ///
    /// None, as a test makes sure.
    pub fn builtin() -> Result<Self, Error> {
        let mut suite = Self::default();
        for (file, text) in BUILTIN {
            suite.add(Self::parse(file, text)?)?;
        }
        Ok(suite)
    }

    /// Reads one file of cases: an object with `group`, `from`, `weight` and `cases`, or an array of such.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Format`], [`Error::Case`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// As [`read`](Self::read), from text. `file` is for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Format`], [`Error::Case`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|error| Error::format(file, error))?;
        let groups = match value {
            Value::Array(groups) => groups,
            one => vec![one],
        };
        let mut suite = Self::default();
        for group in &groups {
            let group = Group::parse(file, group)?;
            suite.add(Self { groups: vec![group] })?;
        }
        Ok(suite)
    }

    /// Adds the cases of another suite. Groups of the same name become one.
    ///
    /// # Errors
    ///
    /// [`Error::Case`] when a group has two cases of one name.
    pub fn add(&mut self, other: Self) -> Result<(), Error> {
        for group in other.groups {
            let mut known = BTreeSet::new();
            let at = self.groups.iter().position(|one| one.name == group.name);
            let before = at.and_then(|at| self.groups.get(at)).map_or(&[][..], |one| &one.cases);
            for case in before.iter().chain(&group.cases) {
                if !known.insert(&case.name) {
                    return Err(Error::case(&group.name, &case.name, "there are two of this name"));
                }
            }
            match at.and_then(|at| self.groups.get_mut(at)) {
                Some(one) => one.cases.extend(group.cases),
                None => self.groups.push(group),
            }
        }
        Ok(())
    }

    /// The groups in their order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// All cases, each with its group.
    pub fn cases(&self) -> impl Iterator<Item = (&Group, &Case)> {
        self.groups.iter().flat_map(|group| group.cases.iter().map(move |case| (group, case)))
    }

    /// Keeps the cases whose `group/name` this says yes to.
    #[must_use]
    pub fn only(mut self, mut wanted: impl FnMut(&str) -> bool) -> Self {
        for group in &mut self.groups {
            let name = &group.name;
            group.cases.retain(|case| wanted(&format!("{name}/{}", case.name)));
        }
        self.groups.retain(|group| !group.cases.is_empty());
        self
    }

    /// As a file of cases: one step a line, as our own files are written.
    pub fn to_text(&self) -> String {
        let groups: Vec<String> = self.groups.iter().map(Group::to_text).collect();
        match &groups[..] {
            [one] => one.clone(),
            many => format!("[\n{}]\n", many.join(",\n")),
        }
    }
}

impl Group {
    fn parse(file: &str, value: &Value) -> Result<Self, Error> {
        let Value::Object(object) = value else {
            return Err(Error::format(file, "a group is an object with \"group\" and \"cases\""));
        };
        if let Some(name) =
            object.keys().find(|name| !["group", "from", "weight", "cases"].contains(&name.as_str()))
        {
            return Err(Error::format(file, format!("nothing is called \"{name}\" in a group")));
        }
        let name = object.get("group").and_then(Value::as_str);
        let name = name.ok_or_else(|| Error::format(file, "a group has a name, \"group\""))?.to_owned();
        let from = object.get("from").and_then(Value::as_str).map(str::to_owned);
        let weight = match object.get("weight").map(Value::as_f64) {
            None => 1.0,
            Some(Some(weight)) if weight > 0.0 => weight,
            Some(_) => return Err(Error::format(file, "\"weight\" is a number above 0")),
        };
        let Some(Value::Array(values)) = object.get("cases") else {
            return Err(Error::format(file, "a group has \"cases\", an array"));
        };
        let mut cases = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            cases.push(Case::parse(value).map_err(|problem| {
                let known = value.get("name").and_then(Value::as_str).map(str::to_owned);
                Error::case(file, &known.unwrap_or_else(|| format!("number {}", at + 1)), problem)
            })?);
        }
        Ok(Self { name, from, weight, cases })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{{\"group\": {}", json!(self.name));
        if let Some(from) = &self.from {
            let _ = write!(text, ", \"from\": {}", json!(from));
        }
        if self.weight != 1.0 {
            let _ = write!(text, ", \"weight\": {}", self.weight);
        }
        text.push_str(", \"cases\": [");
        for (at, case) in self.cases.iter().enumerate() {
            text.push_str(if at == 0 { "\n" } else { ",\n" });
            let Value::Object(mut object) = case.to_json() else { continue };
            let steps = object.remove("steps");
            let finally = object.remove("finally");
            text.push('{');
            // The order of a reader: name, to whom it applies, what it does.
            for name in ["name", "since", "until", "requires", "protocol", "from"] {
                if let Some(value) = object.get(name) {
                    let _ = write!(text, "\"{name}\": {value}, ");
                }
            }
            text.push_str("\"steps\": [");
            for (at, step) in steps.iter().flat_map(|steps| steps.as_array()).flatten().enumerate() {
                let _ = write!(text, "{}\n  {step}", if at == 0 { "" } else { "," });
            }
            text.push(']');
            if let Some(finally) = finally {
                let _ = write!(text, ", \"finally\": {finally}");
            }
            text.push('}');
        }
        text.push_str("\n]}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_written_alike() {
        let text = "{\"group\": \"string\", \"from\": \"redis 7.0.15\", \"weight\": 2, \"cases\": [\n\
             {\"name\": \"a\", \"since\": \"6.2.0\", \"steps\": [\n  [\"SET $k v\",\"+OK\"],\n  \"GET $k\"]},\n\
             {\"name\": \"b\", \"steps\": [\n  \"PING\"], \"finally\": [\"PING\"]}\n]}\n";
        let suite = Suite::parse("f", text).unwrap();
        assert_eq!(suite.to_text(), text);
        assert_eq!(suite.groups()[0].weight(), 2.0);
        let both = Suite::parse("f", &format!("[{text}, {{\"group\": \"list\", \"cases\": []}}]")).unwrap();
        assert_eq!(both.groups().len(), 2);
        assert_eq!(Suite::parse("f", &both.to_text()).unwrap(), both);
        assert_eq!(both.only(|name| name == "string/b").cases().count(), 1);
    }

    #[test]
    fn every_key_of_our_cases_is_below_the_prefix() {
        let table = keyferry_routing::CommandTable::builtin();
        let mut keys = Vec::new();
        for (group, case) in Suite::builtin().unwrap().cases() {
            for command in case.commands() {
                let words = crate::command::split(command).unwrap();
                if table.keys(&words, &mut keys).is_err() {
                    continue;
                }
                for key in &keys {
                    let name = &words[key.index];
                    let ours = name.starts_with(b"$")
                        && name.get(1).is_some_and(|c| c.is_ascii_alphabetic() || *c == b'/');
                    // A migration of nothing has an empty key.
                    assert!(ours || name.is_empty(), "{}/{}: {command}", group.name, case.name);
                }
            }
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, told) in [
            ("{", "f: "),
            ("[1]", "a group is an object"),
            ("{\"cases\": []}", "\"group\""),
            ("{\"group\": \"g\"}", "\"cases\""),
            ("{\"group\": \"g\", \"weight\": 0, \"cases\": []}", "weight"),
            ("{\"group\": \"g\", \"whence\": 0, \"cases\": []}", "whence"),
            ("{\"group\": \"g\", \"cases\": [{\"name\": \"n\"}]}", "case \"n\": it has no steps"),
            ("{\"group\": \"g\", \"cases\": [{\"steps\": [\"PING\"]}]}", "case \"number 1\""),
            (
                "{\"group\": \"g\", \"cases\": [{\"name\": \"n\", \"steps\": [\"PING\"]}, {\"name\": \"n\", \"steps\": [\"PING\"]}]}",
                "two of this name",
            ),
        ] {
            let error = Suite::parse("f", text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
