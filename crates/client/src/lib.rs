//! Connections to Redis and Valkey servers: URLs, TLS, authentication, deep pipelining
