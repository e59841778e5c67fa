//! Commands made from a snapshot, and how they are divided among slots.

use bytes::BytesMut;
use keyferry_rdb::native::{CommandSink, Loss};
use keyferry_resp::encode::encode_command;

use crate::expiry;

/// Commands under way to the target.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) bytes: BytesMut,
    pub(crate) commands: u32,
    /// Keys that are done when these commands are.
    pub(crate) keys: u64,
    pub(crate) losses: Vec<Loss>,
    /// Deadlines of fields are held.
    pub(crate) hold_fields: bool,
    pieces: Vec<Piece>,
    /// Commands that are in pieces.
    divided: u32,
}

/// A run of commands for one slot, or for every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it ends in the bytes; it begins where the one before ends.
    pub(crate) end: usize,
    pub(crate) commands: u32,
    pub(crate) slot: u16,
    pub(crate) db: u64,
    pub(crate) kind: PieceKind,
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// A whole key.
    Key,
    /// A part of a key, which makes sense once and in its order only.
    Part,
    /// One command that every node has to be told.
    Everywhere,
}

impl Output {
    pub(crate) fn take_pieces(&mut self) -> Vec<Piece> {
        self.divided = 0;
        std::mem::take(&mut self.pieces)
    }

    /// Ends a piece, if there is anything in it.
    pub(crate) fn cut(&mut self, kind: PieceKind, key: &[u8], db: u64) {
        let commands = self.commands - self.divided;
        if commands > 0 {
            self.divided = self.commands;
            let (end, slot) = (self.bytes.len(), keyferry_routing::slot(key));
            self.pieces.push(Piece { end, commands, slot, db, kind });
        }
    }
}

impl CommandSink for Output {
    fn command(&mut self, args: &[&[u8]]) {
        self.commands += 1;
        if self.hold_fields
            && let [b"HPEXPIREAT", key, deadline, rest @ ..] = args
            && let Some(deadline) = std::str::from_utf8(deadline).ok().and_then(|text| text.parse().ok())
        {
            let mut digits = itoa::Buffer::new();
            let mut held: Vec<&[u8]> =
                vec![b"HPEXPIREAT", key, digits.format(expiry::held(deadline)).as_bytes()];
            held.extend(rest);
            return encode_command(&mut self.bytes, held);
        }
        encode_command(&mut self.bytes, args);
    }

    fn loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }
}
