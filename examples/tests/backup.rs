//! The program `backup` as its users see it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_testkit::{Cluster, CompareOptions, Proxy, Rng, Server, Side, compare_sides, data, process};

const PATIENCE: Duration = Duration::from_secs(240);

/// A program, built beside this test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples").join(name)
}

fn kept(partial: &Path) -> usize {
    let entries = std::fs::read_dir(partial).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("from-slot-")).count()
}

/// Killed at random moments, the same command goes on until all is there; what comes of it equals the source.
#[test]
fn a_backup_that_is_killed_is_gone_on_with() {
    let binary = keyferry_testkit::any().unwrap();
    let source = Cluster::builder(binary).primaries(3).replicas(0).proxies().config("rdbcompression", "no");
    let source = source.start().unwrap();
    data::small_cluster(&mut source.client().unwrap(), 3, 1).unwrap();
    let mut client = source.client().unwrap();
    let value = "v".repeat(20_000);
    (0..150).for_each(|number| {
        client.call(&["SET", &format!("large:{number}"), &value]).unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(8);
    let mut gone_on_with = 0;
    for merge in [false, true] {
        let out = dir.path().join(if merge { "all.rdb" } else { "dump.rdb" });
        let partial = out.with_extension("rdb.partial");
        let command = || {
            let mut command = Command::new(program("backup"));
            command.args(["--source", &source.url(), "--out"]).arg(&out).args(merge.then_some("--merge"));
            command.stdin(Stdio::null()).stderr(Stdio::piped());
            command
        };
        // One shard after another comes to its end, and is not read again then.
        for (number, delay) in [2, 10, 25].into_iter().enumerate() {
            source.proxy(number).unwrap().delay(Duration::from_millis(delay));
        }
        let mut most = 0;
        for round in 0..40 {
            let mut running = command().spawn().unwrap();
            let begun = Instant::now();
            let wait = Duration::from_millis(rng.below(200));
            // Every second one lives until something more is kept, and a little longer.
            while kept(&partial) == most && round % 2 == 1 && running.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < PATIENCE, "nothing more is kept than {most}");
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(wait);
            // SIGKILL.
            running.kill().unwrap();
            let ended = running.wait().unwrap().success();
            assert!(ended || kept(&partial) >= most, "what was kept is gone in round {round}");
            most = kept(&partial);
            if ended || most >= 2 {
                break;
            }
        }
        assert!(most == 2 || kept(&partial) == 3 || !partial.exists(), "{most}");
        (0..3).for_each(|number| source.proxy(number).unwrap().delay(Duration::ZERO));
        let output = command().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let is_complete = said.contains("exists already");
        assert!(output.status.success() || is_complete, "{said}");
        assert!(is_complete || said.contains("\nkept  ") || said.starts_with("kept  "), "{said}");
        gone_on_with += usize::from(!is_complete);
        assert!(!partial.exists());
        let target = Server::any().unwrap();
        let files: Vec<PathBuf> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "rdb"))
            .collect();
        assert_eq!(files.len(), if merge { 1 } else { 3 }, "{files:?}");
        let mut import = Command::new(program("migrate"));
        files.iter().for_each(|file| {
            import.arg("--source").arg(file);
        });
        let imported = import.args(["--target", &target.url()]).output().unwrap();
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        let options = CompareOptions::default().without_bookkeeping();
        let sides = (Side::cluster(&source).unwrap(), Side::server(&target).unwrap());
        let compared = compare_sides(sides.0, sides.1, &options).unwrap();
        assert!(compared.is_equal() && compared.keys_a > 150, "{compared}");
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }
    assert!(gone_on_with > 0, "each was complete before it could be killed");
}

/// Ended as service managers end programs, nothing is left of one server, and the report says so; what was there before stays.
#[test]
fn a_backup_that_is_terminated_leaves_nothing() {
    let source =
        Server::builder(keyferry_testkit::any().unwrap()).config("rdbcompression", "no").start().unwrap();
    let mut client = source.client().unwrap();
    let value = "v".repeat(20_000);
    (0..400).for_each(|number| {
        client.call(&["SET", &format!("large:{number}"), &value]).unwrap();
    });
    let proxy = Proxy::start(source.addr()).unwrap();
    let (dir, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let page = beside.path().join("report.json");
    std::fs::write(&page, "{}").unwrap();
    let mut command = Command::new(program("backup"));
    command
        .args(["--source", &format!("redis://{}", proxy.addr()), "--out"])
        .arg(dir.path().join("dump.rdb"));
    command.arg("--report").arg(&page).stdin(Stdio::null()).stderr(Stdio::piped());
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    // Until it has begun a file; it takes half a minute from there on.
    let mut begun = || {
        let mut running = command.spawn().unwrap();
        proxy.delay(Duration::from_millis(200));
        let begun = Instant::now();
        while files() == 0 {
            assert!(begun.elapsed() < PATIENCE && running.try_wait().unwrap().is_none(), "no file is begun");
            std::thread::sleep(Duration::from_millis(2));
        }
        running
    };
    let running = begun();
    process::signal(running.id(), "TERM").unwrap();
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("stopped; nothing is left of it"), "{output:?}");
    assert_eq!(files(), 0);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&page).unwrap()).unwrap();
    assert_eq!(report["outcome"]["state"], "failed", "{report}");

    // What one that is killed leaves, the next one removes, but nothing of one that runs.
    proxy.delay(Duration::ZERO);
    let mut killed = begun();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(files(), 1);
    let beside = |name: &str| {
        let mut command = Command::new(program("backup"));
        command.args(["--source", &source.url(), "--out"]).arg(dir.path().join(name)).stdin(Stdio::null());
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(beside("one.rdb") && files() == 1);
    std::fs::remove_file(dir.path().join("one.rdb")).unwrap();
    proxy.delay(Duration::ZERO);
    let mut runs = begun();
    assert!(beside("two.rdb") && files() == 2 && runs.try_wait().unwrap().is_none());
    runs.kill().unwrap();
    runs.wait().unwrap();
}

/// Whatever a backup is made of, nobody but its owner reads it; what could not be begun leaves nothing to be told of.
#[test]
fn a_backup_is_private_and_says_what_is_left() {
    use std::os::unix::fs::PermissionsExt;
    let source = Server::any().unwrap();
    data::small(&mut source.client().unwrap(), 3, 2).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backup = |source: &str, out: &Path, more: &[&str]| {
        let mut command = Command::new(program("backup"));
        command.args(["--source", source, "--out"]).arg(out).args(more).stdin(Stdio::null()).output().unwrap()
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (name, expected) in [("a.rdb", 0o600), ("b.aof", 0o600), ("c.jsonl", 0o600), ("d/", 0o700)] {
        let out = dir.path().join(name);
        let output = backup(&source.url(), &out, &[]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(mode(&out), expected, "{name}");
    }
    let dump = dir.path().join("a.rdb");
    let whole = dir.path().join("whole.rdb");
    assert!(backup(dump.to_str().unwrap(), &whole, &[]).status.success() && mode(&whole) == 0o600);

    let again = backup(&source.url(), &dump, &[]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        said.contains("left as it is (--force replaces files)") && !said.contains("nothing is left"),
        "{said}"
    );
    let away = backup("redis://127.0.0.1:1", &dir.path().join("x.rdb"), &[]);
    assert!(!String::from_utf8_lossy(&away.stderr).contains("nothing is left"), "{away:?}");
    // A report is JSON, whatever its name.
    let page = dir.path().join("page.md");
    let output = backup(&source.url(), &dir.path().join("y.rdb"), &["--report", page.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&page).unwrap()).unwrap();
    assert!(report["snapshots"][0]["keys"].as_u64() > Some(0), "{report}");
}
