//! A server that is used to carry out commands.

use std::path::PathBuf;

use keyferry_client::Endpoint;

use super::server::Servers;
use crate::{error::Error, migration::Migration};

/// An empty server by which the commands of files are carried out, so that what they make can be looked at; it is emptied at the end.
///
/// ```no_run
/// use keyferry_migrate::restore::Scratch;
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let scratch = Scratch::claim("redis://127.0.0.1:7000".parse()?).await?;
/// scratch.load(vec!["appendonlydir".into()]).run().await.result?;
/// // Look at it: scratch.endpoint() is like any other server.
/// scratch.empty().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Scratch {
    endpoint: Endpoint,
}

impl Scratch {
    /// Makes sure that a server can be one. Nothing keeps others from writing to it.
    ///
    /// # Errors
    /// [`ArchiveError::Scratch`](crate::archive::ArchiveError::Scratch) when it holds anything, is a replica or a node of a cluster;
    /// [`Error::Target`] when it cannot be reached.
    pub async fn claim(endpoint: Endpoint) -> Result<Self, Error> {
        Servers::scratch(&endpoint).await?;
        Ok(Scratch { endpoint })
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What brings files into it, in their order. It is not looked at first: that it is empty is known.
    pub fn load(&self, files: Vec<PathBuf>) -> Migration {
        let mut migration = Migration::from_files(files, self.endpoint.clone());
        migration.options_mut().look_first = false;
        migration
    }

    /// Removes everything that it holds.
    ///
    /// # Errors
    /// [`Error::Target`] when it cannot be reached or refuses: then it still holds data.
    pub async fn empty(self) -> Result<(), Error> {
        Servers::connect(&self.endpoint).await?.empty().await
    }
}
