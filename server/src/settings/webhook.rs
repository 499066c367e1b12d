//! Settings of webhooks: who is told when batches and jobs end.

use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize};

/// Who is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Where it is told: `https://host/path`; none: nobody is.
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

#[cfg(test)]
mod tests {
    use super::*;

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
