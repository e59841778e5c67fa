//! Keys that were read again, as commands of a stream.

use bytes::BytesMut;
use keyferry_rdb::{
    Dialect, Eviction, TargetFormat, Value, dump,
    dump::Payload,
    encode::Encoder,
    native::{CommandSink, Loss, NativeOptions, Rebuild},
};
use keyferry_resp::encode_command;

use super::read::Found;
use crate::target::{Abilities, payload_version};

/// Makes commands for a target.
#[derive(Debug)]
pub(super) struct Commands {
    abilities: Abilities,
    pub(super) out: BytesMut,
    db: Option<u64>,
    encoder: Encoder,
    dialect: Dialect,
    /// What values lost on the way.
    pub(super) losses: Vec<String>,
}

impl Commands {
    pub(super) fn new(abilities: Abilities, format: TargetFormat) -> Self {
        Commands {
            abilities,
            out: BytesMut::new(),
            db: None,
            dialect: format.dialect(),
            encoder: Encoder::new(format),
            losses: Vec::new(),
        }
    }

    pub(super) fn command(&mut self, args: &[&[u8]]) {
        encode_command(&mut self.out, args);
    }

    pub(super) fn select(&mut self, db: u64) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.command(&[b"SELECT", db.to_string().as_bytes()]);
        }
    }

    /// Makes the key what was found.
    pub(super) fn key(&mut self, db: u64, key: &[u8], found: &Found) -> Result<(), keyferry_rdb::Error> {
        match found {
            Found::Elsewhere => {}
            Found::Gone => {
                self.select(db);
                self.command(&[b"DEL", key]);
            }
            Found::Whole { payload, expiry, eviction } => {
                self.select(db);
                self.restore(key, payload, *expiry, *eviction)?;
            }
            Found::Parts { value, expiry, .. } => {
                self.select(db);
                self.rebuild(key, value, *expiry)?;
            }
        }
        Ok(())
    }

    fn restore(
        &mut self,
        key: &[u8],
        payload: &[u8],
        expiry: Option<i64>,
        eviction: Option<Eviction>,
    ) -> Result<(), keyferry_rdb::Error> {
        let read = Payload::parse(payload)?;
        let mut sealed = BytesMut::new();
        // A version that every target takes.
        let version = payload_version(read.value.ty());
        match read.meta {
            None => dump::append_payload(&mut sealed, read.value, version),
            Some(meta) => dump::append_payload_with_meta(&mut sealed, meta, read.value, version),
        }
        let absolute = self.abilities.absolute_ttl;
        let ttl = expiry.filter(|_| absolute).map_or(0, |at| at.max(1)).to_string();
        let mut args: Vec<&[u8]> = vec![b"RESTORE", key, ttl.as_bytes(), &sealed, b"REPLACE"];
        let number;
        if absolute {
            if expiry.is_some() {
                args.push(b"ABSTTL");
            }
            match eviction {
                Some(Eviction::Idle(seconds)) => {
                    number = seconds.to_string();
                    args.extend([b"IDLETIME", number.as_bytes()]);
                }
                Some(Eviction::Freq(count)) => {
                    number = count.to_string();
                    args.extend([&b"FREQ"[..], number.as_bytes()]);
                }
                _ => {}
            }
            self.command(&args);
            return Ok(());
        }
        let Some(at) = expiry else {
            self.command(&args);
            return Ok(());
        };
        self.command(&[b"MULTI"]);
        self.command(&args);
        self.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
        self.command(&[b"EXEC"]);
        Ok(())
    }

    /// As one transaction, so that nobody sees a part of it.
    fn rebuild(&mut self, key: &[u8], value: &Value, expiry: Option<i64>) -> Result<(), keyferry_rdb::Error> {
        let mut raw = Vec::new();
        let encoded = self.encoder.encode(value, &mut raw)?;
        let Some(ty) = encoded.ty else {
            self.command(&[b"DEL", key]);
            return Ok(());
        };
        let mut options = NativeOptions::default();
        options.features = Some(self.abilities.native);
        let mut rebuild = Rebuild::new(key, ty, self.dialect, &options);
        self.command(&[b"MULTI"]);
        self.command(&[b"DEL", key]);
        if let Value::String(text) = value {
            // Whole, as masks are put on whole values.
            self.command(&[b"SET", key, text]);
        } else {
            rebuild.feed(&raw, self)?;
            rebuild.finish(self)?;
        }
        if let Some(at) = expiry {
            self.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
        }
        self.command(&[b"EXEC"]);
        Ok(())
    }
}

impl CommandSink for Commands {
    fn command(&mut self, args: &[&[u8]]) {
        Commands::command(self, args);
    }

    fn loss(&mut self, loss: Loss) {
        self.losses.push(loss.to_string());
    }
}
