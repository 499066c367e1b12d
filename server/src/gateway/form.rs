//! The form with which a file is uploaded: parts in any order, the file's content straight to its place.

use std::time::Duration;

use multer::{Field, Multipart};

use super::arriving::Claims;
use crate::error::ApiError;
use crate::files::{Facts, File, Files, Purpose, Upload};

/// Parts of a form: OpenAI's has four; others are ignored, but not for ever.
const MAX_PARTS: usize = 32;
/// The longest value of a part that is not the file.
const MAX_VALUE: usize = 4 << 10;
/// The longest name of a file, in characters.
const MAX_FILENAME: usize = 255;
/// What a form adds to its file, at most: for the promise of a body's length.
pub(super) const AROUND: u64 = 64 << 10;
/// What OpenAI allows as the life of a file, in seconds.
const LIFE: std::ops::RangeInclusive<u64> = 3_600..=2_592_000;

/// What has come of a form.
#[derive(Default)]
struct Form {
    file: Option<(String, Upload)>,
    purpose: Option<Purpose>,
    anchor: Option<String>,
    seconds: Option<u64>,
}

/// Reads a form and makes a file of it. If anything is wrong with it there is no file.
pub(super) async fn take(
    files: &Files,
    tenant: Option<&str>,
    mut parts: Multipart<'_>,
    claims: &Claims,
) -> Result<File, ApiError> {
    let mut form = Form::default();
    for _ in 0..MAX_PARTS {
        let part = parts.next_field().await.map_err(said)?;
        claims.claim();
        let Some(part) = part else { return form.file().await };
        form.part(files, tenant, part, claims).await?;
    }
    Err(ApiError::invalid(format!("The form has more than {MAX_PARTS} parts.")))
}

/// The boundary of a form's parts.
pub(super) fn boundary(content_type: Option<&str>) -> Result<String, ApiError> {
    let found = content_type.unwrap_or_default();
    multer::parse_boundary(found).map_err(|error| {
        let why = match error {
            multer::Error::NoBoundary => "it has no boundary".to_owned(),
            _ if found.is_empty() => "there is none".to_owned(),
            _ => format!("it is `{}`", found.chars().take(80).collect::<String>()),
        };
        ApiError::invalid(format!(
            "A file is uploaded as a form: `Content-Type: multipart/form-data; boundary=…` is expected, but {why}."
        ))
    })
}

// === impl Form ===

impl Form {
    async fn part(
        &mut self,
        files: &Files,
        tenant: Option<&str>,
        part: Field<'_>,
        claims: &Claims,
    ) -> Result<(), ApiError> {
        match part.name() {
            Some("file") => self.content(files, tenant, part, claims).await,
            Some("purpose") => {
                let found = value("purpose", part, claims).await?;
                once("purpose", &mut self.purpose, purpose(&found)?)
            }
            Some("expires_after[anchor]") => {
                let found = value("expires_after[anchor]", part, claims).await?;
                if found != "created_at" {
                    return Err(wrong(
                        "expires_after[anchor]",
                        format!("`{found}` is no anchor; allowed is `created_at`."),
                    ));
                }
                once("expires_after[anchor]", &mut self.anchor, found)
            }
            Some("expires_after[seconds]") => {
                let found = value("expires_after[seconds]", part, claims).await?;
                let seconds =
                    found.parse().ok().filter(|seconds| LIFE.contains(seconds)).ok_or_else(|| {
                        let allowed = format!("allowed is {} to {}", LIFE.start(), LIFE.end());
                        wrong(
                            "expires_after[seconds]",
                            format!("`{found}` is no number of seconds; {allowed}."),
                        )
                    })?;
                once("expires_after[seconds]", &mut self.seconds, seconds)
            }
            Some(_) => value("part", part, claims).await.map(drop),
            None => Err(ApiError::invalid("A part of the form has no name.")),
        }
    }

    async fn content(
        &mut self,
        files: &Files,
        tenant: Option<&str>,
        mut part: Field<'_>,
        claims: &Claims,
    ) -> Result<(), ApiError> {
        if self.file.is_some() {
            return Err(wrong("file", "The form has two files; send one at a time.".to_owned()));
        }
        let name = part.file_name().unwrap_or_default().to_owned();
        if name.is_empty() || name.chars().count() > MAX_FILENAME {
            let why = if name.is_empty() { "has no filename" } else { "has a filename that is too long" };
            let message = format!("The part `file` {why}; allowed are 1 to {MAX_FILENAME} characters.");
            return Err(wrong("file", message));
        }
        let mut upload = files.upload(tenant).await?;
        while let Some(piece) = part.chunk().await.map_err(said)? {
            claims.claim();
            upload.write(&piece).await?;
        }
        self.file = Some((name, upload));
        Ok(())
    }

    /// Everything has come: is it enough?
    async fn file(self) -> Result<File, ApiError> {
        let Self { file, purpose, anchor, seconds } = self;
        let (filename, upload) = file.ok_or_else(|| {
            wrong("file", "The form has no file: a part named `file` with a filename is expected.".to_owned())
        })?;
        let purpose = purpose.ok_or_else(|| {
            wrong("purpose", format!("The form has no purpose; allowed are {}.", purposes()))
        })?;
        if upload.bytes() == 0 {
            return Err(wrong("file", "The file is empty.".to_owned()));
        }
        let expires_after = match (anchor, seconds) {
            (Some(_), Some(seconds)) => Some(Duration::from_secs(seconds)),
            (None, None) => None,
            (Some(_), None) => return Err(missing("expires_after[seconds]")),
            (None, Some(_)) => return Err(missing("expires_after[anchor]")),
        };
        Ok(upload.finish(Facts { filename, purpose, expires_after }).await?)
    }
}

// === Small steps ===

/// The text of a part.
async fn value(name: &str, mut part: Field<'_>, claims: &Claims) -> Result<String, ApiError> {
    let mut whole = Vec::new();
    while let Some(piece) = part.chunk().await.map_err(said)? {
        claims.claim();
        whole.extend_from_slice(&piece);
        if whole.len() > MAX_VALUE {
            return Err(wrong(
                name,
                format!("A part that is not the file is larger than {MAX_VALUE} bytes."),
            ));
        }
    }
    String::from_utf8(whole).map_err(|_| wrong(name, "The value is not UTF-8.".to_owned()))
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), ApiError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(wrong(name, format!("The form has `{name}` twice."))),
    }
}

fn purpose(found: &str) -> Result<Purpose, ApiError> {
    let known = Purpose::OF_CLIENTS.into_iter().find(|purpose| purpose.name() == found);
    known.ok_or_else(|| {
        let why = if found == Purpose::BatchOutput.name() {
            "is for what batches make".to_owned()
        } else {
            "is no purpose of a file".to_owned()
        };
        let found: String = found.chars().take(80).collect();
        wrong("purpose", format!("`{found}` {why}; allowed are {}.", purposes()))
    })
}

fn purposes() -> String {
    Purpose::OF_CLIENTS.map(|purpose| format!("`{}`", purpose.name())).join(", ")
}

fn missing(name: &str) -> ApiError {
    wrong(name, format!("`{name}` is missing; `expires_after` is an anchor and a number of seconds."))
}

fn wrong(param: &str, message: String) -> ApiError {
    ApiError::Invalid { message, param: Some(param.to_owned()) }
}

/// The form's reader wraps what we said ourselves.
fn said(error: multer::Error) -> ApiError {
    use multer::Error as Theirs;
    match error {
        Theirs::StreamReadFailed(ours) => match ours.downcast::<ApiError>() {
            Ok(ours) => *ours,
            Err(other) => ApiError::invalid(format!("The form cannot be read: {other}.")),
        },
        Theirs::IncompleteStream | Theirs::IncompleteFieldData { .. } | Theirs::IncompleteHeaders => {
            ApiError::invalid("The form is cut off: it ends before its last boundary.")
        }
        other => ApiError::invalid(format!("The form cannot be read: {other}.")),
    }
}
