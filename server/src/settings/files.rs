//! Settings of what lasts: the directory of this machine, and the files of clients in it or in a bucket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Span;
use super::keys::first_line;
use crate::shelf;

/// Where what must last lies on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// A directory of our own, made with the first thing that is kept. A relative one lies in the working directory.
    pub dir: PathBuf,
}

/// Files that clients upload, and where they lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// A bucket, `s3://bucket/prefix`, which several replicas may share; none: `files` in `data.dir`.
    pub url: Option<String>,
    /// Where the bucket's store is, such as `http://minio:9000`; none: AWS.
    pub endpoint: Option<String>,
    /// Its region; none: what the environment says (`AWS_REGION`), else `us-east-1`.
    pub region: Option<String>,
    /// Who we are there. It is better given by a file or by `WARMLINE_FILES_ACCESS_KEY`. With no keys at all those are
    /// used that AWS's own tools would find.
    #[serde(serialize_with = "hidden")]
    pub access_key: String,
    /// The proof of it.
    #[serde(serialize_with = "hidden")]
    pub secret_key: String,
    /// A file whose one line is the access key.
    pub access_key_file: Option<PathBuf>,
    /// A file whose one line is the secret key.
    pub secret_key_file: Option<PathBuf>,
    /// The largest file. Uploads are not held in memory: this bounds disk and time.
    pub max_file_bytes: u64,
    /// Bytes that one tenant may keep; none: no limit. To know them all its files are listed with each upload.
    pub max_total_bytes: Option<u64>,
    /// How long a file is kept at most; none: until it is deleted, or as long as its owner said.
    pub keep: Option<Span>,
    /// Uploads at a time on this replica; more are told to come again. One takes 1 MiB of memory, with a bucket 17.
    pub max_uploads: usize,
}

/// Batches: files of requests that are answered within a day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batches {
    /// Requests of one batch.
    pub max_lines: u64,
    /// How long a batch that has ended can be asked about. Its files have times of their own.
    pub keep: Span,
}

/// The most parts of a batch that are listed in one go, times their lines.
const MOST_LINES: u64 = 100_000;

impl Default for Batches {
    fn default() -> Self {
        Self { max_lines: 50_000, keep: Span::seconds(30 * 24 * 3_600) }
    }
}

impl Batches {
    /// Whether all of it makes sense.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MOST_LINES).contains(&self.max_lines) {
            return Err(format!("batches.max_lines: found {}; allowed is 1 to {MOST_LINES}", self.max_lines));
        }
        Ok(())
    }
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: "warmline-data".into() }
    }
}

impl Default for Files {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            access_key: String::new(),
            secret_key: String::new(),
            access_key_file: None,
            secret_key_file: None,
            max_file_bytes: 200 << 20,
            max_total_bytes: None,
            keep: None,
            max_uploads: 16,
        }
    }
}

impl Files {
    /// The bucket, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read, in words.
    pub fn place(&self) -> Result<Option<shelf::Place>, String> {
        let Some(url) = &self.url else { return Ok(None) };
        let access = key("access_key", &self.access_key, self.access_key_file.as_deref())?;
        let secret = key("secret_key", &self.secret_key, self.secret_key_file.as_deref())?;
        Ok(Some(shelf::Place {
            url: url.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            keys: access.zip(secret),
        }))
    }

    /// Whether all of it makes sense together.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { url, endpoint, region, access_key, secret_key, access_key_file, secret_key_file, .. } =
            self;
        if let Some(url) = url {
            shelf::parse(url).map_err(|why| format!("files.url: {why}"))?;
        }
        let access = !access_key.is_empty() || access_key_file.is_some();
        let secret = !secret_key.is_empty() || secret_key_file.is_some();
        let of_buckets = [
            ("endpoint", endpoint.is_some()),
            ("region", region.is_some()),
            ("access_key", access),
            ("secret_key", secret),
        ];
        if let Some((key, _)) = of_buckets.iter().find(|(_, given)| *given && url.is_none()) {
            return Err(format!(
                "files.{key}: it belongs to a bucket; set files.url = \"s3://bucket/prefix\" as well"
            ));
        }
        for (key, text, file) in
            [("access_key", access_key, access_key_file), ("secret_key", secret_key, secret_key_file)]
        {
            if !text.is_empty() && file.is_some() {
                return Err(format!("files.{key}_file: there is a {key} as well; give one of the two"));
            }
        }
        if access != secret {
            let missing = if access { "secret_key" } else { "access_key" };
            return Err(format!(
                "files.{missing}: it is missing, and its other half is there; give both or neither"
            ));
        }
        if let Some(endpoint) = endpoint {
            let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
            let authority = rest.map(|rest| rest.trim_end_matches('/')).filter(|rest| !rest.is_empty());
            if authority.is_none_or(|authority| authority.parse::<http::uri::Authority>().is_err()) {
                return Err(format!(
                    "files.endpoint: found `{endpoint}`; allowed is http://host:port or https://host"
                ));
            }
        }
        let most = shelf::MAX_FILE;
        if !(1..=most).contains(&self.max_file_bytes) {
            return Err(format!(
                "files.max_file_bytes: found {}; allowed is 1 to {most}",
                self.max_file_bytes
            ));
        }
        if self.max_total_bytes == Some(0) {
            return Err(
                "files.max_total_bytes: found 0; allowed is 1 or more, or nothing for no limit".to_owned()
            );
        }
        if self.max_uploads == 0 {
            return Err("files.max_uploads: found 0; allowed is 1 or more".to_owned());
        }
        if self.keep.is_some_and(|keep| keep.get() < Duration::from_secs(1)) {
            return Err(
                "files.keep: found less than a second; allowed is 1s or more, or nothing for ever".to_owned()
            );
        }
        Ok(())
    }
}

/// A secret from the settings or from its file.
fn key(name: &str, text: &str, file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(path) = file else { return Ok(Some(text.to_owned()).filter(|text| !text.is_empty())) };
    first_line(&format!("files.{name}_file"), path).map(Some)
}

/// Secrets are not shown.
fn hidden<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if text.is_empty() { "" } else { "(hidden)" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Files {
        Files { url: Some("s3://b/p".to_owned()), ..Files::default() }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_key_and_what_is_allowed() {
        let text = |text: &str| Some(text.to_owned());
        let cases = [
            (Files { url: text("b"), ..Files::default() }, ["files.url", "s3://bucket/prefix"]),
            (Files { region: text("eu"), ..Files::default() }, ["files.region", "files.url"]),
            (Files { access_key: "a".into(), ..Files::default() }, ["files.access_key", "files.url"]),
            (Files { access_key: "a".into(), ..bucket() }, ["files.secret_key", "missing"]),
            (Files { secret_key_file: Some("/s".into()), ..bucket() }, ["files.access_key", "missing"]),
            (
                Files {
                    access_key: "a".into(),
                    access_key_file: Some("/a".into()),
                    secret_key: "s".into(),
                    ..bucket()
                },
                ["files.access_key_file", "one of the two"],
            ),
            (Files { endpoint: text("minio:9000"), ..bucket() }, ["files.endpoint", "http://host:port"]),
            (Files { endpoint: text("http://"), ..bucket() }, ["files.endpoint", "http://host:port"]),
            (Files { max_file_bytes: 0, ..Files::default() }, ["files.max_file_bytes", "allowed"]),
            (Files { max_file_bytes: u64::MAX, ..Files::default() }, ["files.max_file_bytes", "allowed"]),
            (Files { max_total_bytes: Some(0), ..Files::default() }, ["files.max_total_bytes", "no limit"]),
            (Files { max_uploads: 0, ..Files::default() }, ["files.max_uploads", "1 or more"]),
            (Files { keep: Some(Span::millis(1)), ..Files::default() }, ["files.keep", "1s"]),
        ];
        for (files, words) in cases {
            let error = files.check().expect_err(&format!("{files:?}"));
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        let endpoint = text("http://minio:9000/");
        let keys = ("a".to_owned(), "s".to_owned());
        let whole = Files { endpoint, access_key: keys.0.clone(), secret_key: keys.1.clone(), ..bucket() };
        assert_eq!(whole.check(), Ok(()));
        assert_eq!(whole.place().unwrap().unwrap().keys, Some(keys));
        assert_eq!(Files::default().check(), Ok(()));
        assert!(Files::default().place().unwrap().is_none());
    }

    #[test]
    fn keys_come_from_files_and_are_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (access, secret) = (folder.path().join("access"), folder.path().join("secret"));
        std::fs::write(&access, "me\n").unwrap();
        std::fs::write(&secret, " proof \nignored\n").unwrap();
        let files =
            Files { access_key_file: Some(access), secret_key_file: Some(secret.clone()), ..bucket() };
        assert_eq!(files.place().unwrap().unwrap().keys, Some(("me".to_owned(), "proof".to_owned())));
        std::fs::write(&secret, "\n").unwrap();
        let error = files.place().err().unwrap();
        assert!(error.contains("files.secret_key_file") && error.contains("empty"), "{error}");
        std::fs::remove_file(&secret).unwrap();
        assert!(files.place().err().unwrap().contains("cannot read"));
        let shown = Files { access_key: "me".into(), secret_key: "proof".into(), ..bucket() };
        let dump = toml::to_string(&shown).unwrap();
        assert!(dump.contains("(hidden)") && !dump.contains("proof") && !dump.contains("\"me\""), "{dump}");
    }
}
