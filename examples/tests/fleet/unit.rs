//! The unit of systemd: what it starts is started, with the options of the file beside it.

use std::process::Command;

use keyferry_testkit::{Cluster, Server, any, data};

use crate::{
    manifest::deploy,
    process::{Process, free_port, program, status_of, wait_until},
};

const UNIT: &str = "keyferry-migrate@.service";

/// The values of a setting of the unit, in order.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

#[test]
fn the_unit_starts_a_worker() {
    let unit = std::fs::read_to_string(deploy().join(UNIT)).unwrap();
    let options = std::fs::read_to_string(deploy().join("move.toml")).unwrap();
    let source = Cluster::builder(any().unwrap()).primaries(3).password("the old one's").start().unwrap();
    let target = Server::builder(any().unwrap()).password("the new one's").start().unwrap();
    data::small_cluster(&mut source.client().unwrap(), 8, 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let metrics = free_port();
    // What differs here: where things are, and a target that is one server.
    let options = options
        .replace("redis+cluster://new-1:6379,new-2:6379", &format!("redis://{}", target.addr()))
        .replace("old-1:6379", &source.node(0).addr().to_string())
        .replace("old-2:6379", &source.node(1).addr().to_string())
        .replace("127.0.0.1:9121", &format!("127.0.0.1:{metrics}"));
    std::fs::create_dir_all(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/move.toml"), options).unwrap();
    for (setting, below) in [("StateDirectory", "state"), ("RuntimeDirectory", "run")] {
        let name = settings(&unit, setting)[0].replace("%i", "move");
        std::fs::create_dir_all(dir.path().join(below).join(name)).unwrap();
    }
    let [command] = &settings(&unit, "ExecStart")[..] else { panic!("one command is wanted") };
    let command = command
        .replace("%i", "move")
        .replace("%S", &place("state"))
        .replace("%t", &place("run"))
        .replace("/etc/keyferry", &place("etc"));
    assert!(!command.contains('%'), "{command}");
    let args: Vec<&str> = command.split(' ').skip(1).collect();
    let passwords = [("OLD_PASSWORD", "the old one's"), ("NEW_PASSWORD", "the new one's")];
    let variables = passwords.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut worker = Process::migrate(&args, &variables);
    let address = ([127, 0, 0, 1], metrics).into();
    wait_until("readiness", || {
        assert!(!worker.is_over(), "{}", worker.said());
        status_of(address, "/readyz") == Some(200)
    });
    assert!(dir.path().join("run/keyferry-move/control.sock").exists());
    worker.terminate();
    assert!(worker.ends_well(), "{}", worker.said());
    let report = std::fs::read_to_string(dir.path().join("state/keyferry/move/report.json")).unwrap();
    assert!(report.contains("\"move.0-of-3\""), "{report}");
    // What is wrong is not tried again.
    let wrong = Command::new(program()).args(&args[2..]).arg("--shard=3/3").output().unwrap();
    assert_eq!(wrong.status.code().unwrap().to_string(), settings(&unit, "RestartPreventExitStatus")[0]);
}

/// Where systemd's own program is there, it finds nothing in the unit that it does not know.
#[test]
fn systemd_knows_every_setting() {
    let unit = std::fs::read_to_string(deploy().join(UNIT)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(UNIT);
    // It wants the program to be where it is started.
    std::fs::write(&file, unit.replace("/usr/local/bin/migrate", &program().display().to_string())).unwrap();
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&file).output() else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("keyferry-migrate"), "{said}");
}
