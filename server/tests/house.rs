//! The rules of the house: arrows point one way, files open with a sentence, only known guests come in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which rooms each room may look into. A room that is not here may look into none.
const ARROWS: [(&str, &[&str]); 9] = [
    ("warmline-blocks", &[]),
    ("warmline-events", &["warmline-blocks"]),
    ("warmline-index", &["warmline-blocks"]),
    ("warmline-store", &["warmline-blocks"]),
    ("warmline-queue", &["warmline-blocks"]),
    ("warmline-coord", &["warmline-blocks"]),
    ("warmline-engine", &["warmline-blocks", "warmline-events"]),
    ("warmline-sim", &["warmline-blocks", "warmline-events"]),
    (
        "warmline-server",
        &[
            "warmline-blocks",
            "warmline-events",
            "warmline-index",
            "warmline-store",
            "warmline-queue",
            "warmline-coord",
            "warmline-sim",
        ],
    ),
];

/// Where the binary runs in production; what other platforms would pull in is not our concern.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM];
    let ran = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn words(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().unwrap()
}

/// Packages that end up in the binary on Linux: no dev-dependencies, no other platforms.
fn shipped() -> BTreeSet<(String, String)> {
    let args = [
        "tree",
        "--workspace",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--locked",
        "--target",
        PLATFORM,
    ];
    let ran = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    let package = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    };
    text.lines().filter_map(package).collect()
}

/// Every file that people edit, with one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let ran = Command::new("git").args(args).current_dir(root()).output().unwrap();
    assert!(ran.status.success(), "the house rules read the list of files from git");
    let text = String::from_utf8(ran.stdout).unwrap();
    let wanted = |name: &&str| endings.iter().any(|ending| name.ends_with(ending));
    text.lines().filter(wanted).map(|name| root().join(name)).filter(|path| path.exists()).collect()
}

#[test]
fn arrows_between_rooms_point_one_way() {
    let metadata = metadata();
    let rooms: Vec<&Value> = packages(&metadata)
        .iter()
        .filter(|package| words(package, "name").starts_with("warmline-"))
        .collect();
    assert!(rooms.len() >= 5, "the rooms were not found");
    for room in rooms {
        let name = words(room, "name");
        let arrow = ARROWS.iter().find(|(from, _)| *from == name);
        let (_, allowed) =
            arrow.unwrap_or_else(|| panic!("{name} is a new room: say in ARROWS what it may see"));
        for dependency in room["dependencies"].as_array().unwrap() {
            let to = words(dependency, "name");
            let inward = dependency["kind"].is_null() && to.starts_with("warmline-");
            assert!(!inward || allowed.contains(&to.as_str()), "{name} must not look into {to}");
        }
    }
}

#[test]
fn every_file_opens_with_a_sentence() {
    let files = files(&[".rs"]);
    assert!(files.len() > 20, "the files were not found");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let opening: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
        let opening = opening.join(" ");
        assert!(
            opening.contains(". ") || opening.ends_with(['.', ':']) || opening.ends_with("::"),
            "{} must open with `//! ` and a sentence that ends",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    // Spelled in halves so that this file may pass its own rule.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    for path in files(&[".rs", ".md", ".toml", ".py", ".sh", "Makefile"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for (i, line) in text.lines().enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}:{}: `{word}`", path.display(), i + 1);
            }
        }
    }
}

#[test]
fn only_licences_on_the_list_come_in() {
    let deny: toml::Table =
        toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();
    let allowed: BTreeSet<&str> =
        deny["licenses"]["allow"].as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
    for package in packages(&metadata()) {
        let (name, licence) = (words(package, "name"), words(package, "license"));
        // An `OR` needs one side on the list, an `AND` both; old crates write `/` for `OR`.
        let fits = licence.replace('/', " OR ").split(" AND ").all(|part| {
            let part = part.trim_matches(['(', ')', ' ']);
            part.split(" OR ").any(|one| allowed.contains(one.trim_matches(['(', ')', ' '])))
        });
        assert!(fits, "{name} has the licence `{licence}`, which deny.toml does not allow");
    }
}

#[test]
fn no_crate_is_built_twice_without_a_reason() {
    let deny: toml::Table =
        toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();
    let list = |key: &str| -> Vec<toml::Value> { deny["bans"][key].as_array().unwrap().clone() };
    let skipped: BTreeSet<String> = list("skip")
        .iter()
        .map(|entry| {
            assert!(entry.get("reason").is_some(), "{entry} is skipped without a reason");
            entry["crate"].as_str().unwrap().split('@').next().unwrap().to_owned()
        })
        .collect();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version) in shipped() {
        versions.entry(name).or_default().insert(version);
    }
    for (name, versions) in &versions {
        let once = versions.len() == 1 || skipped.contains(name);
        assert!(
            once,
            "{name} is built in versions {versions:?}: agree on one, or give a reason in deny.toml"
        );
        let banned = list("deny").iter().any(|entry| entry["name"].as_str() == Some(name));
        assert!(!banned, "{name} is banned by deny.toml");
    }
    for name in &skipped {
        let twice = versions.get(name).is_some_and(|versions| versions.len() > 1);
        assert!(twice, "{name} is excused in deny.toml but no longer built twice");
    }
}
