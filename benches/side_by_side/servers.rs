//! The servers that are compared: how each is found, configured and started, with an empty cache.
//! Their configurations are the files beside this one; nothing here depends on what they are asked.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::client::Client;
use crate::content::blob_path;
use crate::process::Process;
use crate::tls::Identity;
use crate::upstream::Upstream;

/// Whose figures there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Larder,
    Nginx,
    DockerRegistry,
    /// nginx that serves files: the ceiling of what is hot.
    Static,
    /// The upstream itself, with no cache between: the ceiling of what is cold.
    Direct,
}

impl Subject {
    /// All, in the order of the table's columns.
    pub(crate) const ALL: [Self; 5] = [Self::Larder, Self::Nginx, Self::DockerRegistry, Self::Static, Self::Direct];

    /// As the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Larder => "Larder",
            Self::Nginx => "nginx",
            Self::DockerRegistry => "docker-registry",
            Self::Static => "static files",
            Self::Direct => "direct",
        }
    }
}

/// A pull-through cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    Larder,
    Nginx,
    DockerRegistry,
}

impl Cache {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Larder, Self::Nginx, Self::DockerRegistry];

    /// Whose figures its are.
    pub(crate) fn subject(self) -> Subject {
        match self {
            Self::Larder => Subject::Larder,
            Self::Nginx => Subject::Nginx,
            Self::DockerRegistry => Subject::DockerRegistry,
        }
    }
}

/// The programs.
pub(crate) struct Programs {
    larder: PathBuf,
    nginx: PathBuf,
    docker_registry: PathBuf,
}

impl Programs {
    /// Larder as it was built for this benchmark, and its peers as they are installed.
    ///
    /// # Errors
    ///
    /// One is not installed.
    pub(crate) fn find() -> Result<Self> {
        Ok(Self { larder: env!("CARGO_BIN_EXE_larder").into(), nginx: find("nginx")?, docker_registry: find("docker-registry")? })
    }

    /// What they say of their versions, in a line.
    pub(crate) fn versions(&self) -> Result<String> {
        let programs = [(&self.larder, "--version"), (&self.nginx, "-v"), (&self.docker_registry, "--version")];
        let versions: Result<Vec<_>> = programs.into_iter().map(|(program, flag)| version(program, flag)).collect();
        Ok(versions?.join("; "))
    }
}

/// Finds a Debian package's program of the same name.
fn find(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Servers are there, which not every user has in PATH.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    found.with_context(|| {
        format!("{name} is not installed; scripts/bench installs it, as does `apt-get install {name}` on Debian")
    })
}

fn version(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| format!("{} does not run", program.display()))?;
    ensure!(output.status.success(), "{} {flag} failed", program.display());
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Larder's configuration.
const LARDER: (&str, &str) = ("larder.toml", include_str!("servers/larder.toml"));

/// A running server with a folder of its own, which goes with it.
pub(crate) struct Server {
    pub(crate) subject: Subject,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    folder: TempDir,
}

impl Server {
    /// Starts a cache that is empty, in front of the upstream.
    pub(crate) fn start(cache: Cache, programs: &Programs, upstream: &Upstream, scratch: &Path) -> Result<Self> {
        let folder = tempfile::tempdir_in(scratch)?;
        let template = match cache {
            Cache::Larder => LARDER,
            Cache::Nginx => ("nginx.conf", include_str!("servers/nginx.conf")),
            Cache::DockerRegistry => ("docker-registry.yml", include_str!("servers/docker-registry.yml")),
        };
        let address = free_address()?;
        let places = [
            ("@DIR@", name_of(folder.path())?),
            ("@LISTEN@", &address.to_string()),
            ("@UPSTREAM@", &upstream.address().to_string()),
            ("@USER@", &user()?),
            ("@TOKEN@", &upstream.log_in()?),
        ];
        let config = configure(folder.path(), template, &places)?;
        let mut command = match cache {
            Cache::Larder => command(&programs.larder, &["serve", "--config"], &config),
            Cache::Nginx => nginx(&programs.nginx, &config),
            Cache::DockerRegistry => command(&programs.docker_registry, &["serve"], &config),
        };
        let process = Process::start(&mut command, address, &folder.path().join("output"))
            .with_context(|| format!("{} was not started", cache.subject().name()))?;
        Ok(Self { subject: cache.subject(), address, process, folder })
    }

    /// Starts a server of what the upstream has at `paths`, as files.
    pub(crate) fn start_static(programs: &Programs, upstream: &Upstream, scratch: &Path, paths: &[String]) -> Result<Self> {
        Self::start_files(programs, scratch, paths, None, copy_from(upstream)?)
    }

    /// As [`Server::start_static`], over TLS.
    pub(crate) fn start_static_tls(
        programs: &Programs,
        upstream: &Upstream,
        scratch: &Path,
        paths: &[String],
        identity: &Identity,
    ) -> Result<Self> {
        Self::start_files(programs, scratch, paths, Some(identity), copy_from(upstream)?)
    }

    /// Starts a server of blobs that `larder` has: of the very same files, since two copies are never equally well placed in memory.
    pub(crate) fn start_beside(larder: &Self, programs: &Programs, scratch: &Path, digests: &[&str]) -> Result<Self> {
        let paths: Vec<_> = digests.iter().map(|digest| blob_path(digest)).collect();
        Self::start_files(programs, scratch, &paths, None, |path, file| {
            let hex = path.rsplit(':').next().context("a blob has a digest")?;
            let first = hex.get(..2).context("a digest is longer")?;
            let stored = larder.folder.path().join("cache/blobs/sha256").join(first).join(hex);
            fs::hard_link(&stored, file).with_context(|| format!("{} is not there", stored.display()))
        })
    }

    /// Starts Larder, empty, with TLS.
    pub(crate) fn start_larder_tls(
        programs: &Programs,
        upstream: &Upstream,
        scratch: &Path,
        identity: &Identity,
    ) -> Result<Self> {
        let folder = tempfile::tempdir_in(scratch)?;
        let address = free_address()?;
        identity.write(folder.path())?;
        let (name, template) = LARDER;
        let tls = "\n[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
        let places = [
            ("@DIR@", name_of(folder.path())?),
            ("@LISTEN@", &address.to_string()),
            ("@UPSTREAM@", &upstream.address().to_string()),
        ];
        let config = configure(folder.path(), (name, &format!("{template}{tls}")), &places)?;
        let mut command = command(&programs.larder, &["serve", "--config"], &config);
        let process = Process::start(&mut command, address, &folder.path().join("output"))?;
        Ok(Self { subject: Subject::Larder, address, process, folder })
    }

    /// `put` makes the file for a path.
    fn start_files(
        programs: &Programs,
        scratch: &Path,
        paths: &[String],
        identity: Option<&Identity>,
        put: impl Fn(&str, &Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir_in(scratch)?;
        let files = folder.path().join("files");
        for path in paths {
            let file = files.join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().context("a path has a file in a folder")?)?;
            put(path, &file)?;
        }
        let address = free_address()?;
        let mut tls = String::new();
        if let Some(identity) = identity {
            identity.write(folder.path())?;
            let dir = name_of(folder.path())?;
            tls = format!(" ssl; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.3");
        }
        let places =
            [("@DIR@", name_of(folder.path())?), ("@LISTEN@", &address.to_string()), ("@TLS@", &tls), ("@USER@", &user()?)];
        let config = configure(folder.path(), ("static.conf", include_str!("servers/static.conf")), &places)?;
        let process = Process::start(&mut nginx(&programs.nginx, &config), address, &folder.path().join("output"))?;
        Ok(Self { subject: Subject::Static, address, process, folder })
    }
}

/// Makes files of what the upstream has.
fn copy_from(upstream: &Upstream) -> Result<impl Fn(&str, &Path) -> Result<()>> {
    let (address, token) = (upstream.address(), upstream.log_in()?);
    Ok(move |path: &str, file: &Path| Ok(fs::write(file, Client::open(address)?.with_token(&token).get(path)?.keep()?)?))
}

fn command(program: &Path, arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(config);
    command
}

fn nginx(program: &Path, config: &Path) -> Command {
    // Until it has read its configuration it complains to a file that only root can write.
    command(program, &["-e", "stderr", "-c"], config)
}

/// An address where nobody listens now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Writes a configuration into a server's folder: a template, with the places in it.
fn configure(folder: &Path, (name, template): (&str, &str), places: &[(&str, &str)]) -> Result<PathBuf> {
    let fill = |text: String, (place, value): &(&str, &str)| text.replace(place, value);
    let file = folder.join(name);
    fs::write(&file, places.iter().fold(template.to_owned(), fill))?;
    Ok(file)
}

fn name_of(folder: &Path) -> Result<&str> {
    folder.to_str().with_context(|| format!("the folder {} has no name in UTF-8", folder.display()))
}

/// Who runs this: nginx's workers must be able to reach their folder.
fn user() -> Result<String> {
    let output = Command::new("id").args(["--user", "--name"]).output().context("id does not run")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
