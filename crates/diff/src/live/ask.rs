//! Asking a server once more for values of which its snapshot showed that they differ.

use std::sync::Arc;

use keyferry_client::Endpoint;

use super::contents::{LARGE, WINDOW};
use super::nodes::{Channel, LiveSide};
use super::read::Payload;
use crate::error::Error;
use crate::options::DiffOptions;
use crate::places::Places;

/// Values asked for at once.
const CHUNK: usize = (WINDOW / LARGE) as usize;
/// The highest number of a database that is looked for.
const DATABASES: u64 = 1024;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// Values that were not given: too large, refused, or gone.
    pub(crate) left: u64,
}

/// Gives `places` the values that it wants of a side; `becomes` is the database of the target for one of the side.
pub(crate) async fn ask(
    endpoint: &Endpoint,
    options: &DiffOptions,
    side: usize,
    becomes: impl Fn(u64) -> u64,
    places: &mut Places,
) -> Result<Asked, Error> {
    let live = Arc::new(LiveSide::find(endpoint, options.patience).await?);
    let mut asked = Asked::default();
    for (db, keys) in places.keys() {
        // Those that become this one: the source's databases may have other numbers.
        let own: Vec<u32> = (0..DATABASES)
            .filter(|own| becomes(*own) == db)
            .filter_map(|own| u32::try_from(own).ok())
            .collect();
        let mut left = keys;
        for own in own {
            if left.is_empty() {
                break;
            }
            let mut channel = Channel::new(&live, own);
            let sizes = channel.sizes(&left).await?;
            let mut missing = Vec::new();
            let (small, large): (Vec<_>, Vec<_>) =
                left.into_iter().zip(sizes).partition(|(_, size)| size.is_some_and(|size| size <= LARGE));
            missing.extend(large.into_iter().map(|(key, _)| key));
            for chunk in small.chunks(CHUNK) {
                let keys: Vec<_> = chunk.iter().map(|(key, _)| key.clone()).collect();
                for (key, payload) in keys.iter().zip(channel.payloads(&keys).await?) {
                    match payload {
                        Payload::Whole(bytes) => places.payload(side, db, key, &bytes)?,
                        Payload::Missing | Payload::Refused => missing.push(key.clone()),
                    }
                }
            }
            left = missing;
        }
        asked.left += left.len() as u64;
    }
    Ok(asked)
}
