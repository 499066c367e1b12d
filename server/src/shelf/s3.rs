//! What an operator says about a bucket, and the store that it makes.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, RetryConfig};

use super::bucket::Bucket;
use super::connect::Connections;

/// A bucket as an operator names it.
#[derive(Clone, Default)]
pub struct Place {
    /// `s3://bucket`, perhaps with `/prefix`.
    pub url: String,
    /// Where the store is, such as `http://minio:9000`; none: AWS.
    pub endpoint: Option<String>,
    /// Its region; none: the environment's, else `us-east-1`.
    pub region: Option<String>,
    /// Who we are there, and the proof. None: what AWS's own tools would find (`AWS_…`, web identity, instance role).
    pub keys: Option<(String, String)>,
}

/// How long an operation is tried again after what may pass: a client waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bucket and prefix of `s3://bucket/prefix`.
///
/// # Errors
/// What was found and what is allowed.
pub(crate) fn parse(url: &str) -> Result<(&str, &str), String> {
    let wrong = || {
        format!(
            "found `{url}`; allowed is s3://bucket or s3://bucket/prefix, with letters, digits and . _ - in them"
        )
    };
    let rest = url.strip_prefix("s3://").ok_or_else(wrong)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(known);
    if !part(bucket) || !(prefix.is_empty() || prefix.split('/').all(part)) || prefix.len() > 400 {
        return Err(wrong());
    }
    Ok((bucket, prefix))
}

pub(super) fn open(place: &Place) -> Result<Bucket, String> {
    let (bucket, prefix) = parse(&place.url)?;
    let mut builder = match &place.keys {
        Some((access, secret)) => {
            AmazonS3Builder::new().with_access_key_id(access).with_secret_access_key(secret)
        }
        None => AmazonS3Builder::from_env(),
    };
    if let Some(region) = &place.region {
        builder = builder.with_region(region);
    } else if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
        builder = builder.with_region("us-east-1");
    }
    if let Some(endpoint) = &place.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
    let store = builder
        .with_bucket_name(bucket)
        // One at a time is what every store knows.
        .with_disable_bulk_delete(true)
        .with_retry(RetryConfig { backoff, max_retries: 5, retry_timeout: PATIENCE })
        .with_http_connector(Connections::new()?)
        .build()
        .map_err(|error| format!("files.url: {error}"))?;
    Ok(Bucket::new(Arc::new(store), place.url.clone(), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_bucket_and_perhaps_a_prefix() {
        assert_eq!(parse("s3://b"), Ok(("b", "")));
        assert_eq!(parse("s3://b/"), Ok(("b", "")));
        assert_eq!(parse("s3://my.bucket/team/warmline/"), Ok(("my.bucket", "team/warmline")));
        for url in [
            "",
            "b",
            "s3:/b",
            "s3://",
            "s3:///p",
            "http://b",
            "s3://b//p",
            "s3://b/../p",
            "s3://b/ü",
            "s3://b?x",
        ] {
            let error = parse(url).expect_err(url);
            assert!(error.contains("s3://bucket/prefix") && error.contains(url), "{error}");
        }
    }

    #[tokio::test]
    async fn a_bucket_opens_without_asking_anybody() {
        let keys = Some(("a".to_owned(), "b".to_owned()));
        let endpoint = Some("http://127.0.0.1:1".to_owned());
        let place = Place { url: "s3://bucket/p".to_owned(), endpoint, region: None, keys };
        assert!(open(&place).is_ok());
        assert!(open(&Place { url: "nonsense".to_owned(), ..place }).is_err());
    }
}
