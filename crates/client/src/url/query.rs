//! The options of a URL, and the small pieces of text that they are made of.

use std::time::Duration;

use keyferry_resp::Protocol;
use percent_encoding::percent_decode_str;

use super::{URL_OPTIONS, UrlError};
use crate::{ConnectOptions, Secret, TlsOptions};

/// The values of the options, by their position in [`URL_OPTIONS`].
pub(super) struct Query([Option<String>; URL_OPTIONS.len()]);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, UrlError> {
        if text.contains('@') {
            return Err(UrlError::Reserved { character: '@', encoded: "%40" });
        }
        let mut query = Self(Default::default());
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(at) = URL_OPTIONS.iter().position(|known| *known == name) else {
                let plain =
                    name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
                return Err(UrlError::UnknownOption {
                    name: if plain { name.to_owned() } else { "…".to_owned() },
                });
            };
            let value = decode_text(value, "an option of the URL")?;
            if query.0[at].replace(value).is_some() {
                return Err(UrlError::Repeated { name: URL_OPTIONS[at] });
            }
        }
        Ok(query)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = URL_OPTIONS.iter().position(|known| *known == name)?;
        self.0[at].take()
    }

    /// The value of an option that is `true` or `false`.
    pub(super) fn take_flag(&mut self, name: &'static str) -> Result<Option<bool>, UrlError> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(UrlError::OptionValue { name, expected: "true or false" }),
        }
    }

    /// The database, from the path or from `db`.
    pub(super) fn take_db(&mut self, path: &str) -> Result<u32, UrlError> {
        match (path, self.take("db")) {
            ("", None) => Ok(0),
            ("", Some(value)) => parse_number(&value)
                .ok_or(UrlError::OptionValue { name: "db", expected: "a database number" }),
            (path, None) => parse_number(path).ok_or(UrlError::Database),
            (path, Some(_)) => {
                parse_number(path).ok_or(UrlError::Database)?;
                Err(UrlError::Conflict { what: "database", first: "the path", second: "db=" })
            }
        }
    }

    /// The options about TLS, which are errors without it.
    pub(super) fn take_tls(&mut self, tls: bool) -> Result<Option<TlsOptions>, UrlError> {
        if tls {
            return self.tls_options().map(Some);
        }
        let given =
            ["ca", "cert", "key", "sni", "insecure"].into_iter().find(|name| self.take(name).is_some());
        given.map_or(Ok(None), |name| Err(UrlError::NotTls { name }))
    }

    fn tls_options(&mut self) -> Result<TlsOptions, UrlError> {
        let mut tls = TlsOptions::new();
        if let Some(ca) = self.take("ca") {
            tls = tls.with_ca_file(ca);
        }
        tls = match (self.take("cert"), self.take("key")) {
            (Some(cert), Some(key)) => tls.with_client_certificate_files(cert, key),
            (Some(_), None) => return Err(UrlError::Incomplete { given: "cert", missing: "key" }),
            (None, Some(_)) => return Err(UrlError::Incomplete { given: "key", missing: "cert" }),
            (None, None) => tls,
        };
        if let Some(name) = self.take("sni") {
            if rustls_pki_types::ServerName::try_from(name.as_str()).is_err() {
                return Err(UrlError::OptionValue { name: "sni", expected: "a host name or an IP address" });
            }
            tls = tls.with_server_name(name);
        }
        let insecure = self.take_flag("insecure")?.unwrap_or(false);
        Ok(if insecure { tls.with_any_certificate_accepted() } else { tls })
    }

    /// Sets timeouts, protocol, name and password. What is left then has no meaning for this kind of URL.
    pub(super) fn apply(mut self, options: &mut ConnectOptions) -> Result<(), UrlError> {
        for (name, timeout) in [
            ("connect-timeout", &mut options.connect_timeout),
            ("read-timeout", &mut options.read_timeout),
            ("write-timeout", &mut options.write_timeout),
        ] {
            if let Some(value) = self.take(name) {
                *timeout = parse_timeout(&value).ok_or(UrlError::OptionValue {
                    name,
                    expected: "a time such as 500ms, 5s, 2m, 1h, or none",
                })?;
            }
        }
        if let Some(value) = self.take("protocol") {
            options.protocol = match value.as_str() {
                "2" => Protocol::Resp2,
                "3" => Protocol::Resp3,
                _ => return Err(UrlError::OptionValue { name: "protocol", expected: "2 or 3" }),
            };
        }
        if let Some(value) = self.take("client-name") {
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
                let expected = "printable ASCII characters without blanks";
                return Err(UrlError::OptionValue { name: "client-name", expected });
            }
            options.client_name = Some(value);
        }
        for (name, schemes) in [
            ("address-map", "redis+cluster:// and redis+sentinel://"),
            ("sentinel-user", "redis+sentinel://"),
            ("sentinel-password-env", "redis+sentinel://"),
            ("sentinel-password-file", "redis+sentinel://"),
            ("sentinel-tls", "redis+sentinel://"),
        ] {
            if self.take(name).is_some() {
                return Err(UrlError::NotHere { name, schemes });
            }
        }
        // The source of the password comes last: nothing is read for a URL that is wrong anyway.
        let (env, file) = (self.take("password-env"), self.take("password-file"));
        let source = SecretSource::of("password", [("password-env=", env), ("password-file=", file)])?;
        if let Some(source) = source {
            if options.password.is_some() {
                let (first, second) = ("USER:PASSWORD@", source.name());
                return Err(UrlError::Conflict { what: "password", first, second });
            }
            options.password = Some(source.read()?);
        }
        Ok(())
    }
}

/// Where a password is, not yet read.
pub(super) enum SecretSource {
    Env(&'static str, String),
    File(&'static str, String),
}

impl SecretSource {
    /// From the values of the two options, of which one at most may be given.
    pub(super) fn of(
        what: &'static str,
        [env, file]: [(&'static str, Option<String>); 2],
    ) -> Result<Option<Self>, UrlError> {
        match (env, file) {
            ((first, Some(_)), (second, Some(_))) => Err(UrlError::Conflict { what, first, second }),
            ((name, Some(variable)), _) => Ok(Some(Self::Env(name, variable))),
            (_, (name, Some(path))) => Ok(Some(Self::File(name, path))),
            _ => Ok(None),
        }
    }

    pub(super) fn read(&self) -> Result<Secret, UrlError> {
        match self {
            Self::Env(_, variable) => Ok(Secret::from_env(variable)?),
            Self::File(_, path) => Ok(Secret::from_file(path)?),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Env(name, _) | Self::File(name, _) => name,
        }
    }
}

/// Digits only: no sign, no blank.
pub(super) fn parse_number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn parse_timeout(text: &str) -> Option<Option<Duration>> {
    if text == "none" {
        return Some(None);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok().filter(|&number| number > 0)?;
    let milliseconds = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Some(Duration::from_millis(milliseconds)))
}

pub(super) fn decode(text: &str, part: &'static str) -> Result<Vec<u8>, UrlError> {
    let bytes = text.as_bytes();
    let sound = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if sound { Ok(percent_decode_str(text).collect()) } else { Err(UrlError::Encoding { part }) }
}

pub(super) fn decode_text(text: &str, part: &'static str) -> Result<String, UrlError> {
    String::from_utf8(decode(text, part)?).map_err(|_| UrlError::Encoding { part })
}
