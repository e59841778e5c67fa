//! Passwords that cannot be printed by accident.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest password accepted from a file, in bytes.
///
/// Servers before 6.0.16 and 6.2.6 took any length; later ones cut an unauthenticated argument off at 16384
/// bytes, so nothing longer can be meant.
const MAX_SECRET_FILE: u64 = 16_384;

/// A password. It can be used, but `Debug` and `Display` print `***`.
///
/// Cloning is cheap and shares the bytes. Passwords are bytes, not text: a URL may carry any of them
/// percent-encoded.
///
/// ```
/// use keyferry_client::Secret;
///
/// let secret = Secret::new("correct horse");
/// assert_eq!(format!("{secret:?} {secret}"), "*** ***");
/// assert_eq!(secret.expose(), b"correct horse");
/// ```
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Wraps a password that the program already has.
    pub fn new(password: impl Into<Vec<u8>>) -> Self {
        Self(password.into().into())
    }

    /// Takes the password from the environment variable `name`.
    ///
    /// # Errors
    ///
    /// [`SecretError::Environment`] when the variable is not set or is empty.
    pub fn from_env(name: &str) -> Result<Self, SecretError> {
        // `var_os` panics on neither of these, but documents that they never name a variable.
        let usable = !name.is_empty() && !name.contains(['=', '\0']);
        match usable.then(|| std::env::var_os(name)).flatten() {
            Some(value) if !value.is_empty() => Ok(Self::new(value.into_encoded_bytes())),
            _ => Err(SecretError::Environment { name: name.to_owned() }),
        }
    }

    /// Reads the password from a file; one line end (`\n` or `\r\n`) at its end is not part of the password.
    ///
    /// # Errors
    ///
    /// [`SecretError::File`] when it cannot be read, [`SecretError::FileSize`] when it is empty or holds more
    /// than 16384 bytes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SecretError> {
        use std::io::Read as _;

        let path = path.as_ref();
        let failed = |source| SecretError::File { path: path.to_owned(), source };
        let mut content = Vec::new();
        let mut file = std::fs::File::open(path).map_err(failed)?.take(MAX_SECRET_FILE + 3);
        file.read_to_end(&mut content).map_err(failed)?;
        if content.ends_with(b"\n") {
            content.pop();
            if content.ends_with(b"\r") {
                content.pop();
            }
        }
        if content.is_empty() || content.len() as u64 > MAX_SECRET_FILE {
            return Err(SecretError::FileSize { path: path.to_owned() });
        }
        Ok(Self::new(content))
    }

    /// The password itself, for handing it to a server. Do not log it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Replaces the password wherever a text repeats it: some servers echo the arguments of a command that
    /// they do not know.
    pub(crate) fn redact<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let found = |text: &[u8]| text.windows(self.0.len().max(1)).position(|part| part == &*self.0);
        let mut clean = Vec::new();
        let mut rest = text;
        while let Some(at) = found(rest) {
            clean.extend_from_slice(&rest[..at]);
            clean.extend_from_slice(b"***");
            rest = &rest[at + self.0.len()..];
        }
        if clean.is_empty() {
            return Cow::Borrowed(text);
        }
        clean.extend_from_slice(rest);
        Cow::Owned(clean)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<&str> for Secret {
    fn from(password: &str) -> Self {
        Self::new(password)
    }
}

impl From<String> for Secret {
    fn from(password: String) -> Self {
        Self::new(password)
    }
}

/// Why a password could not be had from where it was said to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The environment variable is missing or empty.
    #[error("the password should be in the environment variable {name:?}, which is not set or is empty")]
    Environment {
        /// Name of the variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read the password file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is empty, or far too long to be a password.
    #[error("the password file {} must hold between 1 and {MAX_SECRET_FILE} bytes", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_struck_out() {
        for (password, text, clean) in [
            ("pw", "no echo", "no echo"),
            ("pw", "pw", "***"),
            ("pw", "apwbpwpwc", "a***b******c"),
            ("", "text", "text"),
            ("longer than the text", "text", "text"),
        ] {
            assert_eq!(*Secret::new(password).redact(text.as_bytes()), *clean.as_bytes());
        }
    }

    #[test]
    fn a_file_may_end_in_one_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        for (content, expected) in [
            (&b"pw"[..], &b"pw"[..]),
            (b"pw\n", b"pw"),
            (b"pw\r\n", b"pw"),
            (b"pw\n\n", b"pw\n"),
            (b" p w \n", b" p w "),
            (b"\xff\x00\n", b"\xff\x00"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Secret::from_file(&path).unwrap().expose(), expected, "{content:?}");
        }
    }

    #[test]
    fn files_that_hold_no_password_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        assert!(matches!(Secret::from_file(&path), Err(SecretError::File { .. })));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Secret::from_file(&path), Err(SecretError::FileSize { .. })));
        std::fs::write(&path, vec![b'x'; 16_384]).unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().expose().len(), 16_384);
        std::fs::write(&path, vec![b'x'; 16_385]).unwrap();
        assert!(matches!(Secret::from_file(&path), Err(SecretError::FileSize { .. })));
    }

    #[test]
    fn variables_that_do_not_exist_are_named() {
        for name in ["", "A=B", "KEYFERRY_TEST_NO_SUCH_VARIABLE"] {
            let error = Secret::from_env(name).unwrap_err();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        // A variable that every test run has.
        assert!(!Secret::from_env("PATH").unwrap().expose().is_empty());
    }
}
