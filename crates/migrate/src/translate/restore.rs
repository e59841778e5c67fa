//! `RESTORE` in a stream: its value in a form that the target reads.

use bytes::BytesMut;
use keyferry_rdb::{
    convert::{Converted, Converter, Loss},
    dump::{self, Payload},
};
use keyferry_resp::{Command, CommandRef};

use super::Translated;
use crate::target::is_grave;

/// `RESTORE key ttl payload …`. A payload that is none goes on as it is: the target says what is wrong with it.
pub(super) fn restore(command: &CommandRef<'_>, converter: &mut Converter) -> Translated {
    let Some(Ok(payload)) = command.arg(3).map(Payload::parse) else { return Translated::AsItIs };
    let keeps_metadata = converter.target().key_metadata();
    let Ok(conversion) = converter.convert(payload.value) else { return Translated::AsItIs };
    let mut grave: Vec<String> =
        conversion.losses.iter().filter(|loss| is_grave(loss)).map(|loss| loss.to_string()).collect();
    let value = match conversion.converted {
        Converted::Raw(value) | Converted::Reencoded(value) => value,
        // Beyond what a payload may be: as the source sent it, it is no larger.
        Converted::Native => return Translated::AsItIs,
        Converted::Lost => {
            let gone = command.arg(1).map(|key| Command::new([&b"DEL"[..], key]));
            let why = grave.pop().unwrap_or_else(|| "a value".to_owned());
            return Translated::Loses(why, gone.into_iter().collect());
        }
    };
    let mut bytes = BytesMut::new();
    match payload.meta {
        Some(meta) if keeps_metadata => {
            dump::append_payload_with_meta(&mut bytes, meta, value, dump::UNIVERSAL_VERSION);
        }
        Some(_) => {
            grave.push(Loss::KeyMetadata.to_string());
            dump::append_payload(&mut bytes, value, dump::UNIVERSAL_VERSION);
        }
        None => dump::append_payload(&mut bytes, value, dump::UNIVERSAL_VERSION),
    }
    let args: Vec<&[u8]> =
        command.args().enumerate().map(|(n, arg)| if n == 3 { &bytes[..] } else { arg }).collect();
    let translated = vec![Command::new(args)];
    match grave.pop() {
        None => Translated::Commands(translated),
        Some(why) => Translated::Loses(why, translated),
    }
}
