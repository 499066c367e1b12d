//! A model's chat template: Jinja as `transformers` runs it, made of the conversation that `chat` prepared.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::python;
use crate::clock::Clock;

/// Instructions that one rendering may take: about 200 a message in the heaviest templates known, so this is
/// some 50,000 messages, or a third of a second of a template that would otherwise never end.
const FUEL: u64 = 10_000_000;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// One model's templates, compiled.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    /// `bos_token` and its kin, as the template sees them.
    specials: BTreeMap<String, Value>,
    /// Whether the template wants every content as a list of parts.
    pub(super) takes_parts: bool,
}

impl Template {
    /// Compiles the templates by name; `default` must be among them.
    ///
    /// # Errors
    /// When one is not valid Jinja.
    pub(super) fn compile(
        sources: BTreeMap<String, String>,
        specials: BTreeMap<String, Value>,
    ) -> Result<Self, Error> {
        let mut environment = environment();
        for (name, source) in sources {
            environment.add_template_owned(name, without_generation_tags(&source))?;
        }
        environment.get_template(DEFAULT)?;
        let mut template = Self { environment, specials, takes_parts: false };
        template.takes_parts = template.asks_for_parts();
        Ok(template)
    }

    /// The text that the model reads.
    ///
    /// # Errors
    /// When the template refuses the conversation, or relies on something that is not certain here.
    pub(super) fn render(
        &self,
        messages: Value,
        tools: Value,
        others: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<String, Error> {
        let with_tools = !tools.is_none();
        let mut context: BTreeMap<String, Value> = self.specials.clone();
        context.insert("messages".to_owned(), messages);
        context.insert("tools".to_owned(), tools);
        context.extend(others);
        let named = with_tools.then(|| self.environment.get_template(TOOL_USE).ok()).flatten();
        let template = named.map_or_else(|| self.environment.get_template(DEFAULT), Ok)?;
        // The engine of templates has been seen to panic: 3.0.5 does on `''[::-1]`, which a client's text can reach.
        let run = AssertUnwindSafe(|| template.render(Value::from_pairs(context)));
        catch_unwind(run)
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::InvalidOperation, "the template engine panicked")))
    }

    /// Engines look for a loop over a message's content to learn whether a template takes parts; seeing whether
    /// the text of a part comes out by itself, not the whole part printed, asks the same question.
    fn asks_for_parts(&self) -> bool {
        const MARK: &str = "6d61726b";
        const BESIDE: &str = "626573696465";
        let part = Value::from_pairs([("type", "text"), ("text", MARK), ("other", BESIDE)]);
        let message =
            Value::from_pairs([("role", Value::from("user")), ("content", Value::from(vec![part]))]);
        let others = [("documents", ().into()), ("add_generation_prompt", true.into())];
        let others = others.map(|(name, value)| (name.to_owned(), value));
        self.render(Value::from(vec![message]), ().into(), others)
            .is_ok_and(|text| text.contains(MARK) && !text.contains(BESIDE))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("no delimiter was changed"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| {
        if let Some(text) = value.as_str() {
            return Ok(out.write_str(text)?);
        }
        let mut text = String::new();
        python::display(value, &mut text)?;
        Ok(out.write_str(&text)?)
    });
    environment.add_filter("tojson", |value: &Value, kwargs: Kwargs| python::tojson(value, kwargs));
    environment.add_filter("string", |value: &Value| {
        let mut text = String::new();
        python::display(value, &mut text).map(|()| text)
    });
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| {
        let mut text = String::new();
        python::display(value, &mut text).map(|()| strip(&text, characters, true, true).to_owned())
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    let clock = Clock::start();
    environment
        .add_function("strftime_now", move |format: &str| python::strftime(format, clock.unix().as_secs()));
    environment
}

/// Methods of Python's own types; those in which `pycompat` differs are ours.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str().filter(|_| value.kind() == ValueKind::String) else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    let sides = match name {
        "strip" => (true, true),
        "lstrip" => (true, false),
        "rstrip" => (false, true),
        "split" if args.is_empty() => {
            return Ok(text
                .split(python::is_space)
                .filter(|word| !word.is_empty())
                .map(Value::from)
                .collect());
        }
        "title" => return Ok(python::title(text)?.into()),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            return Ok(text.strip_prefix(prefix).unwrap_or(text).into());
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            return Ok(text.strip_suffix(suffix).unwrap_or(text).into());
        }
        _ => return pycompat::unknown_method_callback(state, value, name, args),
    };
    let (characters,): (Option<&str>,) = from_args(args)?;
    Ok(strip(text, characters, sides.0, sides.1).into())
}

fn strip<'t>(text: &'t str, characters: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |c: char| characters.map_or_else(|| python::is_space(c), |these| these.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// `{% generation %}` marks what the assistant said, for training; it prints its body, as `{% if true %}` does.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let inside = at + 2;
        out.push_str(&rest[..inside]);
        rest = &rest[inside..];
        let lead = rest.len() - rest.trim_start_matches(['-', '+']).trim_start().len();
        let word = &rest[lead..];
        let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        let instead = match &word[..end] {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&rest[..lead]);
        out.push_str(instead);
        rest = &word[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, content: &str) -> Result<String, Error> {
        let sources = BTreeMap::from([(DEFAULT.to_owned(), source.to_owned())]);
        let template = Template::compile(sources, BTreeMap::new())?;
        let message = Value::from_pairs([("role", "user"), ("content", content)]);
        template.render(Value::from(vec![message]), ().into(), [])
    }

    #[test]
    fn jinja_is_spoken_as_transformers_speaks_it() {
        for (source, content, text) in [
            (
                "{% for m in messages %}\n  {% if true %}\n{{ m.role }}:{{ m['content'] | trim }}\n{% endif %}{% endfor %}\n",
                " a\u{1f}",
                "user:a\n",
            ),
            ("{%- generation -%} {{ messages[-1].content }} {%- endgeneration %}!", "x", "x!"),
            ("{% for m in [1,2,3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{% endfor %}", "", "13"),
            ("{{ messages[::-1][0].content.split('</t>')[-1].lstrip('\\n') }}", "a</t>\n\nb", "b"),
            ("{{ true }} {{ none }} {{ missing }} {{ tools is defined }}", "", "True None  True"),
            ("{% set ns = namespace(x=1) %}{% set ns.x = ns.x + 1 %}{{ ns.x }}", "", "2"),
            ("{{ messages[0] | tojson }}", "<é>", r#"{"role": "user", "content": "<é>"}"#),
            (
                "{{ messages[0].get('name', 'none') }}{% for k, v in messages[0].items() %} {{ k }}{% endfor %}",
                "",
                "none role content",
            ),
            ("{{ ' a  b '.split() | join(',') }}{{ 'xy'.removeprefix('x') }}", "", "a,by"),
        ] {
            assert_eq!(rendered(source, content).unwrap(), text, "{source}");
        }
    }

    #[test]
    fn a_template_can_refuse_and_cannot_run_for_ever() {
        let refused = rendered("{{ raise_exception('roles must alternate') }}", "").unwrap_err();
        assert!(refused.to_string().contains("roles must alternate"), "{refused}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(rendered(endless, "").is_err());
        assert!(rendered("{% if %}", "").is_err());
        assert!(
            rendered("{{ messages[0].content[::-1] }}", "").is_err(),
            "upstream mended its panic: say so above"
        );
    }

    #[test]
    fn a_template_that_loops_over_parts_is_recognised() {
        for (source, parts) in [
            ("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", true),
            ("{% for m in messages %}{{ m.content | trim }}{% endfor %}", false),
            ("{% for m in messages %}{{ m.content }}{% endfor %}", false),
        ] {
            let sources = BTreeMap::from([(DEFAULT.to_owned(), source.to_owned())]);
            assert_eq!(Template::compile(sources, BTreeMap::new()).unwrap().takes_parts, parts, "{source}");
        }
    }
}
