use keyferry_resp::{ErrorCode, ErrorReply};

use crate::slot::SLOTS;

/// Where to send a command instead: the errors `MOVED`, `ASK` and `REDIRECT`.
///
/// ```
/// use keyferry_resp::ErrorReply;
/// use keyferry_routing::{Redirect, RedirectKind};
///
/// let error = ErrorReply::new("MOVED 12182 ::1:7001");
/// let redirect = Redirect::parse(&error).expect("is one");
/// assert_eq!((redirect.kind, redirect.slot), (RedirectKind::Moved, Some(12182)));
/// assert_eq!(redirect.address("localhost"), ("::1", 7001));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Redirect {
    /// What is meant.
    pub kind: RedirectKind,
    /// The slot; `REDIRECT` names none.
    pub slot: Option<u16>,
    /// The host: an IP address (IPv6 without brackets) or a name. `None`: the one that was asked.
    pub host: Option<String>,
    /// The port, for a connection like the one that was asked.
    pub port: u16,
}

/// What a redirection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedirectKind {
    /// The slot is served there from now on.
    Moved,
    /// The slot is on its way there: send `ASKING` and then this command there. What follows still goes to the owner.
    Ask,
    /// The primary is there (Valkey 8 and later, to clients that said `CLIENT CAPA redirect`).
    Primary,
}

impl Redirect {
    /// Reads an error. `None` if it is no redirection, or none that can be followed.
    pub fn parse(error: &ErrorReply) -> Option<Self> {
        let kind = match error.kind() {
            ErrorCode::Moved => RedirectKind::Moved,
            ErrorCode::Ask => RedirectKind::Ask,
            ErrorCode::Redirect => RedirectKind::Primary,
            _ => return None,
        };
        let message = error.message();
        let mut words = message.split(' ');
        let slot = match kind {
            RedirectKind::Primary => None,
            _ => Some(words.next()?.parse().ok().filter(|&slot: &u16| slot < SLOTS)?),
        };
        let (host, port) = words.next()?.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&port| port != 0)?;
        // `?` stands for a host name that is wanted, but not set.
        let host = Some(host).filter(|host| !matches!(*host, "" | "?")).map(str::to_owned);
        Some(Self { kind, slot, host, port })
    }

    /// Host and port. `asked` is the host of the connection on which the error came.
    pub fn address<'a>(&'a self, asked: &'a str) -> (&'a str, u16) {
        (self.host.as_deref().unwrap_or(asked), self.port)
    }
}
