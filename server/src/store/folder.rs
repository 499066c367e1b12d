//! The data folder of a store: what it is called, for ever.

use std::path::Path;

use crate::settings::Tiers;

/// What the node is called: as set, as it was called before, or by chance.
pub(super) fn id(tiers: &Tiers) -> Result<String, String> {
    match (&tiers.id, &tiers.folder) {
        (Some(id), _) => Ok(id.clone()),
        (None, None) => Ok(chance()),
        (None, Some(folder)) => kept(folder),
    }
}

/// Makes the folder, if it is not there.
pub(super) fn make(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("tiers.folder: cannot make {}: {error}", folder.display()))
}

fn kept(folder: &Path) -> Result<String, String> {
    let wrong = |what: &str, error: std::io::Error| {
        format!("tiers.folder: cannot {what} {}: {error}", folder.display())
    };
    make(folder)?;
    let path = folder.join("node-id");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => {
            Err(format!("tiers.folder: {} is empty: write what the node was called there", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = chance();
            let half = folder.join("node-id.new");
            std::fs::write(&half, format!("{id}\n")).map_err(|error| wrong("write to", error))?;
            std::fs::rename(&half, &path).map_err(|error| wrong("write to", error))?;
            Ok(id)
        }
        Err(error) => Err(wrong("read", error)),
    }
}

fn chance() -> String {
    format!("node-{:016x}", crate::chance::number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_called_the_same_after_a_restart_and_as_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let tiers = Tiers { folder: Some(folder.path().join("new")), ..Tiers::default() };
        let first = id(&tiers).unwrap();
        assert_eq!(id(&tiers).unwrap(), first);
        assert_ne!(id(&Tiers::default()).unwrap(), first);
        assert_eq!(id(&Tiers { id: Some("seven".to_owned()), ..tiers.clone() }).unwrap(), "seven");
        std::fs::write(folder.path().join("new/node-id"), "").unwrap();
        assert!(id(&tiers).unwrap_err().contains("node-id is empty"));
    }
}
