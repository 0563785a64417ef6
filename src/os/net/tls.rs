//! Certificates: who a member is, and whom it believes.
//!
//! A cluster has a private authority. A member's certificate names it (`n2.CLUSTER.pg-replica`), so
//! that a member cannot speak for another one; whoever operates the cluster has one that names no
//! member.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::ids::NodeId;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{file}: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Each file is fine and they do not belong together.
    #[error("the certificate, its key and the authority do not fit together: {0}")]
    Mismatch(String),
}

/// A member's certificate, its key, and the authority of its cluster.
#[derive(Clone)]
pub struct Certificates {
    acceptor: TlsAcceptor,
    lenient: TlsAcceptor,
    connector: TlsConnector,
}

impl Certificates {
    /// Reads them from PEM files.
    pub fn read(authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let key_der = private_key(key)?;
        let mut roots = RootCertStore::empty();
        for root in certificates(authority)? {
            roots.add(root).map_err(|error| wrong(authority, error.to_string()))?;
        }
        let mismatch = |error: rustls::Error| TlsError::Mismatch(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots);
        let asking =
            || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let listening = |verifier: ClientCertVerifierBuilder| {
            let verifier = verifier.build().map_err(|e| TlsError::Mismatch(e.to_string()))?;
            let server = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(mismatch)?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain.clone(), key_der.clone_key())
                .map_err(mismatch)?;
            Ok(TlsAcceptor::from(Arc::new(server)))
        };
        let (acceptor, lenient) =
            (listening(asking())?, listening(asking().allow_unauthenticated())?);
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key_der)
            .map_err(mismatch)?;
        Ok(Self { acceptor, lenient, connector: TlsConnector::from(Arc::new(client)) })
    }

    /// A listener that is glad of a certificate, without insisting on one.
    #[must_use]
    pub fn for_anybody(&self) -> TlsAcceptor {
        self.lenient.clone()
    }

    /// Greets whoever connected.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(stream).await.map(TlsStream::Server)
    }

    /// Connects, and believes nobody but `node` of `cluster`.
    pub(super) async fn connect<S>(
        &self,
        stream: S,
        node: NodeId,
        cluster: &str,
    ) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(member_name(node, cluster)).map_err(io::Error::other)?;
        self.connector.connect(name, stream).await.map(TlsStream::Client)
    }
}

/// The other side of a member that listens: whoever is of the cluster's authority is believed, at
/// whatever address. Used where it is not known which member answers.
pub fn believing_any_member(
    authority: &Path,
    own: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mismatch = |error: rustls::Error| TlsError::Mismatch(error.to_string());
    let verifier = OfTheAuthority { roots: certificates(authority)?, provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match own {
        None => Ok(config.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            config.with_client_auth_cert(chain, private_key(key)?).map_err(mismatch)
        }
    }
}

/// Asks for a server's certificate of this authority, and for no name in it.
#[derive(Debug)]
struct OfTheAuthority {
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfTheAuthority {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        vouched_for(shown, between, &self.roots, webpki::KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
            .map_err(|error| rustls::Error::General(format!("not of the authority: {error}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, shown, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, shown, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The name in a member's certificate.
#[must_use]
pub fn member_name(node: NodeId, cluster: &str) -> String {
    format!("n{}.{cluster}.pg-replica", node.0)
}

/// The certificate that the other side showed; the handshake has verified that it is of the
/// cluster's authority.
pub(super) fn shown_by<S>(stream: &TlsStream<S>) -> Option<CertificateDer<'static>> {
    let (_, session) = stream.get_ref();
    session.peer_certificates()?.first().map(|shown| shown.clone().into_owned())
}

/// Whether this is the certificate of `node`.
pub(super) fn proves(shown: &CertificateDer<'_>, node: NodeId, cluster: &str) -> bool {
    let Ok(certificate) = webpki::EndEntityCert::try_from(shown) else { return false };
    let Ok(name) = ServerName::try_from(member_name(node, cluster)) else { return false };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

/// Whether the certificate in a file is that of `node`, from this authority, and good today: what
/// the other members will ask of it, found out before they do.
pub fn examine_certificate(
    authority: &Path,
    certificate: &Path,
    node: NodeId,
    cluster: &str,
) -> Result<(), TlsError> {
    let chain = certificates(certificate)?;
    let roots = certificates(authority)?;
    let (shown, between) = chain.split_first().expect("a file without one is refused");
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        vouched_for(shown, between, &roots, usage).map_err(|error| {
            let authority = authority.display();
            wrong(certificate, format!("is not good under the authority {authority}: {error}"))
        })?;
    }
    if !proves(shown, node, cluster) {
        let name = member_name(node, cluster);
        return Err(wrong(certificate, format!("is not that of this member, {name}")));
    }
    Ok(())
}

/// Whether one of the `roots` vouches for this certificate, today and for this use.
pub(in crate::os) fn vouched_for(
    shown: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    usage: webpki::KeyUsage,
) -> Result<(), webpki::Error> {
    let anchors: Result<Vec<_>, _> = roots.iter().map(webpki::anchor_from_trusted_cert).collect();
    webpki::EndEntityCert::try_from(shown)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors?,
            between,
            UnixTime::now(),
            usage,
            None,
            None,
        )
        .map(|_| ())
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&content(file)?)
        .map_err(|error| wrong(file, format!("holds no private key: {error}")))
}

fn content(file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|error| wrong(file, format!("cannot be read: {error}")))
}

/// The certificates in a PEM file, at least one.
pub(in crate::os) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content(file)?).collect();
    let read = read.map_err(|error| wrong(file, format!("is no PEM file: {error}")))?;
    if read.is_empty() {
        return Err(wrong(file, "holds no certificate".into()));
    }
    Ok(read)
}

fn wrong(file: &Path, why: String) -> TlsError {
    TlsError::File { file: file.display().to_string(), why }
}
