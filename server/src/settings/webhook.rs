//! Settings of webhooks: who is told when batches and jobs end.

use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize};

/// Who is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Where it is told: `https://host/path`; none: nobody is. Its path may be a secret, so it is not shown.
    #[serde(serialize_with = "without_path")]
    pub url: Option<String>,
    /// A file with the secret that signs what is told: `whsec_` and base 64, or any text of 16 bytes or more.
    pub secret_file: Option<PathBuf>,
}

impl Webhook {
    /// Whether all of it makes sense together.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { url, secret_file } = self;
        if let Some(url) = url {
            let known =
                |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
            if !url.parse().is_ok_and(|url: Uri| known(&url)) {
                return Err(format!(
                    "url: found `{url}`; allowed is https://host/path or http://host:port/path"
                ));
            }
        }
        match (url, secret_file) {
            (Some(_), None) => Err("secret_file: it is missing; what is told must be signed".to_owned()),
            (None, Some(_)) => Err("url: it is missing, and there is a secret_file for it".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Scheme, host and port; whatever else there is may be a secret of whoever is told.
#[expect(clippy::ref_option, reason = "serde hands it over so")]
fn without_path<S: serde::Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = url.as_ref().map(|url| {
        let url: Uri = url.parse().unwrap_or_default();
        let host = url.host().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let more = url.path_and_query().is_some_and(|more| more.as_str() != "/");
        let more = if more { "/(hidden)" } else { "" };
        format!("{}://{host}{port}{more}", url.scheme_str().unwrap_or_default())
    });
    shown.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_in_an_address_is_not_shown() {
        let cases = [
            ("https://hooks.example.com/T0/B1/secret?key=secret", "https://hooks.example.com/(hidden)"),
            ("http://me:secret@127.0.0.1:8080/hook", "http://127.0.0.1:8080/(hidden)"),
            ("https://[::1]:1/", "https://[::1]:1"),
            ("https://example.com", "https://example.com"),
        ];
        for (url, shown) in cases {
            let settings = Webhook { url: Some(url.to_owned()), secret_file: Some("/x".into()) };
            let dump = toml::to_string(&settings).unwrap();
            assert!(dump.contains(&format!("\"{shown}\"")) && !dump.contains("secret\""), "{dump}");
            assert_eq!(serde_json::to_value(&settings).unwrap()["url"], shown);
        }
        assert_eq!(serde_json::to_value(Webhook::default()).unwrap()["url"], serde_json::Value::Null);
    }

    #[test]
    fn an_address_and_a_secret_belong_together() {
        let check = |url: Option<&str>, secret: Option<&str>| {
            Webhook { url: url.map(str::to_owned), secret_file: secret.map(PathBuf::from) }.check()
        };
        for url in ["http://127.0.0.1:1/x", "https://example.com"] {
            assert_eq!(check(Some(url), Some("/x")), Ok(()));
        }
        assert_eq!(check(None, None), Ok(()));
        let cases = [
            (Some("https://example.com"), None, "secret_file"),
            (None, Some("/x"), "url"),
            (Some("ftp://example.com"), Some("/x"), "ftp://example.com"),
            (Some("example.com"), Some("/x"), "allowed is"),
            (Some("/path"), Some("/x"), "allowed is"),
        ];
        for (url, secret, words) in cases {
            let error = check(url, secret).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }
}
