//! How fast a migration may be.

use keyferry_migrate::{Options, RateLimits, ThrottleFigures};

/// Limits a second; with a unit where there is a need (k, m, g of 1024).
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "How fast")]
pub struct ThrottleArgs {
    /// Bytes a second that are handed to the target, as in 50mb
    #[arg(long, value_name = "RATE")]
    limit_bytes: Option<String>,
    /// Keys a second, while the snapshot is applied
    #[arg(long, value_name = "RATE")]
    limit_keys: Option<String>,
    /// Commands a second
    #[arg(long, value_name = "RATE")]
    limit_commands: Option<String>,
    /// Bytes a second, while the snapshot is applied
    #[arg(long, value_name = "RATE")]
    limit_full_bytes: Option<String>,
    /// Keys a second, while the snapshot is applied
    #[arg(long, value_name = "RATE")]
    limit_full_keys: Option<String>,
    /// Commands a second, while the snapshot is applied
    #[arg(long, value_name = "RATE")]
    limit_full_commands: Option<String>,
    /// Bytes a second, while commands that follow the snapshot are applied
    #[arg(long, value_name = "RATE")]
    limit_incremental_bytes: Option<String>,
    /// Commands a second that follow the snapshot
    #[arg(long, value_name = "RATE")]
    limit_incremental_commands: Option<String>,
    /// Bytes a second at each primary of the target
    #[arg(long, value_name = "RATE")]
    limit_node_bytes: Option<String>,
    /// Keys a second at each primary of the target, while the snapshot is applied
    #[arg(long, value_name = "RATE")]
    limit_node_keys: Option<String>,
    /// Commands a second at each primary of the target
    #[arg(long, value_name = "RATE")]
    limit_node_commands: Option<String>,
    /// Keys a second that each primary of a source is asked for that is read by SCAN
    #[arg(long, value_name = "RATE")]
    limit_source_keys: Option<String>,
    /// Bytes of values a second that each primary of a source is asked for that is read by SCAN
    #[arg(long, value_name = "RATE")]
    limit_source_bytes: Option<String>,
    /// Slow down while an answer of the target or the source takes so many milliseconds longer than at best
    #[arg(long, value_name = "MS", num_args = 0..=1, default_missing_value = "on", require_equals = true)]
    adaptive: Option<String>,
}

impl ThrottleArgs {
    /// Puts them into the options of a migration.
    ///
    /// # Errors
    /// When one of them is no rate.
    pub fn put(&self, options: &mut Options) -> Result<(), String> {
        // Those for both stages first: the others say more.
        let given = [
            ("bytes", &self.limit_bytes),
            ("keys", &self.limit_keys),
            ("commands", &self.limit_commands),
            ("full-bytes", &self.limit_full_bytes),
            ("full-keys", &self.limit_full_keys),
            ("full-commands", &self.limit_full_commands),
            ("incremental-bytes", &self.limit_incremental_bytes),
            ("incremental-commands", &self.limit_incremental_commands),
            ("node-bytes", &self.limit_node_bytes),
            ("node-keys", &self.limit_node_keys),
            ("node-commands", &self.limit_node_commands),
            ("source-keys", &self.limit_source_keys),
            ("source-bytes", &self.limit_source_bytes),
            ("adaptive", &self.adaptive),
        ];
        let mut limits = RateLimits::default();
        for (name, value) in given {
            if let Some(value) = value {
                let option =
                    if name == "adaptive" { "--adaptive".to_owned() } else { format!("--limit-{name}") };
                limits.set(name, value).map_err(|e| format!("{option}: {e}"))?;
            }
        }
        options.limits = limits;
        Ok(())
    }
}

/// Prints what was waited for, if anything was.
pub fn print_throttle(figures: &ThrottleFigures) {
    let waited: Vec<String> =
        figures.waited_seconds.iter().map(|(what, seconds)| format!("{seconds:.1} s {what}")).collect();
    if !waited.is_empty() {
        println!("throttle waited: {}", waited.join(", "));
    }
}
