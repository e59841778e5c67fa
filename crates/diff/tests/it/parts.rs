//! Big values, read in parts: what differs is found wherever it is, at the ends of parts, too.

use keyferry_diff::{Difference, LiveDiff};
use keyferry_testkit::{Client, Server, ServerBinary, any, named};

use crate::support::{live, told};

/// More than two parts of a thousand elements.
const ELEMENTS: usize = 2500;

/// First and last of parts, and of all.
const PLACES: [usize; 6] = [0, 999, 1000, 1001, 2000, 2499];

fn two(binary: &ServerBinary) -> [Server; 2] {
    [(); 2].map(|()| Server::builder(binary).start().unwrap())
}

fn call(client: &mut Client, words: &[&str]) {
    client.call(words).unwrap();
}

/// All elements in one command, or in one for each.
fn fill(client: &mut Client) {
    let each = |element: &dyn Fn(usize) -> Vec<String>| (0..ELEMENTS).flat_map(element).collect::<Vec<_>>();
    for (head, elements) in [
        (["RPUSH", "list"], each(&|n| vec![format!("item {n}")])),
        (["SADD", "set"], each(&|n| vec![format!("member {n}")])),
        (["HSET", "hash"], each(&|n| vec![format!("field {n}"), n.to_string()])),
        (["ZADD", "zset"], each(&|n| vec![format!("{n}.1"), format!("member {n}")])),
    ] {
        let words: Vec<&str> = head.into_iter().chain(elements.iter().map(String::as_str)).collect();
        call(client, &words);
    }
    // Ids without gaps, at the end of a millisecond the next one.
    let streams: Vec<Vec<String>> = (0..ELEMENTS)
        .map(|n| format!("XADD stream {} f {n}", id(n)).split(' ').map(str::to_owned).collect())
        .collect();
    client.pipe(&streams).unwrap();
    call(client, &["XGROUP", "CREATE", "stream", "g", "0"]);
    claim(client, 0..ELEMENTS, "c", 1);
}

/// The ids of a stream: the first thousand of them end with the largest that there can be in a millisecond.
fn id(n: usize) -> String {
    if n < 1000 { format!("1-{}", u64::MAX - 999 + n as u64) } else { format!("2-{}", n - 1000) }
}

fn claim(client: &mut Client, entries: impl IntoIterator<Item = usize>, owner: &str, count: u32) {
    for n in entries {
        let how =
            format!("XCLAIM stream g {owner} 0 {} TIME 1700000000000 RETRYCOUNT {count} FORCE JUSTID", id(n));
        client.queue(&how.split(' ').collect::<Vec<_>>()).unwrap();
    }
    client.flush().unwrap();
}

fn in_parts(servers: &[Server; 2]) -> Vec<Difference> {
    let in_parts = |diff: &mut LiveDiff| (diff.live_mut().big_key, diff.live_mut().rounds) = (0, 1);
    live(&servers[0].url(), &servers[1].url(), in_parts).unwrap().1
}

fn names(differences: &[Difference], key: &str) -> Vec<String> {
    let one = differences.iter().find(|one| one.key == key.as_bytes()).unwrap();
    let mut names: Vec<_> =
        one.fields.iter().map(|field| String::from_utf8_lossy(&field.name).into_owned()).collect();
    names.sort();
    names
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn what_differs_is_found_in_every_part() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let servers = two(binary);
    let mut clients = servers.each_ref().map(|server| server.client().unwrap());
    for client in &mut clients {
        fill(client);
        let sent = client.replies(ELEMENTS).unwrap();
        assert!(sent.iter().all(|reply| reply.error().is_none()));
    }
    assert_eq!(told(&in_parts(&servers)), [].into());
    let [_, target] = &mut clients;
    for n in PLACES {
        call(target, &["SREM", "set", &format!("member {n}")]);
        call(target, &["HSET", "hash", &format!("field {n}"), "other"]);
        // One bit more.
        let score = format!("{n}.1").parse::<f64>().unwrap().next_up();
        call(target, &["ZADD", "zset", &format!("{score:?}"), &format!("member {n}")]);
    }
    let differences = in_parts(&servers);
    assert_eq!(differences.len(), 3, "{differences:?}");
    for (key, name) in [("set", "member"), ("hash", "field"), ("zset", "member")] {
        assert_eq!(names(&differences, key), sorted(PLACES.iter().map(|n| format!("{name} {n}"))));
    }
    // From the first difference on nothing of a list is where it was: one at a time, from the end.
    for n in PLACES.into_iter().rev() {
        call(target, &["LSET", "list", &n.to_string(), "other"]);
        assert_eq!(names(&in_parts(&servers), "list"), [n.to_string()]);
    }
    call(target, &["LPUSH", "list", "item"]);
    assert_eq!(names(&in_parts(&servers), "list"), ["0"]);
}

#[test]
fn what_differs_is_found_in_every_part_of_a_stream() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let servers = two(binary);
    let mut clients = servers.each_ref().map(|server| server.client().unwrap());
    for client in &mut clients {
        fill(client);
        client.replies(ELEMENTS).unwrap();
    }
    let [_, target] = &mut clients;
    // Another count, or another owner.
    claim(target, PLACES[..3].iter().copied(), "c", 2);
    claim(target, PLACES[3..].iter().copied(), "d", 1);
    target.replies(PLACES.len()).unwrap();
    let differences = in_parts(&servers);
    assert_eq!(differences.len(), 1, "{differences:?}");
    let pending = |n: &usize| format!("group g pending {}", id(*n));
    assert_eq!(names(&differences, "stream"), sorted(PLACES.iter().map(pending)));
    for n in PLACES {
        call(target, &["XDEL", "stream", &id(n)]);
    }
    let expected = sorted(PLACES.iter().map(pending).chain(PLACES.iter().map(|n| id(*n))));
    assert_eq!(names(&in_parts(&servers), "stream"), expected);
}

#[test]
fn fields_that_expire_are_looked_at_in_every_part() {
    let Ok(binary) = named("redis-8.0") else { return println!("note: no Redis 8.0 is there") };
    let servers = two(binary);
    let late: u64 = 1 << 42;
    for server in &servers {
        let mut client = server.client().unwrap();
        for n in 0..ELEMENTS {
            client.queue(&["HSET", "hash", &format!("field {n}"), "x"]).unwrap();
            let field = format!("field {n}");
            client.queue(&["HPEXPIREAT", "hash", &late.to_string(), "FIELDS", "1", &field]).unwrap();
        }
        client.flush().unwrap();
        assert!(client.replies(2 * ELEMENTS).unwrap().iter().all(|reply| reply.error().is_none()));
    }
    assert_eq!(told(&in_parts(&servers)), [].into());
    let mut target = servers[1].client().unwrap();
    for n in PLACES {
        let (at, field) = ((late + 1).to_string(), format!("field {n}"));
        match n {
            0 => call(&mut target, &["HPERSIST", "hash", "FIELDS", "1", &field]),
            _ => call(&mut target, &["HPEXPIREAT", "hash", &at, "FIELDS", "1", &field]),
        }
    }
    let differences = in_parts(&servers);
    assert_eq!(told(&differences), [(0, b"hash".to_vec(), "field_expiry")].into());
    assert_eq!(names(&differences, "hash"), sorted(PLACES.iter().map(|n| format!("field {n}"))));
}
