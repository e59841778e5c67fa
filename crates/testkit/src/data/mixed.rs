use std::io::Write as _;

use crate::client::Client;
use crate::data::{Commands, FAR_DEADLINE_MS, fill};
use crate::error::Result;
use crate::rng::Rng;

/// Data as a real server may hold it: half of the keys strings, the rest hashes, lists, sets, sorted sets and a few streams,
/// most of them small, one in a thousand with a thousand elements and more; a fifth of the keys has a deadline; values are
/// partly compressible.
///
/// [`Mixed::default`] is the data set of the project's figures: 2 million keys in 4 databases with 18 million elements (a
/// string counts as one), which Redis 7.0 writes as an RDB file of about 500 MB.
///
/// ```
/// use keyferry_testkit::{Server, data::Mixed};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::any()?;
/// let mut client = server.client()?;
/// let elements = Mixed { keys: 1000, ..Mixed::default() }.fill(&mut client)?;
/// assert_eq!(client.int(&["DBSIZE"])?, 250); // a quarter in each of the four databases
/// assert!(elements > 6000);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixed {
    /// Seed of everything random.
    pub seed: u64,
    /// How many keys, in all databases together.
    pub keys: u64,
    /// Over how many databases they are spread evenly.
    pub databases: u32,
}

impl Default for Mixed {
    fn default() -> Mixed {
        Mixed { seed: 1, keys: 2_000_000, databases: 4 }
    }
}

impl Mixed {
    /// The default data set, its number of keys multiplied by `factor`.
    pub fn scaled(factor: f64) -> Mixed {
        let keys = (Mixed::default().keys as f64 * factor).round() as u64;
        Mixed { keys, ..Mixed::default() }
    }

    /// Writes the data and returns the number of elements. The client is left in database 0.
    ///
    /// # Errors
    /// As [`fill`].
    pub fn fill(&self, client: &mut Client) -> Result<u64> {
        let mut elements = 0;
        fill(client, |commands| {
            elements = self.write(commands)?;
            commands.push(["SELECT", "0"])
        })?;
        Ok(elements)
    }

    /// Pushes the commands that make the data and returns the number of elements.
    ///
    /// # Errors
    /// As [`Commands::push`].
    pub fn write(&self, commands: &mut Commands<'_>) -> Result<u64> {
        let mut generator = Generator { rng: Rng::new(self.seed), args: Args::default() };
        let mut elements = 0;
        let databases = u64::from(self.databases.max(1));
        for database in 0..databases {
            commands.push(["SELECT", &database.to_string()])?;
            // Number the keys through, so that no two databases have the same.
            for i in (database..self.keys).step_by(databases as usize) {
                elements += generator.key(i, commands)?;
            }
        }
        Ok(elements)
    }
}

/// The arguments of one command in one buffer, so that millions of them cost no allocations.
#[derive(Default)]
struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Appends one argument that `write` appends to the buffer.
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    fn text(&mut self, text: &str) {
        self.add(|out| out.extend_from_slice(text.as_bytes()));
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        self.add(|out| {
            let _ = write!(out, "{value}");
        });
    }

    fn push(&self, commands: &mut Commands<'_>) -> Result<()> {
        let mut start = 0;
        let slices = self.ends.iter().map(|&end| {
            let slice = &self.bytes[start..end];
            start = end;
            slice
        });
        commands.push(slices)
    }
}

struct Generator {
    rng: Rng,
    args: Args,
}

impl Generator {
    /// One key with its deadline; returns its number of elements.
    fn key(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        let kind = self.rng.below(1000);
        let (name, elements) = match kind {
            0..500 => ("session", self.string(i, commands)?),
            500..700 => ("user", self.hash(i, commands)?),
            700..820 => ("queue", self.list(i, commands)?),
            820..910 => ("tags", self.set(i, commands)?),
            910..990 => ("board", self.sorted_set(i, commands)?),
            _ => ("events", self.stream(i, commands)?),
        };
        if self.rng.chance(1, 5) {
            let deadline = FAR_DEADLINE_MS + self.rng.below(1_000_000_000);
            self.args.clear();
            self.args.text("PEXPIREAT");
            self.args.display(format_args!("{name}:{i:08}"));
            self.args.display(deadline);
            self.args.push(commands)?;
        }
        Ok(elements)
    }

    fn start(&mut self, command: &str, name: &str, i: u64) {
        self.args.clear();
        self.args.text(command);
        self.args.display(format_args!("{name}:{i:08}"));
    }

    /// Mostly small, sometimes large.
    fn size(&mut self, low: usize, high: usize) -> usize {
        if self.rng.chance(1, 1000) { self.rng.range(1000, 2000) } else { self.rng.range(low, high) }
    }

    fn string(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        self.start("SET", "session", i);
        let rng = &mut self.rng;
        match rng.below(10) {
            0 | 1 => self.args.display(rng.below(1 << 40)),
            2 => {
                // Something that compresses, as JSON does.
                let (a, b) = (rng.below(1_000_000), rng.below(100));
                self.args.display(format_args!(
                    "{{\"id\":{a},\"status\":\"active\",\"roles\":[\"reader\",\"writer\"],\"visits\":{b},\
                     \"profile\":{{\"status\":\"active\",\"id\":{a},\"country\":\"none\",\"country_code\":\"none\"}}}}"
                ));
            }
            _ => {
                let length = rng.range(20, 280);
                self.args.add(|out| rng.text(length, out));
            }
        }
        self.args.push(commands)?;
        Ok(1)
    }

    fn hash(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        let count = self.size(4, 22);
        self.start("HSET", "user", i);
        for field in 0..count {
            let rng = &mut self.rng;
            self.args.display(format_args!("field:{field}"));
            if field % 3 == 0 {
                self.args.display(rng.below(1_000_000));
            } else {
                let length = rng.range(4, 30);
                self.args.add(|out| rng.text(length, out));
            }
        }
        self.args.push(commands)?;
        Ok(count as u64)
    }

    fn list(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        let count = self.size(2, 28);
        self.start("RPUSH", "queue", i);
        for _ in 0..count {
            let rng = &mut self.rng;
            let length = rng.range(8, 40);
            self.args.add(|out| rng.text(length, out));
        }
        self.args.push(commands)?;
        Ok(count as u64)
    }

    fn set(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        let count = self.size(2, 26);
        let numbers = self.rng.chance(1, 2);
        self.start("SADD", "tags", i);
        for member in 0..count as u64 {
            let rng = &mut self.rng;
            if numbers {
                // Distinct by construction: the count of elements is exact.
                self.args.display(member * 1000 + rng.below(1000));
            } else {
                let length = rng.range(6, 24);
                self.args.add(|out| {
                    let _ = write!(out, "{member}:");
                    rng.text(length, out);
                });
            }
        }
        self.args.push(commands)?;
        Ok(count as u64)
    }

    fn sorted_set(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        let count = self.size(2, 36);
        self.start("ZADD", "board", i);
        for member in 0..count {
            let rng = &mut self.rng;
            if member % 2 == 0 {
                self.args.display(rng.below(100_000));
            } else {
                self.args.display(rng.fraction() * 1000.0);
            }
            let length = rng.range(4, 12);
            self.args.add(|out| {
                let _ = write!(out, "{member}:");
                rng.text(length, out);
            });
        }
        self.args.push(commands)?;
        Ok(count as u64)
    }

    fn stream(&mut self, i: u64, commands: &mut Commands<'_>) -> Result<u64> {
        let count = self.rng.range(10, 110);
        for entry in 0..count as u64 {
            self.start("XADD", "events", i);
            let rng = &mut self.rng;
            self.args.display(format_args!("{}-{}", 1_700_000_000_000 + i + entry * 37, entry % 3));
            self.args.text("sensor");
            self.args.display(rng.below(1000));
            self.args.text("value");
            self.args.display(rng.below(1_000_000));
            self.args.push(commands)?;
        }
        Ok(count as u64)
    }
}
