//! Options that mean nothing where they stand are refused, not passed over; no password is ever shown.

#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use keyferry_testkit::Server;

/// A program, built beside this test.
fn program(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf =
        test.parent().and_then(std::path::Path::parent).unwrap().join("examples").join(name);
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env_remove("KEYFERRY_SHARD");
    command
}

/// A password that is nowhere else.
const PASSWORD: &str = "plum-4711-tree";

/// Both streams of an output, in which there is no password.
fn said(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(!said.contains(PASSWORD), "{said}");
    said
}

#[test]
fn what_would_be_passed_over_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, report) = (dir.path().join("dump.resp"), dir.path().join("old.json"));
    std::fs::write(&file, "*1\r\n$4\r\nPING\r\n").unwrap();
    std::fs::write(&report, "an older report").unwrap();
    let server = format!("redis://user:{PASSWORD}@127.0.0.1:1");
    let of_file = ["migrate", "--source", file.to_str().unwrap(), "--target", &server];
    let of_server = ["migrate", "--source", &server, "--target", &server];
    let cutover = ["cutover", "--source", &server, "--target", &server];
    let restore = ["restore", "--archive", dir.path().to_str().unwrap()];
    let cases = [
        (&of_file[..], "--journal x", "--journal is about a server"),
        (&of_file, "--journal x --keep --on-exists skip", "--keep is about a server"),
        (&of_file, "--source-mode scan", "--source-mode is about a server"),
        (&of_file, "--follow passes", "--follow is about a server"),
        (&of_file, "--rescan 3", "--rescan is about a server"),
        (&of_file, "--psync-command X", "--psync-command is about a server"),
        (&of_file, "--mirror all", "--mirror is about a server"),
        (&of_file, "--limit-source-keys 3", "--limit-source-keys is about a server"),
        (&of_file, "--source-silence 3", "--source-silence is about a server"),
        (&of_file, "--two-way newest", "--two-way is about a server"),
        (&of_file, "--until forever", "the source is a file, and ends"),
        (&of_server, "--allow-cut-log", "the source is a server"),
        (&of_server, "--fsync always", "--journal <DIR>"),
        (&of_server, "--journal x --journal-max 1g,36h", "the age in --journal-max"),
        (&of_server, "--source-mode psync --rescan 3", "--rescan means nothing with --source-mode psync"),
        (&of_server, "--source-mode sync --psync-command X", "--psync-command means nothing"),
        (
            &of_server,
            "--follow notifications --rescan 3",
            "--rescan means nothing with --follow notifications",
        ),
        (&of_server, "--source-mode psync --limit-source-bytes 1k", "--limit-source-bytes means nothing"),
        (&of_server, "--two-way report --control 127.0.0.1:0", "--control does not go together"),
        (&of_server, "--two-way report --view", "--view does not go together"),
        (&of_server, "--two-way report --skip-refused", "--skip-refused does not go together"),
        (&of_server, "--two-way report --until caught-up", "--until does not go together"),
        (&of_server, "--two-way report --shard 0/2", "--shard does not go together"),
        (&of_server, "--two-way report --report both.md", "a report in Markdown does not go together"),
        (&of_server, "--conflicts x", "--two-way <POLICY>"),
        (&of_server, "--keep", "--journal <DIR>"),
        (&of_server, "--limit-bytes many", "--limit-bytes: "),
        (&cutover, "--one-way --backlog 1m", "--backlog"),
        (&cutover, "--one-way --reverse", "--one-way"),
        (&cutover, "--dry-run --undo", "--undo"),
        (&restore, "--list --keys x", "--keys"),
        (&restore, "--list --db 3", "--db"),
        (&restore, "--diff k --rename was:", "--rename"),
        (&restore, "--diff k --scratch redis://127.0.0.1:1", "--scratch"),
        (&restore, "--latest --to-dir x --json", "--json"),
        (&restore, "--latest --to-dir x --expiry freeze", "--expiry"),
    ];
    for (base, more, wrong) in cases {
        let mut command = program(base[0]);
        command.args(&base[1..]).args(more.split(' ')).current_dir(dir.path());
        let before = std::fs::read_dir(dir.path()).unwrap().count();
        if base[0] != "restore" && !more.contains("--report") {
            command.arg("--report").arg(&report);
        }
        let output = command.output().unwrap();
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains(wrong), "{base:?} {more}: {said}");
        // Nothing was begun: no report is new, none is gone.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before, "{base:?} {more}");
    }
    assert_eq!(std::fs::read_to_string(&report).unwrap(), "an older report");
}

/// A plan is run as it was written, whatever form its options had; a report tells that it did not come to that.
#[test]
fn a_plan_keeps_its_options_and_only_these() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    source.client().unwrap().call(&["MSET", "-a", "1", "b", "2"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.json");
    let planned = || {
        let mut command = program("migrate");
        command
            .args(["--source", &source.url(), "--target", &target.url(), "--precheck", "--plan"])
            .arg(&plan);
        command.args(["--adaptive=40", "--include-keys=-*", "--until=caught-up", "--linger", "3"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    let run = |more: &[&str], shard: Option<&str>| {
        let mut command = program("migrate");
        command.arg("--plan").arg(&plan).args(more);
        command.envs(shard.map(|shard| ("KEYFERRY_SHARD", shard)));
        let output = command.output().unwrap();
        (output.status.code(), said(&output))
    };
    planned();
    let (code, told) = run(&[], Some("0/2"));
    assert!(code == Some(2) && told.contains("does not go together with --plan"), "{told}");
    let (code, told) = run(&["--include-keys", "*"], None);
    assert!(code == Some(2) && told.contains("--include-keys cannot be changed"), "{told}");
    let (code, told) = run(&["--view"], None);
    assert!(code == Some(0) && told.contains("1 keys of the snapshot left out"), "{told}");
    assert_eq!(target.client().unwrap().list(&["KEYS", "*"]).unwrap().len(), 1);

    // The target has been written to since.
    planned();
    target.client().unwrap().call(&["SET", "other", "1"]).unwrap();
    let report = dir.path().join("report.json");
    let (code, told) = run(&["--report", report.to_str().unwrap()], None);
    assert!(code == Some(1) && told.contains("the plan does not hold any more"), "{told}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["outcome"]["state"], "failed", "{report}");
}

/// A password that is wrong is refused by the server; what is told of that, where ever it is told, does not have it.
#[test]
fn passwords_are_shown_nowhere() {
    let server = Server::any().unwrap();
    server.client().unwrap().call(&["CONFIG", "SET", "requirepass", "other"]).unwrap();
    let url = format!("redis://:{PASSWORD}@{}", server.addr());
    let target = Server::any().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (json, page, archive, dump) = (path("r.json"), path("r.md"), path("archive"), path("dump.rdb"));
    let (from, to) = (url.as_str(), target.url());
    let config = path("move.toml");
    std::fs::write(&config, format!("source = \"{url}\"\ntarget = \"{url}\"\nkeep = 3\n")).unwrap();
    let cases: [&[&str]; 11] = [
        &[
            "migrate",
            "--source",
            from,
            "--target",
            &to,
            "--report",
            &json,
            "--log",
            "json",
            "--retry-connect",
            "1s",
        ],
        &[
            "migrate",
            "--source",
            &to,
            "--target",
            from,
            "--report",
            &page,
            "--no-precheck",
            "--retry-connect",
            "1s",
        ],
        &["migrate", "--source", from, "--target", &to, "--precheck", "--json"],
        &["migrate", "--source", from, "--target", &to, "--two-way", "report"],
        &["migrate", "--source", from, "--target", "redis+cluster://user:plum-4711-tree@127.0.0.1:x"],
        &["migrate", "--config", &config],
        &["backup", "--source", from, "--out", &dump],
        &["archive", "--source", from, "--dir", &archive, "--retry-connect", "1s"],
        &["cutover", "--source", from, "--target", &to, "--dry-run", "--report", &page],
        &["diff", from, &to],
        &["restore", "--archive", &archive, "--latest", "--target", "redis://:plum-4711-tree@127.0.0.1:x"],
    ];
    for case in cases {
        let output = program(case[0]).args(&case[1..]).output().unwrap();
        assert!(!output.status.success() && !said(&output).is_empty(), "{case:?}: {output:?}");
        for file in [&json, &page] {
            assert!(!std::fs::read_to_string(file).unwrap_or_default().contains(PASSWORD), "{case:?}");
        }
    }
    let shown =
        program("migrate").args(["--source", from, "--target", from, "--print-config"]).output().unwrap();
    assert!(shown.status.success() && said(&shown).contains(":***@"), "{shown:?}");
}

/// What is printed as a file of options is one.
#[test]
fn a_configuration_that_was_printed_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("move.toml");
    let source =
        ["--source", "redis://127.0.0.1:1", "--target", "redis://127.0.0.1:2", "--source-mode", "psync"];
    let given = program("migrate").args(source).arg("--print-config").output().unwrap();
    assert!(given.status.success(), "{given:?}");
    std::fs::write(&path, &given.stdout).unwrap();
    let again = program("migrate").arg("--print-config").arg("--config").arg(&path).output().unwrap();
    assert!(again.status.success() && again.stdout == given.stdout, "{again:?}");
    // It is refused for nothing that stands in it.
    let run =
        program("migrate").arg("--retry-connect").arg("1s").arg("--config").arg(&path).output().unwrap();
    assert!(run.status.code() == Some(1) && said(&run).contains("cannot connect"), "{run:?}");
}
