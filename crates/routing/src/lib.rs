//! Key slots and hash tags of Redis and Valkey clusters
