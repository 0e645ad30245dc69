//! Files in folders that other users may write to as well.
//!
//! Between two steps a name in a shared folder can become something else: a link in the place of a
//! file, or a folder in the place of another one. So a folder is opened once ([`Dir`]), and
//! everything in it is reached through its descriptor, one name at a time. New files and folders
//! get names that nobody can foresee ([`random_name`]) and must not exist yet. Existing files are
//! written to only if this user owns them. A link is followed only if this user or root made it.
//!
//! Nothing here removes a tree: what this process made, it removes by name.

mod dir;
mod overwrite;
mod ownership;
mod random_name;
mod within;

pub use dir::Dir;
pub use overwrite::overwrite;
pub use random_name::{is_random_name, random_name};
pub use within::open_within;
