//! Reader of Redis and Valkey RDB files and DUMP payloads, fast and bounded in memory
