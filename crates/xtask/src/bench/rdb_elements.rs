//! Visiting every element of RDB files, beside the server's own checker.

use std::process::Command;

use keyferry_testkit::data::{Mixed, fill, large_texts};
use keyferry_testkit::{Client, ServerBinary};

use super::page::{Table, mebibytes, seconds, times};
use super::rdb_walk::{Fill, Readers, compete, save};
use super::start;
use crate::failure::Outcome;

/// Sizes of the data sets of one kind.
const LARGE_TEXTS: f64 = 500.0;
const MEMBERS: f64 = 5e6;

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let readers = Readers::build(binary)?;
    let scaled = |count: f64| (count * scale) as u64;
    let about = "Every value taken apart into its items, members with scores, fields and stream entries, compressed strings \
                 decompressed, numbers as text, the file's checksum verified: keyferry-rdb with its default features and \
                 with `crc-fast`, beside the server's own checker, which looks at every value, too. Best of three runs \
                 each, taken in turn, from the page cache."
        .to_owned();
    let header = ["data", "file", "elements", "checker", "keyferry", "", "with crc-fast", "", "peak memory"];
    let mut table = Table::new("rdb-elements", "Every element of an RDB file", about, &header);
    let mixed = |client: &mut Client| Mixed::scaled(scale).fill(client);
    let texts = |client: &mut Client| large_texts(client, 1, scaled(LARGE_TEXTS), 1_000_000);
    let members = |client: &mut Client| one_set(client, scaled(MEMBERS));
    let sets: [(String, Fill<'_>); 3] = [
        ("mixed".to_owned(), &mixed),
        (format!("{} texts of 1 MB", scaled(LARGE_TEXTS)), &texts),
        (format!("one set of {} members", scaled(MEMBERS)), &members),
    ];
    for (name, fill) in sets {
        println!("rdb elements: {name}");
        let server = start(binary)?;
        let (file, bytes, elements) = save(&server, fill)?;
        let visiting = |program| {
            let mut command = Command::new(program);
            command.arg("--elements");
            command
        };
        let contenders = [Command::new(&readers.checker), visiting(&readers.plain), visiting(&readers.fast)];
        let taken = compete(contenders, &file)?;
        let [theirs, plain, fast] = taken.map(|taken| taken.seconds);
        table.row([
            name,
            format!("{:.0} MB", bytes as f64 / 1e6),
            elements.to_string(),
            seconds(theirs),
            seconds(plain),
            times(theirs / plain),
            seconds(fast),
            times(theirs / fast),
            mebibytes(taken[2].peak_rss_kib),
        ]);
    }
    Ok(vec![table])
}

/// One set, its members added a thousand at a time.
pub(super) fn one_set(client: &mut Client, count: u64) -> keyferry_testkit::Result<u64> {
    fill(client, |commands| {
        (0..count).step_by(1000).try_for_each(|start| {
            let mut command = vec!["SADD".to_owned(), "set".to_owned()];
            command.extend((start..count.min(start + 1000)).map(|n| format!("member:{n}:{}", n % 97)));
            commands.push(&command)
        })
    })?;
    Ok(count)
}
