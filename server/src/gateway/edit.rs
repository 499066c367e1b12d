//! The two changes that a body may undergo on its way: asking for usage, and losing an argument that would blind us.

use bytes::Bytes;

use crate::prompt::Request;

/// A body for the engine, and whether the usage at the end of the stream was our wish alone.
pub(super) struct Edited {
    pub(super) body: Bytes,
    pub(super) usage_is_ours: bool,
}

/// Makes an engine announce reused blocks again as if they were new copies.
const BLINDING: &str = "kv_cache_report_mode";

/// The body as the engine should see it. Everything that is not named here stays as it was, to the byte.
pub(super) fn edit(body: &Bytes, request: &Request<'_>, ask_usage: bool, streams_usage: bool) -> Edited {
    let ours = ask_usage && streams_usage && request.stream && !request.wants_stream_usage;
    let blinding = request.vllm_xargs.filter(|xargs| xargs.contains(BLINDING));
    if !ours && blinding.is_none() {
        return Edited { body: body.clone(), usage_is_ours: false };
    }
    let mut cuts: Vec<(usize, usize, String)> = Vec::new();
    if let Some(xargs) = blinding
        && let Some(clean) = without(xargs, BLINDING)
    {
        cuts.push(place(body, xargs, clean));
    }
    let mut usage_is_ours = false;
    if ours {
        usage_is_ours = true;
        match request.stream_options {
            Some(options) if options != "null" => match with_usage(options) {
                Some(with) => cuts.push(place(body, options, with)),
                None => usage_is_ours = false,
            },
            Some(null) => cuts.push(place(body, null, "{\"include_usage\":true}".to_owned())),
            None => {
                // Right behind the opening brace: a body that was read as a request has fields after it.
                let at = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
                cuts.push((at, at, "\"stream_options\":{\"include_usage\":true},".to_owned()));
            }
        }
    }
    cuts.sort_by_key(|(from, ..)| *from);
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut done = 0;
    for (from, to, text) in cuts {
        out.extend_from_slice(&body[done..from]);
        out.extend_from_slice(text.as_bytes());
        done = to;
    }
    out.extend_from_slice(&body[done..]);
    Edited { body: out.into(), usage_is_ours }
}

/// Where a part that was borrowed from the body stands in it.
fn place(body: &Bytes, part: &str, text: String) -> (usize, usize, String) {
    let from = part.as_ptr() as usize - body.as_ptr() as usize;
    (from, from + part.len(), text)
}

fn without(object: &str, key: &str) -> Option<String> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(object).ok()?;
    fields.remove(key)?;
    serde_json::to_string(&fields).ok()
}

fn with_usage(options: &str) -> Option<String> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(options).ok()?;
    fields.insert("include_usage".to_owned(), true.into());
    serde_json::to_string(&fields).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Kind;

    fn edited(text: &'static str) -> (String, bool) {
        let body = Bytes::from_static(text.as_bytes());
        let request = Request::read(Kind::Chat, &body).unwrap();
        let edited = edit(&body, &request, true, true);
        (String::from_utf8(edited.body.to_vec()).unwrap(), edited.usage_is_ours)
    }

    #[test]
    fn bodies_change_only_where_they_must() {
        let cases = [
            (r#"{"model":"m","messages":[]}"#, r#"{"model":"m","messages":[]}"#, false),
            (
                r#"{"model":"m","messages":[],"stream":true, "x": 1.50}"#,
                r#"{"stream_options":{"include_usage":true},"model":"m","messages":[],"stream":true, "x": 1.50}"#,
                true,
            ),
            (
                r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
                r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
                false,
            ),
            (
                r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":false},"a":1}"#,
                r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true},"a":1}"#,
                true,
            ),
            (
                r#"{"model":"m","messages":[],"vllm_xargs":{"kv_cache_report_mode":"full","k":1},"a":1}"#,
                r#"{"model":"m","messages":[],"vllm_xargs":{"k":1},"a":1}"#,
                false,
            ),
        ];
        for (before, after, ours) in cases {
            assert_eq!(edited(before), (after.to_owned(), ours), "{before}");
        }
    }
}
