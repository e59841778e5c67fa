//! Where to connect: a primary that moves is looked for before every attempt.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use keyferry_client::{Address, ConnectOptions, SentinelOptions, sentinel};

use crate::error::Error;

/// What [`Locate::locate`] gives.
pub type Locating<'a> = Pin<Box<dyn Future<Output = Result<ConnectOptions, Error>> + Send + 'a>>;

/// Knows where the server is that a [`Replica`](crate::Replica) is to follow.
///
/// It is asked before every connection, the first and each one after a loss, so that a link follows a failover: the
/// server that was promoted goes on with the same history (PSYNC2, Redis 4.0 and later), and what had not been read is
/// read from there.
///
/// [`ConnectOptions`] locate one fixed server, [`SentinelOptions`] the primary that sentinels name. A closure does for
/// anything that need not wait:
///
/// ```
/// use std::time::Duration;
/// use keyferry_client::{Address, ConnectOptions};
/// use keyferry_replication::{LinkOptions, Replica};
///
/// // Two servers of one replication, tried in turn.
/// let (a, b) = (ConnectOptions::tcp("10.0.0.1", 6379), ConnectOptions::tcp("10.0.0.2", 6379));
/// let other = move |lost: Option<&Address>| Ok(if lost == Some(a.address()) { b.clone() } else { a.clone() });
/// let replica = Replica::following(other, LinkOptions::default(), Duration::from_secs(60), None);
/// ```
pub trait Locate: Send + Sync {
    /// Where to connect now. `lost` is the server that was tried last, if one was: the link to it was lost, or could not
    /// be made.
    ///
    /// # Errors
    /// When nobody can say. Retryable errors ([`Error::is_retryable`]) make a replica that has lost its link ask again.
    fn locate<'a>(&'a self, lost: Option<&'a Address>) -> Locating<'a>;
}

impl Locate for ConnectOptions {
    fn locate<'a>(&'a self, _lost: Option<&'a Address>) -> Locating<'a> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

impl Locate for SentinelOptions {
    fn locate<'a>(&'a self, _lost: Option<&'a Address>) -> Locating<'a> {
        Box::pin(async { Ok(sentinel::primary(self).await?) })
    }
}

impl<F> Locate for F
where
    F: Fn(Option<&Address>) -> Result<ConnectOptions, Error> + Send + Sync,
{
    fn locate<'a>(&'a self, lost: Option<&'a Address>) -> Locating<'a> {
        Box::pin(std::future::ready(self(lost)))
    }
}

/// A locator that is shared, as a trait object. Cheap to clone.
#[derive(Clone)]
pub struct Locator(Arc<dyn Locate>);

impl Locator {
    /// Shares a locator.
    pub fn new(locate: impl Locate + 'static) -> Self {
        Locator(Arc::new(locate))
    }
}

impl Locate for Locator {
    fn locate<'a>(&'a self, lost: Option<&'a Address>) -> Locating<'a> {
        self.0.locate(lost)
    }
}

impl fmt::Debug for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locator")
    }
}
