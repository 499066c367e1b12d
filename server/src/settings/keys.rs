//! Keys that lie in files: read when something starts, refused where they could not do what they are for, and never shown.

use std::collections::HashMap;
use std::path::Path;

use super::Tenant;

/// The keys of every tenant, in the order of the settings: one a line of its file.
///
/// Every door asks here, so that none takes a file for empty and opens to everybody, or lets one tenant in as another.
///
/// # Errors
/// A file that cannot be read, holds no key, or a key that is there already; in words, without the key.
pub fn of_tenants(tenants: &[Tenant]) -> Result<Vec<Vec<String>>, String> {
    let mut owners = HashMap::new();
    let mut all = Vec::with_capacity(tenants.len());
    for (i, tenant) in tenants.iter().enumerate() {
        let path = tenant.keys_file.display();
        let text = std::fs::read_to_string(&tenant.keys_file);
        let text = text.map_err(|error| format!("tenants[{i}].keys_file: cannot read {path}: {error}"))?;
        let keys: Vec<String> =
            text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
        if keys.is_empty() {
            return Err(format!("tenants[{i}].keys_file: {path} holds no key"));
        }
        for key in &keys {
            if let Some(owner) = owners.insert(key.clone(), &tenant.name) {
                return Err(format!("tenants[{i}].keys_file: {path} holds a key that `{owner}` has already"));
            }
        }
        all.push(keys);
    }
    Ok(all)
}

/// The secret on the first line of a file; whatever follows is for people.
///
/// # Errors
/// A file that cannot be read, or a first line with nothing on it, in words that begin with the setting.
pub fn first_line(setting: &str, path: &Path) -> Result<String, String> {
    let allowed = "allowed is a file whose first line is the secret";
    let text = std::fs::read_to_string(path);
    let text =
        text.map_err(|error| format!("{setting}: cannot read {}: {error}; {allowed}", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("{setting}: the first line of {} is empty; {allowed}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(folder: &Path, files: &[(&str, &str)]) -> Vec<Tenant> {
        let one = |(name, text): &(&str, &str)| {
            let keys_file = folder.join(name);
            std::fs::write(&keys_file, text).unwrap();
            Tenant { name: (*name).to_owned(), keys_file, ..Tenant::default() }
        };
        files.iter().map(one).collect()
    }

    #[test]
    fn keys_are_the_lines_of_a_file_whatever_is_around_them() {
        let folder = tempfile::tempdir().unwrap();
        let tenants = tenants(folder.path(), &[("red", "\n one \r\n\n\ttwo"), ("blue", "three\n")]);
        let keys = of_tenants(&tenants).unwrap();
        assert_eq!(keys, [vec!["one".to_owned(), "two".to_owned()], vec!["three".to_owned()]]);
        assert_eq!(of_tenants(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_file_that_opens_to_nobody_or_to_another_is_refused_and_no_key_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (vec![("red", "")], ["tenants[0].keys_file: ", "red holds no key"]),
            (vec![("red", "secret"), ("blue", " \n\t\n")], ["tenants[1].keys_file: ", "blue holds no key"]),
            (
                vec![("red", "other\nsecret"), ("blue", "own\n secret ")],
                ["tenants[1].keys_file: ", "blue holds a key that `red` has already"],
            ),
            // A key that is there twice was meant to be another one.
            (
                vec![("red", "secret\nsecret")],
                ["tenants[0].keys_file: ", "red holds a key that `red` has already"],
            ),
            (
                vec![("red", "a"), ("blue", "b"), ("grey", "a")],
                ["tenants[2].keys_file: ", "grey holds a key that `red` has already"],
            ),
        ];
        for (files, [start, end]) in cases {
            let error = of_tenants(&tenants(folder.path(), &files)).expect_err("it is wrong");
            assert!(error.starts_with(start) && error.ends_with(end), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let away = Tenant { keys_file: folder.path().join("away"), ..Tenant::default() };
        let error = of_tenants(&[away]).expect_err("it is away");
        assert!(error.starts_with("tenants[0].keys_file: cannot read ") && error.contains("away"), "{error}");
    }

    #[test]
    fn a_secret_is_the_first_line_of_its_file_and_no_error_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in [" secret \nmore", "secret", "secret\r\n\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(first_line("a.key_file", &path).as_deref(), Ok("secret"));
        }
        std::fs::remove_file(&path).unwrap();
        let refused = |words: &str| {
            let error = first_line("a.key_file", &path).expect_err("it is wrong");
            assert!(error.starts_with("a.key_file: ") && error.contains("key") && error.contains(words));
            assert!(error.contains("allowed is") && !error.contains("secret2"), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        };
        refused("cannot read");
        for text in ["", "\n", "  \nsecret2"] {
            std::fs::write(&path, text).unwrap();
            refused("is empty");
        }
        std::fs::write(&path, b"\xffsecret2").unwrap();
        refused("cannot read");
    }
}
