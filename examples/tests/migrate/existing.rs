//! Keys that the target has already, and a program that is killed while it moves others.

use keyferry_testkit::{Client, Direction, Proxy, Rng, Server};

use super::{PATIENCE, kill_in_the_full_phase, migrate, to_its_end, until};

/// Keys of the source; each tenth of the first thousand is at the target, too.
const KEYS: usize = 30_000;

/// Both sides, and a slow way to the target.
struct Sides {
    source: Server,
    target: Server,
    way: Proxy,
    dir: tempfile::TempDir,
}

impl Sides {
    /// With values of this many bytes, which snapshots do not compress.
    fn start(size: usize) -> Self {
        let binary = keyferry_testkit::any().unwrap();
        let source = Server::builder(binary).diskless_sync(true, 0).start().unwrap();
        let target = Server::any().unwrap();
        let way = Proxy::start(target.addr()).unwrap();
        let mut client = source.client().unwrap();
        let mut rng = Rng::new(1);
        let long: String = (0..size).map(|_| char::from(b'!' + rng.below(90) as u8)).collect();
        for n in 0..KEYS {
            let value = if size == 0 { "both" } else { &long };
            client.queue(&["SADD", &format!("key:{n}"), "source", value]).unwrap();
        }
        client.flush().unwrap();
        client.replies(KEYS).unwrap();
        Sides { source, target, way, dir: tempfile::tempdir().unwrap() }
    }

    fn args(&self, policy: &str) -> Vec<String> {
        let (from, to) = (self.source.url(), format!("redis://{}", self.way.addr()));
        let journal = self.dir.path().join("journal").display().to_string();
        let args = ["--source", &from, "--target", &to, "--id", "existing", "--journal", &journal];
        let more = ["--on-exists", policy, "--until", "caught-up", "--linger", "60"];
        args.iter().chain(&more).map(|arg| (*arg).to_owned()).collect()
    }

    /// Runs the program and kills it at a random moment of the full phase, several times; then to its end. Gives what the last run
    /// said.
    fn killed(&self, policy: &str, rng: &mut Rng) -> (Option<i32>, String, String) {
        let args = self.args(policy);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for _ in 0..3 {
            kill_in_the_full_phase(&args, &self.dir.path().join("journal"), rng);
            self.way.cut();
        }
        to_its_end(&args, std::process::Stdio::null())
    }
}

fn members(client: &mut Client, key: &str) -> Vec<String> {
    let reply = client.call(&["SMEMBERS", key]).unwrap();
    let mut members: Vec<String> =
        reply.as_array().unwrap().iter().map(|member| member.as_str().unwrap().to_owned()).collect();
    members.sort();
    members
}

/// What the target had stays what the policy says, whatever of the source's was there when the program was killed.
#[test]
fn what_the_target_had_is_known_after_the_program_was_killed() {
    let mut rng = Rng::new(11);
    for (policy, there) in [("skip", &["both", "target"][..]), ("merge", &["both", "source", "target"])] {
        let sides = Sides::start(0);
        let mut target = sides.target.client().unwrap();
        for n in (0..1000).step_by(10) {
            target.call(&["SADD", &format!("key:{n}"), "target", "both"]).unwrap();
        }
        target.call(&["SET", "only-target", "1"]).unwrap();
        let (code, out, err) = sides.killed(policy, &mut rng);
        assert_eq!(code, Some(0), "{policy}: {out}{err}");
        for n in 0..1000 {
            let key = format!("key:{n}");
            let wanted = if n % 10 == 0 { there } else { &["both", "source"] };
            assert_eq!(members(&mut target, &key), wanted, "{policy}: {key}");
        }
        assert_eq!(target.text(&["GET", "only-target"]).unwrap(), "1", "{policy}");
        assert_eq!(target.int(&["EXISTS", &format!("key:{}", KEYS - 1)]).unwrap(), 1, "{policy}");
    }
}

/// `fail`: what the program itself has brought before it was killed is not taken for somebody else's, and what somebody else brings
/// meanwhile is found.
#[test]
fn whose_a_key_is_is_known_after_the_program_was_killed() {
    let sides = Sides::start(0);
    let mut target = sides.target.client().unwrap();
    target.call(&["SET", "only-target", "1"]).unwrap();
    let (code, out, err) = sides.killed("fail", &mut Rng::new(12));
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(target.int(&["SCARD", "key:7"]).unwrap(), 2);

    let sides = Sides::start(1500);
    let mut target = sides.target.client().unwrap();
    target.call(&["SET", "only-target", "1"]).unwrap();
    let args = sides.args("fail");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let journal = sides.dir.path().join("journal");
    let mut running = migrate(&args);
    // Nothing more is taken when the first keys are there.
    let some = target.wait_until(PATIENCE, |target| Ok(target.int(&["DBSIZE"])? > 5));
    assert!(some.unwrap());
    sides.way.stall(Direction::ToTarget, true);
    // And it is killed when the journal has the whole snapshot: otherwise the source sends another one.
    let manifest = journal.join("appendonlydir/appendonly.aof.manifest");
    let is_whole = || std::fs::read_to_string(&manifest).is_ok_and(|text| text.contains(".1.incr.aof"));
    until("a whole snapshot", &mut running, is_whole);
    drop(running);
    sides.way.cut();
    sides.way.stall(Direction::ToTarget, false);
    // Somebody takes all names that are free.
    for n in 0..KEYS {
        target.queue(&["SETNX", &format!("key:{n}"), "theirs"]).unwrap();
    }
    target.flush().unwrap();
    target.replies(KEYS).unwrap();
    let (code, _, err) = to_its_end(&args, std::process::Stdio::null());
    assert!(code == Some(1) && err.contains("somebody else has made it"), "{code:?}: {err}");
    let named =
        (0..KEYS).map(|n| format!("key:{n}")).find(|key| err.contains(&format!("the key {key} of"))).unwrap();
    assert_eq!(target.text(&["GET", &named]).unwrap(), "theirs");
}
