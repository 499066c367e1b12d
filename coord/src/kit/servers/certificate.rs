//! A certificate for loopback, signed by an authority made for the occasion with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the files lie.
#[derive(Debug)]
pub(super) struct Certificate {
    /// The authority that clients have to trust.
    pub(super) authority: PathBuf,
    /// What the server shows, and the key to it.
    pub(super) server: PathBuf,
    pub(super) key: PathBuf,
}

/// Elliptic, because an RSA key takes a second to find.
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Certificate {
    /// Makes all of them in `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self, String> {
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
        std::fs::write(folder.join("names.txt"), names)
            .map_err(|e| format!("cannot write names.txt: {e}"))?;
        let authority =
            ["req", "-x509", "-subj", "/CN=warmline tests", "-keyout", "ca.key", "-out", "ca.crt"];
        openssl(folder, &[&authority[..], &KEY].concat())?;
        let request = ["req", "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"];
        openssl(folder, &[&request[..], &KEY].concat())?;
        let sign =
            ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(folder, &[&sign[..], &["-extfile", "names.txt", "-out", "server.crt"]].concat())?;
        Ok(Self {
            authority: folder.join("ca.crt"),
            server: folder.join("server.crt"),
            key: folder.join("server.key"),
        })
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let made = Command::new("openssl").args(arguments).current_dir(folder).output();
    let made = made.map_err(|e| format!("cannot run openssl ({e}); install it: apt-get install openssl"))?;
    if made.status.success() {
        return Ok(());
    }
    Err(format!("openssl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&made.stderr)))
}
