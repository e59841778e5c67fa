//! Keys of a snapshot that are not to replace what others have made at the target.
//!
//! Most go by `RESTORE` without `REPLACE`, which the target itself refuses where there is such a key. Two things are not that
//! simple: what is sent again after a lost connection may be there by itself ([`replacing`]), and large values are built under
//! another name, which becomes their own in the end ([`place_new`]).

use bytes::{Bytes, BytesMut};
use keyferry_resp::{Command, CommandDecoder, Frame};

use super::{
    Target,
    aside::{Aside, Cause},
    feed::{LIMITS, restore_replacing},
};
use crate::error::{Error, RefusedAt};

/// The same commands, which may have been executed before: they replace what is there.
pub(super) fn replacing(bytes: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len() + 16);
    for command in commands(bytes) {
        match command.is("RESTORE") {
            true => out.extend_from_slice(restore_replacing(&command).raw()),
            false => out.extend_from_slice(command.raw()),
        }
    }
    out.freeze()
}

/// True for the last commands of a large value that are not to replace a key.
pub(super) fn is_last(bytes: &[u8]) -> bool {
    bytes.starts_with(b"*3\r\n$8\r\nRENAMENX\r\n")
}

/// Carries those out, behind all that its slot has been given: gives the value its name, unless there is a key of that name.
///
/// # Errors
/// [`Error::KeyAppeared`] if there is one.
pub(super) async fn place_new(target: &Target, slot: u16, db: u32, bytes: &Bytes) -> Result<(), Error> {
    let commands = commands(bytes);
    let Some((rename, rest)) = commands.split_first() else {
        return Err(Error::Internal("a large value has no name".into()));
    };
    let gate = target.quiet([slot]).await?;
    let mut aside = Aside::new(target);
    let cause = Cause { command: rename, db, offset: None };
    loop {
        let renamed = aside.ask_owner(slot, db, std::slice::from_ref(rename), cause).await;
        let address = match renamed {
            Ok((address, replies)) if replies.first().and_then(Frame::as_i64) == Some(0) => {
                let key = rename.arg(2).unwrap_or_default().escape_ascii().to_string();
                return Err(Error::KeyAppeared { address, db: u64::from(db), key });
            }
            Ok((address, _)) => address,
            // It was there, so this has been done, and the connection was lost before the answer came.
            Err(Error::Refused(refusal)) if refusal.reply.contains("no such key") => refusal.address,
            Err(error) => return Err(error),
        };
        if !rest.is_empty() {
            let cause = Cause { command: &rest[0], db, offset: None };
            aside.ask(slot, db, rest, cause).await?;
        }
        if aside.confirmed(&address).await {
            break;
        }
        // The node is gone, and with it perhaps what it had done.
    }
    target.core().open_gate(gate);
    Ok(())
}

/// What a refusal means where a key was not to be replaced.
pub(super) fn explain(error: Error) -> Error {
    let Error::Refused(refusal) = &error else { return error };
    if refusal.origin != RefusedAt::Snapshot || !refusal.reply.starts_with("BUSYKEY") {
        return error;
    }
    let key = refusal.command.strip_prefix("RESTORE ").map(|rest| match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split(' ').next().unwrap_or_default(),
    });
    Error::KeyAppeared {
        address: refusal.address.clone(),
        db: refusal.db.unwrap_or(0),
        key: key.unwrap_or_default().to_owned(),
    }
}

fn commands(bytes: &Bytes) -> Vec<Command> {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let (mut at, mut commands) = (0, Vec::new());
    // What this program has encoded can be read back.
    while let Ok(Some(command)) = decoder.next_ref(&bytes[at..]) {
        at += command.consumed();
        commands.push(command.to_owned());
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;

    #[test]
    fn what_is_sent_again_replaces() {
        let mut bytes = BytesMut::new();
        for command in [
            &["RESTORE", "a", "0", "x"][..],
            &["SET", "b", "1"],
            &["RESTORE", "c", "5", "y", "ABSTTL", "REPLACE"],
        ] {
            keyferry_resp::encode_command(&mut bytes, command);
        }
        let again = commands(&replacing(&bytes.freeze()));
        let words: Vec<Vec<&[u8]>> = again.iter().map(|command| command.args().collect()).collect();
        assert_eq!(words[0], [&b"RESTORE"[..], b"a", b"0", b"x", b"REPLACE"]);
        assert_eq!((words[1].len(), words[2].len()), (3, 6));
    }

    #[test]
    fn a_refusal_names_the_key() {
        let refused = |command: &str, reply: &str| {
            explain(Error::Refused(Box::new(Refusal {
                address: "a:1".into(),
                reply: reply.into(),
                command: command.into(),
                db: Some(3),
                origin: RefusedAt::Snapshot,
                passed: false,
            })))
        };
        for (command, wanted) in [("RESTORE key 0 x", "key"), ("RESTORE \"a b\" 0 x", "a b")] {
            let error = refused(command, "BUSYKEY Target key name already exists.");
            assert!(matches!(&error, Error::KeyAppeared { key, db: 3, .. } if key == wanted), "{error}");
        }
        assert!(matches!(refused("RESTORE key 0 x", "OOM no"), Error::Refused(_)));
    }
}
