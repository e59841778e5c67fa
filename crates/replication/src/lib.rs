//! Speaking PSYNC to a Redis or Valkey server: handshake, snapshot, command stream, offsets
