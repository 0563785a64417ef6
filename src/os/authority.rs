//! The private authority of a cluster, and the certificates that it gives.
//!
//! A folder holds the authority's own certificate and key, a pair for every member, one for whoever
//! operates the cluster, and the password that the members' servers know each other by. What is
//! there is kept, so that a member which is added later gets its certificate from the same
//! authority. Nothing is ever overwritten.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::ServerName;

use crate::env::Entropy;
use crate::ids::NodeId;

use super::OsEntropy;
use super::net::{
    Certificates, TlsError, certificates, examine_certificate, member_name, vouched_for,
};

/// The end of every name that stands for somebody in a cluster. Nobody gets such a name on request.
const OWN_DOMAIN: &str = ".pg-replica";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The cluster.
    pub cluster: String,
    /// The members that need a certificate.
    pub nodes: Vec<NodeId>,
    /// Names and addresses under which the HTTP interface is called: of one member, or of all.
    pub hosts: Vec<(Option<NodeId>, String)>,
    /// Where the files are.
    pub folder: PathBuf,
}

/// A file that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided {
    /// A certificate, whose key lies beside it, or the password of the members.
    pub file: PathBuf,
    /// Whether it was there already.
    pub kept: bool,
}

/// Why certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{}: {cause}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// One of the two files of a pair is missing.
    #[error(
        "{} is there and {} is not; bring that one back, or move the first one away to have both \
         made anew",
        present.display(),
        absent.display()
    )]
    Half {
        /// The one.
        present: PathBuf,
        /// The other.
        absent: PathBuf,
    },
    /// A file that was there belongs to somebody else.
    #[error(
        "{0}; take another folder for each cluster, or move the file away to have it made anew"
    )]
    Foreign(#[from] TlsError),
    /// The authority that was there is not this cluster's.
    #[error(
        "{} is not the authority of the cluster {cluster} ({why}); take another folder for each \
         cluster",
        file.display()
    )]
    ForeignAuthority {
        /// Its certificate.
        file: PathBuf,
        /// The cluster.
        cluster: String,
        /// What does not fit.
        why: String,
    },
    /// A host cannot be named in a certificate.
    #[error("`{0}` is no name or address of a host that a certificate could hold; leave it out")]
    Host(String),
    /// The cryptography failed.
    #[error("a certificate could not be made: {0}")]
    Making(#[from] rcgen::Error),
}

/// Makes what is missing, the authority first, and says of each pair whether it was there.
pub fn provide(wanted: &Wanted) -> Result<Vec<Provided>, AuthorityError> {
    let hosts = wanted.hosts.iter().map(|(node, host)| Ok((*node, host_name(host)?)));
    let hosts = hosts.collect::<Result<Vec<_>, AuthorityError>>()?;
    let folder = &wanted.folder;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(about(folder))?;
    let (issuer, authority) = authority(wanted)?;
    let mut provided = vec![authority];
    for node in &wanted.nodes {
        let mut names = vec![dns(&member_name(*node, &wanted.cluster))?];
        let own = hosts.iter().filter(|(whose, _)| whose.is_none_or(|whose| whose == *node));
        names.extend(own.map(|(_, host)| host.clone()));
        let pair = pair(folder, &format!("n{}", node.0), || {
            let purposes =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            issue(&issuer, &member_name(*node, &wanted.cluster), names, purposes)
        })?;
        if pair.kept {
            let (ca, certificate) = (folder.join("ca.crt"), &pair.file);
            Certificates::read(&ca, certificate, &certificate.with_extension("key"))?;
            examine_certificate(&ca, certificate, *node, &wanted.cluster)?;
        }
        provided.push(pair);
    }
    let operator = format!("operator.{}{OWN_DOMAIN}", wanted.cluster);
    provided.push(pair(folder, "operator", || {
        let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(&issuer, &operator, vec![dns(&operator)?], purposes)
    })?);
    provided.push(password(folder)?);
    Ok(provided)
}

/// The password that the members' servers know each other by, found or made.
fn password(folder: &Path) -> Result<Provided, AuthorityError> {
    let file = folder.join("secret");
    let kept = file.exists();
    if !kept {
        let text: String = (0..4).map(|_| format!("{:016x}", OsEntropy.next_u64())).collect();
        write_new(&file, &format!("{text}\n"), 0o600).map_err(about(&file))?;
    }
    Ok(Provided { file, kept })
}

/// The authority, found or made.
fn authority(wanted: &Wanted) -> Result<(Issuer<'static, KeyPair>, Provided), AuthorityError> {
    let mut params = CertificateParams::default();
    // Found again by this name: the certificates that it gave say who gave them.
    let name = format!("authority of the cluster {}", wanted.cluster);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = pair(&wanted.folder, "ca", || {
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?, key))
    })?;
    let key_file = pair.file.with_extension("key");
    let key = fs::read_to_string(&key_file).map_err(about(&key_file))?;
    let issuer = Issuer::new(params, KeyPair::from_pem(&key)?);
    // A probe tells whether the key, the name and the certificate that lies there fit together.
    let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (probe, _) = issue(&issuer, "probe", vec![dns("probe")?], purposes)?;
    let roots = certificates(&pair.file)?;
    vouched_for(probe.der(), &[], &roots, webpki::KeyUsage::client_auth()).map_err(|error| {
        AuthorityError::ForeignAuthority {
            file: pair.file.clone(),
            cluster: wanted.cluster.clone(),
            why: error.to_string(),
        }
    })?;
    Ok((issuer, pair))
}

/// A certificate and its key. It has no end that anybody would live to see: a cluster must not stop
/// because a date has passed or a clock is wrong. Whoever has to be shut out needs a new authority.
fn issue(
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    names: Vec<SanType>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
) -> Result<(Certificate, KeyPair), AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes;
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?, key))
}

/// A pair of files, found or made.
fn pair(
    folder: &Path,
    name: &str,
    make: impl FnOnce() -> Result<(Certificate, KeyPair), AuthorityError>,
) -> Result<Provided, AuthorityError> {
    let certificate = folder.join(format!("{name}.crt"));
    let key = folder.join(format!("{name}.key"));
    match (certificate.exists(), key.exists()) {
        (true, true) => return Ok(Provided { file: certificate, kept: true }),
        (true, false) => return Err(AuthorityError::Half { present: certificate, absent: key }),
        (false, true) => return Err(AuthorityError::Half { present: key, absent: certificate }),
        (false, false) => {}
    }
    let (made, its_key) = make()?;
    write_new(&key, &its_key.serialize_pem(), 0o600).map_err(about(&key))?;
    write_new(&certificate, &made.pem(), 0o644).map_err(|cause| {
        // Half a pair would be in the way of the next attempt.
        let _ = fs::remove_file(&key);
        AuthorityError::File { file: certificate.clone(), cause }
    })?;
    Ok(Provided { file: certificate, kept: false })
}

/// Writes a file that was not there, so that it survives a power loss.
fn write_new(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut new = OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()
}

fn dns(name: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::DnsName(name.try_into()?))
}

/// A host as a certificate names it. Names in the cluster's own domain stand for its members: with
/// one of them on request, one member could speak for another.
fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    let refused = || AuthorityError::Host(host.to_owned());
    let plain = host.trim_end_matches('.').to_ascii_lowercase();
    match ServerName::try_from(plain.as_str()).map_err(|_| refused())? {
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(address.into())),
        ServerName::DnsName(_) if plain.ends_with(OWN_DOMAIN) => Err(refused()),
        ServerName::DnsName(_) => dns(&plain),
        _ => Err(refused()),
    }
}

fn about(file: &Path) -> impl FnOnce(io::Error) -> AuthorityError + use<> {
    let file = file.to_owned();
    move |cause| AuthorityError::File { file, cause }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::os::postgres::read_secret;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            Self(folder)
        }

        fn wanted(&self, cluster: &str, nodes: &[u64]) -> Wanted {
            Wanted {
                cluster: cluster.into(),
                nodes: nodes.iter().copied().map(NodeId).collect(),
                hosts: vec![(None, "localhost".into()), (Some(NodeId(1)), "10.0.0.1".into())],
                folder: self.0.clone(),
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn read(folder: &Path, node: u64) -> Result<(), TlsError> {
        let [ca, cert, key] = ["ca.crt".into(), format!("n{node}.crt"), format!("n{node}.key")]
            .map(|f| folder.join(f));
        Certificates::read(&ca, &cert, &key)?;
        examine_certificate(&ca, &cert, NodeId(node), "main")
    }

    #[test]
    fn a_member_gets_a_certificate_that_the_others_believe_and_no_other_members() {
        let folder = Folder::new("authority-members");
        let pairs = provide(&folder.wanted("main", &[1, 2])).unwrap();
        assert_eq!(pairs.len(), 5);
        assert!(pairs.iter().all(|pair| !pair.kept));
        read(&folder.0, 1).unwrap();
        read(&folder.0, 2).unwrap();
        read_secret(&folder.0.join("secret")).unwrap();
        let (ca, one) = (folder.0.join("ca.crt"), folder.0.join("n1.crt"));
        let why = examine_certificate(&ca, &one, NodeId(2), "main").unwrap_err().to_string();
        assert!(why.contains("not that of this member, n2.main.pg-replica"), "{why}");
        // The operator's names no member, and no server either.
        assert!(
            examine_certificate(&ca, &folder.0.join("operator.crt"), NodeId(1), "main").is_err()
        );
    }

    #[test]
    fn a_certificate_holds_the_hosts_of_its_own_member() {
        let folder = Folder::new("authority-hosts");
        provide(&folder.wanted("main", &[1, 2])).unwrap();
        let is_for = |node: u64, host: &str| {
            let chain = certificates(&folder.0.join(format!("n{node}.crt"))).unwrap();
            let parsed = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
            let name = ServerName::try_from(host.to_owned()).unwrap();
            parsed.verify_is_valid_for_subject_name(&name).is_ok()
        };
        assert!(is_for(1, "localhost") && is_for(2, "localhost"));
        assert!(is_for(1, "10.0.0.1") && !is_for(2, "10.0.0.1"));
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let folder = Folder::new("authority-modes");
        provide(&folder.wanted("main", &[1])).unwrap();
        for key in ["ca.key", "n1.key", "operator.key", "secret"] {
            let mode = fs::metadata(folder.0.join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_member_that_is_added_later_has_the_same_authority_and_nothing_is_overwritten() {
        let folder = Folder::new("authority-later");
        provide(&folder.wanted("main", &[1])).unwrap();
        let before = fs::read(folder.0.join("n1.crt")).unwrap();
        let pairs = provide(&folder.wanted("main", &[1, 4])).unwrap();
        let kept: Vec<bool> = pairs.iter().map(|pair| pair.kept).collect();
        assert_eq!(kept, [true, true, false, true, true]);
        assert_eq!(fs::read(folder.0.join("n1.crt")).unwrap(), before);
        read(&folder.0, 4).unwrap();
    }

    #[test]
    fn the_authority_of_another_cluster_is_refused_and_left_alone() {
        let folder = Folder::new("authority-foreign");
        provide(&folder.wanted("other", &[1])).unwrap();
        let why = provide(&folder.wanted("main", &[2])).unwrap_err().to_string();
        assert!(why.contains("not the authority of the cluster main"), "{why}");
        assert!(!folder.0.join("n2.crt").exists());
    }

    #[test]
    fn half_a_pair_is_neither_completed_nor_replaced() {
        let folder = Folder::new("authority-half");
        provide(&folder.wanted("main", &[1])).unwrap();
        fs::remove_file(folder.0.join("n1.crt")).unwrap();
        let why = provide(&folder.wanted("main", &[1])).unwrap_err().to_string();
        assert!(why.contains("n1.key is there and") && why.contains("n1.crt is not"), "{why}");
    }

    #[test]
    fn no_host_is_named_like_a_member() {
        for host in ["n2.main.pg-replica", "N2.Main.PG-Replica.", "", "*.example.org", "a b", "é"]
        {
            assert!(host_name(host).is_err(), "{host}");
        }
        for host in ["db1.example.org", "10.0.0.1", "::1", "localhost"] {
            assert!(host_name(host).is_ok(), "{host}");
        }
    }
}
