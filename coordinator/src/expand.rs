//! Pure: `~` and `$NAME` in paths, as Python's `os.path.expanduser` and `expandvars` read them.

/// Replaces a leading `~` or `~user` by a home folder. `home_of` gets the user's name, or the empty
/// name. Without a home folder the path stays as it is.
pub(crate) fn home(path: &str, home_of: impl Fn(&str) -> Option<String>) -> String {
    let Some(rest) = path.strip_prefix('~') else { return path.to_owned() };
    let (user, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match home_of(user) {
        Some(home) => match format!("{}{below}", home.trim_end_matches('/')) {
            root if root.is_empty() => "/".to_owned(),
            path => path,
        },
        None => path.to_owned(),
    }
}

/// Replaces `$NAME` and `${NAME}` by values; names without a value stay as they are.
pub(crate) fn variables(path: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let (mut expanded, mut rest) = (String::new(), path);
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (written, name) = match after.strip_prefix('{').and_then(|name| name.split_once('}')) {
            Some((name, _)) => (name.len() + 2, name),
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let length = after.find(|c| !word(c)).unwrap_or(after.len());
                (length, &after[..length])
            }
        };
        match value_of(name).filter(|_| !name.is_empty()) {
            Some(value) => expanded.push_str(&value),
            None => {
                expanded.push('$');
                expanded.push_str(&after[..written]);
            }
        }
        rest = &after[written..];
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_a_home_as_python_reads_it() {
        let home_of = |user: &str| match user {
            "" => Some("/home/me/".to_owned()),
            "ada" => Some("/home/ada".to_owned()),
            "root" => Some("/".to_owned()),
            _ => None,
        };
        for (path, expected) in [
            ("~", "/home/me"),
            ("~/hf", "/home/me/hf"),
            ("~ada/hf", "/home/ada/hf"),
            ("~ada", "/home/ada"),
            ("~root", "/"),
            ("~root/x", "/x"),
            ("~nobody/hf", "~nobody/hf"),
            ("/a/~/b", "/a/~/b"),
            ("", ""),
        ] {
            assert_eq!(home(path, home_of), expected, "{path}");
        }
    }

    #[test]
    fn variables_are_read_as_python_reads_them() {
        let value_of = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "A_1" => Some("$HOME".to_owned()),
            "a b" => Some("odd".to_owned()),
            "é" | "" => Some("never".to_owned()),
            _ => None,
        };
        for (path, expected) in [
            ("$HOME/hf", "/home/me/hf"),
            ("${HOME}x/$HOME", "/home/mex//home/me"),
            ("/a/$A_1/b", "/a/$HOME/b"),
            ("${a b}", "odd"),
            ("$NONE/${NONE}/$", "$NONE/${NONE}/$"),
            ("$$HOME", "$/home/me"),
            ("${HOME", "${HOME"),
            ("${}$é", "${}$é"),
        ] {
            assert_eq!(variables(path, value_of), expected, "{path}");
        }
    }
}
