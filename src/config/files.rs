//! A configuration on the disk, and the files that it names.
//!
//! The one file of this room that touches the disk. What it finds wrong there it tells at the line
//! that names the file.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use crate::os::net::{Certificates, TlsError, examine_certificate};
use crate::os::postgres::{Account, Installation, PostgresPlan, ServerTls, read_secret};

use super::check;
use super::entries::Overrides;
use super::place::{BadConfig, Place};
use super::{Config, read};

/// Where a configuration is looked for when none is named.
pub const FILES: [&str; 2] = ["./pg_replica.toml", "/etc/pg_replica/pg_replica.toml"];

/// No configuration is longer than this.
const FILE_MAX: u64 = 1 << 20;
/// A token that is shorter can be guessed.
const TOKEN_MIN: usize = 16;

/// A configuration that is in order, with what its files hold.
pub struct Loaded {
    /// The file that was read.
    pub file: PathBuf,
    /// What it says.
    pub config: Config,
    /// The certificates, where some are configured.
    pub certificates: Option<Certificates>,
    /// The token of the HTTP interface, where one is configured.
    pub token: Option<Secret>,
    /// What the members' servers know each other by; a witness has none.
    pub secret: Option<Secret>,
}

/// A secret: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Whether `shown` is the secret. How long it takes tells nothing about it but its length.
    #[must_use]
    pub fn is(&self, shown: &str) -> bool {
        let pairs = self.0.bytes().zip(shown.bytes());
        self.0.len() == shown.len() && pairs.fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Loaded {
    /// What the server's keeper is told: `None` on a witness. This is where its programs are looked
    /// for, and its account.
    pub fn postgres_plan(&self) -> Result<Option<PostgresPlan>, BadConfig> {
        let (Some(postgres), Some(secret)) = (&self.config.postgres, &self.secret) else {
            return Ok(None);
        };
        let config = &self.config;
        let found = Installation::find(postgres.bin_dir.as_deref(), Some(&postgres.data_dir));
        let installation =
            found.map_err(|error| config.wrong("postgres.bin_dir", error.to_string()))?;
        let account = rustix::process::geteuid().is_root().then(|| {
            Account::named(&postgres.user).ok_or_else(|| {
                config.wrong(
                    "postgres.user",
                    format!(
                        "PostgreSQL refuses to run as root, and there is no user `{}`; make one, \
                         or name another",
                        postgres.user
                    ),
                )
            })
        });
        Ok(Some(PostgresPlan {
            node: config.node,
            cluster: config.cluster.clone(),
            installation,
            data: postgres.data_dir.clone(),
            home: config.home_dir(),
            listen: postgres.listen.clone(),
            port: postgres.address.port(),
            account: account.transpose()?,
            secret: secret.0.clone(),
            tls: self.server_tls()?,
            superuser: postgres.superuser.clone(),
            access: postgres.hba.clone(),
            parameters: postgres.parameters.clone(),
        }))
    }

    fn server_tls(&self) -> Result<Option<ServerTls>, BadConfig> {
        let Some(files) = &self.config.tls else { return Ok(None) };
        ServerTls::new(&files.ca, &files.cert, &files.key)
            .map(Some)
            .map_err(|error| self.config.wrong("tls.cert", error.to_string()))
    }
}

/// Reads the configuration in `file`, or in the first of [`FILES`] that exists.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Loaded, BadConfig> {
    let file = match file {
        Some(file) => file.to_owned(),
        None => found()?,
    };
    let name = file.display().to_string();
    let text = text_of(&file, FILE_MAX).map_err(|why| {
        BadConfig::at(Place::File(name.clone()), format!("{why}; `node init` writes a new one"))
    })?;
    let config = read(&name, &text, overrides)?;
    check::directories(&config, &real)?;
    programs(&config)?;
    room_beside_the_data(&config)?;
    if let Some(device) = config.watchdog.as_ref().filter(|device| !device.exists()) {
        return Err(config.wrong(
            "guard.watchdog",
            format!(
                "there is no `{}`; load a driver (`modprobe softdog` is one that needs no \
                 hardware), or remove the line",
                device.display()
            ),
        ));
    }
    let certificates = certificates(&config)?;
    let (token, secret) = (token(&config)?, secret(&config)?);
    Ok(Loaded { file, config, certificates, token, secret })
}

fn found() -> Result<PathBuf, BadConfig> {
    let found = FILES.iter().map(PathBuf::from).find(|file| file.exists());
    found.ok_or_else(|| {
        BadConfig::at(
            Place::CommandLine,
            format!(
                "there is no configuration, neither {} nor {}; write one with `node init`, or \
                 name one with `--config FILE`",
                FILES[0], FILES[1]
            ),
        )
    })
}

fn text_of(file: &Path, bytes_max: u64) -> Result<String, String> {
    let opened = File::open(file).map_err(|error| format!("it cannot be opened ({error})"))?;
    let mut bytes = Vec::new();
    let read = opened.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("it cannot be read ({error})"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is longer than {bytes_max} bytes, and something else than meant"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}

/// Where a path leads through links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        let Ok(there) = fs::canonicalize(ancestor) else { continue };
        return match path.strip_prefix(ancestor) {
            Ok(rest) if rest.as_os_str().is_empty() => there,
            Ok(rest) => there.join(rest),
            Err(_) => path.to_owned(),
        };
    }
    path.to_owned()
}

fn programs(config: &Config) -> Result<(), BadConfig> {
    let bin_dir = config.postgres.as_ref().and_then(|postgres| postgres.bin_dir.as_ref());
    let Some(bin_dir) = bin_dir else { return Ok(()) };
    Installation::find(Some(bin_dir), None).map(|_| ()).map_err(|error| {
        config.wrong(
            "postgres.bin_dir",
            format!("{error}; correct the path, or remove the line to have them looked for"),
        )
    })
}

/// A new directory is made beside the old one, and takes its place by a rename.
fn room_beside_the_data(config: &Config) -> Result<(), BadConfig> {
    let Some(postgres) = &config.postgres else { return Ok(()) };
    if !is_mount_point(&postgres.data_dir) {
        return Ok(());
    }
    Err(config.wrong(
        "postgres.data_dir",
        format!(
            "{} is a mount point, which no copy can take the place of; name a folder below it",
            postgres.data_dir.display()
        ),
    ))
}

/// Whether something is mounted there, as far as the kernel tells.
fn is_mount_point(path: &Path) -> bool {
    let seen = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
    seen.is_ok_and(|seen| seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn certificates(config: &Config) -> Result<Option<Certificates>, BadConfig> {
    let Some(files) = &config.tls else { return Ok(None) };
    let refuse = |error: TlsError| {
        let named = |path: &Path| path.display().to_string();
        let key = match &error {
            TlsError::File { file, .. } if *file == named(&files.ca) => "tls.ca",
            TlsError::File { file, .. } if *file == named(&files.key) => "tls.key",
            TlsError::File { .. } | TlsError::Mismatch(_) => "tls.cert",
        };
        config.wrong(
            key,
            format!(
                "{error}; `node certs --cluster {} --nodes {}` makes certificates",
                config.cluster, config.node.0
            ),
        )
    };
    let certificates = Certificates::read(&files.ca, &files.cert, &files.key).map_err(refuse)?;
    examine_certificate(&files.ca, &files.cert, config.node, &config.cluster).map_err(refuse)?;
    closed(&files.key).map_err(|why| config.wrong("tls.key", why))?;
    Ok(Some(certificates))
}

fn token(config: &Config) -> Result<Option<Secret>, BadConfig> {
    let Some(file) = &config.api.token_file else { return Ok(None) };
    let text = text_of(file, FILE_MAX).map_err(|why| {
        config.wrong(
            "api.token_file",
            format!(
                "{}: {why}; write a token with `openssl rand -hex 32 > FILE`, and `chmod 600` it",
                file.display()
            ),
        )
    })?;
    let token = text.trim();
    if token.len() < TOKEN_MIN || token.contains(|letter: char| !letter.is_ascii_graphic()) {
        return Err(config.wrong(
            "api.token_file",
            format!(
                "{} holds no token, which is one line of {TOKEN_MIN} or more letters and digits; \
                 write one with `openssl rand -hex 32`",
                file.display()
            ),
        ));
    }
    closed(file).map_err(|why| config.wrong("api.token_file", why))?;
    Ok(Some(Secret(token.to_owned())))
}

fn secret(config: &Config) -> Result<Option<Secret>, BadConfig> {
    let Some(postgres) = &config.postgres else { return Ok(None) };
    let file = &postgres.secret_file;
    let secret = read_secret(file).map_err(|error| {
        config.wrong(
            "postgres.secret_file",
            format!(
                "{}: {error}; `node certs` makes one, or write it with `openssl rand -hex 32`, \
                 and copy it to every member",
                file.display()
            ),
        )
    })?;
    closed(file).map_err(|why| config.wrong("postgres.secret_file", why))?;
    Ok(Some(Secret(secret)))
}

/// Whether strangers on this machine are kept out of a file that holds a secret.
fn closed(file: &Path) -> Result<(), String> {
    let mode = fs::metadata(file).map(|found| found.permissions().mode()).unwrap_or_default();
    if mode & 0o007 == 0 {
        return Ok(());
    }
    Err(format!("every user of this machine can get at {}; run `chmod 600 {0}`", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crate::ids::NodeId;
    use crate::os::authority::{Wanted, provide};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("config-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.join("data")).unwrap();
            let folder = Self(folder);
            folder.write("secret", "0123456789abcdef\n", 0o600);
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) {
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        /// A configuration of member 1, with these lines at its end; `@` stands for the folder.
        fn load(&self, lines: &str) -> Result<Loaded, BadConfig> {
            let text = format!(
                "cluster = \"main\"\nnode = 1\nstate_dir = \"@/state\"\n\
                 members.1 = {{ peers = \"127.0.0.1:1\", postgres = \"127.0.0.1:2\" }}\n\
                 postgres.data_dir = \"@/data\"\npostgres.secret_file = \"@/secret\"\n{lines}\n"
            );
            self.write("node.toml", text.replace('@', &self.0.display().to_string()), 0o644);
            load(Some(&self.path("node.toml")), &Overrides::default())
        }

        #[track_caller]
        fn refuses(&self, lines: &str, line: usize, parts: &[&str]) {
            let Err(bad) = self.load(lines) else { panic!("it was accepted") };
            let said = bad.to_string();
            assert!(said.contains(&format!("node.toml:{line}:")), "not in line {line}: {said}");
            for part in parts {
                assert!(said.contains(part), "no `{part}` in: {said}");
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const TLS: &str = "tls = { ca = \"@/t/ca.crt\", cert = \"@/t/n1.crt\", key = \"@/t/n1.key\" }";

    fn certificates_for(folder: &Folder, cluster: &str) {
        let wanted = Wanted {
            cluster: cluster.into(),
            nodes: vec![NodeId(1), NodeId(2)],
            hosts: Vec::new(),
            folder: folder.path("t"),
        };
        provide(&wanted).unwrap();
    }

    #[test]
    fn a_file_that_is_not_there_or_not_text_is_told() {
        let folder = Folder::new("absent");
        let said = |name: &str| {
            let loaded = load(Some(&folder.path(name)), &Overrides::default());
            loaded.err().expect("it was accepted").to_string()
        };
        assert!(said("none.toml").contains("cannot be opened"), "{}", said("none.toml"));
        assert!(said("none.toml").contains("`node init`"));
        assert!(said("data").contains("cannot be read"), "{}", said("data"));
        folder.write("latin.toml", b"a = 1\nb = \"\xfc\"\n", 0o644);
        assert!(said("latin.toml").contains("line 2 is not UTF-8"));
        folder.write("long.toml", vec![b'#'; 2 << 20], 0o644);
        assert!(said("long.toml").contains("longer than 1048576 bytes"));
    }

    #[test]
    fn certificates_in_order_are_read_and_those_of_somebody_else_are_not() {
        let folder = Folder::new("tls");
        folder.refuses(TLS, 7, &["n1.crt", "cannot be read", "`node certs --cluster main"]);
        certificates_for(&folder, "main");
        assert!(folder.load(TLS).unwrap().certificates.is_some());
        let other = TLS.replace("n1", "n2");
        folder.refuses(&other, 7, &["n2.crt", "is not that of this member, n1.main.pg-replica"]);
        folder.refuses(&TLS.replace("n1.key", "n2.key"), 7, &["do not fit together"]);
        folder.refuses(&TLS.replace("ca.crt", "ca.key"), 7, &["ca.key", "holds no certificate"]);
    }

    #[test]
    fn certificates_of_another_authority_are_told() {
        let folder = Folder::new("foreign");
        certificates_for(&folder, "main");
        fs::rename(folder.path("t"), folder.path("old")).unwrap();
        certificates_for(&folder, "main");
        fs::copy(folder.path("old/ca.crt"), folder.path("t/ca.crt")).unwrap();
        folder.refuses(TLS, 7, &["n1.crt", "is not good under the authority"]);
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_refused() {
        let folder = Folder::new("secrets");
        certificates_for(&folder, "main");
        let key = folder.path("t/n1.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        folder.refuses(TLS, 7, &["every user of this machine", "chmod 600"]);
        let line = "api.token_file = \"@/token\"";
        folder.refuses(line, 7, &["token", "cannot be opened", "openssl rand"]);
        folder.write("token", "0123456789abcdef\n", 0o644);
        folder.refuses(line, 7, &["every user of this machine"]);
        folder.write("token", "short\n", 0o600);
        folder.refuses(line, 7, &["holds no token"]);
        folder.write("token", "0123456789abcdef\n", 0o640);
        let token = folder.load(line).unwrap().token.unwrap();
        assert!(token.is("0123456789abcdef") && !token.is("0123456789abcdeF") && !token.is(""));
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn the_plan_for_the_server_holds_what_the_file_says() {
        let folder = Folder::new("plan");
        let loaded = folder.load("postgres.parameters.work_mem = \"8MB\"").unwrap();
        assert!(loaded.secret.as_ref().unwrap().is("0123456789abcdef"));
        // Whether there is a server on this machine is not for this test to ask.
        match loaded.postgres_plan() {
            Ok(plan) => {
                let plan = plan.unwrap();
                assert_eq!((plan.port, plan.listen.as_str()), (2, "127.0.0.1"));
                assert_eq!(plan.home, folder.path("state/home"));
                assert_eq!(plan.parameters["work_mem"], "8MB");
            }
            Err(bad) => assert!(bad.to_string().contains("node.toml: "), "{bad}"),
        }
    }

    #[test]
    fn a_missing_or_open_password_of_the_members_is_told_with_its_remedy() {
        let folder = Folder::new("password");
        folder.write("secret", "0123456789abcdef\n", 0o604);
        folder.refuses("", 6, &["every user of this machine"]);
        folder.write("secret", "geheim\n", 0o600);
        folder.refuses("", 6, &["it holds no secret", "`node certs` makes one"]);
        fs::remove_file(folder.path("secret")).unwrap();
        folder.refuses("", 6, &["No such file", "copy it to every member"]);
    }

    #[test]
    fn programs_and_devices_that_are_not_there_are_told() {
        let folder = Folder::new("machine");
        folder.refuses(
            "postgres.bin_dir = \"@/bin\"",
            7,
            &["`postgres` cannot be run", "looked for"],
        );
        folder.refuses("guard.watchdog = \"@/dog\"", 7, &["there is no", "modprobe softdog"]);
    }

    #[test]
    fn a_data_directory_that_could_not_be_replaced_is_refused() {
        assert!(is_mount_point(Path::new("/proc")));
        let folder = Folder::new("mounted");
        assert!(!is_mount_point(&folder.path("data")) && !is_mount_point(Path::new("/nowhere")));
        fs::remove_dir(folder.path("data")).unwrap();
        symlink("/proc", folder.path("data")).unwrap();
        folder.refuses("", 5, &["is a mount point", "name a folder below it"]);
    }

    #[test]
    fn a_link_does_not_hide_the_data_directory() {
        let folder = Folder::new("links");
        symlink(folder.path("data"), folder.path("state")).unwrap();
        folder.refuses("", 3, &["lies in the data directory"]);
        fs::remove_file(folder.path("state")).unwrap();
        assert!(folder.load("").is_ok());
    }
}
