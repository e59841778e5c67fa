//! The text of `INFO`, taken apart.
//!
//! ```text
//! text     = *( section / property / blank / unknown ) , lines end in CRLF or LF
//! section  = "#" *blank name
//! property = key ":" value          the key has no colon, the value may
//! value    = anything; often fields
//! fields   = field *( "," field )   field = name "=" value
//! ```

use std::str::FromStr;

use keyferry_resp::Frame;
use nom::bytes::complete::{tag, take_till, take_till1};
use nom::character::complete::{char, space0};
use nom::combinator::{all_consuming, opt, rest};
use nom::multi::separated_list0;
use nom::sequence::{preceded, separated_pair};
use nom::{IResult, Parser as _};

/// The reply to `INFO`: sections of properties, in the order and with the duplicates that the server sent.
///
/// Reading never fails: servers, forks and modules add lines as they like, so a line that is neither a section
/// nor a property is kept aside ([`unknown_lines`](Self::unknown_lines)) and the rest is used.
///
/// ```
/// use keyferry_client::Info;
///
/// let info = Info::parse(b"# Replication\r\nrole:master\r\nslave0:ip=10.0.0.8,port=6379,lag=1\r\n\r\n# Keyspace\r\ndb3:keys=2,expires=1,avg_ttl=0\r\n");
/// assert_eq!(info.get("role"), Some("master"));
/// assert_eq!(info.field("slave0", "port"), Some("6379"));
/// assert_eq!(info.keyspace().map(|db| (db.db, db.keys)).collect::<Vec<_>>(), [(3, 2)]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    sections: Vec<InfoSection>,
    unknown: Vec<String>,
}

/// One section of [`Info`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InfoSection {
    /// What stands behind the `#`; empty for properties before the first section.
    pub name: String,
    /// Keys and values in order.
    pub properties: Vec<(String, String)>,
}

/// Size of one database, from the section `Keyspace`. Databases without keys are not listed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keyspace {
    /// Number of the database.
    pub db: u32,
    /// Keys in it.
    pub keys: u64,
    /// How many of them have an expiry.
    pub expires: u64,
}

impl Info {
    /// Takes the text of an `INFO` reply apart. Bytes that are not UTF-8 become U+FFFD.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut info = Self::default();
        for line in lines(&text) {
            match line {
                Line::Blank => {}
                Line::Section(name) => {
                    info.sections.push(InfoSection { name: name.to_owned(), properties: Vec::new() });
                }
                Line::Property(key, value) => {
                    if info.sections.is_empty() {
                        info.sections.push(InfoSection::default());
                    }
                    if let Some(section) = info.sections.last_mut() {
                        section.properties.push((key.to_owned(), value.to_owned()));
                    }
                }
                Line::Unknown(line) => info.unknown.push(line.to_owned()),
            }
        }
        info
    }

    /// From the reply itself, a bulk or verbatim string; `None` if it is neither.
    pub fn from_frame(reply: &Frame) -> Option<Self> {
        match reply.value() {
            Frame::Bulk(text) | Frame::Verbatim { text, .. } => Some(Self::parse(text)),
            _ => None,
        }
    }

    /// The value of a property: the first of that name in any section.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(_, name, _)| *name == key).map(|(_, _, value)| value)
    }

    /// The value of a property of one section, whose name is compared without regard to case.
    pub fn get_in(&self, section: &str, key: &str) -> Option<&str> {
        let found = self.iter().find(|(of, name, _)| *name == key && of.eq_ignore_ascii_case(section));
        found.map(|(_, _, value)| value)
    }

    /// The value of a property as a number, or anything else that can be read from text. `None` if it is not
    /// there or is not one.
    pub fn get_as<T: FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// One field of a property made of fields: `field("db0", "keys")` of `db0:keys=3,expires=0`.
    pub fn field(&self, key: &str, field: &str) -> Option<&str> {
        fields(self.get(key)?).into_iter().find(|(name, _)| *name == field).map(|(_, value)| value)
    }

    /// All fields of a property made of fields; none if it is not there or is not made so.
    pub fn fields(&self, key: &str) -> Vec<(&str, &str)> {
        self.get(key).map(fields).unwrap_or_default()
    }

    /// The databases that hold keys.
    pub fn keyspace(&self) -> impl Iterator<Item = Keyspace> + '_ {
        self.iter().filter_map(|(_, key, value)| {
            let db = key.strip_prefix("db")?.parse().ok()?;
            let fields = fields(value);
            let number = |of: &str| fields.iter().find(|(name, _)| *name == of)?.1.parse().ok();
            Some(Keyspace { db, keys: number("keys")?, expires: number("expires").unwrap_or(0) })
        })
    }

    /// The sections in order.
    pub fn sections(&self) -> &[InfoSection] {
        &self.sections
    }

    /// Every property as section, key and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.sections.iter().flat_map(|section| {
            section
                .properties
                .iter()
                .map(|(key, value)| (section.name.as_str(), key.as_str(), value.as_str()))
        })
    }

    /// Lines that were neither section nor property.
    pub fn unknown_lines(&self) -> &[String] {
        &self.unknown
    }
}

enum Line<'a> {
    Blank,
    Section(&'a str),
    Property(&'a str, &'a str),
    Unknown(&'a str),
}

/// Cuts at LF or CRLF; a stray CR stays in its line.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.split('\n').map(|raw| {
        let raw = raw.strip_suffix('\r').unwrap_or(raw);
        line(raw).map_or(Line::Unknown(raw), |(_, line)| line)
    })
}

fn line(text: &str) -> IResult<&str, Line<'_>> {
    if text.trim().is_empty() {
        return Ok(("", Line::Blank));
    }
    let section = preceded((tag("#"), space0), rest).map(|name: &str| Line::Section(name.trim_end()));
    let property = separated_pair(take_till1(|c| c == ':'), char(':'), rest)
        .map(|(key, value)| Line::Property(key, value));
    all_consuming(nom::branch::alt((section, property))).parse(text)
}

/// `name=value,name=value`; what has no `=` is passed over.
fn fields(text: &str) -> Vec<(&str, &str)> {
    let field = (take_till(|c| c == '=' || c == ','), opt(preceded(char('='), take_till(|c| c == ','))));
    let parsed: IResult<&str, Vec<(&str, Option<&str>)>> = separated_list0(char(','), field).parse(text);
    let (_, found) = parsed.unwrap_or_default();
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_duplicates_and_strange_lines_are_kept() {
        let info = Info::parse(
            b"early:1\n# Server\r\nredis_version:7.0.15\r\nexecutable:/usr/bin/a:b\r\nempty:\r\n\r\n\
              #Modules\r\nmodule:name=a,ver=1\r\nmodule:name=b,ver=2\r\nno colon here\r\n:no key\r\nbin:\xff\r\nlast:line",
        );
        assert_eq!(info.get("early"), Some("1"));
        assert_eq!(info.get("executable"), Some("/usr/bin/a:b"));
        assert_eq!(info.get("empty"), Some(""));
        assert_eq!(info.get("last"), Some("line"));
        assert_eq!(info.get("bin"), Some("\u{fffd}"));
        assert_eq!(info.get("missing"), None);
        assert_eq!(info.get_in("SERVER", "redis_version"), Some("7.0.15"));
        assert_eq!(info.get_in("Modules", "redis_version"), None);
        let modules: Vec<_> = info.iter().filter(|(_, key, _)| *key == "module").collect();
        assert_eq!(modules, [("Modules", "module", "name=a,ver=1"), ("Modules", "module", "name=b,ver=2")]);
        assert_eq!(info.unknown_lines(), ["no colon here", ":no key"]);
        assert_eq!(
            info.sections().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["", "Server", "Modules"]
        );
    }

    #[test]
    fn fields_and_numbers() {
        let info = Info::parse(
            b"used_memory:1024\nslave0:ip=::1,port=7001,state=online,odd,offset=5,lag=0\ndb0:keys=1,expires=0,avg_ttl=0\n\
              db12:keys=18446744073709551615,expires=2\ndbx:keys=1\ndb5:keys=-1\nplain:value\n",
        );
        assert_eq!(info.get_as::<u64>("used_memory"), Some(1024));
        assert_eq!(info.get_as::<u64>("plain"), None);
        assert_eq!(info.field("slave0", "ip"), Some("::1"));
        assert_eq!(info.fields("slave0").len(), 5);
        assert_eq!(info.fields("plain"), []);
        assert_eq!(info.fields("missing"), []);
        let databases: Vec<_> = info.keyspace().map(|db| (db.db, db.keys, db.expires)).collect();
        assert_eq!(databases, [(0, 1, 0), (12, u64::MAX, 2)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let info = Info::parse(&bytes);
            for (_, key, _) in info.iter() {
                info.fields(key);
            }
        }

        #[test]
        fn what_was_written_is_found_again(
            pairs in proptest::collection::btree_map("[a-z_][a-z0-9_]{0,9}", "[^\r\n]{0,20}", 0..20),
        ) {
            let text: String = pairs.iter().map(|(key, value)| format!("{key}:{value}\r\n")).collect();
            let info = Info::parse(text.as_bytes());
            prop_assert_eq!(info.iter().count(), pairs.len());
            for (key, value) in &pairs {
                prop_assert_eq!(info.get(key), Some(value.as_str()));
            }
        }
    }
}
