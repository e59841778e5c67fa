//! Masks that people need.

use std::{borrow::Cow, fmt::Write as _};

use ring::hmac;

use super::{Mask, Part};

/// Bytes of a secret, at least: shorter ones are guessed.
const SALT_BYTES: usize = 8;

/// Bytes of a hash that are kept, as twice as many hexadecimal digits. Two values in a billion billion become one.
const HASH_BYTES: usize = 16;

/// What stands for a character that is not told.
const STAR: char = '*';

/// A mask that people need.
///
/// As text: `hash:SALT`, `fixed:TEXT`, `keep-last:N`, `format`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Masking {
    /// The HMAC-SHA256 of the value under a secret, as 32 hexadecimal digits. Keeps values apart.
    Hash(Secret),
    /// This text for every value.
    Fixed(Vec<u8>),
    /// Stars for all characters but so many at the end; for all where there are no more than these.
    KeepLast(usize),
    /// `x` and `X` for letters, `0` for digits; all else stays: `Anna, 1 (2)` becomes `Xxxx, 0 (0)`.
    Format,
}

/// What hashes are made with.
#[derive(Clone, Debug)]
pub struct Secret(hmac::Key);

/// A secret that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret for hashes has less than {SALT_BYTES} bytes, so that it could be guessed")]
pub struct SaltError;

impl Masking {
    /// The forms of the text.
    pub(super) const FORMS: &str = "hash:SALT, fixed:TEXT, keep-last:N or format for HOW";

    /// Hashes under this secret.
    ///
    /// # Errors
    /// When it is too short.
    pub fn hash(salt: &[u8]) -> Result<Self, SaltError> {
        if salt.len() < SALT_BYTES {
            return Err(SaltError);
        }
        Ok(Masking::Hash(Secret(hmac::Key::new(hmac::HMAC_SHA256, salt))))
    }

    /// Whether a text begins as one of them.
    pub(super) fn is_meant(text: &str) -> bool {
        let begins = |name: &str| text.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        text == "format" || ["hash", "fixed", "keep-last"].into_iter().any(begins)
    }

    pub(super) fn parse(text: &str, salt: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is none of {}", Self::FORMS);
        match text.split_once(':') {
            None if text == "format" => Ok(Masking::Format),
            Some(("hash", "")) => Err(wrong()),
            Some(("hash", name)) => Self::hash(&salt(name)?).map_err(|error| format!("{name}: {error}")),
            Some(("fixed", text)) => Ok(Masking::Fixed(text.into())),
            Some(("keep-last", count)) => count.parse().map(Masking::KeepLast).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl Mask for Masking {
    fn mask<'v>(&self, _part: Part<'_>, value: &'v [u8]) -> Cow<'v, [u8]> {
        Cow::Owned(match self {
            Masking::Hash(key) => hex(key, value).into_bytes(),
            Masking::Fixed(text) => text.clone(),
            Masking::KeepLast(count) => keep_last(value, *count),
            Masking::Format => format(value),
        })
    }

    fn keeps_apart(&self) -> bool {
        matches!(self, Masking::Hash(_))
    }

    fn describe(&self) -> String {
        match self {
            // Another secret is another mask.
            Masking::Hash(key) => format!("hash {}", &hex(key, b"keyferry: the name of a secret")[..8]),
            Masking::Fixed(text) => format!("fixed:{}", text.escape_ascii()),
            Masking::KeepLast(count) => format!("keep-last:{count}"),
            Masking::Format => "format".to_owned(),
        }
    }
}

fn hex(Secret(key): &Secret, value: &[u8]) -> String {
    let mut text = String::with_capacity(2 * HASH_BYTES);
    for byte in hmac::sign(key, value).as_ref().iter().take(HASH_BYTES) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn keep_last(value: &[u8], count: usize) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) => {
            let all = text.chars().count();
            let hidden = if all > count { all - count } else { all };
            let shown = text.chars().enumerate();
            shown.map(|(at, c)| if at < hidden { STAR } else { c }).collect::<String>().into_bytes()
        }
        Err(_) => {
            let hidden = if value.len() > count { value.len() - count } else { value.len() };
            value.iter().enumerate().map(|(at, &byte)| if at < hidden { b'*' } else { byte }).collect()
        }
    }
}

fn format(value: &[u8]) -> Vec<u8> {
    let hidden = |c: char| match c {
        c if c.is_numeric() => '0',
        c if c.is_uppercase() => 'X',
        c if c.is_alphabetic() || !c.is_ascii() => 'x',
        other => other,
    };
    match std::str::from_utf8(value) {
        Ok(text) => text.chars().map(hidden).collect::<String>().into_bytes(),
        Err(_) => {
            value.iter().map(|&byte| if byte.is_ascii() { hidden(byte.into()) as u8 } else { b'x' }).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: &Masking, value: &[u8]) -> String {
        String::from_utf8(mask.mask(Part::String, value).into_owned()).unwrap()
    }

    #[test]
    fn values_are_hidden() {
        let hash = Masking::hash(&[0x0b; 20]).unwrap();
        // RFC 4231, case 1.
        assert_eq!(masked(&hash, b"Hi There"), "b0344c61d8db38535ca8afceaf0bf12b");
        assert_eq!(masked(&Masking::Fixed(b"***".to_vec()), b"x"), "***");
        for (value, count, expected) in [
            ("4111222233334444", 4, "************4444"),
            ("äöü", 2, "*öü"),
            ("ab", 2, "**"),
            ("", 2, ""),
            ("abc", 0, "***"),
        ] {
            assert_eq!(masked(&Masking::KeepLast(count), value.as_bytes()), expected, "{value}");
        }
        assert_eq!(Masking::KeepLast(1).mask(Part::String, b"\xff\xfe"), &b"*\xfe"[..]);
        for (value, expected) in [
            ("Anna.Bell@x-1.org", "Xxxx.Xxxx@x-0.xxx"),
            ("+49 (30) 12", "+00 (00) 00"),
            ("Ärger ①→", "Xxxxx 0x"),
        ] {
            assert_eq!(masked(&Masking::Format, value.as_bytes()), expected, "{value}");
        }
        assert_eq!(masked(&Masking::Format, b"a1\xff"), "x0x");
        assert_eq!(Masking::hash(b"1234567").unwrap_err(), SaltError);
    }
}
