//! The Unix socket that workers dial in to; it has no name.
//!
//! The socket is bound in a fresh folder of mode 0700. Its name and the folder are removed before
//! the first worker is started, so a process that is killed leaves nothing behind. Children inherit
//! a descriptor of the socket's file and reach it as `/proc/self/fd/N`; no other process can. The
//! path of the folder may therefore be of any length.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use binfer_shard::files::{Dir, random_name};
use rustix::fs::{Mode, OFlags, fstat, openat};

use crate::config::{ConfigError, SocketFolder};

const NAME: &str = "cluster.sock";

/// A listening socket, and what a worker needs to dial in.
#[derive(Debug)]
pub struct Rendezvous {
    listener: UnixListener,
    /// The socket's file, which children inherit; its name is removed.
    file: OwnedFd,
    instance: String,
    rejected: Vec<String>,
}

impl Rendezvous {
    /// Makes the socket in the first of `folders` in which that is possible.
    ///
    /// # Errors
    /// What is wrong with each of the folders.
    pub fn new(folders: &[SocketFolder]) -> Result<Self, ConfigError> {
        let mut rejected = Vec::new();
        for candidate in folders {
            match bind(&candidate.folder) {
                Ok((listener, file)) => {
                    let random = || RandomState::new().build_hasher().finish();
                    let instance = format!("{:016x}{:016x}", random(), random());
                    return Ok(Self { listener, file, instance, rejected });
                }
                Err(error) => {
                    let variable =
                        candidate.variable.map(|name| format!("{name} ")).unwrap_or_default();
                    rejected.push(format!("{variable}{}: {error}", candidate.folder.display()));
                }
            }
        }
        let cause = format!("no place for the workers' socket: {}", rejected.join("; "));
        Err(ConfigError(format!("{cause}; set TMPDIR to a folder of your own")))
    }

    /// The path at which this process and its children dial in.
    pub fn address(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// The secret by which a worker proves that it belongs to this cluster.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The folders that were tried in vain, each with what is wrong with it.
    pub fn rejected(&self) -> &[String] {
        &self.rejected
    }

    /// The socket that connections are accepted on.
    pub(super) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

/// Binds a socket in a fresh folder below `base`, and removes the names of both.
fn bind(base: &Path) -> io::Result<(UnixListener, OwnedFd)> {
    let base = Dir::open(base)?;
    check(&base)?;
    let name = format!("binfer-{}-{}", std::process::id(), random_name());
    let folder = base.make_private(&name)?;
    let bound = bind_in(&folder);
    base.remove_folder(&name)?;
    bound
}

fn bind_in(folder: &Dir) -> io::Result<(UnixListener, OwnedFd)> {
    // The address of a socket holds only a short path.
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(NAME);
    let listener = UnixListener::bind(path)?;
    // Children inherit this descriptor. They could not reach the one of this process through /proc:
    // no process may look into another whose program has capabilities or may not be read.
    let file = openat(folder, NAME, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
    folder.remove(NAME)?;
    Ok((listener, file?))
}

/// Refuses a folder in which another user could move what is made there.
fn check(base: &Dir) -> io::Result<()> {
    let stat = fstat(base)?;
    let own = rustix::process::geteuid().as_raw();
    let (mode, owner) = (Mode::from_raw_mode(stat.st_mode), stat.st_uid);
    let refuse = |cause: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, cause));
    if owner != 0 && owner != own {
        return refuse(format!("it belongs to user {owner}, and this is user {own}"));
    }
    if mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX) {
        return refuse("anybody may move what is made there".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A folder of the test's own, `name` below it.
    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("meet-{}", random_name())).join(name);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
        path
    }

    fn socket_folder(folder: impl Into<PathBuf>) -> SocketFolder {
        SocketFolder { variable: Some("SOME_DIR"), folder: folder.into() }
    }

    #[test]
    fn a_socket_without_a_name_is_reached_and_leaves_nothing() {
        // Longer than the address of a socket can be.
        let long = folder(&"x".repeat(200));
        let rendezvous = Rendezvous::new(&[socket_folder(&long)]).unwrap();
        assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0);
        assert!(rendezvous.rejected().is_empty());
        let _dialled = UnixStream::connect(rendezvous.address()).unwrap();
        rendezvous.listener.accept().unwrap();
        std::fs::remove_dir_all(long.parent().unwrap()).unwrap();
    }

    #[test]
    fn places_that_will_not_do_are_passed_over_and_named() {
        let open = folder("open");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let good = folder("good");
        let folders = ["/proc".into(), "/no/such/folder".into(), open.clone(), good.clone()];
        let rendezvous = Rendezvous::new(&folders.map(socket_folder)).unwrap();
        let said = rendezvous.rejected().join("\n");
        for words in ["SOME_DIR /proc: ", "/no/such/folder: No such file", "open: anybody may move"]
        {
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(rendezvous.rejected().len(), 3);
        let error = Rendezvous::new(&[socket_folder("/proc")]).unwrap_err().to_string();
        assert!(error.contains("no place for the workers' socket: SOME_DIR /proc: "), "{error}");
        if std::fs::metadata(&good).unwrap().uid() == 0 {
            // Only root can make a folder that is somebody else's.
            std::os::unix::fs::chown(&good, Some(4321), None).unwrap();
            let error = Rendezvous::new(&[socket_folder(&good)]).unwrap_err().to_string();
            assert!(error.contains("it belongs to user 4321, and this is user 0"), "{error}");
        }
        for made in [open, good] {
            std::fs::remove_dir_all(made.parent().unwrap()).unwrap();
        }
    }
}
