//! What the primaries of the target tell of themselves, asked once in a while.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyferry_client::{Connection, Endpoint, Error, cluster, sentinel};

use super::page::TargetFigures;

/// How often they are asked.
const PERIOD: Duration = Duration::from_secs(5);

/// After so many rounds the primaries are found anew: there may be others after a failover.
const ROUNDS: u32 = 6;

/// The figures that were told last.
pub(super) type Shared = Arc<Mutex<Vec<TargetFigures>>>;

/// Asks until the future is dropped.
pub(super) async fn watch(endpoint: Endpoint, shared: Shared) {
    loop {
        // Those that cannot be found stay on the page as they were, but not up.
        let mut nodes = primaries(&endpoint).await.unwrap_or_default();
        let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.is_empty() {
            lock().iter_mut().for_each(|figures| figures.up = false);
            tokio::time::sleep(PERIOD).await;
            continue;
        }
        for _ in 0..ROUNDS {
            let mut all = Vec::new();
            for node in &mut nodes {
                let name = node.address().to_string();
                let asked = figures(node).await;
                let known = lock().iter().find(|figures| figures.node == name).cloned();
                all.push(asked.unwrap_or_else(|_| {
                    let empty =
                        TargetFigures { node: name, up: false, evicted: 0, used_memory: 0, max_memory: 0 };
                    TargetFigures { up: false, ..known.unwrap_or(empty) }
                }));
            }
            let lost = all.iter().any(|figures| !figures.up);
            *lock() = all;
            tokio::time::sleep(PERIOD).await;
            if lost {
                break;
            }
        }
    }
}

async fn primaries(endpoint: &Endpoint) -> Result<Vec<Connection>, Error> {
    let options = match endpoint.clone().detect().await? {
        Endpoint::Cluster(options) => cluster::discover(&options).await?.primaries().collect(),
        Endpoint::Sentinel(options) => vec![sentinel::primary(&options).await?],
        other => vec![other.options().clone()],
    };
    let mut connections = Vec::new();
    for options in options {
        connections.push(Connection::connect(&options.with_db(0)).await?);
    }
    Ok(connections)
}

async fn figures(connection: &mut Connection) -> Result<TargetFigures, Error> {
    let (memory, stats) = (connection.info("memory").await?, connection.info("stats").await?);
    Ok(TargetFigures {
        node: connection.address().to_string(),
        up: true,
        evicted: stats.get_as("evicted_keys").unwrap_or(0),
        used_memory: memory.get_as("used_memory").unwrap_or(0),
        max_memory: memory.get_as("maxmemory").unwrap_or(0),
    })
}
