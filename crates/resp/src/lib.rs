//! Sans-I/O codec for RESP2 and RESP3, the wire format of Redis and Valkey
