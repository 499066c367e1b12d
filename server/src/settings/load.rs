//! From defaults, a file and the environment to settings; every refusal names the place and what is allowed.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Settings, check};

/// Where a variable must begin to be ours.
const PREFIX: &str = "WARMLINE_";
/// Variables that are ours but not settings.
const OTHER_VARIABLES: [&str; 2] = ["WARMLINE_CONFIG", "WARMLINE_ADMIN"];

/// The name under which deployments keep this one secret; the same as `coordination.dsn`.
const COORD_DSN: &str = "WARMLINE_COORD_DSN";

/// Why there are no settings. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// The file is not TOML, or says something that is not a setting.
    #[error("{}: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Line, key, what was found and what is allowed.
        why: String,
    },
    /// A variable has a value that its key does not allow.
    #[error("environment variable {name}=`{found}` (key `{key}`): {why}")]
    Variable {
        /// The variable.
        name: String,
        /// The key that it sets.
        key: String,
        /// Its value.
        found: String,
        /// What is allowed.
        why: String,
    },
    /// A variable that looks like ours but sets nothing.
    #[error("environment variable {name} sets nothing{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The nearest that would.
        nearest: Option<String>,
    },
    /// Each value is allowed alone, but not together.
    #[error("{origin}: {why}")]
    Together {
        /// Where the settings came from.
        origin: Origin,
        /// The key, what was found, what is allowed.
        why: String,
    },
}

/// Where settings came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults, and perhaps variables.
    Defaults,
    /// A file, and perhaps variables.
    File(PathBuf),
}

/// The settings: defaults, overridden by `file`, overridden by `variables`.
///
/// # Errors
/// The first thing that is not allowed.
pub fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, Error> {
    let origin = file.map_or(Origin::Defaults, |path| Origin::File(path.to_owned()));
    let mut table = file.map(read).transpose()?.unwrap_or_default();
    let keys = keys();
    let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| is_setting(name)).collect();
    variables.sort();
    for (name, found) in variables {
        let name = if name == COORD_DSN { variable("coordination.dsn") } else { name };
        overlay(&mut table, &keys, name, found)?;
    }
    let settings: Settings = table.try_into().expect("every change was tried when it was made");
    check::together(&settings).map_err(|why| Error::Together { origin, why })?;
    Ok(settings)
}

/// The variable that sets a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn is_setting(name: &str) -> bool {
    name.starts_with(PREFIX) && !OTHER_VARIABLES.contains(&name)
}

fn read(path: &Path) -> Result<Table, Error> {
    let unreadable = |why| Error::Unreadable { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let wrong = |why: toml::de::Error| Error::File { path: path.to_owned(), why: discreet(&why.to_string()) };
    toml::from_str::<Settings>(&text).map_err(wrong)?;
    toml::from_str(&text).map_err(wrong)
}

/// The words of an error that quotes the file, without what stands before an `@`: it may be a password.
fn discreet(why: &str) -> String {
    let quiet = |line: &str| match (line.rfind('@'), line.find('|')) {
        (Some(at), Some(bar)) if bar < at => format!("{}| … (hidden){}", &line[..bar], &line[at..]),
        _ => line.to_owned(),
    };
    why.lines().map(quiet).collect::<Vec<_>>().join("\n")
}

/// Sets one key from one variable, and tries the result so that a bad value is blamed on the right one.
fn overlay(table: &mut Table, keys: &[(String, Value)], name: String, found: String) -> Result<(), Error> {
    let Some((key, example)) = keys.iter().find(|(key, _)| variable(key) == name) else {
        let nearest = keys.iter().map(|(key, _)| variable(key));
        let nearest = nearest.min_by_key(|known| distance(known, &name));
        let nearest = nearest.filter(|known| distance(known, &name) * 3 <= name.len());
        return Err(Error::UnknownVariable { name, nearest });
    };
    let wrong = |why: String| Error::Variable {
        name: name.clone(),
        key: key.clone(),
        found: found.clone(),
        why: why.trim_end().to_owned(),
    };
    let value = match example {
        Value::String(_) => Value::String(found.clone()),
        _ => parse(&found).map_err(|why| wrong(format!("{why}; an example is `{example}`")))?,
    };
    set(table, key, value);
    table.clone().try_into::<Settings>().map_err(|why| wrong(why.message().to_owned())).map(drop)
}

fn parse(text: &str) -> Result<Value, String> {
    let table: Table = toml::from_str(&format!("it = {text}")).map_err(|_| "not a TOML value".to_owned())?;
    table.into_iter().next().map(|(_, value)| value).ok_or_else(|| "empty".to_owned())
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, rest)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            set(section.as_table_mut().expect("a section is a table: the file was tried"), rest, value);
        }
    }
}

/// Every key, with a value of the right type. Lists of tables (`engines`, …) are one key each.
fn keys() -> Vec<(String, Value)> {
    let mut example = Settings::default();
    example.admin.key_file = Some("/run/secrets/warmline-admin".into());
    example.coordination = super::Coordination {
        dsn_file: Some("/run/secrets/coord-dsn".into()),
        ca_file: Some("/etc/ssl/redis-ca.pem".into()),
        instance: Some("gateway-1".to_owned()),
        ..super::Coordination::default()
    };
    example.files = super::Files {
        url: Some("s3://bucket/prefix".to_owned()),
        endpoint: Some("http://minio:9000".to_owned()),
        region: Some("eu-central-1".to_owned()),
        access_key_file: Some("/run/secrets/files-access-key".into()),
        secret_key_file: Some("/run/secrets/files-secret-key".into()),
        max_total_bytes: Some(100 << 30),
        keep: Some(super::Span::seconds(30 * 24 * 3_600)),
        ..super::Files::default()
    };
    example.webhook = super::Webhook {
        url: Some("https://example.com/warmline".to_owned()),
        secret_file: Some("/run/secrets/webhook".into()),
    };
    let table = Table::try_from(&example).expect("settings are a table");
    let mut keys = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                keys.extend(section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => keys.push((name, value)),
        }
    }
    keys
}

/// Edits between two words: enough to guess what was meant.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Defaults => f.write_str("settings"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file, variables, and the words that the refusal must contain.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

    fn from(file: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warmline.toml");
        std::fs::write(&path, file).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(Some(&path), variables).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_survive_a_round_trip_through_their_own_dump() {
        let dumped = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(from(&dumped, &[]), Ok(Settings::default()));
    }

    #[test]
    fn a_variable_overrides_the_file_and_the_file_overrides_the_default() {
        let file = "[gateway]\nlisten = \"127.0.0.1:1\"\nthreads = 3\n";
        let settings = from(file, &[("WARMLINE_GATEWAY_LISTEN", "127.0.0.1:2")]).unwrap();
        assert_eq!(settings.gateway.listen.port(), 2);
        assert_eq!(settings.gateway.threads, 3);
        assert_eq!(settings.gateway.max_attempts, Settings::default().gateway.max_attempts);
    }

    #[test]
    fn lists_come_from_variables_as_toml() {
        let engines = r#"[{ name = "a", url = "http://h:1" }, { name = "b", url = "http://h:2" }]"#;
        let settings = from("", &[("WARMLINE_ENGINES", engines)]).unwrap();
        assert_eq!(settings.engines[1].name, "b");
    }

    #[test]
    fn every_refusal_names_place_key_found_and_allowed() {
        let cases: [Case<'_>; 12] = [
            ("[gateway]\nlisten = 3\n", &[], &["warmline.toml", "line 2", "listen", "3"]),
            ("[gateway]\nlissten = \"x\"\n", &[], &["warmline.toml", "lissten", "expected one of", "listen"]),
            ("[gatewy]\n", &[], &["warmline.toml", "gatewy", "gateway"]),
            ("[gateway]\nhead_timeout = \"5 parsecs\"\n", &[], &["line 2", "5 parsecs", "250ms"]),
            ("nonsense", &[], &["warmline.toml", "line 1"]),
            ("[routing]\npolicy = \"hot\"\n", &[], &["hot", "round-robin"]),
            ("", &[("WARMLINE_GATEWAY_THREADS", "many")], &["WARMLINE_GATEWAY_THREADS", "many", "example"]),
            ("", &[("WARMLINE_GATEWAY_THREADS", "-1")], &["WARMLINE_GATEWAY_THREADS", "gateway.threads"]),
            ("", &[("WARMLINE_GATEWAY_LISTN", "x")], &["WARMLINE_GATEWAY_LISTN", "WARMLINE_GATEWAY_LISTEN"]),
            ("", &[("WARMLINE_ROUTING_POLICY", "hot")], &["WARMLINE_ROUTING_POLICY", "hot", "least-loaded"]),
            (
                "[[engines]]\nname = \"a\"\nurl = \"ftp://x\"\n",
                &[],
                &["warmline.toml", "engines[0].url", "ftp://x", "http://"],
            ),
            (
                "[[engines]]\nname = \"a\"\nurl = \"http://x\"\n[[engines]]\nname = \"a\"\nurl = \"http://y\"\n",
                &[],
                &["engines[1].name", "`a`", "engines[0]"],
            ),
        ];
        for (file, variables, words) in cases {
            let error = from(file, variables).expect_err(file);
            for word in words {
                assert!(error.contains(word), "`{word}` is missing from: {error}");
            }
        }
    }

    #[test]
    fn the_reference_file_names_every_key_and_its_default() {
        let reference = include_str!("../../../docs/warmline.toml");
        assert_eq!(from(reference, &[]), Ok(Settings::default()));
        let commented: String =
            reference.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
        let nested = [
            toml::Table::try_from(super::super::Engine::default()).unwrap(),
            toml::Table::try_from(super::super::Tenant::default()).unwrap(),
            toml::Table::try_from(super::super::Model::default()).unwrap(),
        ];
        let nested = nested.iter().flat_map(|table| table.keys().cloned());
        for key in keys().into_iter().map(|(key, _)| key).chain(nested) {
            let key = key.rsplit('.').next().unwrap();
            assert!(commented.contains(key), "docs/warmline.toml does not name `{key}`");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Some(Path::new("/nowhere/warmline.toml")), []).unwrap_err().to_string();
        assert!(error.contains("/nowhere/warmline.toml"), "{error}");
    }
}
