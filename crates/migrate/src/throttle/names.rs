//! Limits by name and as text, as on a command line or in a request.

use std::time::Duration;

use super::{RateLimits, Rates};

/// How much longer than at best an answer may take where nothing is said, with [`RateLimits::adaptive`].
const BEARABLE: Duration = Duration::from_millis(25);

/// A limit that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLimit {
    /// There is no such limit.
    #[error("there is no limit \"{0}\"; limits are {names}", names = RateLimits::NAMES.join(", "))]
    Name(String),
    /// The text is no number with a unit.
    #[error("\"{0}\" is no rate: a number a second is wanted, as in 20000, 50mb or 1g, or none")]
    Rate(String),
    /// The text is no time.
    #[error("\"{0}\" is no time in milliseconds, as in 25, nor on or off")]
    Time(String),
}

impl RateLimits {
    /// The names that [`RateLimits::set`] takes. Those without `full` or `incremental` are for both; `node` is each primary of the
    /// target, `source` each primary of a source that is scanned.
    pub const NAMES: &'static [&'static str] = &[
        "bytes",
        "keys",
        "commands",
        "full-bytes",
        "full-keys",
        "full-commands",
        "incremental-bytes",
        "incremental-commands",
        "node-bytes",
        "node-keys",
        "node-commands",
        "full-node-bytes",
        "full-node-keys",
        "full-node-commands",
        "incremental-node-bytes",
        "incremental-node-commands",
        "source-keys",
        "source-bytes",
        "adaptive",
    ];

    /// Sets one of them: a number a second, with a unit (`k`, `m`, `g`, or `kb`, `mb`, `gb`, of 1024) where there is a need, or `none`. Of
    /// `adaptive` the milliseconds, or `on` for 25, or `off`.
    ///
    /// # Errors
    /// When there is no such limit, or the text is none. Nothing is changed then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), InvalidLimit> {
        if !Self::NAMES.contains(&name) {
            return Err(InvalidLimit::Name(name.chars().take(40).collect()));
        }
        if name == "adaptive" {
            self.adaptive = time(value)?;
            return Ok(());
        }
        let rate = rate(value)?;
        if let Some(what) = name.strip_prefix("source-") {
            *field(&mut self.source, what) = rate;
            return Ok(());
        }
        let (stages, rest) = match (name.strip_prefix("full-"), name.strip_prefix("incremental-")) {
            (Some(rest), _) => ([true, false], rest),
            (_, Some(rest)) => ([false, true], rest),
            _ => ([true, true], name),
        };
        let (of_node, what) = rest.strip_prefix("node-").map_or((false, rest), |what| (true, what));
        let stages = match of_node {
            false => [(stages[0], &mut self.full), (stages[1], &mut self.incremental)],
            true => [(stages[0], &mut self.full_node), (stages[1], &mut self.incremental_node)],
        };
        for (_, rates) in stages.into_iter().filter(|(is_meant, _)| *is_meant) {
            *field(rates, what) = rate;
        }
        Ok(())
    }
}

fn field<'r>(rates: &'r mut Rates, what: &str) -> &'r mut Option<u64> {
    match what {
        "bytes" => &mut rates.bytes,
        "keys" => &mut rates.keys,
        _ => &mut rates.commands,
    }
}

fn rate(text: &str) -> Result<Option<u64>, InvalidLimit> {
    let wrong = || InvalidLimit::Rate(text.chars().take(40).collect());
    let lower = text.trim().to_ascii_lowercase();
    if lower == "none" {
        return Ok(None);
    }
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number =
        digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)?;
    Ok((number > 0).then_some(number))
}

fn time(text: &str) -> Result<Option<Duration>, InvalidLimit> {
    match text {
        "on" => Ok(Some(BEARABLE)),
        "off" | "none" => Ok(None),
        text => {
            let millis =
                text.strip_suffix("ms").unwrap_or(text).parse::<u64>().ok().filter(|&millis| millis > 0);
            let millis = millis.ok_or_else(|| InvalidLimit::Time(text.chars().take(40).collect()))?;
            Ok(Some(Duration::from_millis(millis)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_name() {
        let mut limits = RateLimits::default();
        for (name, value) in [
            ("bytes", "50mb"),
            ("full-bytes", "1G"),
            ("commands", "20k"),
            ("full-keys", "7"),
            ("node-keys", "9"),
            ("incremental-node-bytes", "3"),
            ("source-keys", "5"),
            ("adaptive", "40ms"),
        ] {
            limits.set(name, value).unwrap();
        }
        assert_eq!((limits.full.bytes, limits.incremental.bytes), (Some(1 << 30), Some(50 << 20)));
        assert_eq!((limits.full.commands, limits.incremental.commands), (Some(20 << 10), Some(20 << 10)));
        assert_eq!(
            (limits.full.keys, limits.full_node.keys, limits.incremental_node.bytes),
            (Some(7), Some(9), Some(3))
        );
        assert_eq!((limits.source.keys, limits.adaptive), (Some(5), Some(Duration::from_millis(40))));
        for name in RateLimits::NAMES {
            limits.set(name, "none").unwrap();
        }
        assert!(limits.is_unlimited());
        limits.set("keys", "0").unwrap();
        assert!(limits.is_unlimited());
        for (name, value) in [
            ("byte", "1"),
            ("bytes", "1t"),
            ("bytes", ""),
            ("bytes", "-1"),
            ("adaptive", "soon"),
            ("keys", "99999999999g"),
        ] {
            assert!(limits.set(name, value).is_err(), "{name} {value}");
        }
    }
}
