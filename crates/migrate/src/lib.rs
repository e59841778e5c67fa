//! Live migration between Redis-compatible servers
