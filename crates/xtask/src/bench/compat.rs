//! All cases of keyferry-compat on each server.

use std::process::{Command, Stdio};

use keyferry_testkit::process::{Measured, measure};
use keyferry_testkit::{Cluster, Server, all};

use super::PATIENCE;
use super::page::{Table, mebibytes, seconds};
use crate::cargo::release;
use crate::failure::{Context as _, Failure, Outcome};

/// Of the runs of each, the quickest counts.
const RUNS: usize = 3;

/// The whole file on one server has to be done in so many seconds.
const LIMIT: f64 = 20.0;

pub(super) fn measure_compat() -> Outcome<Vec<Table>> {
    let program = release("keyferry-examples", "--example", "compat", &[])?;
    let about = format!(
        "Every case of keyferry-compat that applies, in RESP2 and in RESP3, 16 at a time: `compat --allow all` on a server alone, and \
         `--allow admin` on a cluster of three primaries on the same machine. Much of the time is waiting: for keys to expire, and for readers to \
         be blocked. Best of {RUNS} runs each; every case passed."
    );
    let header = ["server", "passed", "wall time", "tool CPU", "peak memory", "cluster: passed", "wall time"];
    let mut table = Table::new("compat", "Asking a server 1,500 questions", about, &header);
    for binary in all()? {
        println!("compat: {binary}");
        let server = Server::builder(binary).timeout(PATIENCE).start()?;
        let alone = best(&program, &server.url(), "all")?;
        drop(server);
        let cluster = Cluster::builder(binary).primaries(3).start()?;
        let clustered = best(&program, &cluster.url(), "admin")?;
        if alone.0.wall.as_secs_f64() > LIMIT {
            let took = alone.0.wall.as_secs_f64();
            return Err(Failure::new(format!("{binary}: took {took:.1} s, and {LIMIT} s are allowed")));
        }
        table.row([
            binary.to_string(),
            alone.1.to_string(),
            seconds(alone.0.wall.as_secs_f64()),
            seconds(alone.0.cpu_seconds),
            mebibytes(alone.0.peak_rss_kib),
            clustered.1.to_string(),
            seconds(clustered.0.wall.as_secs_f64()),
        ]);
    }
    Ok(vec![table])
}

/// The quickest run, and how many cases passed in it.
fn best(program: &std::path::Path, url: &str, allow: &str) -> Outcome<(Measured, u64)> {
    let dir = tempfile::tempdir().during("making a directory")?;
    let json = dir.path().join("report.json");
    let mut best: Option<(Measured, u64)> = None;
    for _ in 0..RUNS {
        let mut command = Command::new(program);
        command.args(["--server", url, "--allow", allow, "--json"]).arg(&json);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let run = measure(&mut command)?;
        if !run.status.success() {
            return Err(Failure::new(format!("compat of {url} ended with {}", run.status)));
        }
        let text = std::fs::read_to_string(&json).during(json.display())?;
        let report: serde_json::Value = serde_json::from_str(&text).during(json.display())?;
        let passed = report["reports"][0]["counts"]["passed"].as_u64().unwrap_or_default();
        if best.as_ref().is_none_or(|(best, _)| run.wall < best.wall) {
            best = Some((run, passed));
        }
    }
    best.ok_or_else(|| Failure::new("nothing was run"))
}
