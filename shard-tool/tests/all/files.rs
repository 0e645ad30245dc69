//! Folders that others may write to: nothing planted there is followed, written to or removed.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::PathBuf;

use binfer_shard::files::{Dir, overwrite};

use crate::shards::absent;

/// An empty folder, and a file of somebody's outside of it.
fn shared(test: &str) -> (PathBuf, PathBuf) {
    let (folder, precious) = (absent(&format!("files-{test}")), absent_file(test));
    fs::create_dir(&folder).unwrap();
    fs::write(&precious, "precious").unwrap();
    (folder, precious)
}

fn absent_file(test: &str) -> PathBuf {
    let path = crate::scratch(&format!("files-{test}.precious"));
    let _ = fs::remove_file(&path);
    path
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn a_new_file_is_never_something_that_was_there() {
    let (path, precious) = shared("new");
    let folder = Dir::open(&path).unwrap();
    symlink(&precious, path.join("link")).unwrap();
    symlink("nowhere", path.join("dangling")).unwrap();
    fs::hard_link(&precious, path.join("second-name")).unwrap();
    for name in ["link", "dangling", "second-name"] {
        assert_eq!(folder.create(name).unwrap_err().kind(), ErrorKind::AlreadyExists, "{name}");
        // Nor is it taken for an own file that could be gone on with.
        assert!(folder.open_own(name).unwrap().is_none(), "{name}");
        assert_eq!(folder.make(name).unwrap_err().kind(), ErrorKind::AlreadyExists, "{name}");
    }
    assert!(!path.join("nowhere").exists());
    folder.create("mine").unwrap().write_all(b"12").unwrap();
    folder.open_own("mine").unwrap().unwrap().write_all(b"3").unwrap();
    assert_eq!(fs::read(path.join("mine")).unwrap(), b"32");
    assert_eq!(fs::read(precious).unwrap(), b"precious");
}

#[test]
fn a_folder_that_is_swapped_between_two_steps_stays_the_one_that_was_opened() {
    let (path, precious) = shared("swapped");
    let folder = Dir::open(&path).unwrap().make("inner").unwrap();
    folder.create("first").unwrap();
    // What somebody who may rename in the folder above does meanwhile.
    let elsewhere = precious.parent().unwrap().join("files-swapped-elsewhere");
    let _ = fs::remove_dir_all(&elsewhere);
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("first"), "not ours").unwrap();
    fs::rename(path.join("inner"), path.join("away")).unwrap();
    symlink(&elsewhere, path.join("inner")).unwrap();

    folder.create("second").unwrap();
    folder.rename("second", &folder, "third").unwrap();
    folder.remove("first").unwrap();
    assert_eq!(fs::read(elsewhere.join("first")).unwrap(), b"not ours");
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 1);
    assert_eq!(folder.names().unwrap(), ["third"]);
}

#[test]
fn links_to_folders_are_followed_only_if_this_user_or_root_made_them() {
    let (path, _) = shared("links");
    let (folder, elsewhere) = (Dir::open(&path).unwrap(), absent("files-links-elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, path.join("own")).unwrap();
    folder.enter("own").unwrap().create("made").unwrap();
    assert!(elsewhere.join("made").exists());
    assert!(folder.enter_own("own").is_err(), "a link is no folder");
    fs::write(path.join("file"), "").unwrap();
    assert_eq!(folder.enter("file").unwrap_err().kind(), ErrorKind::NotADirectory);
    if is_root() {
        symlink(&elsewhere, path.join("planted")).unwrap();
        lchown(path.join("planted"), Some(4321), Some(4321)).unwrap();
        let error = folder.enter_or_make("planted").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with("a link that user 4321 made, to /"), "{error}");
    }
}

#[test]
fn a_lock_is_a_file_that_was_there_or_is_made_and_nothing_else() {
    let (path, precious) = shared("lock");
    let folder = Dir::open(&path).unwrap();
    folder.open_lock("lock").unwrap();
    folder.open_lock("lock").unwrap().try_lock().unwrap();
    symlink(&precious, path.join("planted")).unwrap();
    assert!(folder.open_lock("planted").is_err());
    fs::create_dir(path.join("folder")).unwrap();
    assert!(folder.open_lock("folder").unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn what_a_user_names_is_overwritten_only_if_it_is_the_user_s() {
    let (path, precious) = shared("overwrite");
    let file = path.join("trace.json");
    overwrite(&file).unwrap().write_all(b"long ago").unwrap();
    overwrite(&file).unwrap().write_all(b"now").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"now");
    // A second name of a file that is worth something.
    fs::hard_link(&precious, path.join("planted")).unwrap();
    let error = overwrite(&path.join("planted")).unwrap_err();
    assert!(error.to_string().contains("it has a second name"), "{error}");
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    overwrite("/dev/null".as_ref()).unwrap();
    symlink(&file, path.join("own-link")).unwrap();
    overwrite(&path.join("own-link")).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"");
    if is_root() {
        fs::remove_file(path.join("planted")).unwrap();
        symlink(&precious, path.join("planted")).unwrap();
        lchown(path.join("planted"), Some(4321), Some(4321)).unwrap();
        let error = overwrite(&path.join("planted")).unwrap_err();
        assert!(error.to_string().contains("a link that another user made"), "{error}");
        lchown(&file, Some(4321), Some(4321)).unwrap();
        assert!(overwrite(&file).unwrap_err().to_string().contains("another user's"));
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }
}
