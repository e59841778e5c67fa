//! The setting `notify-keyspace-events` of a source, for as long as it is followed.

use keyferry_client::{ConnectOptions, Connection};

use crate::error::Error;

/// The classes of events that tell of writes, in the order in which servers write them. `A` stands for all of them.
const NEEDED: &str = "g$lshzxet";

/// A setting that was changed.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    connect: ConnectOptions,
    before: String,
    /// As the server shows what we have set.
    now: String,
}

/// Sees to it that a server sends every event that is needed.
///
/// # Errors
/// [`Error::Scan`] with the classes that are missing, where the setting may not be changed.
pub(super) async fn enable(connect: &ConnectOptions) -> Result<Option<Changed>, Error> {
    let mut connection = Connection::connect(connect).await.map_err(Error::SourceConnection)?;
    let address = connection.address().to_string();
    let Some(before) = get(&mut connection).await? else {
        return Err(Error::Scan {
            address,
            why: "it does not show notify-keyspace-events (CONFIG GET): allow that, or follow by passes instead \
                  (--follow passes)"
                .to_owned(),
        });
    };
    let missing = missing(&before);
    if missing.is_empty() {
        return Ok(None);
    }
    let wanted = format!("{before}KA");
    let reply = connection.call_frame(["CONFIG", "SET", "notify-keyspace-events", &wanted]).await;
    if let Some(error) = reply.map_err(Error::SourceConnection)?.error_reply() {
        let why = format!(
            "notify-keyspace-events is \"{before}\" and lacks {missing}, and may not be set ({error}): have it set to KA, or \
             follow by passes instead (--follow passes)"
        );
        return Err(Error::Scan { address, why });
    }
    let now = get(&mut connection).await?.unwrap_or_default();
    let still = self::missing(&now);
    if !still.is_empty() {
        let why = format!(
            "notify-keyspace-events was set to {wanted}, and is \"{now}\" nevertheless, without {still}"
        );
        return Err(Error::Scan { address, why });
    }
    Ok(Some(Changed { connect: connect.clone(), before, now }))
}

impl Changed {
    /// Puts the setting back, unless somebody else has changed it meanwhile. What a person should know, if anything.
    pub(super) async fn restore(self) -> Option<String> {
        let Self { connect, before, now } = self;
        let address = connect.address().to_string();
        let restored = async {
            let mut connection = Connection::connect(&connect).await.map_err(Error::SourceConnection)?;
            let found = get(&mut connection).await?.unwrap_or_default();
            if found != now {
                return Ok(Some(format!(
                    "notify-keyspace-events of {address} was changed by somebody else meanwhile, to \"{found}\": it was \
                     \"{before}\" before, and stays as it is"
                )));
            }
            let set = ["CONFIG", "SET", "notify-keyspace-events", &before];
            connection.call(set).await.map_err(Error::SourceConnection)?;
            Ok::<_, Error>(None)
        };
        restored.await.unwrap_or_else(|error| {
            Some(format!(
                "notify-keyspace-events of {address} could not be put back to \"{before}\" ({}): set it",
                error.to_line()
            ))
        })
    }
}

async fn get(connection: &mut Connection) -> Result<Option<String>, Error> {
    let reply = connection.call_frame(["CONFIG", "GET", "notify-keyspace-events"]).await;
    let reply = reply.map_err(Error::SourceConnection)?;
    let value = reply.get("notify-keyspace-events").and_then(|value| value.as_str());
    Ok(value.map(str::to_owned))
}

/// What a setting lacks: classes, or the kind of channel.
fn missing(setting: &str) -> String {
    let has = |class: char| setting.contains(class) || (setting.contains('A') && NEEDED.contains(class));
    "K".chars().chain(NEEDED.chars()).filter(|class| !has(*class)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_setting_lacks() {
        for (setting, lacks) in [
            ("", "Kg$lshzxet"),
            ("KA", ""),
            ("AE", "K"),
            ("KEx", "g$lshzet"),
            ("g$lshzxetKd", ""),
            ("KAnm", ""),
        ] {
            assert_eq!(super::missing(setting), lacks, "{setting}");
        }
    }
}
