//! The description of the gateway's API; the end-to-end tests hold it against what is served.

/// An OpenAPI 3.1 document, served at `/openapi.json`.
pub const JSON: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_is_json_and_names_the_version_that_serves_it() {
        let document: serde_json::Value = serde_json::from_str(super::JSON).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
