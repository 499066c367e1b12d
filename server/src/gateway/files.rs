//! OpenAI's Files over HTTP: what is asked, of whose files, and how the answer looks.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use multer::Multipart;
use serde_json::{Value, json};

use super::arriving::{Arriving, Claims, drain};
use super::handle::json;
use super::keys::Admitted;
use super::relay::Answer;
use super::{Counters, Gateway, form};
use crate::error::ApiError;
use crate::files::{File, Id, Page, Purpose, Wanted};
use crate::shelf::Reading;

/// Files in one page, if nothing else is said and at most.
const PAGE: usize = 10_000;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All files of a tenant.
    All,
    /// What is known of one.
    One,
    /// Its content.
    Content,
}

/// The content of a file on its way to a client.
pub(super) struct Download {
    reading: Reading,
    left: u64,
    counters: Arc<Counters>,
    /// Held until the client has everything.
    _admitted: Admitted,
}

// === impl Target ===

impl Target {
    /// What is at a path under `/v1/files`.
    pub(super) fn at(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/files")?;
        match rest.strip_prefix('/').map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
            None if rest.is_empty() => Some(Self::All),
            Some((id, "")) if !id.is_empty() && !rest.ends_with('/') => Some(Self::One),
            Some((id, "content")) if !id.is_empty() => Some(Self::Content),
            _ => None,
        }
    }

    pub(super) const fn allowed(self) -> &'static [Method] {
        match self {
            Self::All => &[Method::GET, Method::HEAD, Method::POST],
            Self::One => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Content => &[Method::GET, Method::HEAD],
        }
    }
}

// === Answers ===

impl Gateway {
    pub(super) async fn files(
        &self,
        target: Target,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, ApiError> {
        if request.method() == Method::POST {
            let admitted = self.0.keys.admit(request.headers()).await?;
            return self.upload(admitted, request).await;
        }
        let admitted = self.0.keys.identify(request.headers())?;
        let (files, tenant) = (&self.0.files, admitted.tenant());
        if target == Target::All {
            let page = files.list(tenant, &wanted(request.uri().query().unwrap_or_default())?).await?;
            return Ok(said(&list(&page)));
        }
        let given = request.uri().path().split('/').nth(3).unwrap_or_default();
        let unknown = || ApiError::UnknownFile(given.chars().take(80).collect());
        let id = Id::parse(given).ok_or_else(unknown)?;
        if request.method() == Method::DELETE {
            let gone = || said(&json!({"id": id.as_str(), "object": "file", "deleted": true}));
            return files.delete(tenant, &id).await?.then(gone).ok_or_else(unknown);
        }
        let file = files.find(tenant, &id).await?.ok_or_else(unknown)?;
        if target == Target::One {
            return Ok(said(&object(&file)));
        }
        self.download(admitted, &file, request.headers(), request.method() == Method::HEAD).await
    }

    async fn upload(
        &self,
        admitted: Admitted,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, ApiError> {
        let (head, mut incoming) = request.into_parts();
        let taken = self.receive_file(&admitted, &head.headers, &mut incoming).await;
        // Who waits to be told to go on sends nothing until somebody reads.
        let comes = taken.is_ok() || !head.headers.contains_key(header::EXPECT);
        if comes && !incoming.is_end_stream() {
            let most = self.0.files.settings().max_file_bytes + form::AROUND;
            tokio::spawn(drain(incoming, most, self.0.settings.gateway.body_timeout.get()));
        }
        Ok(said(&object(&taken?)))
    }

    async fn receive_file(
        &self,
        admitted: &Admitted,
        headers: &HeaderMap,
        incoming: &mut Incoming,
    ) -> Result<File, ApiError> {
        let settings = self.0.files.settings();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let boundary = form::boundary(text(header::CONTENT_TYPE))?;
        let promised = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let limit = settings.max_file_bytes;
        if promised.is_some_and(|promised| promised > limit.saturating_add(form::AROUND)) {
            return Err(ApiError::FileTooLarge { limit });
        }
        let _place = self.0.uploads.try_acquire().map_err(|_| ApiError::Busy {
            message: format!("This replica takes {} uploads at a time, and has them.", settings.max_uploads),
            retry_after: 1,
        })?;
        let claims = Claims::default();
        let patience = self.0.settings.gateway.body_timeout.get();
        let arriving = Arriving::new(incoming, patience, claims.clone());
        form::take(&self.0.files, admitted.tenant(), Multipart::new(arriving, boundary), &claims).await
    }

    async fn download(
        &self,
        admitted: Admitted,
        file: &File,
        headers: &HeaderMap,
        head_only: bool,
    ) -> Result<Response<Answer>, ApiError> {
        let range = range(headers, file.bytes)?;
        let part = range.clone().unwrap_or(0..file.bytes);
        let length = part.end - part.start;
        let body = if head_only {
            Answer::Whole(None)
        } else {
            let reading = self.0.files.read(file, range.clone()).await?;
            let counters = self.0.counters.clone();
            Answer::Stored(Box::new(Download { reading, left: length, counters, _admitted: admitted }))
        };
        let mut answer = Response::new(body);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::CONTENT_DISPOSITION, disposition(&file.filename));
        if range.is_some() {
            headers.insert(header::CONTENT_RANGE, content_range(Some(&part), file.bytes));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(answer)
    }
}

fn said(body: &Value) -> Response<Answer> {
    json(StatusCode::OK, body.to_string().into())
}

/// A file as OpenAI shows it.
fn object(file: &File) -> Value {
    json!({
        "id": file.id.as_str(),
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose.name(),
        "status": "processed",
        "status_details": null,
    })
}

fn list(page: &Page) -> Value {
    let id = |file: Option<&Arc<File>>| file.map(|file| file.id.as_str().to_owned());
    json!({
        "object": "list",
        "data": page.files.iter().map(|file| object(file)).collect::<Vec<_>>(),
        "first_id": id(page.files.first()),
        "last_id": id(page.files.last()),
        "has_more": page.more,
    })
}

// === Questions ===

/// What a list is asked for.
fn wanted(query: &str) -> Result<Wanted, ApiError> {
    let mut wanted = Wanted { purpose: None, after: None, limit: PAGE, newest_first: true };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let wrong = |allowed: &str| ApiError::Invalid {
            message: format!(
                "`{name}` is `{}`; allowed is {allowed}.",
                value.chars().take(80).collect::<String>()
            ),
            param: Some(name.clone().into_owned()),
        };
        match &*name {
            "purpose" => {
                let known = Purpose::OF_CLIENTS.into_iter().chain([Purpose::BatchOutput]);
                let found = known.into_iter().find(|purpose| purpose.name() == value);
                wanted.purpose = Some(found.ok_or_else(|| wrong("a purpose of files, such as `batch`"))?);
            }
            "after" => wanted.after = Some(Id::parse(&value).ok_or_else(|| wrong("the id of a file"))?),
            "limit" => {
                let found = value.parse().ok().filter(|limit| (1..=PAGE).contains(limit));
                wanted.limit = found.ok_or_else(|| wrong("1 to 10000"))?;
            }
            "order" => {
                wanted.newest_first = match &*value {
                    "asc" => false,
                    "desc" => true,
                    _ => return Err(wrong("`asc` or `desc`")),
                }
            }
            _ => {}
        }
    }
    Ok(wanted)
}

/// The one range that is asked for. What is no range, or several, is answered with the whole, as the standard has it.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, ApiError> {
    // Whoever asks only for the unchanged rest has no mark of ours to name, so his is not ours.
    if headers.contains_key(header::IF_RANGE) {
        return Ok(None);
    }
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let Some((first, last)) =
        asked.and_then(|range| range.trim().strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let number =
        |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let found = match (first, last) {
        ("", last) => number(last).map(|last| size.saturating_sub(last)..size),
        (first, "") => number(first).map(|first| first..size),
        (first, last) => number(first)
            .zip(number(last))
            .and_then(|(first, last)| (first <= last).then(|| first..size.min(last.saturating_add(1)))),
    };
    match found {
        Some(range) if range.start >= range.end => Err(ApiError::BadRange { size }),
        found => Ok(found),
    }
}

/// `Content-Range` of a part, or of none.
pub(super) fn content_range(part: Option<&Range<u64>>, size: u64) -> HeaderValue {
    let part = part.map_or("*".to_owned(), |part| format!("{}-{}", part.start, part.end - 1));
    HeaderValue::try_from(format!("bytes {part}/{size}")).expect("digits are a header")
}

/// For saving: never shown as a page, whatever it is called.
fn disposition(filename: &str) -> HeaderValue {
    let plain = |c: char| if c.is_ascii_graphic() && !r#""\/%;"#.contains(c) || c == ' ' { c } else { '_' };
    let name: String = filename.chars().map(plain).collect();
    HeaderValue::try_from(format!("attachment; filename=\"{name}\"")).expect("plain characters are a header")
}

// === impl Download ===

impl Download {
    fn broken(&mut self, why: String) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.counters.broken_answers.add(1);
        self.left = 0;
        tracing::warn!(why, "a file broke off on its way to a client");
        Poll::Ready(Some(Err(std::io::Error::other(why))))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.reading.stream).poll_next(context) {
            Poll::Ready(Some(Ok(bytes))) if bytes.len() as u64 <= self.left => {
                self.left -= bytes.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Ok(_))) => self.broken("it is longer than it was".to_owned()),
            Poll::Ready(Some(Err(error))) => self.broken(error.to_string()),
            Poll::Ready(None) => self.broken("it is shorter than it was".to_owned()),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_all_files_one_or_its_content() {
        let cases = [
            ("/v1/files", Some(Target::All)),
            ("/v1/files/", None),
            ("/v1/files/file-1", Some(Target::One)),
            ("/v1/files/file-1/", None),
            ("/v1/files/file-1/content", Some(Target::Content)),
            ("/v1/files/file-1/content/", None),
            ("/v1/files/file-1/else", None),
            ("/v1/files//content", None),
            ("/v1/filesystem", None),
        ];
        for (path, expected) in cases {
            assert_eq!(Target::at(path), expected, "{path}");
        }
    }

    #[test]
    fn a_range_is_one_range_within_the_file() {
        let bad = Err(ApiError::BadRange { size: 10 });
        let cases = [
            (None, Ok(None)),
            (Some("bytes=0-0"), Ok(Some(0..1))),
            (Some("bytes=2-5"), Ok(Some(2..6))),
            (Some("bytes=2-"), Ok(Some(2..10))),
            (Some("bytes=-3"), Ok(Some(7..10))),
            (Some("bytes=-30"), Ok(Some(0..10))),
            (Some("bytes=5-99"), Ok(Some(5..10))),
            (Some("bytes=0-18446744073709551615"), Ok(Some(0..10))),
            (Some("bytes=10-"), bad.clone()),
            (Some("bytes=10-20"), bad.clone()),
            (Some("bytes=-0"), bad),
            (Some("bytes=5-2"), Ok(None)),
            (Some("bytes=0-1,4-5"), Ok(None)),
            (Some("bytes=+1-2"), Ok(None)),
            (Some("bytes=-"), Ok(None)),
            (Some("bytes=x-y"), Ok(None)),
            (Some("lines=1-2"), Ok(None)),
        ];
        for (asked, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(asked) = asked {
                headers.insert(header::RANGE, HeaderValue::from_static(asked));
            }
            assert_eq!(range(&headers, 10), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_question_for_a_list_is_understood_or_refused_with_its_parameter() {
        let id = Id::mint(std::time::Duration::from_secs(1));
        let all = wanted(&format!("limit=3&order=asc&purpose=batch_output&after={id}&other=1")).unwrap();
        assert_eq!((all.limit, all.newest_first), (3, false));
        assert_eq!((all.purpose, all.after), (Some(Purpose::BatchOutput), Some(id)));
        let none = wanted("").unwrap();
        assert_eq!((none.limit, none.newest_first, none.purpose, none.after), (PAGE, true, None, None));
        for query in
            ["limit=0", "limit=10001", "limit=x", "order=up", "purpose=fun", "after=file-1", "limit="]
        {
            let Err(ApiError::Invalid { message, param }) = wanted(query) else { panic!("{query} is taken") };
            assert_eq!(param.as_deref(), query.split('=').next(), "{query}");
            assert!(message.contains("allowed is"), "{message}");
        }
    }

    #[test]
    fn the_name_for_saving_cannot_leave_its_quotes() {
        let shown = disposition("a \"b\"\r\nx: y/..\\%41ü;.jsonl");
        assert_eq!(shown, "attachment; filename=\"a _b___x: y_..__41__.jsonl\"");
    }
}
