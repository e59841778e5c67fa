//! What a migration leads from or to.

use keyferry_testkit::data::{self, Writer, WriterOptions};
use keyferry_testkit::{Client, Cluster, ClusterBuilder, Sentinels, Server, ServerBinary, Side};

use crate::support::start;

/// One side of a migration.
pub(crate) enum End {
    Server(Box<Server>),
    Cluster(Cluster),
    Sentinels(Sentinels),
}

impl End {
    pub(crate) fn server(binary: &ServerBinary) -> Self {
        End::Server(Box::new(start(binary)))
    }

    /// Three primaries, with `replicas` each; where they have some, one has to be there for each write.
    pub(crate) fn cluster(binary: &ServerBinary, replicas: usize) -> Self {
        let mut builder = Cluster::builder(binary).primaries(3).replicas(replicas);
        if replicas > 0 {
            builder = builder.config("min-replicas-to-write", "1");
        }
        End::built(builder)
    }

    pub(crate) fn built(builder: ClusterBuilder) -> Self {
        End::Cluster(builder.start().unwrap())
    }

    pub(crate) fn sentinels(binary: &ServerBinary) -> Self {
        End::Sentinels(Sentinels::builder(binary).start().unwrap())
    }

    /// The cluster that it has to be.
    pub(crate) fn nodes(&mut self) -> &mut Cluster {
        match self {
            End::Cluster(cluster) => cluster,
            _ => panic!("this is no cluster"),
        }
    }

    /// The sentinels that it has to be, and what they watch.
    pub(crate) fn watched(&mut self) -> &mut Sentinels {
        match self {
            End::Sentinels(sentinels) => sentinels,
            _ => panic!("these are no sentinels"),
        }
    }

    /// The server that it is, or that sentinels name.
    pub(crate) fn primary(&self) -> &Server {
        match self {
            End::Server(server) => server,
            End::Cluster(_) => panic!("a cluster has several"),
            End::Sentinels(sentinels) => sentinels.server(sentinels.primary().unwrap()),
        }
    }

    /// Whether it is one server all the time.
    pub(crate) fn stays(&self) -> bool {
        matches!(self, End::Server(_))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            End::Server(server) => server.url(),
            End::Cluster(cluster) => cluster.url(),
            End::Sentinels(sentinels) => sentinels.url(),
        }
    }

    pub(crate) fn side(&self) -> Side<'static> {
        match self {
            End::Cluster(cluster) => Side::cluster(cluster).unwrap(),
            one => Side::server(one.primary()).unwrap(),
        }
    }

    /// A connection to one of its primaries.
    pub(crate) fn client(&self) -> Client {
        match self {
            End::Cluster(cluster) => cluster.node(cluster.primaries().unwrap()[0]).client().unwrap(),
            one => one.primary().client().unwrap(),
        }
    }

    /// Puts a value of every shape into each of these databases.
    pub(crate) fn fill(&self, databases: u32) {
        match self {
            End::Cluster(cluster) => data::small_cluster(&mut cluster.client().unwrap(), 11, databases),
            one => data::small(&mut one.client(), 11, databases),
        }
        .unwrap();
    }

    pub(crate) fn write(&self, options: WriterOptions) -> Writer {
        match self {
            End::Server(server) => Writer::start(server, options),
            End::Cluster(cluster) => Writer::start_cluster(cluster, options),
            End::Sentinels(sentinels) => Writer::start_sentinel(sentinels, options),
        }
        .unwrap()
    }

    pub(crate) fn settle(&self) {
        match self {
            End::Cluster(cluster) => data::settle_cluster(cluster),
            one => data::settle(&mut one.client()),
        }
        .unwrap();
    }
}
