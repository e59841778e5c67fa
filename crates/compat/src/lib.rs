//! Whether a server answers as Redis and Valkey do: cases, a runner, comparison with a reference, reports.
//!
//! # What it takes
//!
//! A [`Suite`]: our own cases ([`Suite::builtin`]), files of yours ([`Suite::read`]), or the `cts.json` of
//! compatibility-test-suite-for-redis ([`ctsr`]). A [`Target`]: one server, a cluster, or a primary that sentinels know.
//! For [`check`], a [`Workload`]: the commands that an application uses.
//!
//! # What it gives
//!
//! - [`run`]: every case in RESP2 and RESP3, several at a time, replies compared with what the case expects.
//! - [`compare`]: the same cases on two servers, replies compared with each other.
//! - [`check`]: which of the commands that are used another server has, with the same arguments and flags, and which a
//!   cluster would refuse.
//! - [`ctsr::run`]: the verdicts of the original runner of `cts.json`, the same each time.
//! - [`record`]: cases of which you write the commands only, with the replies of a server that you trust.
//! - [`Report`], and in [`report`] its forms: console, JSON, JUnit's XML, a page. [`Baseline`]: failures that are known.
//!
//! ```no_run
//! use keyferry_compat::{Baseline, RunOptions, Scratch, Suite, Target, run};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let target = Target::find("redis://new:6379".parse()?, &Scratch::default()).await?;
//! let report = run(&Suite::builtin()?, &target, &RunOptions::default(), &Baseline::builtin()?).await;
//! for (case, failure) in report.failures() {
//!     println!("{}: {} gave {} instead of {}", case.id(), failure.sent, failure.got, failure.expected);
//! }
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - **Other keys are not touched.** Every key of a case is below a prefix with a word of its own for each run, in a database
//!   of its own where the server has one. Both have to be free before, and are again afterwards ([`Target::find`]).
//! - **Nothing is flushed**, no setting, user or statistic is changed, unless [`RunOptions::allow`] says so
//!   ([`Needs::FLUSH`], [`Needs::ADMIN`]). What a case changes it puts back, also when it fails.
//! - **Read only means it.** With [`RunOptions::read_only`] only cases run that consist of commands which change nothing.
//! - **The same verdict each time.** Each case has connections and keys of its own; those that are about the whole server
//!   run alone. Where time or chance has a part in a reply, the case says what may differ.
//! - **Nothing is lost silently.** A case that is not run is in the report with the reason.
//!
//! # What it refuses
//!
//! A scratch database or prefix in which there are keys ([`Error::Occupied`]); files with a field or an expectation that it
//! does not know ([`Error::Format`], [`Error::Case`]); comparing a cluster with a single server ([`Error::Unlike`]).
//!
//! # Cases
//!
//! A file is a JSON object: a `group`, the server that the expectations are `from`, and `cases`. A case has a name and steps;
//! a step is a command as one types it, with the expected reply, and where that differs the expected reply in RESP3.
//!
//! ```
//! let suite = keyferry_compat::Suite::parse("mine.json", r#"{"group": "mine", "from": "redis 7.0.15", "cases": [
//!     {"name": "a list", "steps": [
//!         ["RPUSH $list a b", 2],
//!         ["LRANGE $list 0 -1", ["a", "b"]],
//!         ["INCR $list", "-WRONGTYPE"]]},
//!     {"name": "a waiting reader", "since": {"redis": "6.2.0"}, "steps": [
//!         {"on": "reader", "do": "CLIENT ID", "as": "id", "expect": {"type": "integer"}},
//!         {"on": "reader", "send": "BLPOP $queue 10"},
//!         {"do": "CLIENT LIST", "within": 5000, "expect": {"line": "id=${id} *cmd=blpop*"}},
//!         ["RPUSH $queue x", 1],
//!         {"on": "reader", "read": true, "expect": ["$queue", "x"]}]},
//!     {"name": "a setting", "requires": ["alone"], "steps": [
//!         {"do": "CONFIG GET hz", "as": "old", "at": [1], "expect": {"type": "aggregate"}},
//!         ["CONFIG SET hz 20", "+OK"]],
//!      "finally": ["CONFIG SET hz ${old}"]}
//! ]}"#)?;
//! assert_eq!(suite.cases().count(), 3);
//! # Ok::<(), keyferry_compat::Error>(())
//! ```
//!
//! | in commands and expectations | stands for |
//! | --- | --- |
//! | `$name` | a key of this case; all its keys are in one slot |
//! | `$/name` | a key in another slot, at another node where there is one |
//! | `${name}` | what a step kept with `as`; `${run}` is a word that no other case has, `${database}` the number of the database |
//! | `${1000*ab}` | the text a thousand times |
//! | `$$` | a dollar sign, where one of these would follow |
//!
//! | field of a case | meaning |
//! | --- | --- |
//! | `since`, `until` | versions, of Redis or by vendor ([`Gate`]) |
//! | `requires` | what it [needs](Needs) beyond what its commands show |
//! | `protocol` | 2 or 3, if it is about one of them |
//! | `finally` | commands that are sent in the end, whatever happened |
//! | `from` | the server that its expectations are from, if another than the file's |
//!
//! | field of a step | meaning |
//! | --- | --- |
//! | `do` | send this, read a reply |
//! | `send` | send this, read nothing |
//! | `read` | read what comes next: a message, or the reply to what was sent |
//! | `sleep` | milliseconds |
//! | `on` | the connection, by any name; `elsewhere` leads to a node without the keys |
//! | `expect`, `resp3` | the expected reply, and in RESP3 where that differs |
//! | `within` | repeat the command for at most so many milliseconds, until the reply is right |
//! | `as`, `at` | keep the reply, or the element at these positions, under this name |
//! | `protocol` | take the step in this protocol only |
//!
//! Expectations are values of JSON:
//!
//! | JSON | matches |
//! | --- | --- |
//! | `"text"` | a bulk string (in RESP3 also a verbatim one) |
//! | `"+OK"`, `"-ERR no such key"` | a simple string; an error that begins like this, at a word's end |
//! | `12`, `1.5`, `true`, `null` | an integer; a double (RESP2: a bulk string with that number); a boolean (RESP2: 1); no value |
//! | `[…]` | an array with these elements in this order (in RESP3 also a push) |
//! | `{"set": […]}`, `{"map": [[k, v], …]}` | a set, a map; in RESP2 the arrays that stand for them; in any order |
//! | `{"pairs": [[a, b], …]}` | an array of pairs in RESP3, a flat one in RESP2, in this order |
//! | `{"unordered": […]}`, `{"begins": […]}`, `{"holds": […]}` | an array in any order, that begins with these, that has these among others |
//! | `{"has": [[k, v], …]}` | a map, or what stands for it, with these entries among others |
//! | `{"number": 1.5}`, `{"big_number": "12"}`, `{"float": "inf"}` | a string with that number; a big number; a double that JSON cannot write |
//! | `{"bulk": "+text"}`, `{"hex": "00ff"}` | a bulk string, whatever it begins with; of these bytes |
//! | `{"like": "a*"}`, `{"line": "a*"}`, `{"contains": ["a"]}` | a string that the pattern matches; with such a line; that contains these |
//! | `{"between": [1, 9]}`, `{"length": 3}` | a number in this range; so many elements or bytes |
//! | `{"error": "ERR*index*"}` | an error that the pattern matches |
//! | `{"type": "integer"}` | anything of that type: `integer`, `string`, `simple`, `error`, `array`, `set`, `map`, `double`, `boolean`, `null`, `aggregate`, `any` (but an error) |
//! | `{"either": [x, y]}` | what one of these matches |
//! | `{"closed": true}` | no reply: the server closes the connection |

mod baseline;
mod case;
mod command;
pub mod ctsr;
mod error;
mod expect;
mod gate;
mod literal;
mod needs;
mod record;
mod reference;
pub mod report;
mod run;
mod session;
mod suite;
mod target;
mod workload;

pub use baseline::Baseline;
pub use case::Case;
pub use error::Error;
pub use gate::{Claim, Gate};
pub use needs::Needs;
pub use record::{Recorded, record};
pub use reference::{ReferenceOptions, compare};
pub use report::{CaseResult, Counts, Failure, Outcome, Report, Verdict};
pub use run::{RunOptions, run};
pub use suite::{Group, Suite};
pub use target::{DEFAULT_DATABASE, DEFAULT_PREFIX, Database, Scratch, Target};
pub use workload::{KeyUse, StreamRead, Support, Workload, WorkloadReport, WorkloadRow, check};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
