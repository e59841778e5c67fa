//! Certificates for TLS tests, made anew for every test: nothing secret is ever committed.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key (PKCS #8).
    pub key: PathBuf,
}

/// A certificate authority with what it signed, in a temporary directory that goes away with this value.
///
/// ```
/// let certs = keyferry_testkit::Certs::generate()?;
/// let pem = std::fs::read_to_string(&certs.server.cert).unwrap();
/// assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
/// # Ok::<(), keyferry_testkit::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Certs {
    /// The certificate of the authority that signed all the others but [`Certs::other_ca`].
    pub ca: PathBuf,
    /// For a server reached as `127.0.0.1`, `::1` or `localhost`.
    pub server: CertFiles,
    /// For a client that proves who it is.
    pub client: CertFiles,
    /// For a server of another name (`elsewhere.example`): signed by the right authority, valid, and wrong.
    pub wrong_name: CertFiles,
    /// The certificate of an authority that signed none of these.
    pub other_ca: PathBuf,
    dir: TempDir,
}

impl Certs {
    /// Makes keys and certificates.
    ///
    /// # Errors
    /// [`Error::Certificate`] and [`Error::File`].
    pub fn generate() -> Result<Certs> {
        let dir = tempfile::Builder::new().prefix("keyferry-certs-").tempdir();
        let dir = dir.map_err(|source| Error::File { what: "made", path: std::env::temp_dir(), source })?;
        let path = dir.path();
        let ca = Authority::new("keyferry test authority")?;
        let other = Authority::new("some other authority")?;
        let purpose = |purpose| vec![purpose];
        Ok(Certs {
            ca: write(path, "ca.crt", &ca.certificate)?,
            server: ca.sign(
                path,
                "server",
                &["localhost", "127.0.0.1", "::1"],
                // Servers use the same certificate when they connect to each other as replicas.
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            )?,
            client: ca.sign(path, "client", &["client"], purpose(ExtendedKeyUsagePurpose::ClientAuth))?,
            wrong_name: ca.sign(
                path,
                "wrong-name",
                &["elsewhere.example"],
                purpose(ExtendedKeyUsagePurpose::ServerAuth),
            )?,
            other_ca: write(path, "other-ca.crt", &other.certificate)?,
            dir,
        })
    }

    /// The directory that holds the files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// Signs a certificate for `names` (those that parse as addresses become address entries).
    fn sign(
        &self,
        dir: &Path,
        file: &str,
        names: &[&str],
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<CertFiles> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = purposes;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(CertFiles {
            cert: write(dir, &format!("{file}.crt"), &certificate.pem())?,
            key: write(dir, &format!("{file}.key"), &key.serialize_pem())?,
        })
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    match std::fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::File { what: "written", path, source }),
    }
}
