use bytes::BytesMut;
use tokio_util::codec::{Decoder as Decode, Encoder as Encode};

use crate::{Command, CommandDecoder, DecodeError, Decoder, Frame, Limits, Protocol, encode_frame};

/// Why a stream of frames or commands ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Reading or writing failed.
    #[error("the connection failed: {0}; reconnect")]
    Io(#[from] std::io::Error),
    /// The peer sent what is not RESP, or ended inside a frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The client's side of a connection, for `tokio_util::codec::Framed`: takes [`Command`]s, gives [`Frame`]s.
///
/// Pushes come as frames like replies do; [`Frame::is_push`] tells them apart. At the end of the stream a frame that
/// is cut is [`DecodeError::Truncated`].
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_resp::{Command, Frame, RespCodec};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// let mut codec = RespCodec::new();
/// let mut out = BytesMut::new();
/// codec.encode(Command::new(["PING"]), &mut out)?;
/// assert_eq!(out, "*1\r\n$4\r\nPING\r\n");
/// let pong = codec.decode(&mut BytesMut::from("+PONG\r\n"))?;
/// assert_eq!(pong, Some(Frame::Simple("PONG".into())));
/// # Ok::<(), keyferry_resp::CodecError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RespCodec {
    decoder: Decoder,
}

impl RespCodec {
    /// A codec with the default [`Limits`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A codec with limits of your own.
    pub fn with_limits(limits: Limits) -> Self {
        Self { decoder: Decoder::with_limits(limits) }
    }

    /// Bytes of replies read so far.
    pub fn offset(&self) -> u64 {
        self.decoder.offset()
    }
}

impl Decode for RespCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        Ok(self.decoder.decode(src)?)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match self.decoder.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None if src.is_empty() && !self.decoder.is_mid_frame() => Ok(None),
            None => Err(DecodeError::Truncated { offset: self.decoder.offset() + src.len() as u64 }.into()),
        }
    }
}

impl Encode<Command> for RespCodec {
    type Error = CodecError;

    fn encode(&mut self, command: Command, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.encode(&command, dst)
    }
}

impl Encode<&Command> for RespCodec {
    type Error = CodecError;

    fn encode(&mut self, command: &Command, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(command.raw());
        Ok(())
    }
}

/// The server's side of a connection, for `tokio_util::codec::Framed`: takes [`Frame`]s, gives [`Command`]s. Made for
/// scripted peers and proxies.
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_resp::{CommandCodec, Frame, Protocol};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// let mut codec = CommandCodec::new();
/// let hello = codec.decode(&mut BytesMut::from("HELLO 3\r\n"))?.expect("is complete");
/// assert!(hello.is("hello"));
/// codec.set_protocol(Protocol::Resp3);
/// let mut out = BytesMut::new();
/// codec.encode(Frame::Map(vec![("proto".into(), 3.into())]), &mut out)?;
/// assert_eq!(out, "%1\r\n$5\r\nproto\r\n:3\r\n");
/// # Ok::<(), keyferry_resp::CodecError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CommandCodec {
    decoder: CommandDecoder,
    protocol: Protocol,
}

impl CommandCodec {
    /// A codec with the default [`Limits`] that writes RESP2, as every connection begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// A codec with limits of your own.
    pub fn with_limits(limits: Limits) -> Self {
        Self { decoder: CommandDecoder::with_limits(limits), protocol: Protocol::default() }
    }

    /// Sets what the frames are written in from now on: what HELLO asked for.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// What the frames are written in.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Bytes of commands read so far.
    pub fn offset(&self) -> u64 {
        self.decoder.offset()
    }
}

impl Decode for CommandCodec {
    type Item = Command;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Command>, CodecError> {
        Ok(self.decoder.decode(src)?)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Command>, CodecError> {
        match self.decoder.decode(src)? {
            Some(command) => Ok(Some(command)),
            None if src.is_empty() => Ok(None),
            None => Err(DecodeError::Truncated { offset: self.decoder.offset() + src.len() as u64 }.into()),
        }
    }
}

impl Encode<Frame> for CommandCodec {
    type Error = CodecError;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.encode(&frame, dst)
    }
}

impl Encode<&Frame> for CommandCodec {
    type Error = CodecError;

    fn encode(&mut self, frame: &Frame, dst: &mut BytesMut) -> Result<(), CodecError> {
        encode_frame(dst, frame, self.protocol);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (mut client, mut server) = (RespCodec::new(), CommandCodec::new());
        let mut wire = BytesMut::new();
        let set = Command::new([&b"SET"[..], b"k", b"\r\n\0"]);
        client.encode(&set, &mut wire).unwrap();
        client.encode(Command::new(["PING"]), &mut wire).unwrap();
        assert_eq!(server.decode(&mut wire).unwrap().unwrap(), set);
        assert!(server.decode_eof(&mut wire).unwrap().unwrap().is("ping"));
        assert_eq!(server.decode_eof(&mut wire).unwrap(), None);
        assert_eq!(server.offset(), set.raw().len() as u64 + 14);

        let frame = Frame::Map(vec![("a".into(), true.into())]);
        for (protocol, arrives) in [
            (Protocol::Resp2, Frame::Array(vec!["a".into(), Frame::Integer(1)])),
            (Protocol::Resp3, frame.clone()),
        ] {
            server.set_protocol(protocol);
            assert_eq!(server.protocol(), protocol);
            server.encode(&frame, &mut wire).unwrap();
            assert_eq!(client.decode(&mut wire).unwrap(), Some(arrives));
        }
        assert_eq!(client.decode_eof(&mut wire).unwrap(), None);
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        for cut in ["*2\r\n:1\r\n", "$5\r\nhel", "+OK", "*1\r\n"] {
            let mut codec = RespCodec::new();
            let mut buf = BytesMut::from(cut);
            assert!(codec.decode(&mut buf).unwrap().is_none());
            let error = codec.decode_eof(&mut buf).unwrap_err();
            let offset = cut.len() as u64;
            assert!(
                matches!(error, CodecError::Decode(DecodeError::Truncated { offset: o }) if o == offset),
                "{error}"
            );
        }
        for cut in ["*2\r\n$1\r\na\r\n", "*1\r\n", "PIN", "*"] {
            let mut codec = CommandCodec::new();
            let mut buf = BytesMut::from(cut);
            assert!(codec.decode(&mut buf).unwrap().is_none());
            let error = codec.decode_eof(&mut buf).unwrap_err();
            let offset = cut.len() as u64;
            assert!(
                matches!(error, CodecError::Decode(DecodeError::Truncated { offset: o }) if o == offset),
                "{error}"
            );
        }
        let mut codec = CommandCodec::new();
        assert!(codec.decode_eof(&mut BytesMut::from("\n\n")).unwrap().is_none());
    }

    #[test]
    fn limits_are_passed_on() {
        let limits = Limits::new().bulk_bytes(1);
        let error = RespCodec::with_limits(limits).decode(&mut BytesMut::from("$2\r\n")).unwrap_err();
        assert!(matches!(error, CodecError::Decode(DecodeError::BulkTooLong { .. })));
        let error =
            CommandCodec::with_limits(limits).decode(&mut BytesMut::from("*1\r\n$2\r\n")).unwrap_err();
        assert!(matches!(error, CodecError::Decode(DecodeError::BulkTooLong { .. })));
    }
}
