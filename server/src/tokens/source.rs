//! Where a model's tokenizer and chat template lie, and what is said when one of them is not usable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::Value;
use serde_json::Value as Json;

use super::template::Template;
use super::vocabulary::Vocabulary;
use crate::settings;

/// Names under which `tokenizer_config.json` holds tokens that templates print.
const SPECIALS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Why a model's tokenizer or chat template cannot be used. Each names the file; without the setting, the engine's
/// own `/tokenize` is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not there or may not be read: correct the path.
    #[error("{path} of model `{model}` cannot be read: check the path and the rights")]
    Unreadable {
        /// The model's name in the settings.
        model: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be: take the one that the engine loads, or leave the setting out.
    #[error(
        "{place} {what}; take the file that the engine loads, or leave the setting out to ask the engine"
    )]
    Unusable {
        /// The file, or what it was given as.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// A chat template without a tokenizer: name both.
    #[error("model `{0}` has a chat template but no tokenizer: set `tokenizer` as well")]
    NoTokenizer(String),
}

/// The texts of a model's files.
#[derive(Default)]
pub(super) struct Sources {
    tokenizer: (String, String),
    template: Option<(String, String)>,
    /// `tokenizer_config.json` beside the tokenizer: it names the special tokens even if the template is elsewhere.
    config: Option<(String, String)>,
}

impl Sources {
    /// Reads the files that the settings name, and those that lie beside the tokenizer as engines look for them.
    ///
    /// # Errors
    /// When a file that the settings name cannot be read.
    pub(super) fn find(model: &settings::Model) -> Result<Option<Self>, Error> {
        let Some(tokenizer) = &model.tokenizer else {
            return model
                .chat_template
                .as_ref()
                .map_or(Ok(None), |_| Err(Error::NoTokenizer(model.name.clone())));
        };
        let beside = tokenizer.parent().unwrap_or(Path::new(""));
        let text = |path: &Path| {
            let read = std::fs::read_to_string(path).map(|text| (path.display().to_string(), text));
            read.map_err(|source| Error::Unreadable {
                model: model.name.clone(),
                path: path.to_owned(),
                source,
            })
        };
        let if_there = |name: &str| Some(beside.join(name)).filter(|path| path.exists());
        let named = model.chat_template.clone();
        let template =
            named.or_else(|| ["chat_template.jinja", "chat_template.json"].into_iter().find_map(if_there));
        Ok(Some(Self {
            tokenizer: text(tokenizer)?,
            template: template.as_deref().map(text).transpose()?,
            config: if_there("tokenizer_config.json").as_deref().map(text).transpose()?,
        }))
    }

    /// The texts as they are.
    pub(super) fn given(tokenizer: &str, template: Option<&str>) -> Self {
        Self {
            tokenizer: ("the tokenizer".to_owned(), tokenizer.to_owned()),
            template: template.map(|text| ("the chat template".to_owned(), text.to_owned())),
            config: None,
        }
    }

    /// Builds what the texts describe.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub(super) fn build(self) -> Result<(Vocabulary, Option<Template>), Error> {
        let (place, json) = self.tokenizer;
        let mut vocabulary = Vocabulary::read(&json).map_err(|what| Error::Unusable { place, what })?;

        let mut specials = BTreeMap::new();
        let mut templates = BTreeMap::new();
        let mut named_at = String::new();
        for (place, text) in self.config.into_iter().chain(self.template) {
            match object(&text) {
                Some(Ok(config)) => {
                    specials.extend(specials_of(&config));
                    vocabulary
                        .compare_ends(config["add_bos_token"].as_bool(), config["add_eos_token"].as_bool());
                    let found = templates_of(&config);
                    if !found.is_empty() {
                        (templates, named_at) = (found, place);
                    }
                }
                Some(Err(e)) => return Err(Error::Unusable { place, what: format!("is not JSON: {e}") }),
                None => (templates, named_at) = (BTreeMap::from([("default".to_owned(), text)]), place),
            }
        }
        if templates.is_empty() {
            return Ok((vocabulary, None));
        }
        let template = Template::compile(templates, specials).map_err(|e| Error::Unusable {
            place: named_at,
            what: format!("holds a template that fails: {e}"),
        })?;
        Ok((vocabulary, Some(template)))
    }
}

/// A JSON object, or nothing if the text is a bare template: Jinja's `{{`, `{%` and `{#` never begin JSON.
fn object(text: &str) -> Option<serde_json::Result<Json>> {
    let inside = text.trim_start().strip_prefix('{')?.trim_start();
    let json = inside.starts_with(['"', '}']) && !inside.is_empty();
    json.then(|| serde_json::from_str(text))
}

fn specials_of(config: &Json) -> impl Iterator<Item = (String, Value)> {
    SPECIALS.into_iter().filter_map(|name| {
        let token = &config[name];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        Some((name.to_owned(), text.into()))
    })
}

/// One template, or several by name.
fn templates_of(config: &Json) -> BTreeMap<String, String> {
    let named =
        |entry: &Json| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
    match &config["chat_template"] {
        Json::String(one) => BTreeMap::from([("default".to_owned(), one.clone())]),
        Json::Array(several) => several.iter().filter_map(named).collect(),
        _ => BTreeMap::new(),
    }
}
