//! TLS: what to trust, what to show, and what went wrong in words.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Address, Error};

/// TLS settings of a connection.
///
/// By default the server's certificate is verified against the system's authorities and must be for the host
/// connected to. Files are read at every connection, so renewed certificates are picked up by a reconnect.
///
/// ```
/// use keyferry_client::{ConnectOptions, TlsOptions};
///
/// let tls = TlsOptions::new().with_ca_file("/etc/ssl/redis-ca.pem").with_server_name("redis.internal");
/// let options = ConnectOptions::tcp("10.0.0.7", 6379).with_tls(tls);
/// assert_eq!(
///     options.to_string(),
///     "rediss://10.0.0.7:6379?ca=/etc/ssl/redis-ca.pem&sni=redis.internal"
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// `None`: the authorities of the system.
    authorities: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
    any_certificate: bool,
}

impl TlsOptions {
    /// Full verification against the system's authorities, no client certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this PEM file, and no others.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(Pem::File(path.into()));
        self
    }

    /// Trusts the authorities in this PEM text, and no others.
    #[must_use]
    pub fn with_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(Pem::Text(pem.into().into()));
        self
    }

    /// Shows a client certificate: PEM files of the chain, the client's own certificate first, and of its
    /// private key (PKCS #8, PKCS #1 or SEC 1, not encrypted).
    #[must_use]
    pub fn with_client_certificate_files(
        mut self,
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((Pem::File(chain.into()), Pem::File(key.into())));
        self
    }

    /// As [`with_client_certificate_files`](Self::with_client_certificate_files), from PEM texts.
    #[must_use]
    pub fn with_client_certificate_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::Text(chain.into().into()), Pem::Text(key.into().into())));
        self
    }

    /// The name asked for in the handshake (SNI) and required of the certificate, instead of the host
    /// connected to. An IP address is not sent, but still required of the certificate.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Turns verification **off**: any certificate of any server is accepted.
    ///
    /// The connection is then encrypted, but to nobody in particular: whoever sits between can read and change
    /// everything on it, the password included. For tests on one machine; a self-signed certificate in
    /// production belongs into [`with_ca_file`](Self::with_ca_file).
    #[must_use]
    pub fn with_any_certificate_accepted(mut self) -> Self {
        self.any_certificate = true;
        self
    }

    /// Whether the server's certificate and name are verified.
    pub fn verifies(&self) -> bool {
        !self.any_certificate
    }

    /// Adds what a URL can say.
    pub(crate) fn url_options(&self, query: &mut Vec<(&'static str, String)>) {
        if let Some(Pem::File(path)) = &self.authorities {
            query.push(("ca", path.to_string_lossy().into_owned()));
        }
        if let Some((Pem::File(cert), Pem::File(key))) = &self.identity {
            query.push(("cert", cert.to_string_lossy().into_owned()));
            query.push(("key", key.to_string_lossy().into_owned()));
        }
        if let Some(name) = &self.server_name {
            query.push(("sni", name.clone()));
        }
        if self.any_certificate {
            query.push(("insecure", "true".to_owned()));
        }
    }

    /// The name to verify on a connection to `host`.
    pub(crate) fn name_for(&self, host: &str) -> Result<ServerName<'static>, Error> {
        let name = match &self.server_name {
            Some(name) => name.as_str(),
            // The zone of a link-local address is no part of a name.
            None => host.split_once('%').map_or(host, |(ip, _)| ip),
        };
        ServerName::try_from(name.to_owned()).map_err(|_| Error::TlsSetup {
            what: "the TLS server name",
            origin: format!("{name:?}"),
            reason: "it is neither a host name nor an IP address".to_owned(),
        })
    }

    /// Reads the files and builds the settings for the TLS library. Blocking.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| setup("TLS", "the protocol versions", error))?;
        let trusting = if self.any_certificate {
            versions.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            versions.with_root_certificates(self.roots()?)
        };
        let Some((chain, key)) = &self.identity else { return Ok(trusting.with_no_client_auth()) };
        let certificates = chain.certificates("the client certificate")?;
        let what = "the private key of the client certificate";
        let parsed =
            PrivateKeyDer::from_pem_slice(&key.read(what)?).map_err(|error| setup(what, key, error))?;
        trusting.with_client_auth_cert(certificates, parsed).map_err(|error| setup(what, key, error))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        let what = "the certificate authorities";
        if let Some(pem) = &self.authorities {
            for certificate in pem.certificates(what)? {
                roots.add(certificate).map_err(|error| setup(what, pem, error))?;
            }
            return Ok(roots);
        }
        let found = rustls_native_certs::load_native_certs();
        // A system's store often holds a few certificates that no modern library takes; the rest counts.
        let (added, _ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let reason =
                found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
            return Err(setup(what, "this system (name your own with ca=FILE)", reason));
        }
        Ok(roots)
    }
}

/// PEM text: in a file, or at hand. `Debug` does not show it: it may be a private key.
#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Text(Arc<[u8]>),
}

impl Pem {
    fn read(&self, what: &'static str) -> Result<Arc<[u8]>, Error> {
        match self {
            Self::File(path) => std::fs::read(path).map(Into::into).map_err(|error| setup(what, self, error)),
            Self::Text(text) => Ok(Arc::clone(text)),
        }
    }

    fn certificates(&self, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read(what)?).collect();
        match found {
            Ok(certificates) if certificates.is_empty() => Err(setup(what, self, "no certificate in it")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(setup(what, self, error)),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("the PEM text given"),
        }
    }
}

fn setup(what: &'static str, origin: impl fmt::Display, reason: impl fmt::Display) -> Error {
    Error::TlsSetup { what, origin: origin.to_string(), reason: reason.to_string() }
}

/// Accepts every certificate, but still checks that the server holds the key of the one it shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The TLS error inside an I/O error, if that is what it is, with a reason and a remedy.
pub(crate) fn explain(address: &Address, error: &std::io::Error) -> Option<Error> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let (reason, advice) = match tls {
        rustls::Error::InvalidCertificate(fault) => explain_certificate(fault),
        rustls::Error::InvalidMessage(_) => (
            "it does not answer in TLS".to_owned(),
            "if this is the plain port, use redis:// or the TLS port",
        ),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert),
        rustls::Error::PeerIncompatible(fault) => (
            format!("client and server have no TLS version or method in common ({fault:?})"),
            "the server must offer TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20",
        ),
        other => {
            (crate::error::printable(other.to_string().as_bytes()), "see the TLS settings of the server")
        }
    };
    Some(Error::Tls { address: address.clone(), reason, advice })
}

fn explain_certificate(fault: &CertificateError) -> (String, &'static str) {
    use CertificateError as Fault;
    match fault {
        Fault::UnknownIssuer => (
            "no authority trusted here has signed its certificate".to_owned(),
            "name the authority's certificate with ca=FILE",
        ),
        Fault::NotValidForName => (
            "its certificate is for another name".to_owned(),
            "connect by a name that is in the certificate, or give that name with sni=NAME",
        ),
        Fault::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") };
            (
                format!(
                    "its certificate is not for {}, but for {}",
                    crate::error::printable(expected.to_str().as_bytes()),
                    crate::error::printable(names.as_bytes())
                ),
                "connect by a name that is in the certificate, or give that name with sni=NAME",
            )
        }
        Fault::Expired | Fault::ExpiredContext { .. } => {
            ("its certificate has expired".to_owned(), "renew it, or set the clock of this machine right")
        }
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            ("its certificate is not valid yet".to_owned(), "set the clock of this machine right")
        }
        other => (
            format!(
                "its certificate is not acceptable: {}",
                crate::error::printable(other.to_string().as_bytes())
            ),
            "the certificate must be made anew, or its authority named with ca=FILE",
        ),
    }
}

fn explain_alert(alert: AlertDescription) -> (String, &'static str) {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            ("it wants a client certificate".to_owned(), "give one with cert=FILE and key=FILE")
        }
        Alert::HandshakeFailure => (
            "it broke the handshake off".to_owned(),
            "it may want a client certificate (cert=FILE, key=FILE), or other TLS versions and methods",
        ),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::DecryptError => (
            format!("it refuses the client certificate ({alert:?})"),
            "the certificate must be signed by an authority that the server trusts, and still be valid",
        ),
        Alert::UnrecognisedName => {
            ("it does not know the name asked for".to_owned(), "give the right name with sni=NAME")
        }
        other => (format!("it ended TLS with the alert {other:?}"), "see the log of the server"),
    }
}
