//! Where workers dial in: a Unix socket that has no name.
//!
//! It is bound in a fresh folder of mode 0700, and name and folder are removed before the first
//! worker is started: whoever is killed afterwards leaves nothing behind. Children inherit what is
//! left, a descriptor of the socket's file, and reach it as `/proc/self/fd/N`; nobody else can. So it
//! does not matter either how long the path of the folder is.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use binfer_shard::files::{Dir, random_name};
use rustix::fs::{Mode, OFlags, fstat, openat};

use crate::config::ConfigError;

const NAME: &str = "cluster.sock";

/// A socket that listens, and what dialling in takes.
#[derive(Debug)]
pub struct Rendezvous {
    listener: UnixListener,
    /// The socket's file, which is all that is left of its name; children have it too.
    file: OwnedFd,
    instance: String,
    rejected: Vec<String>,
}

/// A folder that the socket could be made in.
#[derive(Clone, Debug)]
pub struct SocketFolder {
    /// What names it, for messages: a variable, or nothing where nobody does.
    pub variable: Option<&'static str>,
    /// The folder.
    pub folder: PathBuf,
}

impl Rendezvous {
    /// Makes the socket in the first of `folders` where that can be.
    ///
    /// # Errors
    /// With what is wrong with every place.
    pub fn new(folders: &[SocketFolder]) -> Result<Self, ConfigError> {
        let mut rejected = Vec::new();
        for place in folders {
            match bind(&place.folder) {
                Ok((listener, file)) => {
                    let random = || RandomState::new().build_hasher().finish();
                    let instance = format!("{:016x}{:016x}", random(), random());
                    return Ok(Self { listener, file, instance, rejected });
                }
                Err(error) => {
                    let variable =
                        place.variable.map(|name| format!("{name} ")).unwrap_or_default();
                    rejected.push(format!("{variable}{}: {error}", place.folder.display()));
                }
            }
        }
        let cause = format!("no place for the workers' socket: {}", rejected.join("; "));
        Err(ConfigError(format!("{cause}; set TMPDIR to a folder of your own")))
    }

    /// Where this process and its children dial in, as long as workers are awaited.
    pub fn address(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// What workers must say, so that each belongs to this cluster.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Places that were tried before, and what was wrong with them: lines for the operator.
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

/// Binds a socket in a fresh folder in `base`, and removes both names.
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
    // A path of any length would not fit into the address of a socket.
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(NAME);
    let listener = UnixListener::bind(path)?;
    // Not closed in children. This process's own entry in /proc would not do for them: where a
    // program has capabilities of its own, or may not be read, no process may look into another.
    let file = openat(folder, NAME, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
    folder.remove(NAME)?;
    Ok((listener, file?))
}

/// Refuses a folder in which somebody else could move what is made there.
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

    fn place(folder: impl Into<PathBuf>) -> SocketFolder {
        SocketFolder { variable: Some("SOME_DIR"), folder: folder.into() }
    }

    #[test]
    fn a_socket_without_a_name_is_reached_and_leaves_nothing() {
        // Longer than the address of a socket can be.
        let long = folder(&"x".repeat(200));
        let meeting = Rendezvous::new(&[place(&long)]).unwrap();
        assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0);
        assert!(meeting.rejected().is_empty());
        let _dialled = UnixStream::connect(meeting.address()).unwrap();
        meeting.listener.accept().unwrap();
        std::fs::remove_dir_all(long.parent().unwrap()).unwrap();
    }

    #[test]
    fn places_that_will_not_do_are_passed_over_and_named() {
        let open = folder("open");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let good = folder("good");
        let folders = ["/proc".into(), "/no/such/folder".into(), open.clone(), good.clone()];
        let meeting = Rendezvous::new(&folders.map(place)).unwrap();
        let said = meeting.rejected().join("\n");
        for words in ["SOME_DIR /proc: ", "/no/such/folder: No such file", "open: anybody may move"]
        {
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(meeting.rejected().len(), 3);
        let error = Rendezvous::new(&[place("/proc")]).unwrap_err().to_string();
        assert!(error.contains("no place for the workers' socket: SOME_DIR /proc: "), "{error}");
        if std::fs::metadata(&good).unwrap().uid() == 0 {
            // Only root can make a folder that is somebody else's.
            std::os::unix::fs::chown(&good, Some(4321), None).unwrap();
            let error = Rendezvous::new(&[place(&good)]).unwrap_err().to_string();
            assert!(error.contains("it belongs to user 4321, and this is user 0"), "{error}");
        }
        for made in [open, good] {
            std::fs::remove_dir_all(made.parent().unwrap()).unwrap();
        }
    }
}
