//! Connections as their server knows them: what a lost one had sent must not be executed behind the next one's back.
//!
//! A server that was busy or out of reach for a while may have commands of a connection before it that was given up here,
//! and network stacks deliver what was sent into a gap long after it has closed. Whoever asks for a checkpoint over a new
//! connection has the server close the old one first.

use std::time::Duration;

use keyferry_client::{Connection, Error};

/// How long a server that closes no connections is given to execute what is before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection at its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// Which start of which server.
    server: String,
    id: i64,
}

impl Session {
    /// What the server calls this connection; none where it does not tell.
    pub(super) async fn of(connection: &mut Connection) -> Result<Option<Session>, Error> {
        let info = connection.info("server").await?;
        let id = match connection.server().connection_id {
            Some(id) => Some(id),
            None => connection.call_frame(["CLIENT", "ID"]).await?.as_i64(),
        };
        Ok(info.get("run_id").zip(id).map(|(server, id)| Session { server: server.to_owned(), id }))
    }

    /// True when both are connections to the same start of the same server.
    pub(super) fn is_at(&self, other: &Session) -> bool {
        self.server == other.server
    }

    /// Has the server of `connection`, which knows that as `new`, close this one, if it is the same server still.
    pub(super) async fn end(&self, connection: &mut Connection, new: Option<&Session>) -> Result<(), Error> {
        if new.is_some_and(|new| new.server != self.server) {
            return Ok(());
        }
        let closed = match new {
            Some(_) => connection.call_frame(["CLIENT", "KILL", "ID", &self.id.to_string()]).await?.as_i64(),
            None => None,
        };
        if closed.is_none() {
            tokio::time::sleep(PATIENCE).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyferry_client::ConnectOptions;
    use keyferry_testkit::{Server, all};

    use super::*;

    #[tokio::test]
    async fn a_lost_connection_executes_nothing_any_more() {
        for binary in all().unwrap() {
            let server = Server::builder(binary).start().unwrap();
            let options = ConnectOptions::tcp("127.0.0.1", server.port());
            let mut old = Connection::connect(&options).await.unwrap();
            let former = Session::of(&mut old).await.unwrap().unwrap();
            let mut new = Connection::connect(&options).await.unwrap();
            let session = Session::of(&mut new).await.unwrap();
            // Of another start of the server, the number says nothing.
            let restarted = Session { server: "another".into(), ..former.clone() };
            restarted.end(&mut new, session.as_ref()).await.unwrap();
            old.call(["INCR", "n"]).await.unwrap();
            former.end(&mut new, session.as_ref()).await.unwrap();
            assert!(old.call(["INCR", "n"]).await.is_err(), "{binary:?}");
            // Once more does no harm.
            former.end(&mut new, session.as_ref()).await.unwrap();
            assert_eq!(new.call(["GET", "n"]).await.unwrap().as_bytes().unwrap(), "1");
        }
    }
}
