//! Servers by the names that a page gives them, and a directory in which its commands are run.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_testkit::{Client, Cluster, Sentinels, Server, ServerBinary, any, named, process};

use crate::page::{Section, Step, matches};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// With status 0.
    Well,
    /// With another one.
    Otherwise,
    /// It is not run.
    NotRun,
}

/// What pages take from the environment.
pub(crate) const PASSWORD: &str = "a password of the cloud";

/// See the module.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    servers: Vec<Server>,
    clusters: Vec<Cluster>,
    sentinels: Vec<Sentinels>,
    /// Addresses as a page has them, and as they are; longer ones first.
    names: Vec<(String, String)>,
    background: Vec<(Child, PathBuf)>,
}

/// The server of this version; any other where it is not there.
pub(crate) fn version(name: &str) -> &'static ServerBinary {
    named(name).or_else(|_| any()).unwrap()
}

impl Stage {
    pub(crate) fn new() -> Self {
        Stage {
            dir: tempfile::tempdir().unwrap(),
            servers: Vec::new(),
            clusters: Vec::new(),
            sentinels: Vec::new(),
            names: Vec::new(),
            background: Vec::new(),
        }
    }

    /// A server of this version, known by this name.
    pub(crate) fn server(&mut self, name: &str, of: &str) -> &Server {
        self.server_with(name, of, |builder| builder)
    }

    /// The same, made as wanted.
    pub(crate) fn server_with(
        &mut self,
        name: &str,
        of: &str,
        make: impl FnOnce(keyferry_testkit::Builder) -> keyferry_testkit::Builder,
    ) -> &Server {
        let server = make(Server::builder(version(of))).start().unwrap();
        self.name(name, 6379, &server.addr().to_string());
        self.servers.push(server);
        self.servers.last().unwrap()
    }

    /// A cluster whose primaries are known by these names.
    pub(crate) fn cluster(&mut self, names: &[&str], of: &str) -> &Cluster {
        let cluster = Cluster::builder(version(of)).primaries(names.len()).start().unwrap();
        for (name, node) in names.iter().zip(cluster.nodes()) {
            self.name(name, 6379, &node.addr().to_string());
        }
        self.clusters.push(cluster);
        self.clusters.last().unwrap()
    }

    /// A primary with a replica, and two sentinels by these names that call it `mymaster`.
    pub(crate) fn sentinels(&mut self, names: &[&str], of: &str) -> &Sentinels {
        let sentinels = Sentinels::builder(version(of))
            .sentinels(names.len())
            .replicas(1)
            .service("mymaster")
            .start()
            .unwrap();
        for (name, sentinel) in names.iter().zip(sentinels.sentinels()) {
            self.name(name, 26379, &sentinel.addr().to_string());
        }
        self.sentinels.push(sentinels);
        self.sentinels.last().unwrap()
    }

    fn name(&mut self, name: &str, port: u16, address: &str) {
        self.names.push((format!("{name}:{port}"), address.to_owned()));
        self.names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// Where the commands are run.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs every command of a section, and checks what it prints. `plan` is asked before each.
    pub(crate) fn play(&mut self, section: &Section, mut plan: impl FnMut(&mut Self, &str) -> Ends) {
        assert!(!section.steps.is_empty(), "{:?} has no commands", section.title);
        for step in &section.steps {
            let ends = plan(self, &step.command);
            if ends == Ends::NotRun {
                continue;
            }
            if step.background {
                self.start(step);
                continue;
            }
            if step.command == "^C" {
                self.end();
                continue;
            }
            let (succeeded, output) = self.run(&step.command);
            let told = format!("{}: $ {}\n{output}", section.title, step.command);
            assert_eq!(succeeded, ends == Ends::Well, "{told}");
            check(step, &output, &told);
        }
    }

    /// A name for something that is not there as the page says.
    pub(crate) fn call(&mut self, name: &str, path: &Path) {
        self.names.push((name.to_owned(), path.display().to_string()));
        self.names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// Runs a command as if a page had it; it has to succeed. Gives what it prints.
    pub(crate) fn prepare(&self, command: &str) -> String {
        let (succeeded, output) = self.run(command);
        assert!(succeeded, "$ {command}\n{output}");
        output
    }

    /// The same, again and again until it succeeds.
    pub(crate) fn wait_for(&self, command: &str) {
        let begun = Instant::now();
        loop {
            let (succeeded, output) = self.run(command);
            if succeeded {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "$ {command}\n{output}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Lets programs find this server as `redis-server`.
    pub(crate) fn install(&self, of: &str) {
        let server = version(of).server.display().to_string();
        self.prepare(&format!(
            "mkdir bin && printf '#!/bin/sh\\nexec {server} \"$@\"\\n' > bin/redis-server && chmod +x bin/redis-server"
        ));
    }

    /// A connection to the server of this name.
    pub(crate) fn client(&self, name: &str) -> Client {
        let (_, address) = self.names.iter().find(|(known, _)| *known == format!("{name}:6379")).unwrap();
        let server = self.servers.iter().find(|server| server.addr().to_string() == *address);
        server.unwrap().client().unwrap()
    }

    /// Ends what runs in the background as Ctrl-C does, and waits for it.
    fn end(&mut self) {
        for (mut child, log) in self.background.drain(..) {
            process::signal(child.id(), "INT").unwrap();
            let begun = Instant::now();
            while child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < PATIENCE, "{}", std::fs::read_to_string(&log).unwrap());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// A command as it can be run here.
    pub(crate) fn here(&self, command: &str) -> String {
        let mut here = command.to_owned();
        for (name, address) in &self.names {
            here = here.replace(name, address);
        }
        let test = std::env::current_exe().unwrap();
        let programs = test.parent().and_then(Path::parent).unwrap().join("examples");
        while let Some(at) = here.find("cargo run --release --example ") {
            let rest = &here[at + "cargo run --release --example ".len()..];
            let (program, rest) = rest.split_once(" -- ").unwrap();
            // Features are those that all examples were built with.
            let program = program.split(' ').next().unwrap();
            here = format!("{}{} {rest}", &here[..at], programs.join(program).display());
        }
        here
    }

    /// Whether it succeeds, and what it prints, with the names of the page.
    fn run(&self, command: &str) -> (bool, String) {
        let here = self.here(command);
        let log = self.dir().join("output.txt");
        let out = std::fs::File::create(&log).unwrap();
        let mut child = self.shell(&here, &out);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().ok();
                panic!("it does not end: {command}\n{}", std::fs::read_to_string(&log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        (status.success(), self.named(&std::fs::read_to_string(&log).unwrap()))
    }

    fn start(&mut self, step: &Step) {
        let log = self.dir().join(format!("background-{}.txt", self.background.len()));
        let out = std::fs::File::create(&log).unwrap();
        // One process, so that a signal reaches it.
        let child = self.shell(&format!("exec {}", self.here(&step.command)), &out);
        self.background.push((child, log.clone()));
        let begun = Instant::now();
        loop {
            let output = self.named(&std::fs::read_to_string(&log).unwrap());
            let (child, _) = self.background.last_mut().unwrap();
            let told = format!("$ {}\n{output}", step.command);
            assert!(child.try_wait().unwrap().is_none(), "it ended: {told}");
            if holds(&step.expected, &output).is_none() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not say what it should: {told}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn shell(&self, here: &str, out: &std::fs::File) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", here]).current_dir(self.dir()).stdin(Stdio::null());
        command.env("CLOUD_PASSWORD", PASSWORD);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.dir().join("bin").display()));
        command.stdout(out.try_clone().unwrap()).stderr(out.try_clone().unwrap());
        command.spawn().unwrap()
    }

    fn named(&self, output: &str) -> String {
        let mut named = output.to_owned();
        for (name, address) in &self.names {
            named = named.replace(address, name);
        }
        named
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (child, _) in &mut self.background {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn check(step: &Step, output: &str, told: &str) {
    if let Some(missing) = holds(&step.expected, output) {
        panic!("it does not print: {missing}\n{told}");
    }
}

/// The first of the expected lines that is not there in its place.
fn holds<'e>(expected: &'e [String], output: &str) -> Option<&'e str> {
    let mut lines = output.lines();
    expected.iter().map(String::as_str).find(|shown| !lines.any(|line| matches(shown, line)))
}
