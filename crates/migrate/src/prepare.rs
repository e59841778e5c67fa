//! What is looked at before anything is written.

use std::{collections::BTreeSet, sync::Arc};

use keyferry_client::{ConnectOptions, Connection, Endpoint, Mode, Role, ServerInfo};
use keyferry_replication::ReplicationId;
use keyferry_routing::{CommandTable, SlotSet};

use crate::{
    dead_letters::DeadLetters,
    error::Error,
    fence::Token,
    filter::Filter,
    fleet::Part,
    hold::Hold,
    identity::MigrationId,
    import::Given,
    journal::blocking,
    migration::{Migration, Prepared},
    options::{Expiry, OnError, Options},
    progress::Meter,
    report::Ends,
    scan::{Found, Reading, Scanner},
    sharded::{Databases, Import, LinkSource, Settings, Sides, TargetMap, Windows},
    source::{Source, collisions},
    target::Abilities,
    throttle::Throttle,
    translate::Translation,
};

/// What tells servers apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    run_id: Option<String>,
    /// The replication id.
    history: Option<String>,
    /// The one before, which the server still goes on with.
    second: Option<String>,
}

impl Identity {
    /// True when it goes on with this history.
    pub(crate) fn has_history(&self, id: ReplicationId) -> bool {
        let is_it = |text: &String| text.parse::<ReplicationId>().is_ok_and(|own| own == id);
        self.history.iter().chain(&self.second).any(is_it)
    }

    #[cfg(test)]
    pub(crate) fn of_history(history: &str, second: Option<&str>) -> Self {
        Identity { run_id: None, history: Some(history.to_owned()), second: second.map(str::to_owned) }
    }

    /// Refuses a target that is the source itself, or that the source replicates to or from.
    pub(crate) fn check(&self, target: &Identity, address: &str) -> Result<(), Error> {
        if self.run_id.is_some() && self.run_id == target.run_id {
            let run_id = self.run_id.clone().unwrap_or_default();
            return Err(Error::SameServer { address: address.to_owned(), run_id });
        }
        if self.history.is_some() && self.history == target.history {
            let id = self.history.clone().unwrap_or_default();
            return Err(Error::SameHistory { address: address.to_owned(), id });
        }
        Ok(())
    }
}

/// Run id and replication id of a server.
pub(crate) async fn identity(connection: &mut Connection) -> Result<Identity, keyferry_client::Error> {
    let known = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let run_id = known(connection.info("server").await?.get("run_id"));
    let replication = connection.info("replication").await?;
    let (history, second) =
        (known(replication.get("master_replid")), known(replication.get("master_replid2")));
    Ok(Identity { run_id, history, second })
}

/// The connection to the source for questions, if it answers them.
pub(crate) async fn source_control(
    mut connection: Connection,
    ends: &mut Ends,
) -> Result<Option<(Connection, Identity)>, Error> {
    ends.source = Some(connection.server().to_string());
    match identity(&mut connection).await {
        Ok(identity) => Ok(Some((connection, identity))),
        // A user that may replicate but not ask: the offset is then what the stream says.
        Err(e) if e.server_code() == Some("NOPERM") => {
            ends.notes.push(format!(
                "the source does not let this user see INFO ({e}): its offset is taken from the stream"
            ));
            Ok(None)
        }
        Err(e) => Err(Error::SourceConnection(e)),
    }
}

/// Refuses a target that cannot be written to.
pub(crate) fn check_target(target: &Connection) -> Result<(), Error> {
    let address = target.address().to_string();
    match (target.server().role, target.server().mode) {
        (Role::Replica, _) => Err(Error::TargetIsReplica { address }),
        (_, Mode::Sentinel) => Err(Error::TargetMode { address, mode: Mode::Sentinel.to_string() }),
        _ => Ok(()),
    }
}

/// A target, looked at before anything is written.
pub(crate) struct TargetSide {
    map: Arc<TargetMap>,
    /// The commands that it knows.
    table: CommandTable,
    databases: Databases,
    /// What its primaries are.
    identities: Vec<(String, Identity)>,
    /// The oldest of them.
    server: ServerInfo,
}

impl TargetSide {
    /// Finds the primaries of a target, whose connections will bear this token.
    async fn find(
        options: &Options,
        (id, token): (&MigrationId, &Token),
        target: Endpoint,
        ends: &mut Ends,
    ) -> Result<Self, Error> {
        let map = TargetMap::new(target).with_client_name(&token.connection_name(id));
        let nodes = map.survey().await.map_err(Error::Target)?;
        if let Some(slot) = nodes.first_gap() {
            return Err(Error::SlotWithoutOwner { slot });
        }
        let mut lowest = None;
        let mut identities = Vec::new();
        let mut databases = None;
        let mut table = CommandTable::builtin().clone();
        for address in nodes.addresses() {
            let to = map.connect_options(&address).with_db(0);
            let mut connection = Connection::connect(&to).await.map_err(Error::Target)?;
            check_target(&connection)?;
            identities.push((address, identity(&mut connection).await.map_err(Error::Target)?));
            databases = database_count(&mut connection, map.is_single()).await;
            learn(&mut table, &mut connection).await;
            let server = connection.server().clone();
            if lowest.as_ref().is_none_or(|other: &ServerInfo| server.version < other.version) {
                lowest = Some(server);
            }
        }
        let Some(server) = lowest else { return Err(Error::SlotWithoutOwner { slot: 0 }) };
        ends.target = Some(match identities.len() {
            1 => server.to_string(),
            several => format!("{server}, {several} primaries"),
        });
        let databases = Databases::new(options.db_map.clone(), databases);
        Ok(TargetSide { map: Arc::new(map), table, databases, identities, server })
    }

    fn abilities(&self) -> Abilities {
        Abilities::of(&self.server)
    }

    /// How it is written to: `meter` has the whole migration's figures, `links` those of each link. No
    /// `sources` mean that nobody knows what the commands come from.
    pub(crate) fn settings(
        &self,
        options: &Options,
        meter: Meter,
        links: Vec<(Meter, Option<SlotSet>)>,
        hold: Arc<Hold>,
        throttle: &Throttle,
        sources: &[ServerInfo],
    ) -> Result<Settings, Error> {
        Ok(Settings {
            throttle: throttle.clone(),
            map: Arc::clone(&self.map),
            table: self.table.clone(),
            databases: self.databases.clone(),
            meter,
            links,
            silence: options.target_silence,
            windows: Windows { connect: options.retry_connect, other: options.retry_other },
            expiry_time: self.server.version >= keyferry_client::Version::new(7, 0, 0),
            cross_slot: options.cross_slot,
            hold,
            delivery: options.delivery,
            letters: match &options.on_error {
                OnError::Stop => None,
                OnError::DeadLetter(path) => Some(DeadLetters::open(path)?),
            },
            filter: options.active_filter().cloned(),
            script: options.script.clone(),
            translation: Translation::between(sources, &self.server, options.on_loss),
            part: None,
            two_way: None,
        })
    }
}

/// Both sides of a migration that has to look into commands.
pub(crate) async fn sharded(
    migration: &Migration,
    id: MigrationId,
    (source, reading): (Endpoint, Reading),
    target: Endpoint,
    scanner: &mut Option<Scanner>,
    ends: &mut Ends,
) -> Result<Prepared, Error> {
    let options = &migration.options;
    let token = Token::new();
    let mut side = TargetSide::find(options, (&id, &token), target, ends).await?;

    let abilities = side.abilities();
    let scanned = match reading {
        Reading::Scan => Some(Found::find(&source).await?),
        _ => None,
    };
    let part = match options.active_worker() {
        Some(worker) => {
            let (whole, changes) = (migration.whole_id()?, options.changes());
            Some(Part::take(worker, whole, &source, &side.map, &changes).await?)
        }
        None => None,
    };
    let source = match &scanned {
        None => {
            let slots = part.as_ref().map(|part| &part.slots);
            Source::find_part(source, options.prefer_replicas, slots).await?
        }
        Some(found) => {
            let same = is_same_server(found, &side.identities, options).await?;
            let found = found.clone();
            let name = found.name();
            let scanner = scanner.insert(Scanner::start(found, migration, abilities, same).await?);
            Source::of(name, scanner.connect.clone())
        }
    };
    ends.notes.extend(source.notes.iter().cloned());
    let ownership = source.ownership().map(|ownership| (source.watchables(), ownership));
    let repeats = scanned.is_some();
    let servers: Vec<ConnectOptions> = match scanned {
        None => source.links.iter().map(|link| link.connect.clone()).collect(),
        Some(found) => found.nodes,
    };
    let mut sources = Vec::new();
    // What a link leads to that is scanned is no server of the source.
    for server in servers.iter().filter(|_| repeats) {
        let connection = Connection::connect(server).await.map_err(Error::SourceConnection)?;
        sources.push(connection.server().clone());
    }
    let mut links = Vec::new();
    for link in source.links {
        let control = Connection::connect(&link.connect).await.map_err(Error::SourceConnection)?;
        if !repeats {
            sources.push(control.server().clone());
        }
        let (control, identity) = match source_control(control, ends).await? {
            Some((mut connection, identity)) => {
                for (address, other) in &side.identities {
                    identity.check(other, address)?;
                }
                learn(&mut side.table, &mut connection).await;
                (Some(connection), Some(identity))
            }
            None => (None, None),
        };
        // Its offsets are not those that are counted here; and it may take a PSYNC that was renamed for a SYNC.
        let counts = reading == Reading::Scan
            || reading == Reading::Psync && options.link.psync_command.eq_ignore_ascii_case("PSYNC");
        let (control, identity) = if counts { (control, identity) } else { (None, None) };
        links.push(LinkSource {
            name: link.name,
            stream: link.stream,
            primary: link.primary,
            sync: reading == Reading::Sync,
            slots: link.slots,
            meter: Meter::default(),
            control,
            identity,
        });
    }
    if links.len() > 1
        && let Some(server) = &mut ends.source
    {
        server.push_str(&format!(", {} primaries", links.len()));
    }
    let filter = options.active_filter().map(|filter| &**filter);
    if let Some(filter) = filter {
        check_filter(filter, options, ownership.is_some(), true)?;
    }
    for link in &mut links {
        let Some(control) = &mut link.control else { continue };
        let held = control.info("keyspace").await.map_err(Error::SourceConnection)?;
        for keyspace in held.keyspace() {
            let db = u64::from(keyspace.db);
            if filter.is_some_and(|filter| filter.leaves_out_all(db)) {
                continue;
            }
            side.databases.to(db).map_err(|why| Error::no_route(None, db, None, why))?;
        }
    }
    if !options.db_map.is_empty() {
        let collisions =
            collisions(&servers, &options.db_map, filter).await.map_err(Error::SourceConnection)?;
        if collisions.count > 0 {
            return Err(Error::Collisions(Box::new(collisions)));
        }
    }
    // With one link the whole migration's figures are the link's.
    if let [link] = &mut links[..] {
        link.meter = migration.meter.clone();
    } else {
        for link in &links {
            migration.meter.add_link(link.name.clone(), link.meter.clone());
        }
    }
    let hold = Arc::new(Hold::new(options.expiry, abilities.deadline_forms(), false));
    let meters = links.iter().map(|link| (link.meter.clone(), link.slots.clone())).collect();
    let mut settings =
        side.settings(options, migration.meter.clone(), meters, hold, &migration.throttle, &sources)?;
    settings.part = part.as_ref().map(|part| part.slots.clone());
    settings.two_way.clone_from(&migration.two_way);
    if migration.two_way.is_some() && !settings.has_one_lane() {
        let why = "a side is a cluster, and both have to be single servers".to_owned();
        return Err(Error::TwoWay { why });
    }
    Ok(Prepared::Sharded(Box::new(Sides {
        links,
        ownership,
        servers,
        repeats,
        settings,
        abilities,
        id,
        token,
        part,
    })))
}

/// True when a source that is scanned is the target itself, which is fine as long as no database is read that is written to.
async fn is_same_server(
    found: &Found,
    targets: &[(String, Identity)],
    options: &Options,
) -> Result<bool, Error> {
    let mut same = false;
    for node in &found.nodes {
        let mut connection =
            Connection::connect(&node.clone().with_db(0)).await.map_err(Error::SourceConnection)?;
        let own = match identity(&mut connection).await {
            Ok(own) => own,
            // Nobody can tell, then.
            Err(error) if error.server_code() == Some("NOPERM") => continue,
            Err(error) => return Err(Error::SourceConnection(error)),
        };
        for (address, other) in targets {
            if own.run_id.is_none() || own.run_id != other.run_id {
                own.check(other, address)?;
                continue;
            }
            same = true;
            let held = connection.info("keyspace").await.map_err(Error::SourceConnection)?;
            let wanted = |db: u64| options.active_filter().is_none_or(|filter| !filter.leaves_out_all(db));
            let read: Vec<u64> =
                held.keyspace().map(|keyspace| keyspace.db.into()).filter(|db| wanted(*db)).collect();
            let to = |db: &u64| *options.db_map.get(db).unwrap_or(db);
            if options.db_map.is_empty() || read.iter().any(|db| wanted(to(db))) {
                return own.check(other, address).map(|()| true);
            }
        }
    }
    Ok(same)
}

/// Files, and a target for what they hold.
pub(crate) async fn import(
    migration: &Migration,
    id: MigrationId,
    given: &Given,
    target: Endpoint,
    ends: &mut Ends,
) -> Result<Prepared, Error> {
    let options = &migration.options;
    let token = Token::new();
    let side = TargetSide::find(options, (&id, &token), target, ends).await?;
    // A pipe can be read once: from here on there is no other attempt.
    ends.begun = true;
    let opened = given.clone();
    let files = blocking(move || opened.open()).await?;
    let kinds: BTreeSet<&str> = files.iter().map(|file| file.kind.name()).collect();
    ends.source = Some(kinds.into_iter().collect::<Vec<_>>().join(", "));
    let has_log = files.iter().any(|file| file.has_log);
    if let Some(filter) = options.active_filter() {
        check_filter(filter, options, false, has_log)?;
    }
    if let OnError::DeadLetter(letters) = &options.on_error
        && given.has(letters)
    {
        return Err(Error::SameFile { path: letters.clone() });
    }
    let abilities = side.abilities();
    // Without commands there is nothing that could prolong what expires.
    let expiry = if has_log { options.expiry } else { Expiry::AsItComes };
    let hold = Hold::new(expiry, abilities.deadline_forms(), false).putting(options.deadlines);
    let hold = Arc::new(hold);
    Ok(Prepared::Import(Box::new(Import { files, target: side, hold, abilities, id, token })))
}

/// Refuses filters that cannot be kept in this migration.
fn check_filter(
    filter: &Filter,
    options: &Options,
    from_cluster: bool,
    has_stream: bool,
) -> Result<(), Error> {
    let no = |why: String| Err(Error::Filter(why));
    if filter.renames() && from_cluster {
        return no("keys of a cluster cannot be renamed: their slots tell which of its shards has the last word on them".into());
    }
    if has_stream && filter.looks_at_values() {
        return no(
            "rules about size, expiry or idle time need every value to be seen, which the commands that follow the snapshot \
             do not show: choose by name, database, type or slot (or convert a snapshot file)"
                .into(),
        );
    }
    match filter.largest_size() {
        Some(size) if size > options.value_limit as u64 => no(format!(
            "a rule tells sizes up to {size} bytes, but values above {} come in parts, whose sum nobody knows: raise \
             --value-limit",
            options.value_limit
        )),
        _ => Ok(()),
    }
}

/// Learns the commands of modules, and others that the built-in table lacks, from a server that tells them.
async fn learn(table: &mut CommandTable, connection: &mut Connection) {
    // Some services forbid it; the built-in table has to do then.
    if let Ok(reply) = connection.call(["COMMAND"]).await {
        table.learn_command_reply(&reply).ok();
    }
}

/// How many databases a target has, if it tells.
async fn database_count(connection: &mut Connection, single: bool) -> Option<u64> {
    let setting = if single { "databases" } else { "cluster-databases" };
    let reply = connection.call(["CONFIG", "GET", setting]).await.ok();
    let value = match reply {
        Some(keyferry_resp::Frame::Array(pair)) => pair.get(1).and_then(keyferry_resp::Frame::as_i64),
        Some(keyferry_resp::Frame::Map(pairs)) => pairs.first().and_then(|(_, value)| value.as_i64()),
        _ => None,
    };
    let value = value.and_then(|count| u64::try_from(count).ok());
    // A cluster that does not know the setting has one database.
    if single { value } else { value.or(Some(1)) }
}
