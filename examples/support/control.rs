//! Steering a migration while it runs.

use std::path::PathBuf;

use keyferry_client::Secret;
use keyferry_migrate::{
    Migration,
    control::{ControlAddress, ControlServer},
};

/// The variable that the token may be in.
const VARIABLE: &str = "KEYFERRY_CONTROL_TOKEN";

/// Where a running migration is steered from.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Steering")]
pub struct ControlArgs {
    /// Answer requests here while it runs, at a loopback address or a Unix socket: GET /status; POST /pause, /resume,
    /// /throttle?full-bytes=50mb, /stop, /stop-when-caught-up. An address needs a token
    #[arg(long, value_name = "ADDR:PORT|PATH")]
    control: Option<ControlAddress>,

    /// The file with the token that requests have to bring (Authorization: Bearer TOKEN) [default: the variable
    /// KEYFERRY_CONTROL_TOKEN]
    #[arg(long, value_name = "FILE", requires = "control")]
    control_token_file: Option<PathBuf>,
}

impl ControlArgs {
    /// True when requests are to be answered.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.control.is_some()
    }

    /// Begins to answer, if that is wanted, until the runtime ends.
    ///
    /// # Errors
    /// In the words of a person.
    pub async fn serve(&self, migration: &Migration) -> Result<(), String> {
        let Some(address) = &self.control else { return Ok(()) };
        let token = match &self.control_token_file {
            Some(file) => Some(Secret::from_file(file).map_err(|e| format!("--control-token-file: {e}"))?),
            None => std::env::var_os(VARIABLE)
                .map(|_| Secret::from_env(VARIABLE))
                .transpose()
                .map_err(|e| e.to_string())?,
        };
        let server =
            ControlServer::bind(address, token, migration).await.map_err(|e| format!("--control: {e}"))?;
        eprintln!("migrate: control at {}", server.address());
        drop(tokio::spawn(server.serve()));
        Ok(())
    }
}
